"""zhiying results: what became of a result that is in the PACS."""

import contextlib
from typing import Annotated, Any

import typer

from dicom_bridge.outbox import Outbox
from dicom_bridge.rejection import Reason
from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import CommandRefused
from service.withdrawing import WithdrawalRefused, Withdrawals

app = typer.Typer(no_args_is_help=True, help="Results that are in the PACS.")
BY_A_PERSON = (Reason.QUALITY, Reason.SAFETY)


@app.callback()
def _results() -> None:
    """Results that are in the PACS."""


@app.command()
def withdraw(
    call: Annotated[str, typer.Argument(help="The call, as `zhiying studies show` gives it: 32 hex digits.")],
    reason: Annotated[str, typer.Option(help="QUALITY or SAFETY; this is logged.")],
    by: Annotated[
        str, typer.Option(help="Short name of who withdraws it; no personal number; logged, and in the note.")
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell the PACS that a result counts no more, by a note that names its objects. They themselves stay as they are.

    Needs `[results] rejection_notes = true`. A running service sends the note within a second, another at its start.
    """
    with told():
        if reason not in BY_A_PERSON:
            raise CommandRefused(f"--reason is one of {', '.join(BY_A_PERSON)}")
        settings = wire.existing_log(config)
        outbox = Outbox(settings.data.folder / "outbox", wire.now, lambda _batch: None, peers=wire.peers(settings))
        with contextlib.ExitStack() as stack:
            stack.callback(outbox.stop)
            site = stack.enter_context(wire.offline_of(settings))
            withdrawals = Withdrawals.of(settings, site.log, site.log.append, outbox.enqueue)
            done = withdrawals.withdraw(call, Reason(reason), person=by)
        if not done.new:
            raise WithdrawalRefused("CALL_WITHDRAWN", f"entry {done.entry.index} has withdrawn it, {done.entry.time}")
        value: dict[str, Any] = {
            "call": call,
            "reason": reason,
            "by": by,
            "index": done.entry.index,
            "note": done.note,
            "peer": done.entry.body["peer"],
        }
        show(value, as_json=as_json, title="withdrawn", rows=[value])
