"""zhiying evaluate: a labelled local set through the real parts, in shadow; the numbers that LIVE asks for."""

from pathlib import Path
from typing import Annotated

import typer

from service import wire
from service.commands.output import AsJson, ConfigFile, show, told


def evaluate(
    model: Annotated[str, typer.Argument(help="An installed model's name.")],
    folder: Annotated[Path, typer.Argument(metavar="DATASET", help="The folder that holds dataset.json.")],
    config: ConfigFile = None,
    out: Annotated[Path | None, typer.Option(help="Where the report goes; without it, into the data folder.")] = None,
    approval: Annotated[str | None, typer.Option(help="The approval's id, where the model has several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run every case of a labelled set and log what it came to. Exit status 0 only if all bounds are met."""
    with told():
        from service.accepting import accept  # deferred: the other commands need neither engine nor PDF

        done = accept(wire.settings(config), model, folder, approval=approval, out=out, progress=_progress)
        rows = [row.body() for row in done.found.rows]
        value = {
            "model": done.about.model.digest,
            "approval": done.about.approval,
            "dataset": done.about.dataset,
            "cases": done.found.cases,
            "refused": done.found.refused,
            "failed": done.found.failed,
            "undecided": done.found.undecided,
            "bounds": len(done.about.bounds),
            "unmet": done.unmet,
            "rows": rows,
            "entry": done.entry,
            "report": done.report,
            "folder": str(done.folder),
        }
        show(value, as_json=as_json, title="acceptance", rows=rows)
        if not as_json:
            counts = f"{done.found.cases} cases, {done.found.refused} refused, {done.found.failed} failed"
            typer.echo(f"{counts}; {done.unmet} of {len(done.about.bounds)} bounds not met; report in {done.folder}")
    if done.unmet:
        raise typer.Exit(1)


def _progress(done: int, cases: int) -> None:
    typer.echo(f"case {done} of {cases}", err=True)
