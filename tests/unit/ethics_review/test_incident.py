"""Incidents: each law's clock is there with its source, what is told in time is, what is overdue shows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audit.entry import Draft, Kind
from ethics_review import incident
from ethics_review.incident import CLOCKS, CODES, SEVERITY, Category, Incident, IncidentRefused
from ethics_review.states import Cause

T0 = datetime(2026, 11, 20, 18, 0, 0, 5, tzinfo=UTC)
CASE = "c" * 32
MODEL = {"name": "brain", "version": "1.0", "digest": "sha256:" + "a" * 64}


def stamp(moment: datetime) -> str:
    """As entries write it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Book:
    """INCIDENT entries in order; each body is checked as the log checks it."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, dict[str, Any]]] = []

    def write(self, body: dict[str, Any], at: datetime) -> None:
        """One entry."""
        Draft(Kind.INCIDENT, f"incident:{len(self.lines)}", body)
        self.lines.append((len(self.lines), stamp(at), body))

    def open(self, category: Category = Category.DEVICE_DEATH, hours: dict[str, float] | None = None) -> Incident:
        """An incident with a model, at T0."""
        self.write(incident.opened(CASE, category, MODEL, T0, hours or {}), T0)
        return self.case

    def tell(self, clock: str, after: timedelta) -> Incident:
        """A NOTIFIED entry."""
        self.write(self.case.notified(clock), T0 + after)
        return self.case

    @property
    def case(self) -> Incident:
        """As the entries say."""
        return incident.of(self.lines)[CASE]


@pytest.mark.parametrize(
    ("category", "clock", "due"),
    [
        (Category.DEVICE_DEATH, "DEVICE_EVENT_DEATH", timedelta(days=7)),
        (Category.DEVICE_SERIOUS, "DEVICE_EVENT_SERIOUS", timedelta(days=20)),
        (Category.DEVICE_DEATH, "REGISTRANT", timedelta(hours=24)),
        (Category.CYBER, "CYBER_CAC", timedelta(hours=4)),
        (Category.CYBER_CII, "CYBER_CII", timedelta(hours=1)),
        (Category.PI_BREACH, "PI_BREACH", timedelta(hours=1)),
    ],
)
def test_each_law_has_its_clock(category: Category, clock: str, due: timedelta) -> None:
    """From the opening, to the microsecond; the entry holds the time, so that no later table can move it."""
    duty = Book().open(category).duty(clock)
    assert duty.due == stamp(T0 + due)
    assert duty.state(T0 + due) == "RUNNING"
    assert duty.state(T0 + due + timedelta(microseconds=1)) == "OVERDUE"


def test_the_table_is_whole() -> None:
    """Every category has a severity and at least one clock that runs everywhere; every clock whom and a source."""
    for category in Category:
        assert SEVERITY[category]
        assert any(clock.usual for clock in CLOCKS[category])
        for clock in CLOCKS[category]:
            assert clock.whom
            assert clock.source
            assert clock.hours > 0
    assert len(CODES) == len({clock for clocks in CLOCKS.values() for clock in clocks})


def test_a_site_sets_its_own_hours() -> None:
    """Counsel reads the law: a shorter day, and a foreign clock that runs only where it is set."""
    usual = [duty.clock for duty in Book().open().duties]
    assert usual == ["REGISTRANT", "DEVICE_EVENT_DEATH"]
    ours = Book().open(hours={"REGISTRANT": 2.0, "EU_DEATH": 240.0})
    assert [duty.clock for duty in ours.duties] == ["REGISTRANT", "DEVICE_EVENT_DEATH", "EU_DEATH"]
    assert ours.duty("REGISTRANT").due == stamp(T0 + timedelta(hours=2))
    assert ours.duty("EU_DEATH").due == stamp(T0 + timedelta(days=10))


def test_the_most_urgent_comes_first() -> None:
    """Whoever opens an incident reads from the top."""
    running = incident.clocks(Category.DEVICE_DEATH, {"EU_DEATH": 1.0})
    assert [clock.code for clock in running] == ["EU_DEATH", "REGISTRANT", "DEVICE_EVENT_DEATH"]


def test_told_in_time_and_too_late() -> None:
    """ON_TIME up to the very moment; LATE after it; either way it is told, and no longer overdue."""
    book = Book()
    book.open()
    far = T0 + timedelta(days=30)
    assert [duty.clock for duty in book.case.overdue(far)] == ["REGISTRANT", "DEVICE_EVENT_DEATH"]
    assert book.tell("REGISTRANT", timedelta(hours=24)).duty("REGISTRANT").state(far) == "ON_TIME"
    late = book.tell("DEVICE_EVENT_DEATH", timedelta(days=7, microseconds=1))
    assert late.duty("DEVICE_EVENT_DEATH").state(far) == "LATE"
    assert late.overdue(far) == ()


def test_a_clock_is_answered_once() -> None:
    """What was told stays told; a second notice and a clock that is not there are refused by code."""
    book = Book()
    book.open()
    book.tell("REGISTRANT", timedelta(hours=1))
    with pytest.raises(IncidentRefused) as twice:
        book.case.notified("REGISTRANT")
    assert twice.value.code == "CLOCK_STOPPED"
    with pytest.raises(IncidentRefused, match="REGISTRANT, DEVICE_EVENT_DEATH") as unknown:
        book.case.notified("CYBER_CAC")
    assert unknown.value.code == "CLOCK_UNKNOWN"
    again = dict(book.lines[-1][2])
    book.write(again, T0 + timedelta(hours=30))
    assert book.case.duty("REGISTRANT").told == stamp(T0 + timedelta(hours=1)), "the first notice counts"


def test_it_is_closed_when_all_were_told() -> None:
    """Not before; and only once."""
    book = Book()
    book.open(Category.CYBER)
    with pytest.raises(IncidentRefused, match="CYBER_CAC") as untold:
        book.case.closing()
    assert untold.value.code == "INCIDENT_UNTOLD"
    book.tell("CYBER_CAC", timedelta(hours=1))
    book.write(book.case.closing(), T0 + timedelta(hours=2))
    assert book.case.closed == stamp(T0 + timedelta(hours=2))
    with pytest.raises(IncidentRefused) as closed:
        book.case.closing()
    assert closed.value.code == "INCIDENT_CLOSED"


def test_the_entries_name_category_severity_and_model() -> None:
    """Each entry of an incident stands for itself."""
    book = Book()
    book.open(Category.DEVICE_SERIOUS)
    book.tell("REGISTRANT", timedelta(hours=1))
    for _, _, body in book.lines:
        assert (body["category"], body["severity"], body["model"]) == ("DEVICE_SERIOUS", "SERIOUS", MODEL)
    assert [body["event"] for _, _, body in book.lines] == ["OPENED", "NOTIFIED"]


def test_what_is_about_no_incident_changes_nothing() -> None:
    """NOTIFIED and CLOSED of an id that nobody opened; and an id that is opened twice keeps its first clocks."""
    book = Book()
    first = book.open()
    stray = {**first.notified("REGISTRANT"), "incident": "d" * 32}
    book.write(stray, T0)
    book.write({**stray, "event": "CLOSED", "clocks": []}, T0)
    book.write(incident.opened(CASE, Category.CYBER, None, T0, {}), T0)
    assert incident.of(book.lines) == {CASE: first}


@pytest.mark.parametrize("category", Category)
def test_what_the_model_made_waits_for_a_person(category: Category) -> None:
    """Harm or integrity: either cause withholds what is on its way, see service.stopping."""
    assert incident.cause(category) in (Cause.HARM, Cause.INTEGRITY)
    assert (incident.cause(category) is Cause.HARM) == category.startswith("DEVICE")
