"""Replay: the same log gives the same; what does not count never loosens; snapshots only help."""

import ast
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.entry import Draft, Entry, Kind
from audit.errors import EntryInvalid
from audit.log import AuditLog
from audit.note import Signer, parse_note
from ethics_review import acts, snapshot
from ethics_review.errors import ActRefused, ApprovalError
from ethics_review.register import Register
from ethics_review.replay import body_of
from ethics_review.states import RUNNING, Cause, Event, State
from tests.simulators.parties import D1, PEOPLE, Case, Parties
from tests.simulators.reviewer import DURING, MODEL, fields

OPERATOR = Signer.generate("hospital.example/log")
PARTIES = Parties()
LONG = {"from": "2026-12-01", "to": "2028-12-31"}
OTHERS = ("reviewer-2", "reviewer-3")
SHORT = {"from": "2026-12-01", "to": "2026-12-31"}


class ListLog:
    """A log in memory, with the promises that the register relies on: one key, one entry; entries in order."""

    def __init__(self) -> None:
        self.all: list[Entry] = []
        self.now = DURING

    def append(self, draft: Draft, proviso: object = None) -> Entry:
        """The entry, new or as it was. Nobody else writes here: whatever it rests on holds."""
        known = self.find(draft.key)
        if known is not None and known.draft.content != draft.content:
            raise ActRefused("ACT_ORDER", "key conflict")
        if known is None:
            known = Entry.of(
                draft, index=len(self.all), source="t", seq=len(self.all), now=self.now, boot="0" * 32, tick_us=0
            )
            self.all.append(known)
        return known

    def find(self, key: str) -> Entry | None:
        """By key."""
        return next((entry for entry in self.all if entry.key == key), None)

    def leaves(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """In order."""
        return ((entry.index, entry.to_bytes()) for entry in self.all[start:])

    def receipt(self, index: int) -> Any:
        """None: no snapshot is taken of it."""
        raise EntryInvalid("no tree here")


def register_of(log: Any, *, without: tuple[str, ...] = (), remembered: str | None = None) -> Register:
    """A new process."""
    return Register(log, PARTIES.trust(without=without), OPERATOR.verifier, remembered=remembered)


DEEDS = (
    "submitted", "approve", "deploy", "golive", "suspend", "harm", "resume", "resume3", "follow", "retire", "reject",
    "revise", "renew", "short", "monitor", "restrict", "golden", "month", "back", "stop", "start", "replay", "forge",
)  # fmt: skip


def deed(case: Case, log: ListLog, word: str, number: int) -> None:
    """One thing that people, the monitor, the clock or an intruder do; what cannot be now is not done."""
    stated = {"report": D1}
    deeds: dict[str, Callable[[], object]] = {
        "submitted": case.submitted,
        "approve": lambda: case.register.record(case.approval(fields(approval=f"T-{number}", valid=LONG))),
        "renew": lambda: case.register.record(case.approval(fields(approval=f"R-{number}", valid=LONG), *OTHERS)),
        "short": lambda: case.register.record(case.approval(fields(approval=f"S-{number}", valid=SHORT))),
        "deploy": case.deploy,
        "golive": lambda: case.go_live(case.register.standings()[0].approvals[-1].id),
        "suspend": case.suspend,
        "harm": lambda: case.suspend("HARM", by="safety"),
        "resume": lambda: case.resume(to=_back(case)),
        "resume3": lambda: case.resume("owner", "safety", "reviewer-3", to=_back(case)),
        "follow": lambda: case.do(Event.FOLLOW_UP, case.state or State.DRAFT, "reviewer-1", statement=stated),
        "retire": lambda: case.do(Event.RETIRE, State.RETIRED, "owner", "safety", statement={"archive": D1}),
        "reject": lambda: case.do(Event.REJECT, State.REJECTED, "reviewer-1", "reviewer-2"),
        "revise": lambda: case.do(Event.REVISE, State.REVISE, "reviewer-1", "reviewer-2"),
        "monitor": lambda: case.register.suspend(MODEL, Cause.PERFORMANCE, None),
        "restrict": lambda: case.register.restrict(MODEL, "SEX", "F", number),
        "golden": case.golden,
        "month": lambda: _at(log, timedelta(days=30)),
        "back": lambda: _at(log, timedelta(days=-45)),
        "stop": lambda: case.switch("STOP", "reader", reason="HARM"),
        "start": lambda: case.switch("RESUME", "owner", "safety", reason="OVER"),
        "replay": lambda: _replayed(log, number),
        "forge": lambda: _forged(case, log, number),
    }
    try:
        deeds[word]()
    except (ActRefused, ApprovalError, IndexError):
        return


def _back(case: Case) -> State:
    standing = case.register.standing(MODEL.digest)
    return (standing and standing.suspended_from) or State.LIVE


def _at(log: ListLog, moved: timedelta) -> None:
    log.now += moved
    log.append(Draft(Kind.HEARTBEAT, f"beat:{len(log.all)}", {"interval_s": 60}))


def _replayed(log: ListLog, number: int) -> None:
    """Somebody with the log puts an old note in again."""
    noted = [entry for entry in log.all if entry.body.get("note") is not None]
    if noted:
        old = noted[number % len(noted)]
        log.append(Draft(old.kind, f"replayed:{len(log.all)}", old.body))


def _forged(case: Case, log: ListLog, number: int) -> None:
    """Somebody with the log writes an act that nobody with a seat has signed."""
    events = [event for event in acts.STATEMENTS if not acts.STATEMENTS[event]]
    event = [one for one in events if one not in {Event.APPROVE, Event.RENEW}][number % 4]
    note = case.act(event, State.LIVE, "ops")
    read = acts.read(note)
    assert isinstance(read, acts.Act)
    log.append(Draft(Kind.STATE_CHANGE, f"forged:{len(log.all)}", body_of(read, note)))


def told(words: list[tuple[str, int]]) -> tuple[ListLog, Case]:
    """A log after all these deeds, by one register that lived through them."""
    log = ListLog()
    case = Case(PARTIES, register_of(log), log, MODEL)  # type: ignore[arg-type]
    for place, (word, number) in enumerate(words):
        deed(case, log, word, number + place)
        case.register.standings()
    return log, case


def seen(register: Register) -> object:
    """All that a register knows."""
    return (register.standings(), register.stops(), register.approvals(), register.set_aside(), register.latest_known())


BEGUN = [("submitted", 0), ("approve", 0), ("deploy", 0), ("golive", 0)]
words = st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 50)), max_size=14)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(words, st.sampled_from([0, 1, 2, 4]))
def test_a_restart_changes_nothing(some: list[tuple[str, int]], begun: int) -> None:
    """Whatever was appended, a new process knows what the old one knew."""
    log, case = told(BEGUN[:begun] + some)
    assert seen(register_of(log)) == seen(case.register)


@quick
@given(words, st.sets(st.sampled_from(sorted(PEOPLE)), max_size=4), st.sampled_from([2, 4]))
def test_who_leaves_leaves_no_door_open(some: list[tuple[str, int]], gone: set[str], begun: int) -> None:
    """With any keys taken out of trust nothing runs, and nothing is LIVE, that was not; no stop is lifted."""
    log, case = told(BEGUN[:begun] + some)
    later = register_of(log, without=tuple(gone))
    full, less = case.register.standing(MODEL.digest), later.standing(MODEL.digest)
    ranks = {State.SHADOW: 1, State.LIVE: 2}
    after = 0 if less is None else ranks.get(less.state, 0)
    assert after <= (0 if full is None else ranks.get(full.state, 0))
    assert {(stop.level, stop.site) for stop in case.register.stops()} <= {(s.level, s.site) for s in later.stops()}
    if full is not None and less is not None and less.state in RUNNING:
        assert full.cut_off <= less.cut_off
    if full is not None and full.state in {State.RETIRED, State.REJECTED}:
        assert less is not None
        assert less.state in {State.RETIRED, State.REJECTED}


@quick
@given(words)
def test_nothing_that_ended_runs_again(some: list[tuple[str, int]]) -> None:
    """Once retired or rejected, for ever; and what runs has an approval in force."""
    log = ListLog()
    case = Case(PARTIES, register_of(log), log, MODEL)  # type: ignore[arg-type]
    over = False
    for place, (word, number) in enumerate(BEGUN + some):
        deed(case, log, word, number + place)
        over = over or case.state in {State.RETIRED, State.REJECTED}
        assert not (over and case.state not in {State.RETIRED, State.REJECTED})
        for standing in case.register.standings():
            if standing.state in RUNNING:
                assert standing.approvals[0].starts_at <= case.register._replay.now < standing.approvals[0].ends_at


@pytest.mark.parametrize("gone", ["reader", "reviewer-1", "reviewer-2", "ops", "maker", "safety"])
def test_a_key_that_left_does_not_lift_a_suspension(gone: str) -> None:
    """Whoever's it is; nothing runs."""
    log, case = told([*BEGUN, ("suspend", 0)])
    later = register_of(log, without=(gone,)).standing(MODEL.digest)
    assert later is None or later.state not in RUNNING
    assert case.state is State.SUSPENDED


def test_a_suspension_outlives_the_review_that_does_not_count_any_more() -> None:
    """With the approval gone a new one is recorded, and ends suspended, with the old cause."""
    log, _ = told([*BEGUN, ("harm", 0)])
    later = Case(PARTIES, register_of(log, without=("reviewer-2",)), log, MODEL)  # type: ignore[arg-type]
    assert later.state is State.UNDER_REVIEW
    later.register.record(later.approval(fields(approval="NEW", valid=LONG), "reviewer-1", "reviewer-3"))
    standing = later.register.standing(MODEL.digest)
    assert standing is not None
    assert (standing.state, standing.cause) == (State.SUSPENDED, Cause.HARM)
    assert standing.suspended_from is State.APPROVED_WITH_CONDITIONS


@pytest.mark.parametrize("event", [Event.RETIRE, Event.REJECT])
def test_a_key_that_left_does_not_undo_an_end(event: Event) -> None:
    """RETIRED and REJECTED stay, with nobody left who signed for it."""
    begun = BEGUN if event is Event.RETIRE else BEGUN[:1]
    log, case = told([*begun, (event.lower(), 0)])
    assert case.state in {State.RETIRED, State.REJECTED}
    assert register_of(log, without=tuple(PEOPLE)).standings()[0].state is case.state


def test_a_stop_by_who_left_stops() -> None:
    """And the note that ended it, which still verifies, still ends it."""
    log, _ = told([("stop", 0)])
    assert len(register_of(log, without=("reader",)).stops()) == 1
    log, _ = told([("stop", 0), ("start", 0)])
    assert register_of(log, without=("reader",)).stops() == ()
    assert len(register_of(log, without=("owner",)).stops()) == 1


def test_a_forged_entry_is_set_aside_and_does_not_shift_the_order() -> None:
    """A hospital that writes into its own log moves no dossier: with a note of its own, or by an old one again."""
    log, case = told([*BEGUN, ("harm", 0)])
    resumed = case.resume("owner", "safety", "reviewer-3")
    case.suspend("HARM")
    before = case.register.standings()
    # The suspension and the resumption once more: the first tightens, the second does not follow it.
    for number, index in enumerate((resumed.index - 2, resumed.index)):
        log.append(Draft(Kind.STATE_CHANGE, f"own:{number}", log.all[index].body))
    assert case.state is before[0].state is State.SUSPENDED
    log.append(Draft(Kind.STATE_CHANGE, "own:2", log.all[resumed.index].body | {"reason": "OTHER"}))
    assert case.state is State.SUSPENDED
    assert case.register.standings()[0].last_note == before[0].last_note
    assert [code for _, code in case.register.set_aside()] == ["ACT_ORDER"] * 3


def test_an_entry_that_says_other_than_its_note_is_set_aside() -> None:
    """What counts is what was signed; an entry around it cannot turn it."""
    log, case = told(BEGUN[:2])
    note = case.act(Event.DEPLOY, State.SHADOW, "ops", "owner")
    read = acts.read(note)
    assert isinstance(read, acts.Act)
    log.append(Draft(Kind.STATE_CHANGE, "own", body_of(read, note) | {"reason": "OTHER"}))
    assert case.state is State.APPROVED_WITH_CONDITIONS
    assert [code for _, code in case.register.set_aside()] == ["ACT_INVALID"]


def test_what_names_no_model_is_set_aside() -> None:
    """The log's words for a model are wider than ours."""
    log, case = told(BEGUN)
    body = {
        "model": {"name": "Not A Name", "version": "1", "digest": D1}, "event": "SUSPEND", "from": "LIVE",
        "to": "SUSPENDED", "reason": "HARM", "condition": None, "observed": None, "evidence": None, "note": None,
        "note_digest": None,
    }  # fmt: skip
    log.append(Draft(Kind.STATE_CHANGE, "own", body))
    assert [code for _, code in case.register.set_aside()] == ["ACT_INVALID"]
    assert case.state is State.LIVE


# ---- snapshots -------------------------------------------------------------------------------------------------------


class Counted:
    """A log that counts how many entries were read."""

    def __init__(self, log: AuditLog) -> None:
        self._log, self.read = log, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def leaves(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """One by one."""
        for leaf in self._log.leaves(start):
            self.read += 1
            yield leaf


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    """A real log with a life in it, a stop, a call's day and a patient who does not want AI."""
    made = AuditLog.open(
        tmp_path / "log", origin="hospital.example/log", source="t", signer=OPERATOR, now=lambda: DURING
    )
    case = Case(PARTIES, register_of(made), made, MODEL)
    case.live(fields(valid=LONG))
    case.suspend("HARM")
    case.golden()
    case.switch("STOP", "reader", level="SITE", site="test-site", reason="DRILL")
    case.register.restrict(MODEL, "SEX", "F", 3)
    made.append(Draft(Kind.OPT_OUT, "choice", {"patient": "3" * 32, "choice": "OPTED_OUT"}))
    forged = Signer.generate("stranger.example").sign("zhiying-act/1\n{}\n")
    body = {"level": "SITE", "site": "x", "reason": "X", "note": forged, "note_digest": D1}
    made.append(Draft(Kind.RESUME, "forged", body))
    yield made
    made.close()


def taken(log: AuditLog) -> str:
    """A snapshot, signed."""
    snap = register_of(log).snapshot()
    assert snap is not None
    assert snap[0] == log.head().size
    return OPERATOR.sign(snap[1])


def inside(register: Register) -> dict[str, object]:
    """Everything that a replay holds."""
    replay = register._caught_up()
    return {name: value for name, value in vars(replay).items() if not name.startswith("_")}


def test_from_a_snapshot_it_is_the_same(log: AuditLog) -> None:
    """To the last field; and only approvals and what came since are read."""
    note = taken(log)
    counted = Counted(log)
    quick, slow = register_of(counted, remembered=note), register_of(log)
    assert inside(quick) == inside(slow)
    assert counted.read == 1
    Case(PARTIES, quick, log, MODEL).resume("owner", "safety", "reviewer-1")
    assert inside(quick) == inside(slow)
    assert quick.standings()[0].state is State.LIVE


def test_a_snapshot_for_something_else_is_ignored(log: AuditLog) -> None:
    """Another key, another text, another policy, beyond the log's end, another root, other code: the log is read."""
    note = taken(log)
    text = parse_note(note).text
    value = json.loads(text.split("\n")[1])

    def with_(**changes: object) -> str:
        line = json.dumps(value | changes, sort_keys=True, separators=(",", ":"))
        return OPERATOR.sign(f"{snapshot.HEADER}\n{line}\n")

    poisoned = json.loads(text.split("\n")[1])
    poisoned["lives"][0]["past"]["state"] = "LIVE"
    line = json.dumps(poisoned, sort_keys=True, separators=(",", ":"))
    wrong = [
        "",
        "rubbish",
        Signer.generate("hospital.example/log").sign(text),
        note.replace('"SUSPENDED"', '"LIVE"'),
        f"{snapshot.HEADER}\n{line}\n\n" + note.rpartition("\n\n")[2],
        OPERATOR.sign(text.replace("register/1", "register/2")),
        OPERATOR.sign(text.replace(",", ", ", 1)),
        OPERATOR.sign(f"{snapshot.HEADER}\n[]\n"),
        with_(trust=D1),
        with_(code=D1),
        with_(size=value["size"] + 1),
        with_(size=value["size"] - 1),
        with_(size=0),
        with_(root="A" * 43 + "="),
    ]
    for one in wrong:
        counted = Counted(log)
        register = register_of(counted, remembered=one)
        assert inside(register) == inside(register_of(log))
        assert counted.read >= log.head().size
    without = register_of(log, without=("reviewer-2",), remembered=note)
    assert without.approvals() == ()


def test_a_snapshot_holds_no_approval(log: AuditLog) -> None:
    """What was approved is read from the log again and verified again."""
    text = parse_note(taken(log)).text
    assert "conditions" not in text
    assert "TEST-2026-0001" not in text.replace('"TEST-2026-0001","by"', "").replace("TEST-2026-0001", "", 2)


def test_the_code_of_a_snapshot_is_all_that_decides() -> None:
    """Every module that a replay runs through is among those whose digest it carries."""
    folder = Path(snapshot.__file__).parent
    found: set[str] = set()
    todo = ["replay", "snapshot"]
    while todo:
        name = todo.pop()
        found.add(name)
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ethics_review"):
                whole = str(node.module).partition(".")[2]
                todo += [whole] if whole else [alias.name for alias in node.names]
        todo = [one for one in todo if one not in found]
    assert {f"{name}.py" for name in found} == {*snapshot.SOURCES, "errors.py"}
