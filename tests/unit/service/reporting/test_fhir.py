"""The FHIR transaction of every outcome, judged by a library that is not ours, and put into a server twice."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.reported import Quantity
from dicom_bridge.result_context import MARKING
from models.codes import Code
from service.reporting.fhir import Record as Known
from service.reporting.fhir import bundle
from service.reporting.items import items_of
from tests.simulators.fhir_server import Record
from tests.simulators.reports import AT, CELLS, of_patient, report_of

KNOWN = Known("urn:oid:2.25.1", "urn:oid:2.25.2")


def told(data: bytes) -> list[Any]:
    """The resources, as the judge has read them: it knows R4B, of which these kinds are R4's own."""
    Bundle.model_validate_json(data)
    return [entry["resource"] for entry in json.loads(data, parse_float=Decimal)["entry"]]


def of(kind: str, resources: list[Any]) -> list[Any]:
    """Those of a kind."""
    return [one for one in resources if one["resourceType"] == kind]


@pytest.mark.parametrize("cell", CELLS, ids=" ".join)
def test_every_outcome_has_its_form(cell: tuple[str, str, str]) -> None:
    """Valid; never final; the numbers, units and codes are the report's; words come with the marking."""
    report = report_of(*cell)
    resources = told(bundle(report, KNOWN, "ID-1", AT))
    (summary,), (device,) = of("DiagnosticReport", resources), of("Device", resources)
    observations = of("Observation", resources)
    assert summary["status"] == ("preliminary" if report.complete else "partial")
    assert {one["status"] for one in observations} == {"preliminary"}
    assert summary["conclusion"].startswith(MARKING[cell[2]])
    numbers = [
        *(number for one in report.statements for number in one.numbers),
        *(number for one in report.groups for number in one.numbers),
    ]
    assert [
        (str(one["valueQuantity"]["value"]), one["valueQuantity"]["code"], one["valueQuantity"]["system"])
        for one in observations
        if "valueQuantity" in one
    ] == [(one.value, one.unit.value, "http://unitsofmeasure.org") for one in numbers]
    values = {
        (one["code"]["coding"][0]["code"], one["valueCodeableConcept"]["coding"][0]["code"])
        for one in observations
        if "valueCodeableConcept" in one
    }
    assert ("111017", report.summary.value) in values
    assert {(one.name.value, one.value.value) for one in report.statements} <= values
    assert device["version"] == [{"value": report.equipment.version}]
    assert device["deviceName"][0]["name"] == report.equipment.name


@pytest.mark.parametrize("cell", CELLS, ids=" ".join)
def test_whatever_speaks_of_a_patient_says_that_a_machine_does(cell: tuple[str, str, str]) -> None:
    """AIAST on each of them, and a Provenance over all, whose author is the model and whose source is the study."""
    data = bundle(report_of(*cell), KNOWN, "ID-1", AT)
    entries = json.loads(data)["entry"]
    for entry in entries:
        if entry["resource"]["resourceType"] != "Device":
            (label,) = entry["resource"]["meta"]["security"]
            assert label["code"] == "AIAST"
    (provenance,) = of("Provenance", told(data))
    spoken = {
        one["fullUrl"] for one in entries if one["resource"]["resourceType"] in ("Observation", "DiagnosticReport")
    }
    assert {one["reference"] for one in provenance["target"]} == spoken
    assert provenance["agent"][0]["who"]["reference"] == entries[0]["fullUrl"]
    assert provenance["entity"][0]["what"]["type"] == "ImagingStudy"


def test_patient_request_and_study_by_their_identifiers() -> None:
    """No Patient, ServiceRequest or ImagingStudy is made in somebody's record, and no name leaves."""
    report = report_of()
    data = bundle(report, KNOWN, "ID-1", AT)
    assert {one["resourceType"] for one in told(data)} == {"Device", "Observation", "DiagnosticReport", "Provenance"}
    (summary,) = of("DiagnosticReport", told(data))
    assert summary["subject"]["identifier"] | {"type": None} == {
        "type": None,
        "system": "urn:oid:2.25.1",
        "value": "TEST-0001",
        "assigner": {"display": "TESTHOSP"},
    }
    assert summary["basedOn"][0]["identifier"]["value"] == report.accession
    assert summary["imagingStudy"][0]["identifier"]["value"] == f"urn:oid:{report.study_uid}"
    assert report.patient.name.encode() not in data
    assert report.patient.birth_date.encode() not in data
    assert "basedOn" not in of("DiagnosticReport", told(bundle(replace(report, accession=""), KNOWN, "ID-1", AT)))[0]


def test_every_reference_leads_somewhere() -> None:
    """Within a transaction, what is referred to is in it; a group's members are its numbers."""
    entries = json.loads(bundle(report_of("detections"), KNOWN, "ID-1", AT))["entry"]
    urls = [one["fullUrl"] for one in entries]
    assert len(set(urls)) == len(urls)

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["reference"]] if "reference" in value else []
            return own + [one for inner in value.values() for one in references(inner)]
        return [one for inner in value for one in references(inner)] if isinstance(value, list) else []

    found = references(entries)
    assert found
    assert set(found) <= set(urls)
    groups = [one["resource"] for one in entries if "hasMember" in one["resource"]]
    assert len(groups) == len(report_of("detections").groups)


def test_told_twice_it_is_there_once() -> None:
    """Conditional updates: the second time makes new versions of the same resources, and nothing double."""
    data = bundle(report_of(), KNOWN, "ID-1", AT)
    with Record() as record:
        record.take(data)
        before = dict(record.held)
        record.take(data)
        assert record.held == before
        assert record.complaints == []
        assert set(record.versions.values()) == {2}


def test_a_newer_report_replaces_and_takes_back() -> None:
    """Same study and model: the same DiagnosticReport; what is not said any more is entered in error, once."""
    before, now = report_of("detections", "findings"), report_of("detections", "partly failed")
    keys = [item.key for item in items_of(before)]
    with Record() as record:
        record.take(bundle(before, KNOWN, "ID-1", AT))
        first = {url for url, one in record.held.items() if one["resourceType"] == "Observation"}
        second = bundle(now, KNOWN, "ID-2", AT, gone=keys)
        told(second)
        record.take(second)
        assert record.complaints == []
        (summary,) = record.of("DiagnosticReport")
        assert summary["status"] == "partial"
        gone = {url for url, one in record.held.items() if one.get("status") == "entered-in-error"}
        assert gone
        assert gone < first
        assert all("valueQuantity" not in record.held[url] for url in gone)
        held = [one for one in record.of("Observation") if one["status"] == "preliminary"]
        assert len(held) == len(of("Observation", told(bundle(now, KNOWN, "ID-2", AT))))


def test_a_result_that_was_wrong_is_withdrawn_whole() -> None:
    """Report and observations are entered in error."""
    resources = told(bundle(report_of(), KNOWN, "ID-1", AT, withdrawn=True))
    assert {one["status"] for one in resources if "status" in one} == {"entered-in-error"}


@given(st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=40))
def test_no_text_makes_it_invalid(text: str) -> None:
    """Whatever a header or a manifest holds is text, in JSON and in a search."""
    usual = report_of()
    code = Code("[in_i'H2O]", "UCUM", "x")
    number = replace(usual.groups[0].numbers[0], name=code)
    report = replace(usual, groups=(replace(usual.groups[0], label=f"a{text}", numbers=(number,)),))
    report = replace(of_patient(report, id=f"a{text}", issuer=f"a{text}"), accession=f"a{text}")
    resources = told(bundle(report, KNOWN, "ID-1", AT))
    assert len(of("Observation", resources)) == len(of("Observation", told(bundle(report, KNOWN, "ID-1", AT))))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=-99999, max_value=99999))
def test_every_digit_is_the_reports(value: Decimal) -> None:
    """No rounding, no exponent, no zero lost: FHIR means the precision of a decimal."""
    usual = report_of()
    number = Quantity(usual.groups[0].numbers[0].name, f"{value:.9f}", usual.groups[0].numbers[0].unit)
    report = replace(usual, groups=(replace(usual.groups[0], numbers=(number,)),))
    assert f'"value":{value:.9f},"unit"'.encode() in bundle(report, KNOWN, "ID-1", AT)


def test_the_same_arguments_give_the_same_bytes() -> None:
    """A retry that is made anew is the same."""
    assert bundle(report_of(), KNOWN, "ID-1", AT) == bundle(report_of(), KNOWN, "ID-1", AT)
