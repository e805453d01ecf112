"""AuditMessages: every message of every kind obeys PS3.15 A.5.1, says what A.5.3 wants, and tells nothing of a patient.

`SCHEMA` is the standard's schema as a table, written from its text: for each element its attributes (required or not,
and of what) and its children in order, with how many there may be.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import BODIES, Kind, parse_time
from dicom_bridge.audit_event import Event, Node, Reporter, ReporterInvalid
from dicom_bridge.audit_message import network_type, study_uid, to_xml
from dicom_bridge.audit_rules import KNOWN, events_of
from tests.simulators.audit_events import (
    CANARIES,
    NAME,
    NOT_OURS,
    REPORTER,
    TIME,
    UNKNOWN,
    YOUNG,
    entry,
    every_event,
    largest,
    poisoned,
    released,
)
from tests.simulators.audit_log import CALL, DIGEST, ORIGIN, STUDY, body

Check = Callable[[str], bool]
MANY = 10**6


def one_of(*values: str) -> Check:
    """A closed set of values."""
    return frozenset(values).__contains__


def token(text: str) -> bool:
    """xsd:token after normalisation: we write none that would change."""
    return bool(text) and text == " ".join(text.split())


def date_time(text: str) -> bool:
    """xsd:dateTime, with an offset (A.5.2.5)."""
    return datetime.fromisoformat(text).tzinfo is not None and "T" in text


def base64(text: str) -> bool:
    """xsd:base64Binary."""
    return bool(re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text)) and b64decode(text, validate=True) != b""


def uid(text: str) -> bool:
    """PS3.5 9.1."""
    return bool(re.fullmatch(r"[0-2](?:\.(?:0|[1-9][0-9]*))+", text)) and len(text) <= 64


whole = str.isdecimal
boolean = one_of("true", "false")
numbers = [str(number) for number in range(1, 27)]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one element may be. `children`: name, least, most. `text`: what it must hold; none: nothing."""

    required: dict[str, Check] = field(default_factory=dict)
    optional: dict[str, Check] = field(default_factory=dict)
    children: tuple[tuple[str, int, int], ...] = ()
    text: Check | None = None


CODED = Rule({"csd-code": token, "codeSystemName": token, "originalText": token}, {"displayName": token})
SCHEMA = {
    "AuditMessage": Rule(
        children=(
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, MANY),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, MANY),
        )
    ),
    "EventIdentification": Rule(
        {"EventDateTime": date_time, "EventOutcomeIndicator": one_of("0", "4", "8", "12")},
        {"EventActionCode": one_of(*"CRUDE")},
        (("EventID", 1, 1), ("EventTypeCode", 0, MANY), ("EventOutcomeDescription", 0, 1)),
    ),
    "EventID": CODED,
    "EventTypeCode": CODED,
    "ActiveParticipant": Rule(
        {"UserID": token, "UserIsRequestor": boolean},
        {
            "AlternativeUserID": token,
            "UserName": token,
            "NetworkAccessPointID": token,
            "NetworkAccessPointTypeCode": one_of(*numbers[:5]),
        },
        (("RoleIDCode", 0, MANY), ("MediaIdentifier", 0, 1)),
    ),
    "RoleIDCode": CODED,
    "MediaIdentifier": Rule(children=(("MediaType", 1, 1),)),
    "MediaType": CODED,
    "AuditSourceIdentification": Rule(
        {"AuditSourceID": token}, {"AuditEnterpriseSiteID": token}, (("AuditSourceTypeCode", 0, MANY),)
    ),
    # Without a code system only the nine values of A.5.1.2.1.
    "AuditSourceTypeCode": Rule({"csd-code": one_of(*numbers[:9])}),
    "ParticipantObjectIdentification": Rule(
        {"ParticipantObjectID": token},
        {
            "ParticipantObjectTypeCode": one_of(*numbers[:4]),
            "ParticipantObjectTypeCodeRole": one_of(*numbers),
            "ParticipantObjectDataLifeCycle": one_of(*numbers[:15]),
            "ParticipantObjectSensitivity": token,
        },
        # Of Name and Query exactly one; we write no query. The description is optional, and demanded by strict readers.
        (
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 1, 1),
            ("ParticipantObjectDetail", 0, MANY),
            ("ParticipantObjectDescription", 1, 1),
        ),
    ),
    "ParticipantObjectIDTypeCode": CODED,
    "ParticipantObjectName": Rule(text=token),
    "ParticipantObjectDetail": Rule({"type": token, "value": base64}),
    "ParticipantObjectDescription": Rule(
        children=(
            ("MPPS", 0, MANY),
            ("Accession", 0, 0),  # ours never hold one
            ("SOPClass", 0, MANY),
            ("ParticipantObjectContainsStudy", 1, 1),
            ("Encrypted", 0, 1),
            ("Anonymized", 0, 1),
        )
    ),
    "SOPClass": Rule({"NumberOfInstances": whole}, {"UID": uid}, (("Instance", 0, MANY),)),
    "Instance": Rule({"UID": uid}),
    "ParticipantObjectContainsStudy": Rule(children=(("StudyIDs", 0, MANY),)),
    "StudyIDs": Rule({"UID": uid}),
}


def faults(element: ET.Element) -> list[str]:
    """Where the element, and all in it, break the schema."""
    rule, name = SCHEMA[element.tag], element.tag
    found = [f"{name} lacks {one}" for one in rule.required if one not in element.attrib]
    for given_name, value in element.attrib.items():
        check = {**rule.required, **rule.optional}.get(given_name)
        if check is None or not check(value):
            found.append(f"{name}@{given_name}={value!r}")
    order = [child for child, _, _ in rule.children]
    tags = [child.tag for child in element]
    if set(tags) - set(order):
        return [*found, f"{name} holds {set(tags) - set(order)}"]
    if [order.index(tag) for tag in tags] != sorted(order.index(tag) for tag in tags):
        found.append(f"{name}: order {tags}")
    found += [
        f"{name}: {tags.count(tag)} of {tag}" for tag, low, high in rule.children if not low <= tags.count(tag) <= high
    ]
    text = element.text or ""
    if (rule.text is None and text) or (rule.text is not None and not rule.text(text)) or element.tail:
        found.append(f"{name}: text {text!r}")
    for child in element:
        found += faults(child)
    return found


def tree(event: Event) -> ET.Element:
    """The message, parsed."""
    return ET.fromstring(to_xml(event))  # noqa: S314 - our own


def the(kind: str, study: str | None = STUDY) -> ET.Element:
    """The one message of an entry of this kind."""
    (event,) = events_of(entry(kind), REPORTER, study)
    return tree(event)


def coded(element: ET.Element, path: str) -> list[tuple[str | None, str | None]]:
    """Code and designator of what is found."""
    return [(one.get("csd-code"), one.get("codeSystemName")) for one in element.findall(path)]


def objects(message: ET.Element) -> dict[tuple[str | None, str | None], ET.Element]:
    """By type and role: study (2, 3), patient (1, 1), the log's entry (2, 13)."""
    found = message.findall("ParticipantObjectIdentification")
    by = {(one.get("ParticipantObjectTypeCode"), one.get("ParticipantObjectTypeCodeRole")): one for one in found}
    assert len(by) == len(found)
    return by


def details(element: ET.Element) -> list[tuple[str, str]]:
    """Of one object, decoded."""
    found = element.findall("ParticipantObjectDetail")
    return [(one.attrib["type"], b64decode(one.attrib["value"]).decode()) for one in found]


@pytest.mark.parametrize("event", every_event(), ids=lambda event: f"{event.entry.kind}-{event.part}-{event.study}")
def test_schema(event: Event) -> None:
    """Every message of every kind, known or not, with a study or without, obeys the schema of A.5.1."""
    message = tree(event)
    assert message.tag == "AuditMessage"
    assert faults(message) == []
    assert to_xml(event) == to_xml(event)
    assert "\n" not in to_xml(event)


@pytest.mark.parametrize("event", every_event(), ids=lambda event: f"{event.entry.kind}-{event.part}-{event.study}")
def test_one_requestor_one_patient(event: Event) -> None:
    """At most one requestor (A.5.2) and one patient in each message, and never a patient without a study."""
    message = tree(event)
    asked = [one for one in message.findall("ActiveParticipant") if one.get("UserIsRequestor") == "true"]
    assert len(asked) <= 1
    kinds = [one.get("ParticipantObjectTypeCode") for one in message.findall("ParticipantObjectIdentification")]
    assert kinds == (["2", "1", "2"] if event.study else ["2"])


@pytest.mark.parametrize(
    "broken",
    [
        lambda m: m.remove(m.find("EventIdentification")),
        lambda m: m.insert(0, m.find("ActiveParticipant")),
        lambda m: m.find("EventIdentification").set("EventActionCode", "X"),
        lambda m: m.find("EventIdentification").set("EventDateTime", "2026-11-23T16:07:12"),
        lambda m: m.find("EventIdentification/EventID").attrib.pop("originalText"),
        lambda m: m.find("ActiveParticipant").set("Surprise", "1"),
        lambda m: m.find("AuditSourceIdentification/AuditSourceTypeCode").set("csd-code", "10"),
        lambda m: m.find(".//ParticipantObjectDetail").set("value", "not base 64"),
        lambda m: m.find(".//StudyIDs").set("UID", "1.02"),
        lambda m: ET.SubElement(m, "EventIdentification"),
    ],
)
def test_the_table_judges(broken: Callable[[ET.Element], object]) -> None:
    """The schema's table finds what is wrong: a judge that never says no is none."""
    message = the("CALL_INTENT")
    assert faults(message) == []
    broken(message)
    assert faults(message) != []


EVENTS = {
    "LOG_START": ("110100", "E", "0", [("110120", "DCM")]),
    "APPROVAL": ("110113", "E", "0", [("110135", "DCM"), ("APPROVAL", "99ZHIYING")]),
    "ASSEMBLED": ("110103", "R", "0", [("ASSEMBLED", "99ZHIYING")]),
    "SELECTED": ("110103", "R", "0", [("SELECTED", "99ZHIYING")]),
    "CALL_INTENT": ("110103", "R", "0", [("CALL_INTENT", "99ZHIYING")]),
    "CALL_RESULT": ("110103", "R", "0", [("CALL_RESULT", "99ZHIYING")]),
    "RELEASED": ("110104", "C", "0", [("RELEASED", "99ZHIYING")]),
    "DENIED": ("110103", "R", "4", [("DENIED", "99ZHIYING")]),
    "FAILED": ("110103", "R", "8", [("FAILED", "99ZHIYING")]),
    "RESTORE": ("110113", "E", "0", [("110134", "DCM"), ("RESTORE", "99ZHIYING")]),
    "SEAL": ("110113", "E", "0", [("110133", "DCM"), ("SEAL", "99ZHIYING")]),
    "HUMAN_DECISION": ("110103", "R", "0", [("HUMAN_DECISION", "99ZHIYING")]),
    "VIEWED": ("110103", "R", "0", [("VIEWED", "99ZHIYING")]),
}


@pytest.mark.parametrize(("kind", "wanted"), EVENTS.items(), ids=EVENTS)
def test_which_event(kind: str, wanted: tuple[str, str, str, list[tuple[str, str]]]) -> None:
    """Each kind is the event of A.5.3 that docs/audit-messages.md says, at the entry's own time."""
    identification = the(kind).find("EventIdentification")
    assert identification is not None
    code, action, outcome, types = wanted
    assert coded(identification, "EventID") == [(code, "DCM")]
    assert coded(identification, "EventTypeCode") == types
    assert identification.get("EventActionCode") == action
    assert identification.get("EventOutcomeIndicator") == outcome
    assert parse_time(identification.attrib["EventDateTime"]) == parse_time(TIME)


def test_every_kind_has_a_rule() -> None:
    """A kind that the log gains needs a decision here: none falls to the default by being forgotten."""
    assert set(map(str, BODIES)) <= KNOWN
    assert set(YOUNG) <= KNOWN
    assert not set(UNKNOWN) & KNOWN


def test_silence_and_export() -> None:
    """A heartbeat is no event; an export is two: the log was used, and data left."""
    assert events_of(entry("HEARTBEAT"), REPORTER) == ()
    used, left = (tree(event) for event in events_of(entry("EXPORT", {"recipient": "review board"}), REPORTER))
    assert coded(used, "EventIdentification/EventID") == [("110101", "DCM")]
    assert coded(left, "EventIdentification/EventID") == [("110106", "DCM")]
    assert coded(left, "ActiveParticipant/RoleIDCode") == [("110153", "DCM"), ("110154", "DCM")]
    assert coded(left, "ActiveParticipant/MediaIdentifier/MediaType") == [("110037", "DCM")]
    assert left.findall("ActiveParticipant")[1].get("UserID") == "review board"


def test_who_looked() -> None:
    """The reader is the one who asked, by the pseudonym, and we are the other; what else a reader had is not told."""
    message = the("VIEWED")
    reader, us = message.findall("ActiveParticipant")
    assert (reader.get("UserID"), reader.get("UserIsRequestor")) == ("8" * 32, "true")
    assert coded(message, "ActiveParticipant/RoleIDCode") == [("READER", "99ZHIYING"), ("110150", "DCM")]
    assert "NetworkAccessPointID" not in reader.attrib
    assert (us.get("UserID"), us.get("UserIsRequestor")) == ("zhiying", "false")
    study = message.findall("ParticipantObjectIdentification")[0]
    assert study.get("ParticipantObjectID") == study_uid(STUDY)
    assert details(study) == [("role", "RADIOLOGIST")]
    named = {"study": STUDY, "reader": "Zhang San", "role": "Zhang San"}
    (event,) = events_of(entry("VIEWED", named), REPORTER)
    assert (event.participants[0].user, event.details) == ("unknown", ())


def test_a_comparison_that_found_calls_past_the_log_is_an_alert() -> None:
    """Those who look after security see that there are some; one that found none, or something else, is silent."""
    said = {"report": DIGEST, "source": "PEER", "found": {"UNLOGGED": 1}, "unlogged": [{"uid": "2.25.17"}]}
    (event,) = events_of(entry("RECONCILED", said), REPORTER)
    assert coded(tree(event), "EventIdentification/EventID") == [("110113", "DCM")]
    assert event.details == (("report", DIGEST), ("source", "PEER"))
    assert events_of(entry("RECONCILED", said | {"unlogged": [], "found": {"MISSING": 1}}), REPORTER) == ()


def test_unknown_without_a_study_is_an_alert() -> None:
    """A kind without a rule and a study gives a Security Alert that holds nothing of its body."""
    (event,) = events_of(entry("KEY_ROTATION", {"old": "secret", "recipient": "somebody"}), REPORTER)
    text = to_xml(event)
    assert coded(tree(event), "EventIdentification/EventID") == [("110113", "DCM")]
    assert event.details == ()
    assert "secret" not in text
    assert "somebody" not in text


def test_the_study_and_its_patient() -> None:
    """Both are the pseudonym: as a UID under 2.25 where A.5.3.6 wants a Study Instance UID, and as it stands."""
    by = objects(the("CALL_INTENT"))
    study, patient = by["2", "3"], by["1", "1"]
    assert study.get("ParticipantObjectID") == study_uid(STUDY) == f"2.25.{int(STUDY, 16)}"
    assert coded(study, "ParticipantObjectIDTypeCode") == [("110180", "DCM")]
    assert [one.get("UID") for one in study.findall(".//StudyIDs")] == [study_uid(STUDY)]
    assert patient.get("ParticipantObjectID") == STUDY
    assert coded(patient, "ParticipantObjectIDTypeCode") == [("2", "RFC-3881")]
    assert uid(study_uid("f" * 32))
    assert study_uid("0" * 32) == "2.25.0"


def test_the_log_entry_can_be_found() -> None:
    """Every message carries the log's origin, index and key, and the call's id where there is one."""
    log = objects(the("CALL_INTENT"))["2", "13"]
    assert log.get("ParticipantObjectID") == f"{ORIGIN}#7"
    told = dict(details(log))
    assert (told["log-origin"], told["log-index"], told["log-key"]) == (ORIGIN, "7", "call_intent:7")
    assert (told["log-source"], told["log-sequence"], told["call"]) == ("service", "7", CALL)


def test_intent_details() -> None:
    """A call names its model, its approval, its policy and its input's commitment; and no check that was observed."""
    told = dict(details(objects(the("CALL_INTENT"))["2", "3"]))
    assert told == {
        "model-name": "brain-extraction-t1",
        "model-version": "1.0.2",
        "model-digest": DIGEST,
        "input": "1" * 32,
        "approval": "APPROVAL-2026-001",
        "policy": DIGEST,
        "autonomy": "A1",
    }


def test_result_details() -> None:
    """A result names outcome, duration and our own objects; never what was measured."""
    told = details(objects(the("CALL_RESULT"))["2", "3"])
    assert told == [
        ("outcome", "OK"),
        ("timing-ms-total", "2100"),
        ("output", "2.25.1234567890123456789012345"),
    ]
    (event,) = events_of(entry("CALL_RESULT"), REPORTER, STUDY)
    assert "1951.3" not in repr(event.details)


@pytest.mark.parametrize(
    ("kind", "wanted"), [("DENIED", ("code", "CONDITION_NOT_MET")), ("FAILED", ("code", "ENGINE_DIED"))]
)
def test_refusals_say_why(kind: str, wanted: tuple[str, str]) -> None:
    """What was refused or failed carries its code in a detail of the study, and never what was observed."""
    told = details(objects(the(kind))["2", "3"])
    assert wanted in told
    assert not {"condition", "observed"} & {name for name, _ in told}


def test_release_goes_from_us_to_the_peer() -> None:
    """A release names its two ends with their roles and places, and our own objects; the peer asked for nothing."""
    message = the("RELEASED")
    us, peer = message.findall("ActiveParticipant")
    assert (us.get("UserID"), us.get("UserIsRequestor"), us.get("AlternativeUserID")) == (
        "zhiying",
        "true",
        "AETITLES=ZHIYING",
    )
    assert (us.get("NetworkAccessPointID"), us.get("NetworkAccessPointTypeCode")) == ("ai.hospital.example", "1")
    assert (peer.get("UserID"), peer.get("UserIsRequestor"), peer.get("AlternativeUserID")) == (
        "pacs",
        "false",
        "AETITLES=PACS",
    )
    assert (peer.get("NetworkAccessPointID"), peer.get("NetworkAccessPointTypeCode")) == ("192.0.2.7", "2")
    assert coded(message, "ActiveParticipant/RoleIDCode") == [("110153", "DCM"), ("110152", "DCM")]
    sop = objects(message)["2", "3"].find("ParticipantObjectDescription/SOPClass")
    assert sop is not None
    assert sop.get("NumberOfInstances") == "1"
    assert [one.get("UID") for one in sop] == ["2.25.0"]


def test_release_without_its_study() -> None:
    """Where the study of the call is not known, none is invented: our objects are told beside the log's entry."""
    by = objects(the("RELEASED", None))
    assert set(by) == {("2", "13")}
    assert ("output", "2.25.0") in details(by["2", "13"])


def test_peer_that_is_not_configured_any_more() -> None:
    """An old entry's peer may be gone from the configuration: its name is all that is told."""
    (event,) = events_of(entry("RELEASED", {**body(Kind.RELEASED), "peer": "old-pacs"}), REPORTER, STUDY)
    peer = tree(event).findall("ActiveParticipant")[1]
    assert dict(peer.attrib) == {"UserID": "old-pacs", "UserIsRequestor": "false"}


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("kind", [*map(str, BODIES), *YOUNG, *UNKNOWN])
def test_no_patient_comes_out(kind: str, canary: str) -> None:
    """Whatever text a body holds in place of ours, name, number or foreign UID, none of it comes out."""
    content = body(Kind(kind)) if kind in Kind.__members__ else {"study": STUDY, "recipient": "x", "note": "x"}
    # What no header's text can get into is not poisoned: the schema takes these from manifest and configuration.
    ours = {"model", "approval", "peer", "software"}
    given_body = {name: value if name in ours else poisoned(value, canary) for name, value in content.items()}
    if kind == "EXPORT" and canary == "Zhang San":
        given_body.pop("recipient")  # a recipient's name is what an export's event is for
    for study in (None, STUDY, canary):
        for event in events_of(entry(kind, given_body), REPORTER, study):
            told = to_xml(event) + repr([details(one) for one in tree(event).iter("ParticipantObjectIdentification")])
            assert canary not in told
            assert faults(tree(event)) == []


@pytest.mark.parametrize("kind", [*map(str, BODIES)])
def test_what_is_observed_stays(kind: str) -> None:
    """What came out of a header, of a model or of a machine stays in the log, even where it looks like a code."""
    content = body(Kind(kind))
    given_body = {name: poisoned(value, NAME) if name in NOT_OURS else value for name, value in content.items()}
    for event in events_of(entry(kind, given_body), REPORTER, STUDY):
        assert NAME not in repr((event.details, event.participants, event.instances, event.alert))
        assert NAME not in to_xml(event)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_body_gives_a_message(value: object) -> None:
    """Whatever stands where the schema wants something else, a good message comes out, and no error."""
    for kind in ("CALL_RESULT", "RELEASED", "ASSEMBLED", "FAILED", "EXPORT"):
        names = ("outputs", "timing_ms", "instances", "study", "code", "peer", "model", "recipient")
        for event in events_of(entry(kind, dict.fromkeys(names, value)), REPORTER):
            assert faults(tree(event)) == []


@pytest.mark.parametrize("event", [*events_of(largest(), REPORTER, STUDY), *events_of(released(256), REPORTER, STUDY)])
def test_the_largest_message(event: Event) -> None:
    """The largest body of the schema still fits the 32,768 octets that a receiver must take (ITI-20)."""
    assert len(to_xml(event).encode()) < 32_768 - 300


@pytest.mark.parametrize("bad", ["", "a\nb", "a\x00b", "\ud800"])
def test_reporter_refuses(bad: str) -> None:
    """A name that XML cannot hold, or an empty one, is refused with a code when the service starts."""
    with pytest.raises(ReporterInvalid) as caught:
        Reporter(bad, "zhiying", ORIGIN, Node())
    assert caught.value.code == "REPORTER_INVALID"
    with pytest.raises(ReporterInvalid):
        Reporter("site", "zhiying", ORIGIN, Node(), {"pacs": Node("A", bad or "\n")})


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("192.0.2.7", "2"),
        ("2001:db8::1", "2"),
        ("::1", "2"),
        ("pacs", "1"),
        ("ai.hospital.example", "1"),
        ("10.a", "1"),
    ],
)
def test_network_type(host: str, kind: str) -> None:
    """An address is 2, a name is 1."""
    assert network_type(host) == kind


def test_chinese_names_of_the_site() -> None:
    """A hospital's name in Chinese is told as it is."""
    reporter = Reporter("智影医院", "zhiying", ORIGIN, Node())
    (event,) = events_of(entry("LOG_START"), reporter)
    source = tree(event).find("AuditSourceIdentification")
    assert source is not None
    assert source.get("AuditEnterpriseSiteID") == "智影医院"
