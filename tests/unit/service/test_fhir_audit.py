"""FHIR AuditEvents: every event of every kind obeys R4's definition, and IHE BALP 1.1.3 wherever it claims to.

The tables are written from R4's AuditEvent (cardinalities, bound codes, invariant sev-1) and from BALP's PatientRead
and PatientCreate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from audit.entry import BODIES, Kind
from dicom_bridge.audit_event import Event
from dicom_bridge.audit_message import study_uid
from dicom_bridge.audit_rules import events_of
from service.fhir_audit import LOG_SYSTEM, PROFILE, PSEUDONYM_SYSTEM, to_fhir
from tests.simulators.audit_events import (
    CANARIES,
    NAME,
    NOT_OURS,
    REPORTER,
    UNKNOWN,
    YOUNG,
    entry,
    every_event,
    poisoned,
)
from tests.simulators.audit_log import CALL, ORIGIN, STUDY, body

DCM = "http://dicom.nema.org/resources/ontology/DCM"
HL7 = "http://terminology.hl7.org/CodeSystem/"
REST = "http://hl7.org/fhir/restful-interaction"

# R4 AuditEvent: element -> (least, most, what it is). Most of 0 stands for "*": a list.
CODING = {"system": (0, 1, "uri"), "version": (0, 1, "text"), "code": (0, 1, "code"), "display": (0, 1, "text")}
IDENTIFIER = {"system": (0, 1, "uri"), "value": (0, 1, "text")}
REFERENCE = {"type": (0, 1, "uri"), "identifier": (0, 1, IDENTIFIER), "display": (0, 1, "text")}
NETWORK = {"address": (0, 1, "text"), "type": (0, 1, frozenset("12345"))}
AGENT = {
    "type": (0, 1, {"coding": (0, 0, CODING)}),
    "who": (0, 1, REFERENCE),
    "altId": (0, 1, "text"),
    "requestor": (1, 1, "boolean"),
    "media": (0, 1, CODING),
    "network": (0, 1, NETWORK),
}
DETAIL = {"type": (1, 1, "text"), "valueString": (1, 1, "text")}
ENTITY = {
    "what": (0, 1, REFERENCE),
    "type": (0, 1, CODING),
    "role": (0, 1, CODING),
    "name": (0, 1, "text"),
    "query": (0, 1, "text"),
    "detail": (0, 0, DETAIL),
}
R4 = {
    "resourceType": (1, 1, frozenset({"AuditEvent"})),
    "id": (0, 1, "id"),
    "meta": (0, 1, {"profile": (0, 0, "uri")}),
    "type": (1, 1, CODING),
    "subtype": (0, 0, CODING),
    "action": (0, 1, frozenset("CRUDE")),
    "recorded": (1, 1, "instant"),
    "outcome": (0, 1, frozenset({"0", "4", "8", "12"})),
    "outcomeDesc": (0, 1, "text"),
    "agent": (1, 0, AGENT),
    "source": (1, 1, {"site": (0, 1, "text"), "observer": (1, 1, REFERENCE), "type": (0, 0, CODING)}),
    "entity": (0, 0, ENTITY),
}
TEXTS = {
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:\S+|Patient|ImagingStudy",
    "code": r"\S+(?: \S+)*",
    "id": r"[A-Za-z0-9.-]{1,64}",
    "text": r"(?s)\S.*",
    "instant": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})",
}


def faults(value: Any, rule: Any, where: str = "AuditEvent") -> list[str]:
    """Where a value breaks its definition."""
    if isinstance(rule, frozenset):
        return [] if value in rule else [f"{where}: {value!r}"]
    if rule == "boolean":
        return [] if isinstance(value, bool) else [f"{where}: {value!r}"]
    if isinstance(rule, str):
        good = isinstance(value, str) and re.fullmatch(TEXTS[rule], value)
        return [] if good else [f"{where}: {value!r}"]
    if not isinstance(value, Mapping) or not value:
        return [f"{where}: no object, or an empty one"]
    found = [f"{where}.{name}: unknown" for name in value if name not in rule]
    for name, (least, most, inner) in rule.items():
        if name not in value:
            found += [f"{where}.{name}: missing"] if least else []
        elif most == 1:
            found += faults(value[name], inner, f"{where}.{name}")
        elif not isinstance(value[name], list) or not value[name]:
            found.append(f"{where}.{name}: no list, or an empty one")
        else:
            found += [fault for item in value[name] for fault in faults(item, inner, f"{where}.{name}")]
    return found


def coded(coding: Mapping[str, Any]) -> tuple[str, str]:
    """System and code."""
    return coding["system"], coding["code"]


USER = (f"{HL7}v3-ParticipationType", "IRCP")
"""A person for whom a system asked."""


def role_of(agent: Mapping[str, Any]) -> tuple[str, str]:
    """What an agent was."""
    (coding,) = agent["type"]["coding"]
    return coded(coding)


def balp(resource: Mapping[str, Any], interaction: str) -> list[str]:
    """Where a resource breaks BALP's Patient profile of the interaction."""
    client, server = {"read": ("110152", "110153"), "create": ("110153", "110152")}[interaction]
    roles = [role_of(agent) for agent in resource["agent"]]
    users = [agent for agent in resource["agent"] if role_of(agent) == USER]
    systems = [agent for agent in resource["agent"] if role_of(agent) != USER]
    types = [coded(one["type"]) for one in resource["entity"]]
    by_type = {coded(one["type"]): one for one in resource["entity"]}
    patient = by_type.get((f"{HL7}audit-entity-type", "1"), {})
    data = by_type.get((f"{HL7}audit-entity-type", "2"), {})
    wanted = {
        "type": coded(resource["type"]) == (f"{HL7}audit-event-type", "rest"),
        "subtype": [coded(one) for one in resource["subtype"]].count((REST, interaction)) == 1,
        "action": resource["action"] == interaction[0].upper(),
        "outcome": resource["outcome"] == "0",
        "client": roles.count((DCM, client)) == 1,
        "server": roles.count((DCM, server)) == 1,
        "who": all("who" in agent and "network" in agent and "media" not in agent for agent in systems),
        "user": len(users) <= 1 and all("who" in agent and "network" not in agent for agent in users),
        "asked": [role_of(one) for one in resource["agent"] if one["requestor"]] == [USER if users else (DCM, client)],
        "one patient": types.count((f"{HL7}audit-entity-type", "1")) == 1,
        "patient": patient.get("role", {}).get("code") == "1" and patient["what"]["type"] == "Patient",
        "one data": types.count((f"{HL7}audit-entity-type", "2")) == 1,
        "data": data.get("role", {}).get("code") in {"3", "4", "20"} and "what" in data,
    }
    return [name for name, good in wanted.items() if not good]


def the(kind: str, study: str | None = STUDY) -> dict[str, Any]:
    """The one resource of an entry of this kind, as it is read back."""
    (event,) = events_of(entry(kind), REPORTER, study)
    return read(event)


def read(event: Event) -> dict[str, Any]:
    """Through JSON, as a receiver sees it."""
    found: dict[str, Any] = json.loads(json.dumps(to_fhir(event), ensure_ascii=False))
    return found


@pytest.mark.parametrize("event", every_event(), ids=lambda event: f"{event.entry.kind}-{event.part}-{event.study}")
def test_r4(event: Event) -> None:
    """Every event of every kind is an R4 AuditEvent: elements, cardinalities, codes; a name or a query, never both."""
    resource = read(event)
    assert faults(resource, R4) == []
    assert not any("name" in one and "query" in one for one in resource["entity"])
    assert (resource["outcome"] == "0") == ("outcomeDesc" not in resource)


@pytest.mark.parametrize("event", every_event(), ids=lambda event: f"{event.entry.kind}-{event.part}-{event.study}")
def test_balp_where_claimed(event: Event) -> None:
    """What claims a BALP profile obeys it; what does not succeed, has no patient or is no access claims none."""
    resource = read(event)
    claimed = resource.get("meta", {}).get("profile", [])
    if event.id.value not in {"110103", "110104"} or event.outcome != 0 or event.study is None:
        assert claimed == []
    else:
        interaction = {"110103": "read", "110104": "create"}[event.id.value]
        assert claimed == [f"{PROFILE}Patient{interaction.capitalize()}"]
        assert balp(resource, interaction) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.pop("recorded"),
        lambda r: r.update(action="X"),
        lambda r: r.update(agent=[]),
        lambda r: r["agent"][0].pop("requestor"),
        lambda r: r["agent"][0].update(surprise=1),
        lambda r: r["entity"][0]["type"].update(system="no uri"),
        lambda r: r.update(recorded="2026-11-23T16:07:12"),
        lambda r: r["source"].pop("observer"),
        lambda r: r.update(id="a/b"),
    ],
)
def test_the_table_judges(spoil: Any) -> None:
    """R4's table finds what is wrong."""
    resource = the("CALL_INTENT")
    assert faults(resource, R4) == []
    spoil(resource)
    assert faults(resource, R4) != []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r["agent"].reverse() or r["agent"][0]["type"]["coding"][0].update(code="110150"),
        lambda r: r["subtype"].pop(0),
        lambda r: r["entity"].append(r["entity"][1]),
        lambda r: r["entity"].pop(0),
        lambda r: r["agent"][1].pop("network"),
        lambda r: r["agent"][1].update(requestor=True),
        lambda r: r.update(outcome="4"),
    ],
)
def test_the_balp_table_judges(spoil: Any) -> None:
    """BALP's table finds what is wrong."""
    resource = the("CALL_INTENT")
    assert balp(resource, "read") == []
    spoil(resource)
    assert balp(resource, "read") != []


def test_roles_flip() -> None:
    """We are the client of both: Destination of what we read, Source of what we create."""
    reading, creating = the("CALL_INTENT"), the("RELEASED")
    assert [(one["who"]["display"], role_of(one)[1]) for one in reading["agent"]] == [
        ("zhiying", "110152"),
        ("zhiying-spool", "110153"),
    ]
    assert [(one["who"]["display"], role_of(one)[1]) for one in creating["agent"]] == [
        ("zhiying", "110153"),
        ("pacs", "110152"),
    ]
    assert creating["agent"][1]["network"] == {"address": "192.0.2.7", "type": "2"}


def test_a_reader_who_looked_is_the_requestor() -> None:
    """BALP's user, by the pseudonym, beside the system that asked for them; nobody claims to know where they sit."""
    resource = the("VIEWED")
    assert [(one["who"]["display"], role_of(one)[1], one["requestor"]) for one in resource["agent"]] == [
        ("zhiying", "110152", False),
        ("zhiying-spool", "110153", False),
        ("8" * 32, "IRCP", True),
    ]
    assert resource["meta"]["profile"][0].endswith("PatientRead")
    assert balp(resource, "read") == []
    resource["agent"][0]["requestor"] = True
    assert balp(resource, "read") == ["asked"]


@pytest.mark.parametrize(
    ("kind", "outcome", "why"), [("DENIED", "4", "CONDITION_NOT_MET"), ("FAILED", "8", "ENGINE_DIED")]
)
def test_refusals_say_why(kind: str, outcome: str, why: str) -> None:
    """What was refused or failed says so with its code, and claims no profile of success."""
    resource = the(kind)
    assert resource["outcome"] == outcome
    assert resource["outcomeDesc"].endswith(why)
    assert "meta" not in resource


def test_it_can_be_matched() -> None:
    """Each resource names the log's entry, and study and patient by the pseudonym; ids are the same every time."""
    resource = the("CALL_INTENT")
    person, study, log = resource["entity"]
    assert person["what"]["identifier"] == {"system": PSEUDONYM_SYSTEM, "value": STUDY}
    assert study["what"]["identifier"] == {"system": "urn:dicom:uid", "value": f"urn:oid:{study_uid(STUDY)}"}
    assert log["what"]["identifier"] == {"system": LOG_SYSTEM, "value": f"{ORIGIN}#7"}
    told = {one["type"]: one["valueString"] for one in log["detail"]}
    assert told == {"key": "call_intent:7", "source": "service", "sequence": "7", "call": CALL}
    assert resource["id"] == the("CALL_INTENT")["id"]
    used, left = (read(event)["id"] for event in events_of(entry("EXPORT"), REPORTER))
    assert used != left


def test_plain_kinds() -> None:
    """A start, an alert and an export have DICOM's codes as their type."""
    assert coded(the("LOG_START")["type"]) == (DCM, "110100")
    assert [coded(one) for one in the("LOG_START")["subtype"]] == [(DCM, "110120")]
    assert coded(the("APPROVAL")["type"]) == (DCM, "110113")
    codes = [coded(read(event)["type"])[1] for event in events_of(entry("EXPORT"), REPORTER)]
    assert codes == ["110101", "110106"]


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("kind", [*map(str, BODIES), *YOUNG, *UNKNOWN])
def test_no_patient_comes_out(kind: str, canary: str) -> None:
    """Whatever text a body holds in place of ours, name, number or foreign UID, none of it comes out."""
    content = body(Kind(kind)) if kind in Kind.__members__ else {"study": STUDY, "note": "x"}
    # Whom a package is for is named on purpose; it is no patient.
    ours = {"model", "approval", "peer", "software", "recipient"}
    given_body = {name: value if name in ours else poisoned(value, canary) for name, value in content.items()}
    for study in (None, STUDY, canary):
        for event in events_of(entry(kind, given_body), REPORTER, study):
            assert canary not in json.dumps(to_fhir(event), ensure_ascii=False)
            assert faults(read(event), R4) == []


@pytest.mark.parametrize("kind", [*map(str, BODIES)])
def test_what_is_observed_stays(kind: str) -> None:
    """What came out of a header, of a model or of a machine stays in the log."""
    given_body = {
        name: poisoned(value, NAME) if name in NOT_OURS else value for name, value in body(Kind(kind)).items()
    }
    for event in events_of(entry(kind, given_body), REPORTER, STUDY):
        assert NAME not in json.dumps(to_fhir(event))
