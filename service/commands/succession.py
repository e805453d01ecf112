"""zhiying audit succeed: end a log that cannot go on, and begin the one that succeeds it; see docs/restore.md."""

from pathlib import Path
from typing import Annotated

import typer

from audit import durable
from audit.note import Signer, Verifier
from audit.succession import Reason, Statement, StatementBad
from service import succeeding, wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import CommandRefused
from service.witness_client import get

PUBLIC_MODE = 0o644

app = typer.Typer(no_args_is_help=True, help="A restored backup, corruption, a new key: the ceremony for all of them.")
LogKey = Annotated[str | None, typer.Option("--log-key", help="The old log's public key, if the disk has lost it.")]
Output = Annotated[Path, typer.Option("--out", help="A new file.")]


@app.command()
def request(
    reason: Annotated[Reason, typer.Option(help="Why the log must end.")],
    out: Output,
    log_key: LogKey = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the statement that somebody outside must sign. Changes nothing of the log. Stop the service first."""
    with told():
        _refuse_taken(out)
        site = wire.settings(config)
        statement = succeeding.request(site, reason, get, _key(log_key))
        durable.create(out, statement.text.encode(), mode=PUBLIC_MODE)
        _tell(statement, out, as_json=as_json, title="to be signed by a key of [audit] restore_keys")


@app.command()
def sign(
    statement: Annotated[Path, typer.Argument(help="The statement, as `request` wrote it.")],
    key: Annotated[Path, typer.Option(help="The signer's secret key; make one with `zhiying review keygen`.")],
    out: Output,
    as_json: AsJson = False,
) -> None:
    """Sign a statement, on the signer's own machine. Compare its numbers with what the witnesses say first."""
    with told():
        _refuse_taken(out)
        text = _text(statement)
        said = Statement.parse(text)
        durable.create(out, Signer.load(key).sign(text).encode(), mode=PUBLIC_MODE)
        _tell(said, out, as_json=as_json, title="signed")


@app.command()
def take(
    note: Annotated[Path, typer.Argument(help="The signed statement.")],
    log_key: LogKey = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Freeze the old log and begin the new one. After a crash: the same command again."""
    with told():
        site = wire.settings(config)
        head = succeeding.take(site, _text(note), get, _key(log_key))
        row = {"origin": head.origin, "entries": head.size, "vkey": wire.log_vkey(site)}
        show(row, as_json=as_json, title="the new log", rows=[row])
        if not as_json:
            typer.echo("Now: tell witnesses and reviewers the new key; put it into the policy's 'log' line;")
            typer.echo("import the approvals again (zhiying review approve): none of the old log counts in this one.")


def _key(line: str | None) -> Verifier | None:
    return None if line is None else Verifier.parse(line)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise StatementBad(f"{path} is not text") from None


def _tell(said: Statement, out: Path, *, as_json: bool, title: str) -> None:
    row = {
        "reason": said.reason.value,
        "log": said.predecessor.origin,
        "entries": said.predecessor.size,
        "root": said.predecessor.root,
        "witnessed": None if said.witnessed is None else said.witnessed.size,
        "successor": said.successor,
        "key": said.key,
        "file": str(out),
    }
    show(row, as_json=as_json, title=title, rows=[row])


def _refuse_taken(out: Path) -> None:
    if out.exists():
        raise CommandRefused(f"{out} exists")
