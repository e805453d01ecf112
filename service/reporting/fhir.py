"""A report as a FHIR R4 transaction: DiagnosticReport, Observations, the model as Device, and Provenance. Pure.

Each resource is put by an identifier of its own (conditional update), so that telling twice makes nothing double, and a
newer report on the same study by the same model makes new versions of the same resources. Status is `preliminary`, or
`partial` where not all ran; what is not said any more is `entered-in-error`. Every resource that says something of the
patient carries AIAST, "Artificial Intelligence asserted". Patient, request and study are named by their identifiers
only: nothing of a person is created or changed in somebody's record.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from urllib.parse import quote

from dicom_bridge.reported import Quantity, Reported
from models.codes import Code
from service.reporting.items import COMMENT, LABEL, SITE, Item, Key, items_of, subject_of, texts_of

FORM: Final = "FHIR_R4"
SUBJECT_SYSTEM: Final = "urn:zhiying:report"
"""Of identifiers of reports and, with a slot behind, of what they say."""
MESSAGE_SYSTEM: Final = "urn:zhiying:message"

_HL7: Final = "http://terminology.hl7.org/CodeSystem/"
_DICOM_UID: Final = "urn:dicom:uid"
_SYSTEMS: Final[Mapping[str, str]] = {
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    "UMLS": f"{_HL7}umls",
}
_NAMESPACE: Final = uuid.UUID("5d2c0f0a-7f0e-5b3a-9a55-3f2f6c1b8e11")
"""Of the names by which the resources of one transaction refer to each other."""
_SECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "25045-6": ("CT", "CAT Scan"),
    "25056-3": ("NMR", "Nuclear Magnetic Resonance"),
}
_SECTION: Final = ("RAD", "Radiology")

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Record:
    """How the receiving record knows patients and requests: systems of identifiers (URIs), "" where it has none."""

    patient_system: str = ""
    accession_system: str = ""


def bundle(
    report: Reported,
    record: Record,
    message: str,
    at: datetime,
    *,
    gone: Collection[Key] = (),
    withdrawn: bool = False,
) -> bytes:
    """The transaction as UTF-8 JSON; see hl7.oru for the arguments. The same arguments give the same bytes."""
    made = _Maker(report, record, withdrawn=withdrawn)
    resources = [made.device(), *made.observations(), *made.withdrawn(gone), made.diagnostic_report()]
    entries = [_entry(resource, _search(resource, message)) for resource in resources]
    told = [entry["fullUrl"] for entry in entries[1:]]
    provenance = made.provenance(told, message, at)
    entries.append(_entry(provenance, _search(provenance, message)))
    whole = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    return _dumped(whole).encode("utf-8")


def _entry(resource: Json, search: str) -> Json:
    kind = resource["resourceType"]
    return {
        "fullUrl": _url(search),
        "resource": resource,
        "request": {"method": "PUT", "url": f"{kind}?{search}"},
    }


def _search(resource: Json, message: str) -> str:
    """What finds the resource again. A Provenance has no identifier, so that it is found by its tag."""
    if resource["resourceType"] == "Provenance":
        return f"_tag={MESSAGE_SYSTEM}|{message}"
    identifier = resource["identifier"]
    return _found_by(identifier[0] if isinstance(identifier, list) else {})


def _found_by(identifier: Mapping[str, object]) -> str:
    # A code may hold any character.
    return f"identifier={identifier['system']}|{quote(str(identifier['value']), safe=':.-')}"


def _url(search: str) -> str:
    return f"urn:uuid:{uuid.uuid5(_NAMESPACE, search)}"


class _Maker:
    """The resources of one report."""

    def __init__(self, report: Reported, record: Record, *, withdrawn: bool) -> None:
        self._report, self._record = report, record
        self._subject = subject_of(report)
        self._error = withdrawn
        self._items = items_of(report)
        self._status = "entered-in-error" if withdrawn else "preliminary"
        self._about: Json = {
            "subject": self._patient(),
            "effectiveDateTime": report.made_at.isoformat(timespec="seconds"),
            "device": self._equipment(),
            "derivedFrom": [self._study()],
        }

    def device(self) -> Json:
        """The model, of exactly this version."""
        model = self._report.equipment
        return {
            "resourceType": "Device",
            "identifier": [_uid(model.uid)],
            "manufacturer": model.vendor,
            "deviceName": [{"name": model.name, "type": "model-name"}],
            "version": [{"value": model.version}],
        }

    def observations(self) -> Iterator[Json]:
        """What the report says, but for texts; a group's numbers are its members."""
        for item in self._items:
            if item.name not in (COMMENT, LABEL, SITE):
                yield self._observation(item)

    def withdrawn(self, gone: Collection[Key]) -> Iterator[Json]:
        """What was said once, and is not any more."""
        aside = {(code.scheme, code.value) for code in (COMMENT, LABEL, SITE)}
        for scheme, value, slot in sorted(set(gone) - {item.key for item in self._items}):
            if (scheme, value) not in aside:
                yield {
                    "resourceType": "Observation",
                    "meta": _meta(),
                    "identifier": [self._identifier(f"{slot}-{value}")],
                    "status": "entered-in-error",
                    "code": {"coding": [{"system": _system(scheme), "code": value}]},
                    **self._about,
                }

    def diagnostic_report(self) -> Json:
        """The report, with the marking in the one place where it says anything in words."""
        report = self._report
        status = self._status if self._error or report.complete else "partial"
        section, display = _SECTIONS.get(report.procedure.value, _SECTION)
        made: Json = {
            "resourceType": "DiagnosticReport",
            "meta": _meta(),
            "language": report.language,
            "identifier": [self._identifier(), _uid(report.sop_uid)],
            "status": status,
            "category": [_coding(f"{_HL7}v2-0074", section, display)],
            "code": _concept(report.procedure),
            "subject": self._patient(),
            "effectiveDateTime": report.made_at.isoformat(timespec="seconds"),
            "result": [self._reference(item) for item in self._items if self._on_top(item)],
            "imagingStudy": [self._study()],
            "conclusion": "\n".join(texts_of(report)),
        }
        if report.accession:
            made["basedOn"] = [{"type": "ServiceRequest", "identifier": self._accession()}]
        return made

    def provenance(self, targets: Collection[object], message: str, at: datetime) -> Json:
        """Who says so: the model, from the images of the study."""
        kind = _coding(f"{_HL7}provenance-participant-type", "assembler", "Assembler")
        return {
            "resourceType": "Provenance",
            "meta": {**_meta(), "tag": [{"system": MESSAGE_SYSTEM, "code": message}]},
            "target": [{"reference": url} for url in targets],
            "recorded": at.astimezone(UTC).isoformat(timespec="milliseconds"),
            "agent": [{"type": kind, "who": self._equipment()}],
            "entity": [{"role": "source", "what": self._study()}],
        }

    def _observation(self, item: Item) -> Json:
        made: Json = {
            "resourceType": "Observation",
            "meta": _meta(),
            "identifier": [self._identifier(_place(item))],
            "status": self._status,
            "code": _concept(item.name),
            **self._about,
        }
        site = item.site or next((one.value for one in self._items if one.name == SITE and _of(one, item)), None)
        if isinstance(site, Code):
            made["bodySite"] = _concept(site)
        if isinstance(item.value, Quantity):
            unit = item.value.unit
            made["valueQuantity"] = {
                "value": Decimal(item.value.value),
                "unit": unit.meaning,
                "system": _system(unit.scheme),
                "code": unit.value,
            }
            if item.value.method is not None:
                made["method"] = _concept(item.value.method)
        elif isinstance(item.value, Code):
            made["valueCodeableConcept"] = _concept(item.value, item.words)
        members = [one for one in self._items if isinstance(one.value, Quantity) and _group(one) == item.slot]
        if members:
            made["hasMember"] = [self._reference(one) for one in members]
        label = [one.value for one in self._items if one.name == LABEL and one.slot == item.slot]
        if label:
            made["note"] = [{"text": text} for text in label]
        return made

    def _on_top(self, item: Item) -> bool:
        return item.name not in (COMMENT, LABEL, SITE) and not isinstance(item.value, Quantity)

    def _identifier(self, place: str = "") -> Json:
        return {"system": SUBJECT_SYSTEM, "value": f"{self._subject}-{place}" if place else self._subject}

    def _reference(self, item: Item) -> Json:
        return {"reference": _url(_found_by(self._identifier(_place(item))))}

    def _equipment(self) -> Json:
        return {"reference": _url(_found_by(_uid(self._report.equipment.uid)))}

    def _patient(self) -> Json:
        patient = self._report.patient
        identifier: Json = {"type": _coding(f"{_HL7}v2-0203", "PI", "Patient internal identifier"), "value": patient.id}
        if self._record.patient_system:
            identifier["system"] = self._record.patient_system
        if patient.issuer:
            identifier["assigner"] = {"display": patient.issuer}
        return {"type": "Patient", "identifier": identifier}

    def _accession(self) -> Json:
        identifier: Json = {"type": _coding(f"{_HL7}v2-0203", "ACSN", "Accession ID"), "value": self._report.accession}
        if self._record.accession_system:
            identifier["system"] = self._record.accession_system
        return identifier

    def _study(self) -> Json:
        return {"type": "ImagingStudy", "identifier": _uid(self._report.study_uid)}


def _place(item: Item) -> str:
    """What of a report an Observation is; a code of another name in the same slot is another Observation."""
    return f"{item.slot}-{item.name.value}"


def _group(item: Item) -> str:
    """The slot of the statement or group that a number belongs to."""
    return item.slot.partition(".")[0]


def _of(site: Item, item: Item) -> bool:
    return site.slot == _group(item)


def _meta() -> Json:
    asserted = {"system": f"{_HL7}v3-ObservationValue", "code": "AIAST", "display": "Artificial Intelligence asserted"}
    return {"security": [asserted]}


def _uid(uid: str) -> Json:
    return {"system": _DICOM_UID, "value": f"urn:oid:{uid}"}


def _system(scheme: str) -> str:
    return _SYSTEMS.get(scheme, f"urn:zhiying:scheme:{scheme}")


def _concept(code: Code, words: str = "") -> Json:
    made = _coding(_system(code.scheme), code.value, code.meaning)
    return {**made, "text": words} if words else made


def _coding(system: str, code: str, display: str) -> Json:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _dumped(value: object) -> str:
    """JSON in which a decimal keeps its digits: 1951.30 is not 1951.3 (FHIR: precision is meant)."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(name)}:{_dumped(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_dumped(one) for one in value) + "]"
    if isinstance(value, str):
        # FHIR allows no other control characters, escaped or not.
        value = _CONTROL.sub("\ufffd", value)
    return json.dumps(value, ensure_ascii=False)
