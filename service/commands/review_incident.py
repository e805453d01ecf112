"""zhiying review incident and lookback: what a safety officer does when an AI result may have harmed somebody."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

import typer

from audit.entry import Draft, Entry, Kind
from audit.log import AuditLog
from ethics_review import incident as cases
from ethics_review import lookback as looking
from ethics_review.errors import ReviewError
from ethics_review.incident import Category, Incident
from ethics_review.lookback import Answer, Asked, Touched
from ethics_review.states import Cause
from models.library import Library
from models.ref import ModelRef
from service import records, wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.config import Config
from service.errors import CommandRefused, NothingSuch
from service.incidents import Incidents

Which = Annotated[str, typer.Argument(metavar="INCIDENT", help="Its id, or the first digits of it.")]
CATEGORIES = ", ".join(Category)
ID_MIN = 4  # digits of an id that a person may shorten it to

app = typer.Typer(no_args_is_help=True, help="Incidents and their clocks; see docs/incidents.md.")


class Suspends(Protocol):
    """What takes a model out of use at once, without a signature: it may only tighten."""

    def suspend(self, model: ModelRef, cause: Cause, evidence: int | None) -> Entry:
        """Suspend it. Raises ReviewError where nothing of it is in use."""


@app.command("open")
def open_case(
    category: Annotated[str, typer.Option(help=f"One of {CATEGORIES}.")],
    model: Annotated[str | None, typer.Option(help="The installed model that is suspended: its name.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Open an incident, suspend its model, and say whom to tell by when. One action; nothing waits for a signature."""
    with told():
        kind = _category(category)
        if kind in cases.DEVICE and model is None:
            raise CommandRefused(f"{kind} is about a model: name it with --model")
        settings = wire.existing_log(config)
        ref = None if model is None else Library(settings.data.folder / "models").find(model)
        with wire.offline_of(settings) as site:
            value = begin(site.log, site.register, kind, ref, site.now(), settings)
        rows = [{"incident": value["incident"][:8], "state": value["model_state"]} | row for row in value["clocks"]]
        show(value, as_json=as_json, title="incident", rows=rows or [{"incident": value["incident"]}])


def begin(
    log: AuditLog, register: Suspends, kind: Category, ref: ModelRef | None, now: datetime, settings: Config
) -> dict[str, Any]:
    """Log the incident, then suspend; gives what the command shows. checkpoint: the log as it was at that moment."""
    name = secrets.token_hex(16)
    hours = settings.review.clocks_h
    named: Any = None if ref is None else records.model_body(ref)
    entry = log.append(Draft(Kind.INCIDENT, f"incident:{name}:opened", cases.opened(name, kind, named, now, hours)))
    state = None
    if ref is not None:
        try:
            register.suspend(ref, cases.cause(kind), entry.index)
            state = "SUSPENDED"
        except ReviewError as refused:  # not in use, or suspended already: the case is open all the same
            state = refused.code
    frozen = log.receipt(entry.index)
    running = {one.code: one for one in cases.clocks(kind, hours)}
    due = {duty.clock: duty.due for duty in cases.of([(entry.index, entry.time, entry.body)])[name].duties}
    return {
        "incident": name,
        "category": kind.value,
        "model_state": state,
        "checkpoint": {"size": frozen.size, "root": frozen.root.hex()},
        "clocks": [
            {"clock": code, "tell": one.whom, "by": due[code], "source": one.source} for code, one in running.items()
        ],
    }


@app.command()
def notify(
    incident: Which,
    clock: Annotated[str, typer.Option(help="The clock that is answered, as `list` shows it.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Record that somebody was told. Whether it was in time follows from when this is recorded."""
    with told(), wire.offline_of(wire.existing_log(config)) as site:
        case = _find(site.log, incident)
        body = case.notified(clock)
        entry = site.log.append(Draft(Kind.INCIDENT, f"incident:{case.id}:notified:{clock.lower()}", body))
        duty = cases.Duty(clock, case.duty(clock).due, entry.time)
        value = {
            "incident": case.id,
            "clock": clock,
            "due": duty.due,
            "told": entry.time,
            "was": duty.state(site.now()),
        }
        show(value, as_json=as_json, title="told", rows=[value])


@app.command()
def close(incident: Which, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Close an incident whose every clock was answered. The model stays suspended: that is the review's to end."""
    with told(), wire.offline_of(wire.existing_log(config)) as site:
        case = _find(site.log, incident)
        entry = site.log.append(Draft(Kind.INCIDENT, f"incident:{case.id}:closed", case.closing()))
        value = {"incident": case.id, "closed": entry.time}
        show(value, as_json=as_json, title="closed", rows=[value])


@app.command("list")
def list_cases(
    every: Annotated[bool, typer.Option("--all", help="Also those that are closed.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Incidents and their clocks. Exit status 1 if one is overdue."""
    with told(), wire.offline_of(wire.existing_log(config)) as site:
        now = site.now()
        found = [one for one in Incidents(site.log).all() if every or one.closed is None]
        show(
            [_described(one, now) for one in found],
            as_json=as_json,
            title="incidents",
            rows=[row for one in found for row in _rows(one, now)],
        )
        if any(one.closed is None and one.overdue(now) for one in found):
            raise typer.Exit(1)


def lookback(
    person: Annotated[str, typer.Option(help="Short name of who asks; no personal number; this is logged.")],
    purpose: Annotated[str, typer.Option(help="Why, in capitals, such as RECALL; this is logged.")],
    model: Annotated[str | None, typer.Option(help="A name, or a digest: sha256:...")] = None,
    condition: Annotated[str | None, typer.Option(help="A class as the log has it, such as SEX=F.")] = None,
    begin: Annotated[datetime | None, typer.Option("--from", help="UTC; calls from this time on.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="UTC; calls before this time.")] = None,
    approval: Annotated[str | None, typer.Option(help="Only calls that this approval permitted.")] = None,
    incident: Annotated[str | None, typer.Option(help="The incident that it belongs to.")] = None,
    identify: Annotated[bool, typer.Option("--identify", help="Also say which studies; logged one by one.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Every study that a model, an approval, a class of patients or a time touched. The log keeps the question."""
    with told():
        name, _, observed = (condition or "").partition("=")
        if condition is not None and not (name and observed):
            raise CommandRefused("--condition is NAME=CLASS, such as SEX=F")
        asked = Asked(model, approval, name or None, observed or None, _stamp(begin), _stamp(end))
        settings = wire.existing_log(config)
        with wire.offline_of(settings) as site:
            case = None if incident is None else _find(site.log, incident)
            found = looking.touched(site.log.entries(), asked)
            site.log.append(_asked(asked, found, person, purpose, case))
            value = [_told(one) for one in found.calls]
            if identify:
                _identify(settings, site.log, value, person, purpose)
        columns = ("time", "study", "state", "decision", *(("study_uid", "patient_id") if identify else ()))
        rows = [{column: row[column] for column in columns} for row in value]
        show(value, as_json=as_json, title=f"{len(value)} calls touched", rows=rows)


def _asked(asked: Asked, found: Answer, person: str, purpose: str, case: Incident | None) -> Draft:
    """The LOOKBACK entry, which names one model or is about all of them. Raises NothingSuch, CommandRefused."""
    if asked.model is not None and not found.models:
        raise NothingSuch(f"no call in the log is of {asked.model}")
    if len(found.models) > 1:
        digests = ", ".join(sorted(model["digest"] for model in found.models))
        raise CommandRefused(f"{asked.model} is {len(found.models)} models; ask for one: {digests}")
    body: dict[str, Any] = {
        "person": person,
        "purpose": purpose,
        "incident": None if case is None else case.id,
        "model": dict(found.models[0]) if found.models else None,
        "approval": asked.approval,
        "condition": asked.condition,
        "observed": asked.observed,
        "from": asked.begin,
        "to": asked.end,
        "calls": len(found.calls),
    }
    return Draft(Kind.LOOKBACK, f"lookback:{secrets.token_hex(16)}", body)


def _identify(settings: Config, log: AuditLog, rows: list[dict[str, Any]], person: str, purpose: str) -> None:
    """Add whom each study's name names. The log says first who asked for which one."""
    studies = sorted({row["study"] for row in rows})
    for study in studies:
        body = {"person": person, "purpose": purpose, "pseudonym": study}
        log.append(Draft(Kind.LOG_READ, f"log-read:{secrets.token_hex(16)}", dict(body)))
    from service.identity import (
        IdentityMap,  # deferred: it reads images' heads, and the other commands wait for nothing
    )

    named = {row.study: row for row in IdentityMap.of(settings.data.folder).find_all(frozenset(studies))}
    for row in rows:
        who = named.get(row["study"])  # None: its month was erased
        row |= {"study_uid": who and who.study_uid, "patient_id": who and who.patient_id, "issuer": who and who.issuer}


def _told(one: Touched) -> dict[str, Any]:
    return {
        "call": one.call,
        "index": one.index,
        "time": one.time,
        "study": one.study,
        "patient": one.patient,
        "model": dict(one.model),
        "approval": one.approval,
        "state": one.state,
        "decision": one.decision,
    }


def _find(log: AuditLog, named: str) -> Incident:
    found = [one for one in Incidents(log).all() if len(named) >= ID_MIN and one.id.startswith(named)]
    if len(found) != 1:
        raise NothingSuch(
            f"{len(found) or 'no'} incidents are called {named}; see `zhiying review incident list --all`"
        )
    return found[0]


def _category(text: str) -> Category:
    if text not in set(Category):
        raise CommandRefused(f"--category is one of {CATEGORIES}")
    return Category(text)


def _described(one: Incident, now: datetime) -> dict[str, Any]:
    clocks = [{"clock": d.clock, "due": d.due, "told": d.told, "is": d.state(now)} for d in one.duties]
    model: Mapping[str, str] | None = None if one.model is None else dict(one.model)
    return {
        "incident": one.id,
        "category": one.category.value,
        "opened": one.opened,
        "closed": one.closed,
        "model": model,
        "clocks": clocks,
    }


def _rows(one: Incident, now: datetime) -> list[dict[str, Any]]:
    return [
        {
            "incident": one.id[:8],
            "category": one.category.value,
            "clock": duty.clock,
            "due": duty.due,
            "told": duty.told,
            "is": duty.state(now),
            "closed": one.closed,
        }
        for duty in one.duties
    ]


def _stamp(moment: datetime | None) -> str | None:
    return None if moment is None else moment.replace(tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
