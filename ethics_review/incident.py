"""Incidents and their clocks: what must be told to whom by when, and whether it was. Pure.

The table is data with a source for each row; the hours are a site's to set (`[review.clocks_h]`), since its counsel
reads the law and we do not. A row that is not `usual` runs only where the site has set its hours.

An incident is what its INCIDENT entries say: OPENED with a time for each clock, NOTIFIED with the clock that was
answered, CLOSED. Whether a notice was on time is not written down: it follows from the entry's own time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from ethics_review.errors import ReviewError
from ethics_review.states import Cause

OPENED, NOTIFIED, CLOSED = "OPENED", "NOTIFIED", "CLOSED"
_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


class IncidentRefused(ReviewError):
    """What was asked of an incident is not so; `code` says why."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


class Category(StrEnum):
    """What kind of incident, by the law that has a clock for it."""

    DEVICE_DEATH = "DEVICE_DEATH"
    DEVICE_SERIOUS = "DEVICE_SERIOUS"
    DEVICE_OTHER = "DEVICE_OTHER"
    CYBER = "CYBER"
    CYBER_CII = "CYBER_CII"
    PI_BREACH = "PI_BREACH"


@dataclass(frozen=True, slots=True)
class Clock:
    """One duty to tell. hours: from the incident's opening; `usual`: it runs wherever the site has not said else."""

    code: str
    whom: str
    hours: float
    source: str
    usual: bool = True


REGISTRANT: Final = Clock(
    *("REGISTRANT", "the device's registrant 注册人", 24.0),
    "医疗器械监督管理条例 52, 62: without delay; no figure is given, a day is ours",
)
CLOCKS: Final[Mapping[Category, tuple[Clock, ...]]] = MappingProxyType(
    {
        Category.DEVICE_DEATH: (
            REGISTRANT,
            Clock(
                *("DEVICE_EVENT_DEATH", "the adverse-event monitoring system 不良事件监测机构", 7 * 24.0),
                "医疗器械不良事件监测和再评价管理办法: 7 days, as for registrants; have counsel say what binds a user",
            ),
            Clock("EU_DEATH", "the market surveillance authority", 10 * 24.0, "EU 2024/1689 art. 73", usual=False),
        ),
        Category.DEVICE_SERIOUS: (
            REGISTRANT,
            Clock(
                *("DEVICE_EVENT_SERIOUS", "the adverse-event monitoring system 不良事件监测机构", 20 * 24.0),
                "医疗器械不良事件监测和再评价管理办法: 20 days, as for registrants; have counsel say what binds a user",
            ),
            Clock("EU_SERIOUS", "the market surveillance authority", 15 * 24.0, "EU 2024/1689 art. 73", usual=False),
            Clock("EU_WIDESPREAD", "the market surveillance authority", 2 * 24.0, "EU 2024/1689 art. 73", usual=False),
        ),
        Category.DEVICE_OTHER: (REGISTRANT,),
        Category.CYBER: (
            Clock(
                "CYBER_CAC", "the provincial cyberspace administration 省级网信部门", 4.0, "网络安全事件报告管理办法 4"
            ),
        ),
        Category.CYBER_CII: (
            Clock(
                *("CYBER_CII", "the protection department and the police 保护工作部门、公安机关", 1.0),
                "网络安全事件报告管理办法 4",
            ),
        ),
        Category.PI_BREACH: (
            Clock(
                *("PI_BREACH", "the data protection authority and those concerned 履责部门和个人", 1.0),
                "个人信息保护法 57: at once; no figure is given, an hour is ours",
            ),
        ),
    }
)
"""Who must be told by when. Source: reference controls IR-02 and IR-03."""

SEVERITY: Final[Mapping[Category, str]] = MappingProxyType(
    {
        Category.DEVICE_DEATH: "DEATH",
        Category.DEVICE_SERIOUS: "SERIOUS",
        Category.DEVICE_OTHER: "OTHER",
        Category.CYBER: "MAJOR",
        Category.CYBER_CII: "MAJOR",
        Category.PI_BREACH: "MAJOR",
    }
)
DEVICE: Final = frozenset({Category.DEVICE_DEATH, Category.DEVICE_SERIOUS, Category.DEVICE_OTHER})
CODES: Final = frozenset(clock.code for clocks in CLOCKS.values() for clock in clocks)


def cause(category: Category) -> Cause:
    """Why the model of such an incident is suspended: either way what it made already waits for a person."""
    return Cause.HARM if category in DEVICE else Cause.INTEGRITY


def clocks(category: Category, hours: Mapping[str, float]) -> tuple[Clock, ...]:
    """The clocks that run at this site, the most urgent first. hours: the site's own, by the clock's code."""
    told = (
        replace(one, hours=hours.get(one.code, one.hours)) for one in CLOCKS[category] if one.usual or one.code in hours
    )
    return tuple(sorted(told, key=lambda one: (one.hours, one.code)))


def opened(
    incident: str, category: Category, model: Mapping[str, str] | None, now: datetime, hours: Mapping[str, float]
) -> dict[str, Any]:
    """The body of an OPENED entry: each clock with the time when it runs out. `now`: aware UTC."""
    due = [{"clock": one.code, "due": _stamp(now + timedelta(hours=one.hours))} for one in clocks(category, hours)]
    return _body(incident, OPENED, category, model, due)


@dataclass(frozen=True, slots=True)
class Duty:
    """A clock of one incident. due, told: times as entries write them, UTC."""

    clock: str
    due: str
    told: str | None = None

    def state(self, now: datetime) -> str:
        """ON_TIME, LATE (told after it was due), OVERDUE (not told yet, and due), RUNNING."""
        if self.told is not None:
            return "ON_TIME" if self.told <= self.due else "LATE"
        return "OVERDUE" if self.due < _stamp(now) else "RUNNING"


@dataclass(frozen=True, slots=True)
class Incident:
    """One case as its entries say. index: of the entry that opened it; model: as entries name it."""

    id: str
    index: int
    category: Category
    opened: str
    model: Mapping[str, str] | None
    duties: tuple[Duty, ...] = field(default=())
    closed: str | None = None

    def duty(self, code: str) -> Duty:
        """The clock of this code. Raises IncidentRefused CLOCK_UNKNOWN."""
        for duty in self.duties:
            if duty.clock == code:
                return duty
        known = ", ".join(duty.clock for duty in self.duties) or "none"
        raise IncidentRefused("CLOCK_UNKNOWN", f"this incident has no clock {code}; it has {known}")

    def overdue(self, now: datetime) -> tuple[Duty, ...]:
        """What should have been told by now, and was not."""
        return tuple(duty for duty in self.duties if duty.state(now) == "OVERDUE")

    def notified(self, code: str) -> dict[str, Any]:
        """The body of a NOTIFIED entry. Raises IncidentRefused CLOCK_UNKNOWN, CLOCK_STOPPED."""
        duty = self.duty(code)
        if duty.told is not None:
            raise IncidentRefused("CLOCK_STOPPED", f"{code} was told at {duty.told}")
        return _body(self.id, NOTIFIED, self.category, self.model, [{"clock": code, "due": duty.due}])

    def closing(self) -> dict[str, Any]:
        """The body of a CLOSED entry. Raises IncidentRefused INCIDENT_CLOSED, INCIDENT_UNTOLD."""
        if self.closed is not None:
            raise IncidentRefused("INCIDENT_CLOSED", f"it was closed at {self.closed}")
        untold = [duty.clock for duty in self.duties if duty.told is None]
        if untold:
            raise IncidentRefused("INCIDENT_UNTOLD", f"not told yet: {', '.join(untold)}; see `notify`")
        return _body(self.id, CLOSED, self.category, self.model, [])


def of(bodies: Iterable[tuple[int, str, Mapping[str, Any]]]) -> dict[str, Incident]:
    """The incidents by id, from (index, time, body) of all INCIDENT entries in order."""
    found: dict[str, Incident] = {}
    for index, time, body in bodies:
        take(found, index, time, body)
    return found


def take(found: dict[str, Incident], index: int, time: str, body: Mapping[str, Any]) -> None:
    """One INCIDENT entry more. What is about no incident that was opened changes nothing."""
    name, event, given = str(body["incident"]), body["event"], body["clocks"]
    known = found.get(name)
    if event == OPENED and known is None:
        duties = tuple(Duty(str(one["clock"]), str(one["due"])) for one in given)
        found[name] = Incident(name, index, Category(body["category"]), time, body["model"], duties)
    elif event == NOTIFIED and known is not None:
        told = {one["clock"] for one in given}
        duties = tuple(
            replace(duty, told=time) if duty.clock in told and duty.told is None else duty for duty in known.duties
        )
        found[name] = replace(known, duties=duties)
    elif event == CLOSED and known is not None:
        found[name] = replace(known, closed=known.closed or time)


def _body(
    incident: str, event: str, category: Category, model: Mapping[str, str] | None, given: list[dict[str, str]]
) -> dict[str, Any]:
    return {
        "incident": incident,
        "event": event,
        "category": category.value,
        "severity": SEVERITY[category],
        "model": None if model is None else dict(model),
        "clocks": given,
    }


def _stamp(moment: datetime) -> str:
    return moment.strftime(_TIME)
