"""zhiying review: what the parties sign about a model, and what the hospital's log makes of it."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from audit.entry import Entry, JsonValue
from audit.note import Signer
from ethics_review import acts
from ethics_review.acts import SERVICE, SITE, Act, Switch
from ethics_review.dossier import Approval
from ethics_review.standing import Standing
from ethics_review.states import IN_USE, NONE, ROWS, Cause, Event
from models.library import Installed, Library
from models.ref import ModelRef
from service import wire
from service.commands.deferred import Deferred
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import CommandRefused

Keys = Annotated[list[Path], typer.Option("--key", help="A secret key; once for each person who signs.")]
Statement = Annotated[Path | None, typer.Option(help="JSON: what the event must state; see docs/dossiers.md.")]
Level = Annotated[str | None, typer.Option(help="'site' or 'service': everything there, instead of one model.")]
Reason = Annotated[str, typer.Option(help="A code, such as DRILL.")]
WARN_DAYS = (7, 30, 90)
"""An approval's end, and a follow-up, are announced so many days ahead: a review takes weeks."""


class _Further(Deferred):
    """What takes longer to load than a signature takes to make."""

    modules = MappingProxyType(
        {
            "incident": "review_incident",
            "lookback": "review_incident:lookback",
            "opt-out": "opt_out:opt_out",
            "report": "review_report:report",
            "recompute": "review_recompute:recompute",
        }
    )


app = typer.Typer(
    cls=_Further,
    no_args_is_help=True,
    help="The life of a model's dossier: draft, sign, import, see, stop, suspend, resume, retire.",
)


@app.command("draft")
def draft_act(
    event: Annotated[str, typer.Argument(help="OPEN, SELF_ASSESS, SUBMIT, BEGIN_REVIEW, ... (docs/dossiers.md)")],
    model: Annotated[str, typer.Argument(help="A model's name, name@version or digest.")],
    out: Annotated[Path, typer.Option(help="The text to sign.")],
    statement: Statement = None,
    reason: Reason = "AS_STATED",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the text of an act for those who must sign it; it fits only where the dossier stands now."""
    with told(), wire.offline(config) as site:
        act = _act(site, _found(site, config, model), event, _json(statement), reason)
        out.write_text(acts.draft(act), encoding="utf-8")
        wanted = " and ".join(" or ".join(sorted(seat.roles)) for seat in ROWS[act.event].seats)
        row = {"event": act.event.value, "from": act.start or NONE, "to": act.to.value, "signed by": wanted}
        show(row | {"file": str(out)}, as_json=as_json, title="to sign", rows=[row])


@app.command("import")
def import_note(
    note: Annotated[Path, typer.Argument(help="A signed approval, act or stop, as its signers handed it over.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Verify a signed note and record it in the log; from then on it holds."""
    with told(), wire.offline(config) as site:
        try:
            text = note.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise CommandRefused(f"{note} is not text, so it is not a signed note") from None
        taken = site.register.take(text, site.now())
        if isinstance(taken, Approval):
            show(_described(taken), as_json=as_json, title="approval", rows=[_row(taken)])
        else:
            _show_entry(taken, as_json=as_json)


@app.command("show")
def show_dossiers(
    model: Annotated[str | None, typer.Argument(help="One model, with its history.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Where every dossier stands, its approvals and what falls due next; the stops in force."""
    with told(), wire.offline(config) as site:
        now = site.now()
        wanted = None if model is None else _found(site, config, model)
        found = [one for one in site.register.standings(now) if wanted in {None, one.model}]
        value = {
            "dossiers": [_dossier(one, now) for one in found],
            "approvals": [
                _described(approval) for approval in site.register.approvals() if wanted in {None, approval.model}
            ],
            "stops": [{"level": stop.level, "site": stop.site, "index": stop.index} for stop in site.register.stops()],
            "set_aside": [{"index": index, "code": code} for index, code in site.register.set_aside()],
        }
        if as_json:
            show(value, as_json=True, title="", rows=[])
            return
        show(value, as_json=False, title="dossiers", rows=[_brief(one, now) for one in found])
        rows = [_row(approval) for approval in site.register.approvals() if wanted in {None, approval.model}]
        show(value, as_json=False, title="approvals", rows=rows)
        for title in ("stops", "set_aside"):
            if value[title]:
                show(value, as_json=False, title=title.replace("_", " "), rows=value[title])
        if wanted is not None:
            show(
                value, as_json=False, title="history", rows=[row for one in value["dossiers"] for row in one["history"]]
            )
        for one in found:
            for line in _warnings(one, now):
                typer.echo(line)


@app.command()
def stop(
    level: Annotated[str, typer.Option(help="'site' or 'service'.")],
    reason: Reason,
    key: Keys,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Stop all models of this site, or of the whole service, now. Images are still received."""
    with told(), wire.offline(config) as site:
        _show_entry(_switched(site, config, "STOP", level, reason, key), as_json=as_json)


@app.command()
def suspend(
    model: Annotated[str, typer.Argument(help="A model's name, name@version or digest.")],
    cause: Annotated[str, typer.Option(help=", ".join(Cause))],
    key: Keys,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Suspend one model, now."""
    with told(), wire.offline(config) as site:
        act = _act(site, _found(site, config, model), Event.SUSPEND, {"cause": cause}, cause)
        _show_entry(_signed(site, act, key), as_json=as_json)


@app.command()
def resume(
    key: Keys,
    model: Annotated[str | None, typer.Argument(help="A suspended model; without it, --level.")] = None,
    level: Level = None,
    statement: Statement = None,
    reason: Reason = "AS_STATED",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """End a suspension or a stop. Owner and safety officer sign, and a reviewer where the cause asks for one."""
    with told(), wire.offline(config) as site:
        if (model is None) == (level is None):
            raise CommandRefused("name a model, or give --level site or --level service")
        if model is None:
            entry = _switched(site, config, "RESUME", str(level), reason, key)
        else:
            act = _act(site, _found(site, config, model), Event.RESUME, _json(statement), reason)
            entry = _signed(site, act, key)
        _show_entry(entry, as_json=as_json)


@app.command()
def retire(
    model: Annotated[str, typer.Argument(help="A model's name, name@version or digest.")],
    key: Keys,
    statement: Statement = None,
    reason: Reason = "AS_STATED",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Retire one model for ever; this exact model never runs again."""
    with told(), wire.offline(config) as site:
        act = _act(site, _found(site, config, model), Event.RETIRE, _json(statement), reason)
        _show_entry(_signed(site, act, key), as_json=as_json)


def _json(path: Path | None) -> dict[str, JsonValue]:
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as fault:
        raise CommandRefused(f"{path} is not JSON: {fault}") from None
    if not isinstance(value, dict):
        raise CommandRefused(f"{path}: an object wanted")
    return value


def _found(site: wire.Site, config: Path | None, text: str) -> ModelRef:
    """The one model that has a dossier or is installed and is called so."""
    library = Library(wire.settings(config).data.folder / "models")
    known = {one.model for one in site.register.standings()}
    known |= {item.ref for item in library.list() if isinstance(item, Installed)}
    found = [ref for ref in known if text in {ref.name, f"{ref.name}@{ref.version}", ref.digest}]
    if len(found) != 1:
        what = "no model" if not found else f"{len(found)} models"
        raise CommandRefused(f"{what} of this name; give name@version or the digest")
    return found[0]


def _act(site: wire.Site, model: ModelRef, event: str, statement: dict[str, JsonValue], reason: str) -> Act:
    if event not in set(Event):
        raise CommandRefused(f"no such event; one of {', '.join(Event)}")
    standing = site.register.standing(model.digest, site.now())
    state = None if standing is None else standing.state
    ends = ROWS[Event(event)].ends
    back = None if standing is None else standing.suspended_from
    to = back if event == Event.RESUME else ends[0] if ends else state
    if to is None:
        raise CommandRefused(f"{event} cannot happen to a dossier that is {NONE if state is None else state}")
    last = None if standing is None else standing.last_note
    return Act(last, Event(event), state, to, model, reason, statement)


def _signed(site: wire.Site, act: Act | Switch, keys: list[Path]) -> Entry:
    return site.register.act(acts.sign(acts.draft(act), *(Signer.load(key) for key in keys)), site.now())


def _switched(site: wire.Site, config: Path | None, event: str, level: str, reason: str, keys: list[Path]) -> Entry:
    if level.upper() not in {SITE, SERVICE}:
        raise CommandRefused("--level is site or service")
    place = wire.settings(config).site.id if level.upper() == SITE else None
    last = site.register.last_switch(level.upper(), place)
    return _signed(site, Switch(last, event, level.upper(), place, reason), keys)


def _show_entry(entry: Entry, *, as_json: bool) -> None:
    said = {key: entry.body[key] for key in ("event", "level", "site", "from", "to", "reason") if key in entry.body}
    row = {"entry": entry.index, "kind": entry.kind.value, **said, "note": entry.body["note_digest"]}
    show(row, as_json=as_json, title="in the log", rows=[row])


def _brief(one: Standing, now: datetime) -> dict[str, Any]:
    newest = one.approvals[-1] if one.approvals else None
    cut_off = ", ".join(f"{condition} {observed}" for condition, observed in sorted(one.cut_off))
    del now
    return {
        "model": f"{one.model.name} {one.model.version}",
        "digest": one.model.digest[:19],
        "state": one.state.value,
        "cause": one.cause,
        "cut off": cut_off or None,
        "ends": None if newest is None else str(newest.valid_to),
        "follow-up": None if one.follow_up_at is None else f"{one.follow_up_at:%Y-%m-%d}",
    }


def _dossier(one: Standing, now: datetime) -> dict[str, Any]:
    history = [
        {
            "entry": step.index,
            "time": step.time[:19],
            "event": step.event,
            "to": step.end,
            "by": ", ".join(step.by),
        }
        for step in one.history
    ]
    return _brief(one, now) | {
        "digest": one.model.digest,
        "last_note": one.last_note,
        "suspended_from": one.suspended_from,
        "warnings": list(_warnings(one, now)),
        "history": history,
    }


def _warnings(one: Standing, now: datetime) -> Iterator[str]:
    if one.state not in IN_USE or not one.approvals:
        return
    for what, due in (("approval ends", one.approvals[-1].ends_at), ("follow-up is due", one.follow_up_at)):
        days = None if due is None else (due - now).days
        limit = None if days is None else next((limit for limit in WARN_DAYS if days < limit), None)
        if limit is not None:
            yield f"WARN {one.model.name} {one.model.version}: {what} in {days} days (less than {limit})"


def _row(approval: Approval) -> dict[str, Any]:
    return {
        "approval": approval.id,
        "reviewer": approval.reviewer_org,
        "key": ", ".join(approval.signers),
        "model": f"{approval.model.name} {approval.model.version}",
        "digest": approval.model.digest[:19],
        "valid": f"{approval.valid_from} to {approval.valid_to}",
    }


def _described(approval: Approval) -> dict[str, Any]:
    return _row(approval) | {"digest": approval.model.digest, "note_digest": approval.note_digest}
