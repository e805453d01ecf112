"""zhiying review report: what a model's months came to, for the reviewer to countersign."""

from pathlib import Path
from typing import Annotated

import typer

from service import wire
from service.commands.output import AsJson, ConfigFile, show, told


def report(
    model: Annotated[str, typer.Argument(help="An installed model's name.")],
    period: Annotated[str, typer.Option(help="The first month, YYYY-MM (UTC+8).")],
    out: Annotated[Path, typer.Option(help="The folder for the report's files.")],
    months: Annotated[int, typer.Option(help="How many months, 1 to 24.")] = 1,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a periodic safety report from the log alone, and record its digest."""
    with told():
        from service.safety_report import make  # deferred: pulls in the PDF writer

        made = make(wire.settings(config), model, period, months, out)
        row = {
            "model": model,
            "period": period,
            "months": months,
            "over": made.about.over,
            "calls": made.found.calls,
            "entry": made.entry,
            "report": made.report,
            "folder": str(made.folder),
        }
        show(row, as_json=as_json, title="safety report", rows=[row])
