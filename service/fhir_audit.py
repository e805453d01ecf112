"""An event of the log as a FHIR R4 AuditEvent, in JSON. Pure.

Where the event is a successful reading or sending, it is one of IHE BALP 1.1.3's PatientRead or PatientCreate, and
says so in `meta.profile`. We are the client in both. Their roles flip: who reads is the Destination (110152), who
creates is the Source (110153). A reader who asked us is BALP's user, and the requestor. BALP's profiles are for
success: what failed follows their pattern and claims nothing. For a start, an alert or an export it has none: those are
plain R4 with DICOM's own event codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from audit.canonical import JsonValue
from dicom_bridge.audit_event import (
    DESIGNATOR,
    DESTINATION,
    INSTANCES_ACCESSED,
    INSTANCES_TRANSFERRED,
    READER,
    SOURCE,
    SUCCESS,
    Code,
    Event,
    Node,
    Participant,
)
from dicom_bridge.audit_message import network_type, study_uid

PROFILE: Final = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
LOG_SYSTEM: Final = "urn:zhiying:audit-log"
"""Of identifiers of log entries: origin#index."""
PSEUDONYM_SYSTEM: Final = "urn:zhiying:study-pseudonym"
OWN_SYSTEM: Final = "urn:zhiying:audit-kind"
"""Of our own codes, in FHIR; DICOM's designator is no URI."""

_DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
_HL7: Final = "http://terminology.hl7.org/CodeSystem/"
_REST: Final = "http://hl7.org/fhir/restful-interaction"
_SYSTEMS: Final[Mapping[str, str]] = MappingProxyType({"DCM": _DCM, DESIGNATOR: OWN_SYSTEM})
_OUTCOMES: Final[Mapping[int, str]] = MappingProxyType({4: "refused by a rule", 8: "failed", 12: "unavailable"})

Json = dict[str, JsonValue]

_USER: Final = ("IRCP", "information recipient")


def to_fhir(event: Event) -> Json:
    """The AuditEvent resource, ready for `json.dumps`; its id is the same for the same event, whoever makes it."""
    resource: Json = {"resourceType": "AuditEvent", "id": _id(event)}
    interaction = _interaction(event)
    if interaction is not None and event.outcome == SUCCESS and event.study is not None:
        resource["meta"] = {"profile": [f"{PROFILE}Patient{interaction.capitalize()}"]}
    if interaction is not None:
        resource["type"] = _coding(f"{_HL7}audit-event-type", "rest", "Restful Operation")
        subtypes = [_coding(_REST, interaction, interaction), _of(event.id), *map(_of, event.types)]
    else:
        resource["type"] = _of(event.id)
        subtypes = [_of(kind) for kind in event.types]
    resource["subtype"] = subtypes
    resource["action"] = event.action
    resource["recorded"] = event.entry.time
    resource["outcome"] = str(event.outcome)
    if event.outcome != SUCCESS:
        resource["outcomeDesc"] = _outcome(event)
    resource["agent"] = [_agent(party) for party in _parties(event)]
    resource["source"] = {
        "site": event.reporter.site,
        "observer": _who(event.reporter.system),
        "type": [_coding(f"{_HL7}security-source-type", "4", "Application Server")],
    }
    resource["entity"] = _entities(event)
    return resource


def _id(event: Event) -> str:
    # FHIR ids have 64 characters of a small alphabet: an origin has others.
    log = hashlib.sha256(event.reporter.origin.encode()).hexdigest()[:16]
    return f"{log}-{event.entry.index}-{event.part}"


def _interaction(event: Event) -> str | None:
    """What the event would be, were it FHIR's own interface: BALP knows only those."""
    return {INSTANCES_ACCESSED: "read", INSTANCES_TRANSFERRED: "create"}.get(event.id)


def _outcome(event: Event) -> str:
    code = dict(event.details).get("code")
    words = _OUTCOMES[event.outcome]
    return words if code is None else f"{words}: {code}"


def _parties(event: Event) -> tuple[Participant, ...]:
    """DICOM's participants; of a reading, BALP wants two: us, and the store that we read from, which is ours.

    A reader who asked for it comes after them.
    """
    if event.id != INSTANCES_ACCESSED:
        return event.participants
    system, node = event.reporter.system, event.reporter.node
    readers = tuple(party for party in event.participants if party.role == READER)
    return (
        Participant(system, DESTINATION, requestor=not readers, node=node),
        Participant(f"{system}-spool", SOURCE, requestor=False, node=node),
        *readers,
    )


def _agent(party: Participant) -> Json:
    reader = party.role == READER
    agent: Json = {
        "type": {"coding": [_coding(f"{_HL7}v3-ParticipationType", *_USER) if reader else _of(party.role)]},
        "who": _who(party.user),
        "requestor": party.requestor,
    }
    if party.node.ae_title:
        agent["altId"] = party.node.ae_title
    if party.media is not None:
        agent["media"] = _of(party.media)
    elif not reader:  # where a person sits nobody has told us
        agent["network"] = _network(party.node, party.user)
    return agent


def _network(node: Node, name: str) -> Json:
    # BALP wants one. Without a host, the name by which the configuration knows the system is all that is known.
    host = node.host or name
    return {"address": host, "type": network_type(host)}


def _who(name: str) -> Json:
    return {"identifier": {"value": name}, "display": name}


def _entities(event: Event) -> list[JsonValue]:
    """The study and its patient, both by the study's pseudonym; then the log's entry, by which this is matched."""
    entities: list[JsonValue] = []
    details = list(event.details) + [("output", uid) for uid in event.instances]
    if event.study is not None:
        person: Json = {
            "what": {"type": "Patient", "identifier": {"system": PSEUDONYM_SYSTEM, "value": event.study}},
            "type": _coding(f"{_HL7}audit-entity-type", "1", "Person"),
            "role": _coding(f"{_HL7}object-role", "1", "Patient"),
        }
        uid: Json = {"system": "urn:dicom:uid", "value": f"urn:oid:{study_uid(event.study)}"}
        study: Json = {
            "what": {"type": "ImagingStudy", "identifier": uid},
            "type": _coding(f"{_HL7}audit-entity-type", "2", "System Object"),
            "role": _coding(f"{_HL7}object-role", "3", "Report"),
        }
        entities += [person, _with(study, details)]
        details = []
    entry = event.entry
    named = [("key", entry.key), ("source", entry.source), ("sequence", str(entry.seq))]
    if entry.call is not None:
        named.append(("call", entry.call))
    if event.alert:
        named.append(("alert", event.alert))
    log: Json = {
        "what": {"identifier": {"system": LOG_SYSTEM, "value": event.log_entry}},
        # Not type 2: BALP's profiles allow one object of that type, the study.
        "type": _coding("urn:zhiying:audit-entity", "log-entry", "Entry of the audit log"),
        "role": _coding(f"{_HL7}object-role", "13", "Security Resource"),
    }
    return [*entities, _with(log, named + details)]


def _with(entity: Json, details: list[tuple[str, str]]) -> Json:
    # An empty list is no FHIR.
    if details:
        entity["detail"] = [{"type": name, "valueString": value} for name, value in details]
    return entity


def _of(code: Code) -> Json:
    return _coding(_SYSTEMS[code.system], code.value, code.meaning)


def _coding(system: str, code: str, display: str) -> Json:
    return {"system": system, "code": code, "display": display}
