"""Rejection notes: they name what the PACS holds of a result, each and nothing else, and say why; judged by others."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge import key_images, uids
from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.rejection import (
    Reason,
    check_rejection,
    named_of,
    predecessors,
    rejection_uid,
    write_rejection,
)
from dicom_bridge.report import write_sr
from dicom_bridge.result_context import MARKING
from dicom_bridge.validity import OutputInvalid
from dicom_bridge.verdict import rejects
from tests.simulators import findings as phantom
from tests.simulators import validators
from tests.simulators.written import write_seg
from tests.unit.dicom_bridge.test_report_matrix import coded, named

SHAPE = (12, 32, 40)
TITLES = {
    Reason.QUALITY: ("113001", "Rejected for Quality Reasons"),
    Reason.SAFETY: ("113037", "Rejected for Patient Safety Reasons"),
    Reason.SUPERSEDED: ("113001", "Rejected for Quality Reasons"),
}


def result(folder: Path, **context: object) -> tuple[Dataset, list[Dataset]]:
    """A report and all objects of its call, with every kind of key image, as files."""
    sources = phantom.series(SHAPE)
    found, about = phantom.findings(phantom.ellipsoid(SHAPE)), phantom.context(**context)  # type: ignore[arg-type]
    manifest = phantom.manifest()
    seg = write_seg(found, manifest, phantom.REF, sources, about)
    (folder / "seg.dcm").write_bytes(seg)
    (folder / "sr.dcm").write_bytes(write_sr(found, manifest, phantom.REF, sources, dcmread(io.BytesIO(seg)), about))
    voxels = np.zeros(SHAPE, np.float32)
    for name, data in key_images.write(tuple(KeyImage), found, manifest, phantom.REF, sources, voxels, about):
        (folder / name).write_bytes(data)
    files = [folder / "seg.dcm", folder / "sr.dcm", *key_images.files(folder)]
    return dcmread(folder / "sr.dcm"), list(named_of([*files, folder / "gone.dcm"]).values())


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize(("language", "charset"), [("zh-CN", "GB18030"), ("zh-CN", "ISO_IR 192"), ("en-US", "GB18030")])
@pytest.mark.parametrize("person", ["li.m", None])
def test_judges_accept_every_note(reason, language, charset, person, tmp_path: Path) -> None:
    """dciodvfy has no error and no warning, dsrdump reads it; title, words and person are those of the withdrawal."""
    report, objects = result(tmp_path, language=language, charset=charset)
    path = tmp_path / "note.dcm"
    path.write_bytes(write_rejection(report, objects, reason, person, phantom.context(language, charset)))
    assert validators.dciodvfy(path) == []
    assert validators.dciodvfy_warnings(path) == []
    assert validators.dsrdump(path) == []
    ds = dcmread(path)
    (title,) = ds.ConceptNameCodeSequence
    assert (title.CodeValue, title.CodeMeaning) == TITLES[reason]
    assert [str(i.PersonName).rstrip("^") for i in named(ds, "121008")] == ([] if person is None else [person])
    assert [coded(i) for i in named(ds, "121005")] == (["121007"] if person is None else ["121007", "121006"])
    (text,) = named(ds, "113012")
    assert text.TextValue.endswith(MARKING[language])


@pytest.mark.slow
@pytest.mark.parametrize(("reason", "person"), [(Reason.QUALITY, "li.m"), (Reason.SAFETY, None)])
def test_the_judge_of_templates_accepts_it(reason: Reason, person: str | None, tmp_path: Path) -> None:
    """PixelMed, which knows TID 2010: no error."""
    report, objects = result(tmp_path)
    path = tmp_path / "note.dcm"
    path.write_bytes(write_rejection(report, objects, reason, person, phantom.context()))
    assert validators.sr_validator(path) == []


def test_it_names_every_object(tmp_path: Path) -> None:
    """Images as images, all else as composites, in evidence under their own series; of the same patient and study."""
    report, objects = result(tmp_path)
    assert len(objects) == 5
    data = write_rejection(report, objects, Reason.SAFETY, None, phantom.context())
    ds = check_rejection(data, report, objects, Reason.SAFETY)
    kinds = {kind: uids.derive(kind, phantom.CALL) for kind in ("SEG", "SR", "GSPS", "KOS")}
    kinds["SC"] = uids.derive("SC", phantom.CALL, "1")
    types = {i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: i.ValueType for i in ds.ContentSequence[-5:]}
    assert types == {
        **dict.fromkeys((kinds["SEG"], kinds["SC"]), "IMAGE"),
        **dict.fromkeys((kinds["SR"], kinds["GSPS"], kinds["KOS"]), "COMPOSITE"),
    }
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    listed = {
        series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: series.SeriesInstanceUID
        for series in study.ReferencedSeriesSequence
    }
    assert listed == {kinds[kind]: uids.derive(f"{kind}-SERIES", phantom.CALL) for kind in kinds}
    assert (ds.SOPInstanceUID, ds.SeriesNumber) == (rejection_uid(phantom.CALL), 9007)
    assert ds.SeriesInstanceUID not in listed.values()
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
        assert ds.get(keyword) == report.get(keyword)
    assert write_rejection(report, objects, Reason.SAFETY, None, phantom.context()) == data


def test_it_names_a_picture_of_no_finding(tmp_path: Path) -> None:
    """A report without a segmentation and the picture beside it: two objects, both named, the picture as an image."""
    sources, context = phantom.series(SHAPE), phantom.context()
    about = (phantom.findings(np.zeros(SHAPE, np.bool_)), phantom.manifest(), phantom.REF, sources)
    (tmp_path / "sr.dcm").write_bytes(write_sr(*about, None, context))
    for name, data in key_images.write([KeyImage.NO_FINDING], *about, np.zeros(SHAPE, np.float32), context):
        (tmp_path / name).write_bytes(data)
    objects = list(named_of([tmp_path / "sr.dcm", *key_images.files(tmp_path)]).values())
    report = dcmread(tmp_path / "sr.dcm")
    note = check_rejection(
        write_rejection(report, objects, Reason.SUPERSEDED, None, context), report, objects, Reason.SUPERSEDED
    )
    types = {i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: i.ValueType for i in note.ContentSequence[-2:]}
    assert types == {context.uid("SR"): "COMPOSITE", context.uid("SC", "0"): "IMAGE"}


def test_whoever_reads_it_as_a_reader_s_word_would_take_it_for_a_rejection(tmp_path: Path) -> None:
    """It rejects all of ours by its title: why `verdicts` must know it by its UID."""
    report, objects = result(tmp_path)
    ds = dcmread(io.BytesIO(write_rejection(report, objects, Reason.QUALITY, "li.m", phantom.context())))
    assert rejects(ds, frozenset(str(one.SOPInstanceUID) for one in objects))


def test_predecessors_are_read_from_the_report(tmp_path: Path) -> None:
    """None of a first report, the older one's of a later report, none where the file is gone."""
    report, _ = result(tmp_path)
    assert predecessors(tmp_path / "sr.dcm") == []
    assert predecessors(tmp_path / "gone.dcm") == []
    later = tmp_path / "later"
    later.mkdir()
    result(later, call="9" * 32, predecessors=(report,))
    assert predecessors(later / "sr.dcm") == [report.SOPInstanceUID]


def test_a_report_that_names_no_algorithm_is_refused(tmp_path: Path) -> None:
    """Of whose result nobody can say nothing is withdrawn."""
    report, objects = result(tmp_path)
    del report.ContributingEquipmentSequence
    with pytest.raises(OutputInvalid) as refused:
        write_rejection(report, objects, Reason.QUALITY, None, phantom.context())
    assert refused.value.code == "ALGORITHM_IDENTITY_DIFFERS"


def one_less(ds: Dataset) -> None:
    """A damage: an object is not named, nor in the evidence."""
    del ds.ContentSequence[-1]
    del ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[-1]


DAMAGES: dict[str, tuple[str, Callable[[Dataset], object]]] = {
    "another reason": (
        "KEY_IMAGE_UNDECLARED",
        lambda ds: setattr(ds.ConceptNameCodeSequence[0], "CodeValue", "113001"),
    ),
    "one less": ("EVIDENCE_DIFFERS", one_less),
    "another patient": ("IDENTITY_DIFFERS", lambda ds: setattr(ds, "PatientID", "TEST-0002")),
    "another study": ("IDENTITY_DIFFERS", lambda ds: setattr(ds, "StudyInstanceUID", "1.2.3")),
    "no marking": ("MARKING_MISSING", lambda ds: setattr(named(ds, "113012")[0], "TextValue", "withdrawn")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_before_sending_knows_each_rule(damage: str, tmp_path: Path) -> None:
    """Each rule, broken alone in a note that is right, stops it with the rule's own code."""
    code, break_it = DAMAGES[damage]
    report, objects = result(tmp_path)
    data = write_rejection(report, objects, Reason.SAFETY, "li.m", phantom.context())
    ds = dcmread(io.BytesIO(data))
    break_it(ds)
    out = io.BytesIO()
    ds.save_as(out)
    with pytest.raises(OutputInvalid) as refused:
        check_rejection(out.getvalue(), report, objects, Reason.SAFETY)
    assert refused.value.code == code
