"""An event of the log as the AuditMessage of DICOM PS3.15 A.5.1, in XML. Pure.

Element order, attributes and values are those of the standard's schema. Every coded element carries all of csd-code,
codeSystemName and originalText; every object a name and a description, which strict receivers demand.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from base64 import b64encode
from typing import Final

from dicom_bridge.audit_event import Code, Details, Event, Participant

_STUDY_ID: Final = Code("110180", "DCM", "Study Instance UID")
_PATIENT_ID: Final = Code("2", "RFC-3881", "Patient Number")
_URI: Final = Code("12", "RFC-3881", "URI")


def study_uid(pseudonym: str) -> str:
    """A study's pseudonym as A.5.3 wants it, a UID: its 128 bits under 2.25 (PS3.5 B.2). No image has this UID."""
    return f"2.25.{int(pseudonym, 16)}"


def to_xml(event: Event) -> str:
    """The AuditMessage of PS3.15 A.5.1, one line, without an XML declaration (the transport says UTF-8)."""
    message = ET.Element("AuditMessage")
    identification = ET.SubElement(
        message,
        "EventIdentification",
        {
            "EventActionCode": event.action,
            "EventDateTime": event.entry.time,
            "EventOutcomeIndicator": str(event.outcome),
        },
    )
    _coded(identification, "EventID", event.id)
    for kind in event.types:
        _coded(identification, "EventTypeCode", kind)
    for participant in event.participants:
        _participant(message, participant)
    reporter = event.reporter
    source = ET.SubElement(
        message,
        "AuditSourceIdentification",
        {"AuditEnterpriseSiteID": reporter.site, "AuditSourceID": reporter.system},
    )
    # Of the nine values this one needs no code system (A.5.1.2.1): application server.
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    if event.study is not None:
        _study(message, event, event.study)
    _log_object(message, event)
    return ET.tostring(message, encoding="unicode")


def _coded(parent: ET.Element, name: str, code: Code) -> None:
    given = {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning}
    ET.SubElement(parent, name, given)


def _participant(message: ET.Element, participant: Participant) -> None:
    given = {"UserID": participant.user, "UserIsRequestor": "true" if participant.requestor else "false"}
    if participant.node.ae_title:
        given["AlternativeUserID"] = f"AETITLES={participant.node.ae_title}"
    if participant.node.host:
        given["NetworkAccessPointID"] = participant.node.host
        given["NetworkAccessPointTypeCode"] = network_type(participant.node.host)
    element = ET.SubElement(message, "ActiveParticipant", given)
    _coded(element, "RoleIDCode", participant.role)
    if participant.media is not None:
        _coded(ET.SubElement(element, "MediaIdentifier"), "MediaType", participant.media)


def network_type(host: str) -> str:
    """Of a NetworkAccessPoint: "2" for an address, "1" for a name."""
    return "2" if re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*", host) else "1"


def _study(message: ET.Element, event: Event, pseudonym: str) -> None:
    """The study and its patient: both are the study's pseudonym, as the log knows no other name of a patient."""
    uid = study_uid(pseudonym)
    study = _object(message, "2", "3", uid, _STUDY_ID, "Study, by its pseudonym", event.details)
    description = _description(study)
    if event.instances:
        # Without the class's UID, which the log does not hold and A.5.1 does not demand.
        counted = {"NumberOfInstances": str(len(event.instances))}
        holder = ET.Element("SOPClass", counted)
        for instance in event.instances:
            ET.SubElement(holder, "Instance", {"UID": instance})
        description.insert(0, holder)
    contained = description.find("ParticipantObjectContainsStudy")
    if contained is not None:
        ET.SubElement(contained, "StudyIDs", {"UID": uid})
    _description(_object(message, "1", "1", pseudonym, _PATIENT_ID, "Patient, by the study's pseudonym", ()))


def _log_object(message: ET.Element, event: Event) -> None:
    """The entry that this message speaks of (a Security Resource, as in A.5.3.2), so that both can be matched."""
    entry = event.entry
    named: list[tuple[str, str]] = [
        ("log-origin", event.reporter.origin),
        ("log-index", str(entry.index)),
        ("log-key", entry.key),
        ("log-source", entry.source),
        ("log-sequence", str(entry.seq)),
    ]
    if entry.call is not None:
        named.append(("call", entry.call))
    if event.alert:
        named.append(("Alert Description", event.alert))
    if event.study is None:
        named += event.details
        named += (("output", uid) for uid in event.instances)
    log = _object(message, "2", "13", event.log_entry, _URI, "Security Audit Log", tuple(named))
    _description(log)


def _object(
    message: ET.Element, kind: str, role: str, identifier: str, id_type: Code, name: str, details: Details
) -> ET.Element:
    given = {
        "ParticipantObjectID": identifier,
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
    }
    element = ET.SubElement(message, "ParticipantObjectIdentification", given)
    _coded(element, "ParticipantObjectIDTypeCode", id_type)
    ET.SubElement(element, "ParticipantObjectName").text = name
    for detail, value in details:
        given = {"type": detail, "value": b64encode(value.encode()).decode("ascii")}
        ET.SubElement(element, "ParticipantObjectDetail", given)
    return element


def _description(element: ET.Element) -> ET.Element:
    # Both may be absent by A.5.1, but strict schemas in the field demand them, for a patient too.
    description = ET.SubElement(element, "ParticipantObjectDescription")
    ET.SubElement(description, "ParticipantObjectContainsStudy")
    return description
