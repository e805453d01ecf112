"""A local acceptance from end to end: dataset, approval, engine, numbers, entry, report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ethics_review import metrics
from ethics_review.acceptance import Acceptance
from ethics_review.dossier import Approval
from inference.engine import Engine
from models.library import Library
from models.ref import ModelRef
from service import dataset, evaluating, wire
from service.config import Config
from service.errors import CommandRefused
from service.identity import IdentityMap
from service.permitting import Practice
from service.pipeline import Device
from service.reports import files
from service.reports.acceptance import About, describe
from service.results import ResultStyle, ResultWriter

FOLDER: Final = "evaluation"
"""In the data folder: results of cases by call, and reports by the key of their entry."""
REPORT: Final = "acceptance"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What it came to: the numbers, how many bounds they miss, the entry's index, where the report lies."""

    found: Acceptance
    about: About
    unmet: int
    entry: int
    report: str
    folder: Path


def accept(
    config: Config,
    model: str,
    folder: Path,
    *,
    approval: str | None,
    out: Path | None,
    progress: Callable[[int, int], object],
) -> Accepted:
    """Run what has not run yet, then say what it all came to. Raises what the parts raise; may be repeated."""
    library = Library(config.data.folder / "models")
    ref = library.find(model)
    labelled = dataset.read(folder)
    engine = Engine(device=config.engine.device, log=_unheard)
    try:
        with wire.offline_of(config) as site:
            chosen = _approval(site.register.approvals(), ref, approval)
            parts = _parts(config, site, engine)
            run = evaluating.Evaluation(parts, library.open(ref), chosen, labelled)
            found = run.run(progress)
            about = About(
                model=ref,
                approval=chosen.id,
                reviewer=chosen.reviewer_org,
                dataset=run.digest,
                rights=labelled.rights,
                site=config.site.id,
                bounds=chosen.acceptance,
                code=evaluating.code_digest(),
            )
            report = files.make(REPORT, lambda language: describe(found, about, language))
            unmet = len(metrics.unmet(about.bounds, found.rows))
            entry = run.conclude(found, unmet, report.digest)
    finally:
        engine.close()
    where = out or config.data.folder / FOLDER / entry.key.replace(":", "-")
    files.put(report, where)
    return Accepted(found, about, unmet, entry.index, report.digest, where)


def _unheard(_event: str, /, **_values: str | int) -> None:
    """What the device tells of itself stands in the entries; nobody watches a log line here."""


def _approval(known: tuple[Approval, ...], ref: ModelRef, wanted: str | None) -> Approval:
    """The one that is named, or the only one that is in force now."""
    now = wire.now()
    mine = [one for one in known if one.model == ref]
    fitting = [one for one in mine if (one.id == wanted if wanted else one.starts_at <= now < one.ends_at)]
    if len(fitting) != 1:
        found = ", ".join(one.id for one in fitting) or "none"
        raise CommandRefused(f"one approval of this model in force is wanted, found: {found}; see --approval")
    return fitting[0]


def _parts(config: Config, site: wire.Site, engine: Device) -> evaluating.Parts:
    style = ResultStyle(
        device_serial=config.site.id,
        version=wire.SOFTWARE.partition(" ")[2],
        language=config.site.language,
        charset=config.site.charset,
    )
    return evaluating.Parts(
        practice=Practice.of(config),
        log=site.log,
        register=site.register,
        engine=engine,
        results=ResultWriter(config.data.folder / FOLDER, style),
        pseudonyms=wire.pseudonyms(config),
        identities=IdentityMap.of(config.data.folder),
        rules=wire.rules(config),
        now=wire.now,
    )
