"""A replay, written down and read again, so that a start does not take the whole log.

Only a cache. It names the log's size and root, the trust policy and the code that made it; one that does not match
all of them is no snapshot. It holds no approval, only where each stands in the log, and is signed like the log. Pure.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, Final

from audit.canonical import canonical, parse_canonical
from audit.errors import AuditError
from audit.note import NOTE_CHARS_MAX, Verifier
from ethics_review.dossier import Approval
from ethics_review.life import Life, Recorded
from ethics_review.replay import Replay
from ethics_review.standing import Step, Stop
from ethics_review.states import Cause, Past, State
from models.ref import ModelRef

HEADER: Final = "zhiying-register/1"
SOURCES: Final = (
    "acts.py",
    "charts.py",
    "dossier.py",
    "drift.py",
    "evaluation.py",
    "gaps.py",
    "life.py",
    "metrics.py",
    "opt_out.py",
    "parties.py",
    "periods.py",
    "questions.py",
    "replay.py",
    "sequential.py",
    "snapshot.py",
    "standing.py",
    "states.py",
    "terms.py",
    "trust.py",
    "vocabulary.py",
)
"""Everything that decides what a replay ends in."""


@cache
def code_digest() -> str:
    """ "sha256:..." over SOURCES: for each its name, a line feed, and its bytes."""
    total = hashlib.sha256()
    for name in SOURCES:
        total.update(name.encode() + b"\n" + resources.files("ethics_review").joinpath(name).read_bytes())
    return "sha256:" + total.hexdigest()


def write(replay: Replay, root: str) -> str | None:
    """The text to sign; `root` is the log's, in base64, at size `replay.next`. None: it is too large to be a note."""
    value: dict[str, Any] = {
        "size": replay.next,
        "root": root,
        "trust": replay.trust.digest,
        "code": code_digest(),
        "latest": None if replay.latest is None else replay.latest.isoformat(),
        "lives": [_life(one) for one in replay.lives.values()],
        "notes": sorted(replay.notes),
        "stops": [[stop.level, stop.site, stop.index, reason] for stop, reason in replay.stops.values()],
        "switches": [[level, site, digest] for (level, site), digest in replay.switches.items()],
        "set_aside": [[index, code] for index, code in replay.set_aside],
        "opted_out": sorted(replay.opted_out),
        "day_end": None if replay.day_end is None else replay.day_end.isoformat(),
        "calls": {digest: sorted(calls) for digest, calls in replay.calls.items()},
    }
    text = f"{HEADER}\n{canonical(value).decode('utf-8')}\n"
    return text if len(text) < NOTE_CHARS_MAX - 1000 else None


def read(
    note: str,
    replay: Replay,
    operator: Verifier,
    root_at: Callable[[int], str | None],
    again: Callable[[int], Approval],
) -> bool:
    """Bring an empty `replay` to where the snapshot was taken; False, and it is still empty, where it is none for us.

    Args:
        root_at: the log's root, in base64, at a size; None beyond its end. again: the approval of an entry, verified.
    """
    try:
        header, _, line = operator.open(note).partition("\n")
        value = parse_canonical(line.removesuffix("\n").encode("utf-8"))
    except AuditError:
        return False
    if header != HEADER or not isinstance(value, Mapping):
        return False
    if (value["trust"], value["code"]) != (replay.trust.digest, code_digest()):
        return False
    if root_at(int(str(value["size"]))) != value["root"]:
        return False
    _fill(replay, value, again)
    return True


def _fill(replay: Replay, value: Mapping[str, Any], again: Callable[[int], Approval]) -> None:
    # Signed by the log's own key and made by this very code: what it holds has the shape that `write` gave it.
    replay.next = value["size"]
    replay.latest = _time(value["latest"])
    replay.notes = set(value["notes"])
    replay.stops = {(lvl, site): (Stop(lvl, site, index), reason) for lvl, site, index, reason in value["stops"]}
    replay.switches = {(level, site): digest for level, site, digest in value["switches"]}
    replay.set_aside = [(index, code) for index, code in value["set_aside"]]
    replay.opted_out = set(value["opted_out"])
    replay.day_end = _time(value["day_end"])
    replay.calls = {digest: set(calls) for digest, calls in value["calls"].items()}
    for one in (_living(fields, again) for fields in value["lives"]):
        replay.put(one)
        replay.ids |= {recorded.approval.id.lower(): recorded.approval for recorded in one.recorded}


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _life(one: Life) -> dict[str, Any]:
    plain = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    return plain | {
        "model": dataclasses.asdict(one.model),
        "past": {field.name: _plain(getattr(one.past, field.name)) for field in dataclasses.fields(one.past)},
        "recorded": [recorded.index for recorded in one.recorded],
        "judged_at": one.judged_at.isoformat(),
        "cut_off": sorted(one.cut_off),
        "history": [list(dataclasses.astuple(step)) for step in one.history],
        "suspended_at": one.suspended_at + 1,
        "deployed_at": one.deployed_at + 1,
        "began": one.began + 1,
    }


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


def _living(fields: Mapping[str, Any], again: Callable[[int], Approval]) -> Life:
    return Life(
        **dict(fields)
        | {
            "model": ModelRef(**fields["model"]),
            "past": _past(fields["past"]),
            "recorded": tuple(Recorded(index, again(index)) for index in fields["recorded"]),
            "judged_at": datetime.fromisoformat(fields["judged_at"]),
            "cut_off": frozenset((condition, observed) for condition, observed in fields["cut_off"]),
            "history": tuple(_step(step) for step in fields["history"]),
            "suspended_at": fields["suspended_at"] - 1,
            "deployed_at": fields["deployed_at"] - 1,
            "began": fields["began"] - 1,
        }
    )


def _past(fields: Mapping[str, Any]) -> Past:
    sets = ("submitters", "committee", "review_orgs", "panel_orgs", "conflicts")
    return Past(
        **dict(fields)
        | {name: frozenset(fields[name]) for name in sets}
        | {name: None if fields[name] is None else State(fields[name]) for name in ("state", "suspended_from")}
        | {name: None if fields[name] is None else Cause(fields[name]) for name in ("cause", "held")}
    )


def _step(values: tuple[Any, ...]) -> Step:
    index, time, event, start, end, reason, by = values
    return Step(index, time, event, None if start is None else State(start), State(end), reason, tuple(by))
