"""Content items: encoded by hand they are, byte for byte, what pydicom writes of the same."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge import content
from dicom_bridge.peers import ReportGroups
from dicom_bridge.receipt import Receipt
from dicom_bridge.report import write_denial, write_sr
from dicom_bridge.segmentation import make_seg
from dicom_bridge.unfit import OutputInvalid
from inference.types import Classification, Detection, FailedOutput, Findings
from models.codes import Code
from tests.simulators import findings as phantom

BRAIN = Code("12738006", "SCT", "脑")
VOLUME = Code("118565006", "SCT", "Volume")
CM3 = Code("cm3", "UCUM", "立方厘米")
TREE = 0x0040A730


def rewritten(data: bytes) -> bytes:
    """The same object, each value read and encoded anew by pydicom."""
    ds = dcmread(io.BytesIO(data))
    assert sum(1 for _ in ds.iterall()) > 100
    for element in ds.iterall():
        assert not element.is_raw
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue()


def objects(charset: str, groups: ReportGroups) -> list[bytes]:
    """Results of every kind: segments with Chinese names, detections, classifications, what superseded, a refusal."""
    shape = (6, 16, 12)
    sources = phantom.series(shape)
    base = phantom.manifest(lesions=True)
    named = replace(base.segments[0], label="脑 brain", type=BRAIN)
    manifest = replace(base, segments=(named, base.segments[1]))
    context = phantom.context(
        "zh-CN",
        charset,
        report_groups=groups,
        decide_at="https://ai.hospital.test/decide",
        receipt=Receipt(3, "脑\n"),
    )
    found = phantom.findings(phantom.ellipsoid(shape), phantom.ellipsoid(shape, size=0.2))
    seg, read = make_seg(found, manifest, phantom.REF, sources, context)
    sr = write_sr(found, manifest, phantom.REF, sources, read, context)
    later = replace(context, predecessors=(dcmread(io.BytesIO(sr)),))
    box, point = Detection("nodule", (2, 3, 4), (2, 6, 8), 0.9), Detection("bleed", (1, 2, 3), (1, 2, 3), 0.7)
    detected = Findings((), (), {}, "cpu", detections=(box, point))
    said = (Classification("effusion", "PRESENT", 0.9), Classification("pneumothorax", "ABSENT", 0.25))
    late = FailedOutput("heat_map:late", "MODEL_OUTPUT_INVALID")
    classified = Findings((), (), {}, "cpu", classifications=said, failed=(late,))
    return [
        seg,
        sr,
        write_sr(found, manifest, phantom.REF, sources, read, later),
        write_sr(detected, phantom.manifest(kind="detections"), phantom.REF, sources, None, context),
        write_sr(classified, phantom.manifest(kind="classifications"), phantom.REF, sources, None, context),
        write_denial("EXPIRED", manifest, phantom.REF, sources, context),
    ]


@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
@pytest.mark.parametrize("groups", ReportGroups)
def test_pydicom_writes_the_same_bytes(charset: str, groups: ReportGroups) -> None:
    """Read whole and written again by another encoder, each object is the same to the last byte."""
    for data in objects(charset, groups):
        assert rewritten(data) == data


def put(*items: content.Item, charset: str = "ISO_IR 192") -> Dataset:
    """A data set with this tree."""
    ds = Dataset()
    ds.SpecificCharacterSet = charset
    content.put(ds, items, charset)  # type: ignore[arg-type]
    return ds


def test_each_verb_says_what_it_is_given() -> None:
    """Type, relationship, name and value of each kind of item, and what is below it."""
    on = content.image(content.SELECTED, "1.2.3", "1.2.4", frame=5)
    line = content.polyline(content.INFERRED, VOLUME, np.array([[0.5, 1.5], [2, 3]], np.float32), on)
    dot = content.point(content.CONTAINS, VOLUME, np.array([[4, 5]], np.float32), on)
    segment = content.image(content.CONTAINS, "1.2.3", "1.2.5", name=VOLUME, segment=300)
    number = content.number(VOLUME, "1.50", CM3, [line])
    children = [content.code(content.MODIFIER, VOLUME, BRAIN), content.text(content.CONTEXT, VOLUME, "幻影"), number]
    ds = put(
        content.container(BRAIN, [*children, dot, segment], tid="1411"), content.uid(content.CONTEXT, BRAIN, "2.25.1")
    )
    group, uid = ds.ContentSequence
    assert (uid.ValueType, uid.RelationshipType, uid.UID) == ("UIDREF", "HAS OBS CONTEXT", "2.25.1")
    assert (group.ValueType, group.ContinuityOfContent) == ("CONTAINER", "SEPARATE")
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1411"
    assert group.ConceptNameCodeSequence[0].CodeMeaning == "脑"
    code, text, num, scoord, image = group.ContentSequence
    assert (code.ValueType, code.RelationshipType) == ("CODE", "HAS CONCEPT MOD")
    assert code.ConceptCodeSequence[0].CodeValue == "12738006"
    assert (text.ValueType, text.TextValue) == ("TEXT", "幻影")
    (measured,) = num.MeasuredValueSequence
    assert (num.ValueType, str(measured.NumericValue)) == ("NUM", "1.50")
    assert measured.MeasurementUnitsCodeSequence[0].CodeMeaning == "立方厘米"
    (drawn,) = num.ContentSequence
    assert (drawn.ValueType, drawn.GraphicType, drawn.GraphicData) == ("SCOORD", "POLYLINE", [0.5, 1.5, 2, 3])
    (shown,) = drawn.ContentSequence
    reference = shown.ReferencedSOPSequence[0]
    assert (shown.ValueType, shown.RelationshipType) == ("IMAGE", "SELECTED FROM")
    assert "ConceptNameCodeSequence" not in shown
    assert (reference.ReferencedSOPInstanceUID, reference.ReferencedFrameNumber) == ("1.2.4", 5)
    assert (scoord.GraphicType, scoord.GraphicData) == ("POINT", [4, 5])
    assert image.ReferencedSOPSequence[0].ReferencedSegmentNumber == 300


UNFIT = {
    "text beyond Unicode": content.text(content.CONTAINS, BRAIN, "\ud800"),
    "a UID that is no ASCII": content.uid(content.CONTAINS, BRAIN, "2.25.幻"),
    "a decimal of 17 characters": content.number(VOLUME, "12345678901234.75", CM3),
    "an outline of 70 kB": content.polyline(
        content.CONTAINS, VOLUME, np.zeros((9000, 2), np.float32), content.image(content.SELECTED, "1.2.3", "1.2.4")
    ),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_fits_not_its_place_is_not_written(what: str) -> None:
    """Refused with a code, whether at the top or deep down; never cut or replaced."""
    for item in (UNFIT[what], content.container(BRAIN, [content.container(BRAIN, [UNFIT[what]])])):
        with pytest.raises(OutputInvalid) as refused:
            put(item)
        assert refused.value.code == "NOT_ENCODABLE"


def test_sixteen_characters_are_a_decimal() -> None:
    """The longest that holds (PS3.5 6.2)."""
    (item,) = put(content.number(VOLUME, "1234567890123.75", CM3)).ContentSequence
    assert str(item.MeasuredValueSequence[0].NumericValue) == "1234567890123.75"
