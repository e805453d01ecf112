"""zhiying outbox: results on their way to the PACS, and those that did not get there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from dicom_bridge.ledger import LEDGER_FILE, ON_THE_WAY, Batch, Ledger, State
from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.config import Config
from service.errors import CommandRefused, NothingSuch

app = typer.Typer(no_args_is_help=True, help="Results on their way to the PACS.")


@app.command("list")
def list_batches(
    dead: Annotated[bool, typer.Option("--dead", help="Only those that were given up.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Batches that are not delivered, oldest first: where each stands, and why."""
    with told():
        with _ledger(wire.settings(config)) as ledger:
            states = (State.DEAD,) if dead else (*ON_THE_WAY, State.DEAD)
            value = [] if ledger is None else [_described(batch) for batch in ledger.in_states(*states)]
        rows = [
            {
                "batch": item["batch"],
                "peer": item["peer"],
                "state": item["state"],
                "code": item["code"],
                "attempts": item["attempts"],
                "lost": item["losses"],
                "since": item["created_at"],
            }
            for item in value
        ]
        show(value, as_json=as_json, title="outbox", rows=rows)


@app.command()
def resend(
    batch: Annotated[str, typer.Argument(help="The batch's name, as `zhiying outbox list --dead` shows it.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Send a batch again that was given up. A running service takes it up within a second, another at its start."""
    with told():
        settings = wire.settings(config)
        with _ledger(settings) as ledger:
            found = None if ledger is None else ledger.get(batch)
            if ledger is None or found is None:
                raise NothingSuch("no such batch is in the outbox")
            if found.peer not in {peer.name for peer in settings.peers}:
                raise CommandRefused(f"the configuration names no peer '{found.peer}'; nothing is sent to others")
            # Raises BATCH_NOT_DEAD for one that is on its way, or there.
            ledger.revive(batch, wire.now())
        value = {"batch": batch, "peer": found.peer, "state": State.PENDING.value}
        show(value, as_json=as_json, title="sent again", rows=[value])


@contextmanager
def _ledger(config: Config) -> Iterator[Ledger | None]:
    """The outbox's ledger, beside a running service or without one; None where nothing was ever enqueued."""
    path = config.data.folder / "outbox" / LEDGER_FILE
    if not path.is_file():
        yield None
        return
    ledger = Ledger(path)
    try:
        yield ledger
    finally:
        ledger.close()


def _described(batch: Batch) -> dict[str, Any]:
    return {
        "batch": batch.id,
        "peer": batch.peer,
        "state": batch.state.value,
        "code": batch.code,
        "proof": batch.proof,
        "attempts": batch.attempts,
        "losses": batch.losses,
        "created_at": batch.created_at.isoformat(),
        "outputs": [
            {
                "uid": output.uid,
                "digest": output.digest,
                "status": None if output.status is None else f"0x{output.status:04X}",
                "stored": output.stored,
            }
            for output in batch.outputs
        ],
    }
