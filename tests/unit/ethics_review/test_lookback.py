"""Look-back: exactly the calls that were touched, each with what became of it, in one reading of the log."""

from collections.abc import Iterator
from typing import Any

import pytest

from audit.entry import Entry, Kind
from ethics_review.lookback import Asked, touched
from tests.simulators import audit_log

BRAIN = {"name": "brain", "version": "1.0", "digest": "sha256:" + "a" * 64}
NEXT = {"name": "brain", "version": "2.0", "digest": "sha256:" + "b" * 64}
LUNG = {"name": "lung", "version": "1.0", "digest": "sha256:" + "c" * 64}
DECIDED = audit_log.body(Kind.HUMAN_DECISION)


class Book:
    """A log of calls; each is told by a letter."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.readings = 0

    def __iter__(self) -> Iterator[Entry]:
        """Each reading is counted."""
        self.readings += 1
        return iter(self.entries)

    def add(self, kind: Kind, body: dict[str, Any], call: str | None, day: int = 1) -> None:
        """An entry at noon of a day of November."""
        index = len(self.entries)
        time = f"2026-11-{day:02d}T12:00:00.000000Z"
        key = f"k:{index}"
        self.entries.append(Entry(index, "test", index, time, "0" * 32, index, kind, key, body, call))

    def intent(
        self, call: str, model: dict[str, str] = BRAIN, *, day: int = 1, approval: str = "T-1", sex: str = "F"
    ) -> None:
        """A call that was allowed to run."""
        checks = [("MODEL_DIGEST", "EQUAL"), ("SEX", sex), ("AGE_YEARS", "70-74")]
        body: dict[str, Any] = {
            "model": model,
            "approval": approval,
            "study": call * 32,
            "patient": None if call == "e" else "9" * 32,
            "checks": [{"condition": name, "outcome": "HOLDS", "observed": seen} for name, seen in checks],
        }
        self.add(Kind.CALL_INTENT, body, call * 32, day)

    def ends(self, call: str, *kinds: Kind) -> None:
        """What became of it."""
        for kind in kinds:
            self.add(kind, dict(DECIDED) if kind is Kind.HUMAN_DECISION else {}, call * 32)


@pytest.fixture
def book() -> Book:
    """Five calls of three models on five days."""
    made = Book()
    made.add(Kind.HEARTBEAT, {"interval_s": 60}, None)
    made.intent("a", day=1)
    made.ends("a", Kind.CALL_RESULT, Kind.RELEASED, Kind.HUMAN_DECISION)
    made.intent("b", NEXT, day=2, sex="M", approval="T-2")
    made.ends("b", Kind.CALL_RESULT)
    made.intent("c", LUNG, day=3)
    made.ends("c", Kind.FAILED)
    made.intent("d", day=4, sex="M")
    made.ends("d", Kind.DENIED)
    made.intent("e", day=5)
    return made


def calls(book: Book, **asked: str) -> str:
    """The letters of the calls that fit."""
    return "".join(one.call[0] for one in touched(book, Asked(**asked)).calls)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "abcde"),
        ({"model": BRAIN["digest"]}, "ade"),
        ({"model": "brain"}, "abde"),
        ({"model": "brai"}, ""),
        ({"approval": "T-2"}, "b"),
        ({"condition": "SEX", "observed": "F"}, "ace"),
        ({"condition": "SEX", "observed": "M"}, "bd"),
        ({"condition": "AGE_YEARS", "observed": "F"}, ""),
        ({"begin": "2026-11-03T12:00:00.000000Z"}, "cde"),
        ({"end": "2026-11-03T12:00:00.000000Z"}, "ab"),
        ({"begin": "2026-11-02T00:00:00.000000Z", "end": "2026-11-04T00:00:00.000000Z"}, "bc"),
        ({"model": BRAIN["digest"], "condition": "SEX", "observed": "M"}, "d"),
    ],
)
def test_exactly_those_that_fit(book: Book, asked: dict[str, str], expected: str) -> None:
    """By digest, name, approval, class and time, alone and together; begin is included, end is not."""
    assert calls(book, **asked) == expected


def test_what_became_of_each_stands_beside_it(book: Book) -> None:
    """Released, made and not released, failed, denied, nothing; and what the physician did."""
    found = {one.call[0]: one for one in touched(book, Asked()).calls}
    states = {call: one.state for call, one in found.items()}
    assert states == {"a": "RELEASED", "b": "NOT_RELEASED", "c": "FAILED", "d": "DENIED", "e": "NO_END"}
    assert {call for call, one in found.items() if one.decision} == {"a"}
    assert found["a"].decision == DECIDED["decision"]
    assert (found["a"].study, found["a"].patient, found["a"].model) == ("a" * 32, "9" * 32, BRAIN)
    assert found["e"].patient is None


def test_the_strongest_end_counts(book: Book) -> None:
    """Undelivered for a week and then sent by a person: it was released, whatever was written in between."""
    book.ends("b", Kind.FAILED)
    assert {one.call[0]: one.state for one in touched(book, Asked()).calls}["b"] == "FAILED"
    book.ends("b", Kind.RELEASED, Kind.FAILED)
    assert {one.call[0]: one.state for one in touched(book, Asked()).calls}["b"] == "RELEASED"


def test_a_call_with_two_intents_is_one(book: Book) -> None:
    """Asked again after a crash, under a renewed approval: one study was touched; each of the two finds it."""
    book.intent("a", day=9, approval="T-9")
    assert calls(book, approval="T-9") == "a"
    assert calls(book) == "abcde"


def test_the_models_that_a_name_means_are_told_whatever_else_was_asked(book: Book) -> None:
    """So that an answer of no calls can still say of which model."""
    answer = touched(book, Asked(model="brain", approval="T-404"))
    assert answer.calls == ()
    assert {model["version"] for model in answer.models} == {"1.0", "2.0"}
    assert touched(book, Asked(model=str(LUNG["digest"]))).models == (LUNG,)
    assert touched(book, Asked()).models == ()


def test_the_log_is_read_once(book: Book) -> None:
    """A million entries are read in one pass, and only the calls that fit are kept."""
    touched(book, Asked(model="brain"))
    assert book.readings == 1
