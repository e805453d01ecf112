"""zhiying studies: what happened to each study, and why."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from audit.log import AuditLog
from service import looking, views, wire
from service.commands.output import KNOWN_ERRORS, AsJson, ConfigFile, show, told
from service.decisions import Desk, Reader
from service.errors import NothingSuch
from service.store import Store

app = typer.Typer(no_args_is_help=True, help="What happened to each study.")


@app.command("list")
def list_studies(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Runs, newest first, and studies that are still arriving."""
    with told(), looking.ledger(config) as (store, inbox):
        value = views.studies(store, inbox)
        rows = [
            {
                "study": item["study_uid"],
                "state": item["state"],
                "code": item["code"],
                "attempt": item["attempt"],
                "model": (item["model"] or {}).get("name"),
                "updated": item["updated_at"],
            }
            for item in value
        ]
        show(value, as_json=as_json, title="studies", rows=rows)


@app.command("show")
def show_study(
    study_uid: Annotated[str, typer.Argument(help="StudyInstanceUID")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """One study: each run, its end and its code, and who decided what on its result."""
    with told(), looking.ledger(config) as (store, inbox), _decided(config, store) as decided:
        value = views.study(store, inbox, study_uid, decided)
        if value is None:
            raise NothingSuch("no such study was received")
        show(value, as_json=as_json, title="study", rows=[_row(run) for run in value["runs"]] or [_row(value)])


def _row(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "state": item["state"],
        "stage": item.get("stage"),
        "code": item["code"],
        "condition": item.get("condition"),
        "observed": item.get("observed"),
        "call": item.get("call"),
        "found": "; ".join(f"{m['value']} {m['unit']}" for m in item.get("measurements", ())),
        "outputs": "\n".join(f"{o['kind']} {o['uid']}" for o in item.get("outputs", ())),
        "decided": _said(item.get("decisions", [])),
        "withdrawn": _why(item.get("withdrawn")),
    }


def _why(withdrawn: dict[str, Any] | None) -> str:
    """Why, who or by which later call, when."""
    if withdrawn is None:
        return ""
    return f"{withdrawn['reason']} {withdrawn['person'] or withdrawn['by']} {withdrawn['time']}"


def _said(decisions: list[dict[str, Any]] | None) -> str:
    if decisions is None:
        return "the log cannot be read"
    return "\n".join(
        f"{one['decision']} {one['role']} {one['reader'] or 'nobody named'} {one['time']}" for one in decisions
    )


@contextmanager
def _decided(path: Path | None, store: Store) -> Iterator[views.Decided | None]:
    """The decisions in the log; None where it is not there or cannot be read: the study is shown all the same."""
    config = wire.settings(path)
    log: AuditLog | None = None
    if wire.audit_root(config).is_dir():  # looking must not make one
        try:
            log = wire.open_log(config)
        except KNOWN_ERRORS:
            log = None
    if log is None:
        yield None
        return
    with log:
        readers = [Reader(**one.model_dump()) for one in config.readers]
        yield Desk(log, log, store, readers, wire.pseudonyms(config))
