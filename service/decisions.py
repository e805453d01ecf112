"""What physicians decide on results: who may say so, what may be said, and how it gets into the log, once.

A reader is known by a bearer token, of which the configuration holds a digest. What may be said is a closed list, and
measured values: what a value was before is taken from the log, so that nobody's text gets in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Final, Protocol

from audit.canonical import JsonValue, canonical
from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind
from audit.errors import EntryInvalid, KeyConflict
from audit.schema import FIGURE
from models.strict import Fields, Malformed, parse_json
from service.call_book import Call, Told
from service.errors import ServiceError
from service.keys import Pseudonyms
from service.records import withdrawn_key
from service.store import Run
from service.tokens import Holder, whose

ROLES: Final = ("CLINICAL_OWNER", "RADIOLOGIST")
"""Whose decision counts: physicians who answer for reports. An administrator's does not."""
DECISIONS: Final = ("ACCEPT", "MODIFY", "NOT_USED", "REJECT")
CONCORDANCE: Final = ("CONCORDANT", "MAJOR_DISCORDANT", "MINOR_DISCORDANT")
"""The final report against the result, as the RIS or a second reader codes it."""
YES_NO: Final = ("NO", "YES")
REASONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "MISSED_FINDING": {"en": "a finding is missed", "zh": "漏诊"},
        "FALSE_POSITIVE": {"en": "a finding is not there", "zh": "假阳性"},
        "MEASURE": {"en": "a measured value is wrong", "zh": "测量值有误"},
        "OUTLINE": {"en": "an outline is wrong", "zh": "轮廓有误"},
        "LOCATION": {"en": "side or place is wrong", "zh": "侧别或部位有误"},
        "IMAGE_QUALITY": {"en": "the images do not suffice", "zh": "图像质量不足"},
        "OUT_OF_SCOPE": {"en": "not what the model is for", "zh": "超出适用范围"},
        "CLINICAL_CONTEXT": {"en": "does not fit the clinical picture", "zh": "与临床不符"},
        "LATE": {"en": "came too late", "zh": "结果过迟"},
        "DISPLAY": {"en": "could not be displayed", "zh": "无法显示"},
        "OTHER": {"en": "another reason", "zh": "其他"},
    }
)
"""Every coded reason, as a form shows it. The monitor counts the first two by themselves."""
SECONDS_MAX: Final = 86_400
DIFFERENCES_MAX: Final = 64
AGAIN_MAX: Final = 32
"""Decisions of one reader on one call: people change their minds, and programs run wild."""
CHANNEL: Final = "API"
"""By which way a decision came, unless its door says another."""
FORM: Final = "FORM"
"""The page at /decide."""
LOOK_BACK_MAX: Final = 20_000
"""Entries before a call's result among which its intent is looked for: days where a call takes seconds."""
_WINDOW: Final = 256

_OPTIONAL: Final = ("reasons", "significant", "seconds", "blinded", "difference", "concordance")


class DecisionRefused(ServiceError):
    """It cannot be taken: NOT_FOUND, CALL_NOT_RELEASED, CALL_WITHDRAWN, DECISION_INVALID, DECISIONS_TOO_MANY."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Reader:
    """Who may decide. token_sha256: 64 hexadecimal digits; training: digest of the record of what they were taught."""

    name: str
    role: str
    token_sha256: str
    training: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What was said. `difference`: (code of a measurement, value as it should be or None where there is none)."""

    decision: str
    reasons: tuple[str, ...]
    significant: str
    seconds: int | None
    blinded: str
    difference: tuple[tuple[str, str | None], ...]
    concordance: str | None


def parse_decision(data: bytes) -> Decision:
    """The decision in a request's body. Raises DecisionRefused, which names a key that we know, and nothing else."""
    try:
        return _decision(Fields(parse_json(data), "", ("decision",), _OPTIONAL))
    except Malformed as wrong:
        # A key that is not ours is somebody's text, and is not repeated.
        known = wrong.where.split(".")[0].split("[")[0] in {"decision", "(document)", *_OPTIONAL}
        raise DecisionRefused("DECISION_INVALID", str(wrong) if known else "a key that is not known") from None


def _decision(top: Fields) -> Decision:
    decision = top.choice("decision", DECISIONS)
    disagrees = decision in {"MODIFY", "REJECT"}
    reasons = top.choices("reasons", tuple(REASONS)) if top.has("reasons") and top.value("reasons") != [] else ()
    # Whoever leaves a result out of the count says why, as well.
    if bool(reasons) == (decision == "ACCEPT"):
        raise Malformed("reasons", "one or more wanted, and none for ACCEPT")
    if disagrees and not top.has("significant"):
        raise Malformed("significant", "wanted for MODIFY and REJECT")
    significant = top.choice("significant", YES_NO) if top.has("significant") else "NO"
    if significant == "YES" and not disagrees:
        raise Malformed("significant", "YES is for MODIFY and REJECT")
    difference = top.items("difference", _changed, fewest=0, most=DIFFERENCES_MAX) if top.has("difference") else ()
    if difference and decision != "MODIFY":
        raise Malformed("difference", "is for MODIFY")
    return Decision(
        decision=decision,
        reasons=reasons,
        significant=significant,
        seconds=top.integer("seconds", 0, SECONDS_MAX) if _given(top, "seconds") else None,
        blinded=top.choice("blinded", YES_NO) if top.has("blinded") else "NO",
        difference=difference,
        concordance=top.choice("concordance", CONCORDANCE) if _given(top, "concordance") else None,
    )


def _given(top: Fields, key: str) -> bool:
    return top.has(key) and top.value(key) is not None


def _changed(value: object, path: str) -> tuple[str, str | None]:
    if not isinstance(value, dict) or set(value) != {"code", "after"} or not isinstance(value["code"], str):
        raise Malformed(path, 'an object with "code" and "after" wanted')
    after = value["after"]
    try:
        if after is not None:
            FIGURE.check(after, "after")
    except EntryInvalid:
        raise Malformed(f"{path}.after", "a decimal as text wanted, or null") from None
    return value["code"], after


class Finds(Protocol):
    """What a key is looked up in: audit.log.AuditLog. Raises AuditError."""

    def find(self, key: str) -> Entry | None:
        """The entry with this idempotency key."""


class Log(Finds, Protocol):
    """What is read: audit.log.AuditLog. All raise AuditError."""

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """All entries from this index, in order, proven."""

    def head(self) -> Checkpoint:
        """The newest signed head."""


class Writer(Protocol):
    """Where decisions go. Raises AuditError."""

    def append(self, draft: Draft) -> Entry:
        """See AuditLog."""


class Runs(Protocol):
    """Which runs a call had; service.store.Store."""

    def of_call(self, call: str) -> tuple[Run, ...]:
        """All attempts, oldest first."""


@dataclass(frozen=True, slots=True)
class Known:
    """A call, and the decisions on it."""

    call: Call
    decisions: tuple[Entry, ...]

    @property
    def shadow(self) -> bool:
        """Whether it ran for comparison alone, and nothing of it was to be released."""
        checks = self.call.body("CALL_INTENT").get("checks", ())
        return any(check["condition"] == "STATE" and check["observed"] == "SHADOW" for check in checks)

    @property
    def study(self) -> str | None:
        """The study's pseudonym, as the call's entries name it; None where none of them was found."""
        named = (told.body.get("study") for told in self.call.entries.values())
        return next((name for name in named if isinstance(name, str)), None)

    @property
    def open(self) -> bool:
        """Whether there is a result on which to decide."""
        return self.shut is None

    @property
    def shut(self) -> str | None:
        """Why there is none: CALL_NOT_RELEASED, CALL_WITHDRAWN."""
        if "WITHDRAWN" in self.call.entries:
            return "CALL_WITHDRAWN"
        released = self.call.state == "RELEASED" or (self.shadow and "CALL_RESULT" in self.call.entries)
        return None if released else "CALL_NOT_RELEASED"


def sent_back_key(call: str) -> str:
    """How the keys begin of the decisions on a call that came back by DICOM; a colon and a number follow."""
    return f"verdict:{call}"


def sent_back(log: Finds, call: str) -> Iterator[Entry]:
    """The decisions on a call that came back by DICOM, oldest first. Raises AuditError."""
    return _numbered(log, sent_back_key(call))


def _numbered(log: Finds, key: str) -> Iterator[Entry]:
    for number in range(AGAIN_MAX):
        entry = log.find(f"{key}:{number}")
        if entry is None:
            return
        yield entry


class Desk:
    """Takes decisions. `told`: hears of each new one. Thread-safe."""

    def __init__(
        self,
        log: Log,
        writer: Writer,
        runs: Runs,
        readers: Sequence[Reader],
        pseudonyms: Pseudonyms,
        told: Callable[[str], None] = lambda _decision: None,
    ) -> None:
        self._log, self._writer, self._runs, self._told = log, writer, runs, told
        self._readers = tuple(readers)
        self._pseudonyms = pseudonyms

    def reader(self, token: str) -> Reader | None:
        """Whose token it is; None if nobody's."""
        return whose(self._readers, token)

    def pseudonym(self, holder: Holder) -> str:
        """How entries name a reader, or an operator who looks: 32 hexadecimal digits, by the site's key."""
        return self._pseudonyms.of("reader", holder.name)

    def named(self, name: str) -> Reader | None:
        """The reader of this name; None if there is none."""
        return next((one for one in self._readers if one.name == name), None)

    def look(self, call: str) -> Known:
        """What the log has of the call. Raises DecisionRefused (NOT_FOUND), AuditError, SQLAlchemyError."""
        runs = self._runs.of_call(call)
        names = [f"{name}:{call}" for name in ("result", "released", "withdrawn")]
        names += [f"{name}:{run.run_id}" for run in runs for name in ("assembled", "selected", "denied", "failed")]
        found = [entry for entry in map(self._log.find, names) if entry is not None]
        if not found and not runs:
            raise DecisionRefused("NOT_FOUND", "no such call")
        before = min((one.index for one in found if one.call == call), default=self._log.head().size)
        intent = self._intent(call, before)
        found = sorted([*found, *([] if intent is None else [intent])], key=lambda one: one.index)
        told = {str(one.kind): Told(one.index, str(one.kind), one.time, one.call, one.body) for one in found}
        return Known(Call(call, told), self.on(call))

    def on(self, call: str) -> tuple[Entry, ...]:
        """What the readers of today have decided on a call, and what came back by DICOM; oldest first.

        Raises AuditError.
        """
        decisions = [one for reader in self._readers for one in _numbered(self._log, self._key(call, reader))]
        return tuple(sorted([*decisions, *sent_back(self._log, call)], key=lambda one: one.index))

    def withdrawn(self, call: str) -> Entry | None:
        """The entry that withdrew the call's result. Raises AuditError."""
        return self._log.find(withdrawn_key(call))

    def decide(self, call: str, reader: Reader, said: Decision, channel: str = CHANNEL) -> tuple[Entry, bool]:
        """Its entry, and whether it is new: the same again from the same reader is the first one's, by any way.

        Raises DecisionRefused, AuditError, SQLAlchemyError.
        """
        known = self.look(call)
        if known.shut is not None:
            raise DecisionRefused(known.shut, "there is no released result to decide on, or it was withdrawn")
        body = self._body(reader, said, known.call, channel)
        while True:
            before = list(_numbered(self._log, self._key(call, reader)))
            if before and canonical({**before[-1].body, "channel": channel}) == canonical(body):
                return before[-1], False
            if len(before) >= AGAIN_MAX:
                raise DecisionRefused("DECISIONS_TOO_MANY", f"one reader decides at most {AGAIN_MAX} times on a call")
            draft = Draft(Kind.HUMAN_DECISION, f"{self._key(call, reader)}:{len(before)}", body, call)
            try:
                entry = self._writer.append(draft)
            except KeyConflict:
                continue  # the same reader, at the same moment, elsewhere: this one comes after that one
            self._told(said.decision)
            return entry, True

    def _key(self, call: str, reader: Reader) -> str:
        return f"decision:{call}:{self.pseudonym(reader)}"

    def _intent(self, call: str, stop: int) -> Entry | None:
        """The newest intent of the call before the entry `stop`."""
        least = max(0, stop - LOOK_BACK_MAX)
        while stop > least:
            start = max(least, (stop - 1) // _WINDOW * _WINDOW)
            window = islice(self._log.entries(start), stop - start)
            found = [one for one in window if one.call == call and one.kind is Kind.CALL_INTENT]
            if found:
                return found[-1]
            stop = start
        return None

    def _body(self, reader: Reader, said: Decision, call: Call, channel: str) -> dict[str, JsonValue]:
        return {
            "decision": said.decision,
            "reasons": list(said.reasons),
            "significant": said.significant,
            "reader": self.pseudonym(reader),
            "role": reader.role,
            "training": reader.training,
            "channel": channel,
            "seconds": said.seconds,
            "blinded": said.blinded,
            "difference": [_difference(place, *one, call) for place, one in enumerate(said.difference)],
            "concordance": said.concordance,
        }


def _difference(place: int, code: str, after: str | None, call: Call) -> dict[str, JsonValue]:
    """One changed value as the log has it; where two values have this code, nobody can say which one it was."""
    measured = [one for one in call.body("CALL_RESULT").get("measurements", ()) if one["code"] == code]
    if not measured:
        raise DecisionRefused("DECISION_INVALID", f"difference[{place}].code: not measured by this call")
    before = str(measured[0]["value"]) if len(measured) == 1 else None
    if before is not None and not FIGURE.pattern.fullmatch(before):
        before = None
    return {"code": str(measured[0]["code"]), "before": before, "after": after, "unit": str(measured[0]["unit"])}
