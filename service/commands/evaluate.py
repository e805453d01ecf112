"""zhiying evaluate: a labelled local set through the real parts, in shadow; the numbers that LIVE asks for."""

from pathlib import Path
from typing import Annotated

import typer

from ethics_review import metrics
from ethics_review.acceptance import Acceptance
from ethics_review.dossier import Approval
from inference.engine import Engine
from models.library import Library
from models.ref import ModelRef
from service import dataset, evaluating, wire
from service.approved import bounds_of
from service.commands.output import AsJson, ConfigFile, show, told
from service.config import Config
from service.errors import CommandRefused
from service.reports import files
from service.reports.acceptance import About, describe
from service.results import ResultStyle, ResultWriter

REPORT = "acceptance"


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
        settings = wire.settings(config)
        library = Library(settings.data.folder / "models")
        ref = library.find(model)
        labelled = dataset.read(folder)
        engine = Engine(device=settings.engine.device)
        try:
            with wire.offline_of(settings) as site:
                chosen = _approval(site.register.approvals(), ref, approval)
                run = evaluating.Evaluation(_parts(settings, site, engine), library.open(ref), chosen, labelled)
                found = run.run(_progress)
                about = _about(settings, ref, chosen, labelled, run)
                report = files.make(REPORT, lambda language: describe(found, about, language))
                unmet = len(metrics.unmet(about.bounds, found.rows))
                entry = run.conclude(found, unmet, report.digest)
                where = out or settings.data.folder / "evaluation" / entry.key.partition(":")[2]
                files.put(report, where)
        finally:
            engine.close()
        _told(found, about, unmet, {"entry": entry.index, "report": report.digest, "folder": str(where)}, as_json)
    if unmet:
        raise typer.Exit(1)


def _approval(known: tuple[Approval, ...], ref: ModelRef, wanted: str | None) -> Approval:
    """The one that is named, or the only one that is in force now."""
    now = wire.now()
    mine = [one for one in known if one.model == ref]
    fitting = [one for one in mine if (one.id == wanted if wanted else one.starts_at <= now < one.ends_at)]
    if len(fitting) != 1:
        found = "none" if not fitting else ", ".join(one.id for one in fitting)
        raise CommandRefused(f"one approval of this model in force is wanted, found: {found}; see --approval")
    return fitting[0]


def _parts(settings: Config, site: wire.Site, engine: Engine) -> evaluating.Parts:
    style = ResultStyle(
        device_serial=settings.site.id,
        version=wire.SOFTWARE.partition(" ")[2],
        language=settings.site.language,
        charset=settings.site.charset,
    )
    return evaluating.Parts(
        site=settings.site.id,
        autonomy=settings.review.autonomy,
        log=site.log,
        latest_known=site.register.latest_known,
        engine=engine,
        results=ResultWriter(settings.data.folder / "evaluation", style),
        pseudonyms=wire.pseudonyms(settings),
        identities=wire.identities(settings),
        rules=wire.rules(settings),
        now=wire.now,
    )


def _about(
    settings: Config, ref: ModelRef, chosen: Approval, labelled: dataset.Dataset, run: evaluating.Evaluation
) -> About:
    return About(
        model=ref,
        approval=chosen.id,
        reviewer=chosen.reviewer_org,
        dataset=run.digest,
        rights=labelled.rights,
        site=settings.site.id,
        bounds=bounds_of(chosen),
        code=evaluating.code_digest(),
    )


def _progress(done: int, cases: int) -> None:
    typer.echo(f"case {done} of {cases}", err=True)


def _told(found: Acceptance, about: About, unmet: int, where: dict[str, int | str], as_json: bool) -> None:  # noqa: FBT001
    value = {
        "model": about.model.digest,
        "approval": about.approval,
        "dataset": about.dataset,
        "cases": found.cases,
        "refused": found.refused,
        "failed": found.failed,
        "bounds": len(about.bounds),
        "unmet": unmet,
        "rows": [row.body() for row in found.rows],
        **where,
    }
    show(value, as_json=as_json, title="acceptance", rows=[row.body() for row in found.rows])
    if not as_json:
        typer.echo(f"{found.cases} cases, {found.refused} refused, {found.failed} failed; report in {where['folder']}")
