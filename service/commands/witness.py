"""zhiying witness: run one (keygen, add-log, logs, serve, sign), and use others (request, take, push, status)."""

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from audit import durable
from audit.checkpoint import Checkpoint
from audit.cosignature import Cosigner
from audit.errors import AuditUnavailable
from audit.files import Files
from audit.layout import CHECKPOINT, HEAD
from audit.note import Verifier
from audit.policy import Policy
from audit.submission import BODY_BYTES_MAX, Submission
from audit.witness import KEY, Witness
from audit.witnessing import Reply, Witnessed, Witnessing, make_request
from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.config import Config
from service.errors import CommandRefused, NothingSuch

WITNESSING = "witnessing"
"""Folder in the data folder, beside the log."""
PUBLIC_MODE = 0o644
PREPARED = (200, 409)
POLL_S = 0.05
"""How often to look whether the service has published."""

app = typer.Typer(no_args_is_help=True, help="Witnesses: who keeps checkpoints outside the hospital's power.")
Folder = Annotated[Path, typer.Option("--folder", help="Where this witness keeps its key and what it has cosigned.")]
PolicyFile = Annotated[Path, typer.Option("--policy", help="Lines 'witness VKEY [URL]' and 'quorum K'.")]
Output = Annotated[Path, typer.Option("--out", help="A new file.")]
DEFAULT = Path("zhiying-witness")


# ---- who runs a witness ----------------------------------------------------------------------------------------------


@app.command()
def keygen(
    name: Annotated[str, typer.Argument(help="Such as commission.example/witness.")],
    folder: Folder = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make this witness's key, once. Prints the public key to give to hospitals and reviewers."""
    with told():
        durable.make_dirs(folder)
        cosigner = Cosigner.generate(name)
        try:
            cosigner.save(folder / KEY)
        except FileExistsError:
            raise CommandRefused(f"{folder / KEY} exists; a witness keeps its key") from None
        show({"vkey": cosigner.vkey}, as_json=as_json, title="witness", rows=[{"vkey": cosigner.vkey}])


@app.command("add-log")
def add_log(
    vkey: Annotated[str, typer.Argument(help="The log's public key, by a way that you trust.")],
    folder: Folder = DEFAULT,
    origin: Annotated[str | None, typer.Option(help="The log's origin line; the key's name, if not said.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a log known, once, with nothing cosigned yet."""
    with told():
        key = Verifier.parse(vkey)
        _witness(folder).add_log(origin or key.name, key)
        row = {"origin": origin or key.name}
        show(row, as_json=as_json, title="known from now on", rows=[row])


@app.command()
def logs(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """What this witness knows, and the newest that it cosigned. Exit status 0 only if all of it is whole."""
    with told():
        rows: list[dict[str, Any]] = [
            {
                "origin": known.origin,
                "size": 0 if held is None else held.checkpoint.size,
                "root": None if held is None else held.checkpoint.root.hex(),
                "time_s": None if held is None else held.cosigned.time_s,
            }
            for known, held in _witness(folder).logs()
        ]
        show(rows, as_json=as_json, title="logs", rows=rows)


@app.command()
def serve(
    folder: Folder = DEFAULT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any.", min=0, max=65535)] = 8044,
) -> None:
    """Answer logs by HTTP (C2SP tlog-witness) until told to stop."""
    with told():
        from service.telemetry import set_up_logging  # deferred: the other commands need none of it
        from service.witness_api import WitnessServer

        set_up_logging()
        witness = _witness(folder)
        witness.logs()  # a lost state is told now, not when a log meets it
        server = WitnessServer(witness, host, port)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: server.stop())
        typer.echo(f"zhiying witness: http://{host}:{server.port} {witness.vkey}", err=True)
        server.run()


@app.command()
def sign(
    request: Annotated[Path, typer.Argument(help="A request file.")], out: Output, folder: Folder = DEFAULT
) -> None:
    """Answer one request that came as a file. Writes cosignature lines, or the size to ask from (exit status 1)."""
    with told():
        _refuse_taken(out)
        answer = _witness(folder).answer(_read(request))
        if answer.status not in PREPARED:
            raise CommandRefused(answer.body.decode().strip())
        durable.create(out, answer.body, mode=PUBLIC_MODE)
        if answer.status != PREPARED[0]:
            size = answer.body.decode().strip()
            raise CommandRefused(f"{answer.code}: the size cosigned last is {size}; take this answer back all the same")


# ---- who keeps a log -------------------------------------------------------------------------------------------------


@app.command("request")
def make(
    name: Annotated[str, typer.Argument(help="The witness's name in the policy.")],
    policy: PolicyFile,
    out: Output,
    old: Annotated[int | None, typer.Option(help="The size that the witness named.", min=0)] = None,
    config: ConfigFile = None,
) -> None:
    """Make a request file for a witness that no network reaches."""
    with told():
        site = wire.existing_log(config)
        ours, trusted = desk(site, policy)
        checkpoint, files = published(site)
        known = ours.last_size(trusted.named(name).verifier)
        _refuse_taken(out)
        durable.create(out, make_request(files, checkpoint, known if old is None else old).format(), mode=PUBLIC_MODE)
        typer.echo(f"{out}: {checkpoint.size} entries, from {known if old is None else old}")


@app.command()
def take(
    name: Annotated[str, typer.Argument(help="The witness's name in the policy.")],
    request: Annotated[Path, typer.Argument(help="The request file that was answered.")],
    answer: Annotated[Path, typer.Argument(help="The answer.")],
    policy: PolicyFile,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Verify and keep an answer that came as a file. Exit status 0 only if it is good."""
    with told():
        site = wire.existing_log(config)
        ours, trusted = desk(site, policy)
        sent = Submission.parse(_read(request)).checkpoint
        asked = Checkpoint.open(sent.note, (wire.log_verifier(site),))
        reached = ours.take(asked, trusted.named(name), Reply.of_file(_read(answer)))
        row = {"size": asked.size, "quorum": reached}
        show(row, as_json=as_json, title="taken", rows=[row])


@app.command()
def push(policy: PolicyFile, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Send the newest checkpoint to all witnesses. Exit status 0 only if it has its quorum."""
    with told():
        from service.witness_client import post  # deferred: only this needs the network

        site = wire.existing_log(config)
        ours, _ = desk(site, policy)
        checkpoint, files = published(site)
        done = ours.push(files, checkpoint, post)
        rows = [
            {
                "witness": one.witness,
                "result": "cosigned" if one.error is None else one.error.code,
                "what": None if one.error is None else str(one.error),
            }
            for one in done.outcomes
        ]
        value = {"size": checkpoint.size, "quorum": done.reached, "witnesses": rows}
        show(value, as_json=as_json, title=f"{checkpoint.size} entries", rows=rows)
        if not done.reached:
            raise CommandRefused("the checkpoint has not reached its quorum")


@app.command()
def status(policy: PolicyFile, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """The newest checkpoint that a quorum cosigned. Exit status 0 only if there is one."""
    with told():
        site = wire.existing_log(config)
        held: Witnessed | None = desk(site, policy)[0].witnessed()
        if held is None:
            raise NothingSuch("no checkpoint has reached a quorum yet")
        value = {
            "size": held.checkpoint.size,
            "root": held.checkpoint.root.hex(),
            "quorum": held.reached,
            "cosigned": [{"witness": one.verifier.name, "time_s": one.time_s} for one in held.cosigned],
            "note": held.checkpoint.note,
        }
        rows = [{"size": held.checkpoint.size, "witness": c.verifier.name, "time_s": c.time_s} for c in held.cosigned]
        show(value, as_json=as_json, title="witnessed", rows=rows)
        if not held.reached:
            raise CommandRefused("what is kept is no quorum of this policy")


def _witness(folder: Path) -> Witness:
    if not (folder / KEY).exists():
        raise NothingSuch(f"{folder} holds no witness's key; make one with zhiying witness keygen")
    return Witness(folder, Cosigner.load(folder / KEY), lambda: int(wire.now().timestamp()))


def desk(site: Config, policy: Path) -> tuple[Witnessing, Policy]:
    """The hospital's side, for the witnesses of a policy file. Raises CommandRefused, AuditError, OSError."""
    try:
        trusted = Policy.parse(policy.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise CommandRefused(f"{policy} is not text") from None
    log = wire.log_verifier(site)
    if trusted.logs and log not in trusted.logs:
        raise CommandRefused("the policy names other logs, not this one")
    return Witnessing(site.data.folder / WITNESSING, trusted, log), trusted


def published(site: Config) -> tuple[Checkpoint, Files]:
    """The newest public checkpoint, and the files that prove it. Raises NothingSuch, AuditCorrupt.

    What is committed is published first: by the service, which takes a second, or by us where none runs.
    """
    files = Files(wire.audit_root(site), wire.origin(site), wire.log_verifier(site), durable)
    head, checkpoint = files.checkpoint(HEAD), files.checkpoint(CHECKPOINT)
    deadline = time.monotonic() + 2 * wire.PUBLISH_S
    while _behind(checkpoint, head) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        checkpoint = files.checkpoint(CHECKPOINT)
    if _behind(checkpoint, head):
        # On a disk that takes no writes, what was published before is good, and the newest there is.
        with suppress(AuditUnavailable), wire.open_log(site) as log:
            log.publish()
        checkpoint = files.checkpoint(CHECKPOINT)
    if checkpoint is None:
        raise NothingSuch("the log has published no checkpoint yet")
    return checkpoint, files


def _behind(checkpoint: Checkpoint | None, head: Checkpoint | None) -> bool:
    return head is not None and (checkpoint is None or checkpoint.size < head.size)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(BODY_BYTES_MAX + 1)
    if len(data) > BODY_BYTES_MAX:
        raise CommandRefused(f"{path} is too long")
    return data


def _refuse_taken(out: Path) -> None:
    if out.exists():
        raise CommandRefused(f"{out} exists")
