"""A signed act: what people of the trust policy decide about a dossier, or about all models of a site.

The signed text (C2SP signed note, one signature or more) is the line "zhiying-act/1" and one line of canonical JSON
(RFC 8785). `after` names the note before, so that an act is good at one place of one history: neither replayed nor
reordered. What an act must state besides is a closed set of keys for each event. Pure.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from audit.canonical import INTEGER_MAX
from audit.entry import JsonValue, canonical
from audit.errors import BadSignature, NoteError, UnknownSigner
from audit.note import Signer, Verifier, open_note, parse_note
from ethics_review.errors import ActRefused
from ethics_review.parties import COUNT_MAX, Trust
from ethics_review.states import NONE, Cause, Event, Person, State
from models.errors import RefInvalid
from models.ref import ModelRef, is_digest
from models.strict import Fields, Malformed, one_of, parse_json

HEADER: Final = "zhiying-act/1"
STOP: Final = "STOP"
RESUME: Final = "RESUME"
SITE: Final = "SITE"
SERVICE: Final = "SERVICE"
TEXT_CHARS_MAX: Final = 12_000
"""An act is one entry of the audit log, which takes notes of 16,000 characters; signatures need room too."""
DOCUMENTS_MAX: Final = 64

_CODE: Final = re.compile(r"[A-Z0-9_]{1,64}")
_SITE: Final = re.compile(r"[A-Za-z0-9._:/+-]{1,64}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,63}")
_PERSON: Final = re.compile(r"[!-*,-~]{1,128}")  # a key's name: printable, no plus
_SIX_DIGITS: Final = re.compile(r"[0-9]{6}")  # the audit log takes no code that could be a person's number
_KEYS: Final = ("after", "event", "from", "to", "model", "reason", "statement")
_SWITCH_KEYS: Final = ("after", "event", "level", "site", "reason")

Statement = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Act:
    """What was signed about one dossier. Nothing in it is to be believed before its signatures are verified.

    Attributes:
        after: digest of the dossier's note before, None for the first. start: None before OPEN.
        statement: the keys of STATEMENTS[event].
    """

    after: str | None
    event: Event
    start: State | None
    to: State
    model: ModelRef
    reason: str
    statement: Statement

    def fields(self) -> dict[str, JsonValue]:
        """The signed JSON."""
        return {
            "after": self.after,
            "event": self.event.value,
            "from": NONE if self.start is None else self.start.value,
            "to": self.to.value,
            "model": {"name": self.model.name, "version": self.model.version, "digest": self.model.digest},
            "reason": self.reason,
            "statement": self.statement,
        }


@dataclass(frozen=True, slots=True)
class Switch:
    """A STOP of everything at a site or in the service, or the RESUME that ends it; `site` is None for the service."""

    after: str | None
    event: str
    level: str
    site: str | None
    reason: str

    def fields(self) -> dict[str, JsonValue]:
        """The signed JSON."""
        return {
            "after": self.after,
            "event": self.event,
            "level": self.level,
            "site": self.site,
            "reason": self.reason,
        }


def draft(act: Act | Switch) -> str:
    """The text to sign. Raises ActRefused if it is not one that would be read again."""
    try:
        line = canonical(act.fields()).decode("utf-8")
        again = _parsed(parse_json(line.encode("utf-8")))
    except Malformed as wrong:
        raise ActRefused("ACT_INVALID", str(wrong)) from None
    if canonical(again.fields()) != line.encode("utf-8") or len(line) > TEXT_CHARS_MAX:
        raise ActRefused("ACT_INVALID", "not an act that would be read again as it is")
    return f"{HEADER}\n{line}\n"


def sign(text: str, *signers: Signer) -> str:
    """The note with all signatures."""
    notes = [signer.sign(text) for signer in signers]
    return f"{text}\n" + "".join(note.removeprefix(f"{text}\n") for note in notes)


def digest(note: str) -> str:
    """ "sha256:..." of the whole note: what the next act names."""
    return "sha256:" + hashlib.sha256(note.encode("utf-8")).hexdigest()


def read(note: str) -> Act | Switch:
    """The act in a note, its signatures not looked at. Raises ActRefused (ACT_INVALID)."""
    try:
        text = parse_note(note).text
    except NoteError as wrong:
        raise ActRefused("ACT_INVALID", str(wrong)) from None
    header, _, line = text.partition("\n")
    if header != HEADER:
        raise ActRefused("ACT_INVALID", f'first line "{HEADER}" wanted')
    try:
        fields = parse_json(line.encode("utf-8"))
        act = _parsed(fields)
    except Malformed as wrong:
        raise ActRefused("ACT_INVALID", str(wrong)) from None
    if line.encode("utf-8") != canonical(fields) + b"\n":
        raise ActRefused("ACT_INVALID", "canonical JSON (RFC 8785) on one line wanted")
    return act


def signed_by(note: str, trust: Trust, operator: Verifier) -> tuple[Person, ...]:
    """The persons who signed. Raises ActRefused: ACT_SIGNATURE, ACT_UNTRUSTED, and ACT_INVALID for no note at all."""
    try:
        text, names = open_note(note, trust.keys)
        for signature in parse_note(note).signatures:
            _refuse_operator(text, signature.data, operator)
    except UnknownSigner:
        raise ActRefused("ACT_UNTRUSTED", "signed by nobody whom the trust policy knows") from None
    except BadSignature:
        raise ActRefused("ACT_SIGNATURE", "a trusted key's signature does not match the text") from None
    except NoteError as wrong:
        raise ActRefused("ACT_INVALID", str(wrong)) from None
    return trust.people(names)


def _refuse_operator(text: str, signature: bytes, operator: Verifier) -> None:
    try:
        operator.verify(text, signature)
    except BadSignature:
        return
    raise ActRefused("ACT_UNTRUSTED", "signed with this hospital's own key, which signs the log and nothing else")


def _parsed(value: object) -> Act | Switch:
    if isinstance(value, dict) and "level" in value:
        return _switch(Fields(value, "", _SWITCH_KEYS))
    top = Fields(value, "", _KEYS)
    event = Event(top.choice("event", tuple(Event)))
    if event in {Event.APPROVE, Event.RENEW}:
        raise Malformed("event", "an approval is a note of its own")
    start = top.choice("from", (NONE, *State))
    reason = _matching(top, "reason", _CODE)
    statement = _statement(top, event)
    if event is Event.SUSPEND and reason != statement["cause"]:
        raise Malformed("reason", "the statement's cause wanted")
    return Act(
        after=_after(top),
        event=event,
        start=None if start == NONE else State(start),
        to=State(top.choice("to", tuple(State))),
        model=_model(top),
        reason=reason,
        statement=statement,
    )


def _switch(top: Fields) -> Switch:
    level = top.choice("level", (SITE, SERVICE))
    site = None if top.value("site") is None else _matching(top, "site", _SITE)
    if (site is None) != (level == SERVICE):
        raise Malformed("site", "the site's id wanted, null for the whole service")
    event = top.choice("event", (STOP, RESUME))
    return Switch(_after(top), event, level, site, _matching(top, "reason", _CODE))


def _after(top: Fields) -> str | None:
    return None if top.value("after") is None else _digest(top.value("after"), top.path("after"))


def _matching(top: Fields, key: str, pattern: re.Pattern[str]) -> str:
    text = top.text(key, longest=64)
    if not pattern.fullmatch(text) or (pattern is _CODE and _SIX_DIGITS.search(text)):
        raise Malformed(top.path(key), "letters, digits and a few signs wanted, 64 at most")
    return text


def _model(top: Fields) -> ModelRef:
    inner = top.fields("model", ModelRef.__slots__)
    try:
        return ModelRef(inner.text("name"), inner.text("version"), inner.text("digest"))
    except RefInvalid as wrong:
        raise Malformed("model", str(wrong)) from None


# ---- what each event must state --------------------------------------------------------------------------------------


def _digest(value: object, path: str) -> str:
    if not isinstance(value, str) or not is_digest(value):
        raise Malformed(path, "sha256 digest wanted")
    return value


def _index(value: object, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INTEGER_MAX:
        raise Malformed(path, "the index of an entry wanted")
    return value


def _cause(value: object, path: str) -> str:
    return one_of(value, path, tuple(Cause))


def _named(value: object, path: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > COUNT_MAX:
        raise Malformed(path, f"a list of at most {COUNT_MAX} wanted")
    if any(not isinstance(one, str) or not pattern.fullmatch(one) for one in value) or len(set(value)) != len(value):
        raise Malformed(path, "names wanted, each once")
    return tuple(value)


def _organisations(value: object, path: str) -> tuple[str, ...]:
    return _named(value, path, _NAME)


def _persons(value: object, path: str) -> tuple[str, ...]:
    return _named(value, path, _PERSON)


def _documents(value: object, path: str) -> Mapping[str, str]:
    if not isinstance(value, dict) or len(value) > DOCUMENTS_MAX:
        raise Malformed(path, f"a map of at most {DOCUMENTS_MAX} names to digests wanted")
    if any(not _NAME.fullmatch(name) for name in value):
        raise Malformed(path, "a name of a document is not one")
    return MappingProxyType({name: _digest(one, path) for name, one in value.items()})


def _word(value: object, path: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Malformed(path, "a condition or a class of it wanted")
    return value


Rule = Callable[[object, str], JsonValue]
STATEMENTS: Final[Mapping[Event, Mapping[str, Rule]]] = MappingProxyType(
    {event: MappingProxyType({}) for event in Event}
    | {
        Event.SELF_ASSESS: {"submission": _digest},
        Event.SUBMIT: {"submission": _digest, "coi": _organisations, "documents": _documents},
        Event.REFER: {"panel": _persons},
        Event.PANEL_CLEAR: {"panel": _persons},
        Event.PANEL_REJECT: {"panel": _persons},
        Event.GO_LIVE: {"notice": _digest, "training": _digest, "drill": _index, "acceptance": _index},
        Event.SUSPEND: {"cause": _cause},
        Event.RESUME: {"root_cause": _digest, "correction": _digest, "golden": _index},
        Event.RESTRICT: {"condition": _word, "observed": _word},
        Event.RETIRE: {"archive": _digest},
        Event.COUNTERSIGN: {"report": _digest},
        Event.FOLLOW_UP: {"report": _digest},
    }
)
"""The keys of each event's statement, all of them wanted and no other known."""


def _statement(top: Fields, event: Event) -> Statement:
    rules = STATEMENTS[event]
    inner = top.fields("statement", tuple(rules))
    return MappingProxyType({key: rule(inner.value(key), inner.path(key)) for key, rule in rules.items()})
