"""zhiying spool: is every image that was acknowledged accounted for?"""

import time
from pathlib import Path
from typing import Annotated

import typer

from service import looking, wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import NothingSuch
from service.reconcile import Report, reconcile

LOOK_AGAIN_S = 0.5  # some times longer than the index may lag behind the files

app = typer.Typer(no_args_is_help=True, help="The received images.")


@app.callback()
def spool() -> None:
    """Keep `reconcile` a command of its own, whatever else is added."""


@app.command("reconcile")
def reconcile_spool(
    acknowledged: Annotated[
        Path | None, typer.Option(help="A file of SOP Instance UIDs, one a line, that a sender says we acknowledged.")
    ] = None,
    deep: Annotated[bool, typer.Option(help="Read every file again and compare its digest.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Account for every instance; changes nothing. Exit status 0 only if nothing is missing."""
    with told():
        settings = wire.settings(config)
        if not wire.spool(settings).is_dir():
            raise NothingSuch(f"there is no spool in {settings.data.folder}; is this the right configuration?")
        uids = acknowledged.read_text(encoding="utf-8").split() if acknowledged else ()
        with looking.places(settings) as places:
            report = reconcile(places, acknowledged=uids, deep=deep)
            if not report.ok:
                # Beside a running service what comes or goes just now looks like a gap; a true one stays.
                time.sleep(LOOK_AGAIN_S)
                again = reconcile(places, acknowledged=uids, deep=deep)
                report = Report(again.fates, tuple(one for one in again.findings if one in report.findings))
        fates = {fate.value: number for fate, number in sorted(report.fates.items())}
        findings = [
            {"problem": one.problem.value, "study_uid": one.study_uid, "sop_uid": one.sop_uid}
            for one in report.findings
        ]
        value = {"ok": report.ok, "fates": fates, "findings": findings}
        counts = [{"instances": fate, "number": number} for fate, number in fates.items()]
        show(value, as_json=as_json, title="spool", rows=findings or counts)
        if not report.ok:
            raise typer.Exit(1)
