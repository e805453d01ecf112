"""The answer to a STOW-RS request: its HTTP status (PS3.18 table 10.5.3-1) and its body (PS3.18 annex I), two forms.

Nothing but UIDs and numbers stands in it. Retrieve URL (0008,1190), type 2, is empty: we give nothing back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from dicom_bridge.stow import Broken, Failure, Reference, Report

JSON: Final = "application/dicom+json"
XML: Final = "application/dicom+xml"

_RETRIEVE_URL: Final = "00081190"
_FAILED: Final = "00081198"
_STORED: Final = "00081199"
_OTHER: Final = "0008119A"
_CLASS: Final = "00081150"
_INSTANCE: Final = "00081155"
_REASON: Final = "00081197"
_KEYWORDS: Final = {
    _RETRIEVE_URL: "RetrieveURL",
    _FAILED: "FailedSOPSequence",
    _STORED: "ReferencedSOPSequence",
    _OTHER: "OtherFailuresSequence",
    _CLASS: "ReferencedSOPClassUID",
    _INSTANCE: "ReferencedSOPInstanceUID",
    _REASON: "FailureReason",
}


def http_status(report: Report) -> int:
    """200: all stored. 202: some. Of none: 413 or 400 by what broke the body, 503 when all may be sent again later,
    else 409.
    """
    if report.stored:
        return 202 if report.failed else 200
    if report.broken is Broken.TOO_LARGE:
        return 413
    if report.broken is Broken.MALFORMED or not report.failed:
        return 400
    return 503 if all(failure.reason >> 8 == 0xA7 for failure in report.failed) else 409


def as_json(report: Report) -> dict[str, Any]:
    """The Store Instances Response Module in the DICOM JSON model (PS3.18 annex F)."""
    return {tag: _json(vr, values) for tag, vr, values in _module(report)}


def as_xml(report: Report) -> str:
    """The same in the Native DICOM model (PS3.19 annex A.1)."""
    inside = "".join(_xml(*attribute) for attribute in _module(report))
    return f'<?xml version="1.0" encoding="UTF-8"?><NativeDicomModel xml:space="preserve">{inside}</NativeDicomModel>'


_Attribute = tuple[str, str, Sequence[Any]]
"""Tag, VR, values; those of a sequence are lists of attributes."""


def _module(report: Report) -> Iterator[_Attribute]:
    yield _RETRIEVE_URL, "UR", ()
    named = [failure for failure in report.failed if failure.reference is not None]
    other = [failure for failure in report.failed if failure.reference is None]
    if named:
        yield _FAILED, "SQ", [[*_reference(one.reference), _reason(one)] for one in named]
    if report.stored:
        yield _STORED, "SQ", [[*_reference(one), (_RETRIEVE_URL, "UR", ())] for one in report.stored]
    if other:
        yield _OTHER, "SQ", [[_reason(one)] for one in other]


def _reference(reference: Reference | None) -> list[_Attribute]:
    if reference is None:
        return []
    return [(_CLASS, "UI", (reference.sop_class,)), (_INSTANCE, "UI", (reference.sop_uid,))]


def _reason(failure: Failure) -> _Attribute:
    return _REASON, "US", (failure.reason,)


def _json(vr: str, values: Sequence[Any]) -> dict[str, Any]:
    if vr == "SQ":
        values = [{tag: _json(kind, inner) for tag, kind, inner in sorted(item)} for item in values]
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def _xml(tag: str, vr: str, values: Sequence[Any]) -> str:
    if vr == "SQ":
        items = ("".join(_xml(*attribute) for attribute in sorted(item)) for item in values)
        inside = "".join(f'<Item number="{number}">{item}</Item>' for number, item in enumerate(items, 1))
    else:
        inside = "".join(f'<Value number="{number}">{value}</Value>' for number, value in enumerate(values, 1))
    return f'<DicomAttribute tag="{tag}" vr="{vr}" keyword="{_KEYWORDS[tag]}">{inside}</DicomAttribute>'
