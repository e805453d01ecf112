"""zhiying route: which model would run on what, and why, before anything is sent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_bridge import candidates, selection
from dicom_bridge.rules import Predicate, Rule, SeriesSummary
from dicom_bridge.selection import NoFit, Verdict
from models.library import Installed, Library
from models.manifest import Manifest
from models.ref import ModelRef
from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import CommandRefused

app = typer.Typer(no_args_is_help=True, help="Which model would run on what, and why.")


@app.callback()
def _group() -> None:
    """Keeps `explain` a word of its own while it is the only command."""


@app.command()
def explain(
    folder: Annotated[Path, typer.Argument(help="A DICOM file, or a folder that is searched through.")],
    sender: Annotated[str, typer.Option(help="AE title that the files would come from")] = "",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """For each series: the models that would read it, or the predicate that decided against it. Nothing is run."""
    with told():
        files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            raise CommandRefused(f"no files in {folder}")
        settings = wire.settings(config)
        library = Library(settings.data.folder / "models")
        manifests = {item.ref: item.manifest for item in library.list() if isinstance(item, Installed)}
        value = explain_files(files, manifests, wire.rules(settings), sender=sender, charsets=wire.charsets(settings))
        show(value, as_json=as_json, title="route", rows=[_row(one) for s in value["studies"] for one in s["series"]])
        if not as_json and value["skipped"]:
            typer.echo(f"{value['skipped']} files are no DICOM instances", err=True)


def explain_files(
    files: Sequence[Path],
    manifests: Mapping[ModelRef, Manifest],
    rules: Sequence[Rule],
    *,
    sender: str = "",
    charsets: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What would become of these files: per study the choices, per series (and volume of it) each verdict."""
    found = candidates.sort_files(files)
    studies = []
    for study_uid, members in sorted(found.studies.items()):
        series: list[SeriesSummary] = []
        for paths in members.values():
            series += candidates.read_series(paths, dict.fromkeys(paths, sender), charsets or {}).summaries
        studies.append(_study(study_uid, series, manifests, rules))
    return {"studies": studies, "skipped": found.skipped}


def _study(
    study_uid: str, series: Sequence[SeriesSummary], manifests: Mapping[ModelRef, Manifest], rules: Sequence[Rule]
) -> dict[str, Any]:
    found = selection.choose_all(series, manifests, rules)
    verdicts = selection.explain(series, manifests, rules)
    fits = {(v.series_uid, v.part, v.model) for v in verdicts if v.fits}
    chosen = [
        {
            "series_uid": one.series_uid,
            "part": one.part,
            "model": _name(one.model),
            "rule": one.rule,
            "urgent": one.urgent,
            # Read, and refused there: by its geometry, its spacing, or as one of several volumes.
            "refused": (one.series_uid, one.part, one.model) not in fits,
        }
        for one in (() if isinstance(found, NoFit) else found)
    ]
    ordered = sorted(series, key=lambda one: (one.series_number or 0, one.series_uid, one.ordinal, one.part))
    return {
        "study_uid": study_uid,
        "code": found.code if isinstance(found, NoFit) else None,
        "chosen": chosen,
        "series": [_series(one, verdicts, chosen) for one in ordered],
    }


def _series(one: SeriesSummary, verdicts: Sequence[Verdict], chosen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One volume, the models that would read it, what decided about it, and every verdict on it."""
    mine = [verdict for verdict in verdicts if (verdict.series_uid, verdict.part) == (one.series_uid, one.part)]
    order = list(Predicate)
    fitting = next((verdict for verdict in mine if verdict.fits), None)
    farthest = fitting or max(mine, key=lambda v: order.index(v.decided_by or Predicate.MODEL), default=None)
    return {
        "series_uid": one.series_uid,
        "number": one.series_number,
        "modality": one.modality,
        "description": one.description,
        "volume": one.label,
        "images": one.count,
        "kind": one.kind.value,
        "geometry": one.refused or "REGULAR",
        "read_by": [
            choice["model"]
            for choice in chosen
            if (choice["series_uid"], choice["part"], choice["refused"]) == (one.series_uid, one.part, False)
        ],
        **_verdict(farthest),
        "verdicts": [_verdict(verdict) for verdict in mine],
    }


def _verdict(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        none = {"decided_by": "NO_MODEL", "observed": "no model is installed", "wanted": ""}
        return {"model": None, "rule": "", "fits": False, "asked_by": ""} | none
    return {
        "model": None if verdict.model is None else _name(verdict.model),
        "rule": verdict.rule,
        "fits": verdict.fits,
        "decided_by": None if verdict.decided_by is None else verdict.decided_by.value,
        "asked_by": verdict.asked_by,
        "observed": verdict.observed,
        "wanted": verdict.wanted,
    }


def _name(ref: ModelRef) -> str:
    return f"{ref.name}/{ref.version}"


def _row(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "series": one["number"] if one["number"] is not None else one["series_uid"],
        "description": one["description"],
        "volume": one["volume"],
        "images": one["images"],
        "kind": one["kind"],
        "read by": ", ".join(one["read_by"]) or "nothing",
        "rule": one["rule"],
        "why": _why(one),
    }


def _why(one: Mapping[str, Any]) -> str:
    """The predicate that decided, whose it is, and what was seen; a terminal is too narrow for a column of each."""
    if not one["decided_by"]:
        return ""
    asked = f"{one['decided_by']} ({one['asked_by']})" if one["asked_by"] else one["decided_by"]
    return f"{asked}: {one['observed'] or 'not known'}" + (f", wanted {one['wanted']}" if one["wanted"] else "")
