"""What the site knows when it asks the gate for one call, and the intent that goes into the log with the answer.

The images say who and what; the site's configuration says where and how the result is used, and which of the reviewer's
requirements are fulfilled; the log says who has opted out, and how often the model ran today.
"""

import errno
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import Any, Final, Protocol

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable, Overtaken
from audit.ticket import Proviso
from dicom_bridge.patient import Patient
from dicom_bridge.volume import LoadedSeries
from ethics_review import gate
from ethics_review.errors import Refused
from ethics_review.periods import CIVIL_TIME
from ethics_review.permit import Permit
from ethics_review.register import Register
from ethics_review.replay import day_end
from ethics_review.standing import Standing
from ethics_review.vocabulary import OPT_OUT_CHECK
from models.library import VerifiedModel
from models.ref import ModelRef
from service import records
from service.config import Config
from service.keys import Pseudonyms
from service.store import Run

OPT_OUT_NAMES = "opt-out"
"""Keeps the names of those who opted out apart from all others that the site's own key makes."""

MOVERS: Final = frozenset({Kind.APPROVAL, Kind.STATE_CHANGE, Kind.STOP, Kind.RESUME, Kind.OPT_OUT})
LOOKS_MAX: Final = 100
"""How often a call that is overtaken is weighed again before its step is put off."""
OVERTAKEN: Final = "what permits calls changes faster than a call can be logged; repeat"

Facts = dict[str, Any]
"""What steps hand to the next one: JSON, kept by the workflow engine."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A requirement that the site fulfils, up to and including the civil day (UTC+8) `until`; None: for good."""

    token: str
    until: date | None


@dataclass(frozen=True, slots=True)
class Practice:
    """How this site uses AI, as its configuration says; None for what it does not say."""

    site: str
    autonomy: str
    care_setting: str | None
    reading_mode: str | None
    evidence: tuple[Evidence, ...] = ()

    @classmethod
    def of(cls, config: Config) -> "Practice":
        """From the configuration."""
        review = config.review
        evidence = tuple(Evidence(one.token, one.until) for one in review.evidence)
        return cls(config.site.id, review.autonomy, review.care_setting, review.reading_mode, evidence)

    def fulfilled(self, at: datetime) -> frozenset[str]:
        """The requirements that are fulfilled at that time. What has expired is no evidence."""
        today = at.astimezone(CIVIL_TIME).date()
        held = {one.token for one in self.evidence if one.until is None or today <= one.until}
        # The service itself asks for each call; whether there is an answer, the request says.
        return frozenset(held | {OPT_OUT_CHECK})


def names_of_images(pseudonyms: Pseudonyms, patient: Patient) -> tuple[str, ...]:
    """The names under which the patient of these images may have opted out."""
    return pseudonyms.of(OPT_OUT_NAMES, patient.id), pseudonyms.of(OPT_OUT_NAMES, patient.id, patient.issuer)


def names_to_write(pseudonyms: Pseudonyms, patient: Patient) -> tuple[str, ...]:
    """The names under which a patient's choice is recorded.

    Without an issuer it holds for the id whoever issued it; with one, for that and for images that name no issuer.
    """
    if not patient.issuer:
        return (pseudonyms.of(OPT_OUT_NAMES, patient.id),)
    return pseudonyms.of(OPT_OUT_NAMES, patient.id, patient.issuer), pseudonyms.of(OPT_OUT_NAMES, patient.id, "")


def asked(
    practice: Practice,
    call: str,
    model: VerifiedModel,
    loaded: LoadedSeries,
    *,
    opted_out: bool | None,
    calls_today: int,
    at: datetime,
) -> gate.Request:
    """The request for one call on these images; `at`: when what the site fulfils has to be in force."""
    attributes = loaded.attributes
    return gate.Request(
        call=call,
        model=model.ref,
        input_digest=loaded.volume.source_digest,
        modality=attributes.modality,
        body_part=attributes.body_part,
        age_years=attributes.age_years,
        sex=attributes.sex,
        manufacturer=attributes.manufacturer,
        site=practice.site,
        slice_spacing_mm=attributes.slice_spacing_mm,
        # Never more than the manifest allows, whatever the site asks for; the levels' names are ordered.
        autonomy=min(practice.autonomy, model.manifest.max_autonomy),
        care_setting=practice.care_setting,
        reading_mode=practice.reading_mode,
        opted_out=opted_out,
        calls_today=calls_today,
        evidence=practice.fulfilled(at),
    )


class Device(Protocol):
    """What is asked of the device before a call."""

    def warm(self, model: VerifiedModel) -> None:
        """Load it. Raises EngineError."""

    def describe(self) -> Mapping[str, Any]:
        """'device' and 'runtime' (versions), among others."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Who is asked.

    `patient`: whose images a run's are, None where they do not say. `record`: appends to the log. `denied`: a refusal's
    entry.
    """

    practice: Practice
    register: Register
    device: Device
    pseudonyms: Pseudonyms
    patient: Callable[[Run], Patient | None]
    record: Callable[[Draft, Proviso], Entry]
    denied: Callable[[Run, Facts, Refused], Draft]
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the gate said, and what must not have changed when that is logged."""

    given: Permit | Refused
    rests_on: Proviso


class Permitting:
    """Asks the gate for calls, one at a time."""

    def __init__(self, sources: Sources) -> None:
        self._s = sources
        self._one_call = threading.Lock()

    def permit(
        self, run: Run, facts: Facts, model: VerifiedModel, loaded: LoadedSeries, *, intended: bool = False
    ) -> tuple[Permit, Entry]:
        """A permit and its CALL_INTENT. Raises Refused, which is logged too, and what the device and the log raise.

        `intended`: the call had a permit before, and its refusal is not one that comes before the model.
        """
        names = self._names(run)
        if isinstance(self._ask(facts, model, loaded, names).given, Permit):
            self._s.device.warm(model)  # so that the intent can say on what it will run; not for what is refused
        for _ in range(LOOKS_MAX):
            # Loading took its time: what the answer rests on, the day's count above all, must be so when it is logged.
            # Who stops or suspends meanwhile, in whatever process, comes first or is too late.
            with self._one_call, suppress(Overtaken):
                answer = self._ask(facts, model, loaded, names)
                given = answer.given
                if isinstance(given, Permit):
                    return given, self._s.record(self._intent(given, facts, model, loaded), answer.rests_on)
                if not intended:
                    self._s.record(self._s.denied(run, facts, given), answer.rests_on)
                raise given
        raise AuditUnavailable(OVERTAKEN, errno.EBUSY)

    def _intent(self, permit: Permit, facts: Facts, model: VerifiedModel, loaded: LoadedSeries) -> Draft:
        self._s.device.warm(model)  # was refused a moment ago, perhaps; else it is loaded
        state = self._s.device.describe()
        return records.call_intent(
            permit,
            records.Subject(
                site=self._s.practice.site,
                requester=facts.get("requester"),
                patient=facts.get("patient"),
                study=facts["study"],
                committed=facts["committed"],
                instances=len({frame.sop_uid for frame in loaded.frames}),
            ),
            card=records.card_digest(model),
            runtime={"device": str(state["device"])} | state["runtime"],
        )

    def _names(self, run: Run) -> tuple[str, ...]:
        patient = self._s.patient(run)
        return () if patient is None else names_of_images(self._s.pseudonyms, patient)

    def _ask(self, facts: Facts, model: VerifiedModel, loaded: LoadedSeries, names: tuple[str, ...]) -> "_Answer":
        practice, register = self._s.practice, self._s.register
        now, seen = self._s.now(), register.size
        standings, stops, latest = register.standings(now), register.stops(), register.latest_known()
        request = asked(
            practice,
            facts["call"],
            model,
            loaded,
            # Who it is cannot be told: then nobody can tell what they wanted, either.
            opted_out=any(register.opted_out(name) for name in names) if names else None,
            calls_today=self._others_today(facts, model, now),
            at=max(now, latest or now),
        )
        proviso = rests_on(seen, model.ref, standings, max(now, latest or now))
        try:
            return _Answer(gate.decide(request, standings, stops, now, latest_known=latest), proviso)
        except Refused as refused:
            return _Answer(refused, proviso)

    def _others_today(self, facts: Facts, model: VerifiedModel, now: datetime) -> int:
        """Calls of the model that were begun today; not this one, if it was begun before a crash."""
        count = self._s.register.calls_today(model.ref.digest, now)
        intended = facts.get("intended_at")
        if intended is None or _civil_day(datetime.fromisoformat(intended)) != _civil_day(now):
            return count
        return max(0, count - 1)


def _civil_day(at: datetime) -> date:
    return at.astimezone(CIVIL_TIME).date()


def rests_on(seen: int, model: ModelRef, standings: Sequence[Standing], now: datetime) -> Proviso:
    """What an answer of the gate about this model, given `now`, rests on, where it knew the first `seen` entries."""
    return Proviso(seen, partial(_unmoved, min(_calendar(model, standings, now))))


def _calendar(model: ModelRef, standings: Sequence[Standing], now: datetime) -> Iterator[datetime]:
    """When time alone may change an answer about this model: at the day's end its calls are counted anew."""
    yield day_end(now)
    for one in standings:
        if one.model == model:
            turns = [turn for approval in one.approvals for turn in (approval.starts_at, approval.ends_at)]
            yield from (turn for turn in (*turns, one.follow_up_at) if turn is not None and turn > now)


def _unmoved(until: datetime, placed: Entry, between: Sequence[Entry]) -> bool:
    return datetime.fromisoformat(placed.time) < until and not any(map(_moves, between))


def _moves(entry: Entry) -> bool:
    """Whether it may change what the gate answers."""
    return entry.kind in MOVERS or (entry.kind is Kind.EVALUATION and entry.body["outcome"] == "SUSPEND")
