"""Reports of every outcome, as the bridge writes them: what tellers of reports are fed in tests."""

from __future__ import annotations

import functools
import io
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydicom import dcmread

from dicom_bridge.report import write_denial
from dicom_bridge.reported import Reported, read_reported
from tests.simulators import findings as phantom
from tests.unit.dicom_bridge.test_report_matrix import KINDS, LANGUAGES, OUTCOMES, make

NOT_PERFORMED = "not performed"
CELLS = [
    (kind, outcome, language) for kind in KINDS for outcome in (*OUTCOMES, NOT_PERFORMED) for language in LANGUAGES
]
AT = datetime(2026, 11, 23, 16, 30, 0, 250000, UTC)


@functools.cache
def data_of(kind: str, outcome: str, language: str = "en-US") -> bytes:
    """The report of one cell as a file."""
    if outcome == NOT_PERFORMED:
        manifest = phantom.manifest(lesions=True, kind=kind.removeprefix("planar "))
        context = phantom.context(language)
        return write_denial("AGE_NOT_COVERED", manifest, phantom.REF, phantom.series((6, 16, 12)), context)
    with tempfile.TemporaryDirectory() as folder:
        return make(kind, outcome, Path(folder), language=language).data


def report_of(kind: str = "segments", outcome: str = "findings", language: str = "en-US") -> Reported:
    """The same, read."""
    return read_reported(data_of(kind, outcome, language))


def of_patient(report: Reported, **changes: str) -> Reported:
    """The report of another patient."""
    return replace(report, patient=replace(report.patient, **changes))


def changed(data: bytes, **attributes: object) -> bytes:
    """The file with other attributes."""
    ds = dcmread(io.BytesIO(data))
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue()
