"""The files of a call: made once, the same bytes for ever, and never an object that is not valid."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset

from audit.checkpoint import Checkpoint
from audit.note import Signer
from dicom_bridge import key_images, receipt, uids
from dicom_bridge.attributes import Attributes
from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.peers import ReportGroups, Segmentation
from dicom_bridge.readback import read_document, read_report, read_segmentation
from dicom_bridge.receipt import Receipt
from dicom_bridge.validity import OutputInvalid
from dicom_bridge.volume import LoadedSeries
from inference.errors import FindingsCorrupt
from inference.types import FailedOutput, Findings, HeatMap, SegmentMask, Volume
from models.library import VerifiedModel
from models.manifest import HeatMapSpec
from service.results import FINDINGS, ResultStyle, ResultWriter
from tests.simulators import findings as simulated

SHAPE = (12, 32, 40)
CALL, LATER = "a1" * 16, "b2" * 16
INTENDED = "2026-11-23T16:07:12.123456Z"
LOG = Signer.generate("test-site.zhiying/audit")
RECEIPT = Receipt(7, Checkpoint.sign(LOG, LOG.name, 8, bytes(32)).note)
_PLAIN, _LESIONS = simulated.manifest(), simulated.manifest(lesions=True)
ABNORMAL = replace(_PLAIN, segments=(replace(_PLAIN.segments[0], category=_LESIONS.segments[1].category),))
"""One segment, of something that had better not be there."""
BLEED = HeatMapSpec("bleed", "Hemorrhage", *(2 * [_LESIONS.segments[1].type]), (34886, 53484, 50172), calibrated=True)
STYLE = ResultStyle(device_serial="test-site", version="0.1.0", language="zh-CN", charset="ISO_IR 192")


def _loaded() -> LoadedSeries:
    voxels = np.zeros(SHAPE, dtype=np.float32)
    volume = Volume(voxels=voxels, affine=np.eye(4), source_digest="sha256:" + "cd" * 32, modality="MR")
    attributes = Attributes("MR", "HEAD", 76.0, "F", "Test Phantom Works", 2.0)
    return LoadedSeries(volume, tuple(simulated.series(SHAPE)), attributes, 2.0)


MODEL = VerifiedModel(simulated.REF, simulated.manifest(), Path("unused"), MappingProxyType({}))
LOADED = _loaded()


def _tree(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence", ()):
        yield item
        yield from _tree(item)


def _found() -> Findings:
    return simulated.findings(simulated.ellipsoid(SHAPE))


@pytest.fixture
def writer(tmp_path: Path) -> ResultWriter:
    """A writer with one call's findings kept."""
    made = ResultWriter(tmp_path / "results", STYLE)
    made.keep(CALL, _found())
    return made


def test_findings_are_kept(writer: ResultWriter, tmp_path: Path) -> None:
    """What the model answered is there after a restart, for its own call only."""
    again = ResultWriter(tmp_path / "results", STYLE)

    assert again.kept(CALL)
    assert not again.kept(LATER)


@pytest.mark.parametrize("damage", [b"", b"zhiying.findings/1\n", b"rubbish" * 100])
def test_damaged_findings_are_not_kept(writer: ResultWriter, tmp_path: Path, damage: bytes) -> None:
    """A file that is not whole counts as no answer: the model is asked again, never believed in part."""
    (tmp_path / "results" / CALL / FINDINGS).write_bytes(damage)

    assert not writer.kept(CALL)
    with pytest.raises(FindingsCorrupt):
        writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)
    writer.keep(CALL, _found())
    assert writer.kept(CALL)


def test_what_is_written_is_what_is_said(writer: ResultWriter) -> None:
    """Kind, UID and digest of each object are those of the files, SEG first, and the numbers are the manifest's."""
    written = writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)

    seg, sr = writer.files(CALL)
    assert [o["kind"] for o in written.outputs] == ["SEG", "SR"]
    for output, path in zip(written.outputs, (seg, sr), strict=True):
        assert output["digest"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        assert output["uid"] == uids.derive(output["kind"], CALL)
    assert [read_segmentation(seg).sop_uid, read_report(sr).sop_uid] == [o["uid"] for o in written.outputs]
    for path in (seg, sr):
        assert receipt.read(receipt.read_bytes(path.read_bytes()), LOG.verifier)[0] == RECEIPT
    assert (written.software, written.deadline_ms) == ("zhiying 0.1.0", round(1000 * MODEL.manifest.deadline_s))
    value = f"{_found().measurements[0].value:.1f}"
    assert written.measurements == [{"code": "118565006", "value": value, "unit": "cm3"}]
    assert (written.timing_ms["total"], written.device) == (6, "cpu")


def test_the_log_and_the_report_say_the_same_number(writer: ResultWriter) -> None:
    """The value in CALL_RESULT is the value that the radiologist reads."""
    written = writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)

    (number,) = read_report(writer.files(CALL)[1]).numbers
    assert f"{float(number.value):.1f}" == written.measurements[0]["value"]


def test_the_link_is_to_this_call(tmp_path: Path) -> None:
    """Where the site has an address, report and pictures carry the link of this very call; a refusal has none."""
    style = replace(STYLE, decide_at="https://ai.example/", key_images=(KeyImage.SC,))
    writer = ResultWriter(tmp_path / "results", style)
    writer.keep(CALL, _found())
    writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)

    link = f"https://ai.example/decide/{CALL}"
    _, sr, picture = writer.files(CALL)
    texts = [str(item.TextValue) for item in _tree(read_document(sr)) if item.get("ValueType") == "TEXT"]
    assert [text for text in texts if "/decide/" in text] == [link]
    assert link.encode() in picture.read_bytes()
    denied = writer.deny("denied:run-1", "NO_APPROVAL", MODEL, LOADED, INTENDED, RECEIPT)
    assert b"/decide/" not in denied.read_bytes()


def test_written_again_it_is_the_same(writer: ResultWriter, tmp_path: Path) -> None:
    """Files that are there are described, never made again, even by a version that would make others (I6)."""
    first = writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)
    before = [path.stat().st_mtime_ns for path in writer.files(CALL)]
    newer = ResultWriter(tmp_path / "results", replace(STYLE, version="9.9"))

    assert newer.write(CALL, MODEL, LOADED, "2027-01-01T00:00:00.000000Z", RECEIPT, None) == first
    assert [path.stat().st_mtime_ns for path in writer.files(CALL)] == before


@pytest.mark.parametrize("lost", [0, 1])
def test_a_half_made_pair_is_made_again_with_the_same_bytes(writer: ResultWriter, lost: int) -> None:
    """A crash between SEG and SR: the next try makes both, byte for byte as they would have been (I6)."""
    first = writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)
    writer.files(CALL)[lost].unlink()

    assert writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None) == first


def test_another_process_makes_the_same_bytes(writer: ResultWriter, tmp_path: Path) -> None:
    """Bytes depend on call, findings, sources, style and the intent's time, and on nothing else."""
    other = ResultWriter(tmp_path / "elsewhere", STYLE)
    other.keep(CALL, _found())

    assert other.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None) == writer.write(
        CALL, MODEL, LOADED, INTENDED, RECEIPT, None
    )


def test_the_time_is_the_intents(writer: ResultWriter) -> None:
    """Content time comes from the log's entry, in the civil time of the site, not from a clock."""
    writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)

    report = read_document(writer.files(CALL)[1])
    assert (str(report.ContentDate), str(report.ContentTime)[:6]) == ("20261124", "000712")


def test_a_later_report_names_the_one_it_replaces(writer: ResultWriter) -> None:
    """PredecessorDocumentsSequence names the earlier SR (I6); the first report has none."""
    first = writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)
    writer.keep(LATER, _found())

    writer.write(LATER, MODEL, LOADED, INTENDED, RECEIPT, CALL)

    assert "PredecessorDocumentsSequence" not in read_document(writer.files(CALL)[1])
    named = read_document(writer.files(LATER)[1]).PredecessorDocumentsSequence
    instance = named[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert instance.ReferencedSOPInstanceUID == first.outputs[1]["uid"]


def test_an_invalid_object_is_not_kept(writer: ResultWriter) -> None:
    """Findings off the image's grid: OutputInvalid, and neither file appears (I7)."""
    mask = simulated.ellipsoid((6, 16, 20))
    writer.keep(CALL, replace(_found(), segments=(SegmentMask(1, mask),)))

    with pytest.raises(OutputInvalid):
        writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)

    assert not any(path.exists() for path in writer.files(CALL))


def test_calls_do_not_share_files(writer: ResultWriter) -> None:
    """Each call has a folder of its own."""
    assert not set(writer.files(CALL)) & set(writer.files(LATER))


@pytest.mark.parametrize(("language", "charset"), [("zh-CN", "GB18030"), ("en-US", "ISO_IR 192")])
def test_the_site_chooses_language_and_charset(tmp_path: Path, language: str, charset: str) -> None:
    """The results are in the site's language and the charset that its PACS can read."""
    style = ResultStyle("test-site", "0.1.0", language, charset)  # type: ignore[arg-type]
    writer = ResultWriter(tmp_path, style)
    writer.keep(CALL, _found())
    writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)

    report = read_document(writer.files(CALL)[1])
    assert report.SpecificCharacterSet == charset
    assert ("not for diagnosis" in str(report.SeriesDescription)) is (language == "en-US")


MARKED = (KeyImage.SC, KeyImage.GSPS, KeyImage.KOS)
"""The kinds that mark something."""


def test_an_output_that_failed_is_in_the_report_and_in_what_is_logged(tmp_path: Path) -> None:
    """Kept over a crash with the findings: the second segment is left out, and all that is made says so."""
    writer = ResultWriter(tmp_path / "results", STYLE)
    model = replace(MODEL, manifest=replace(_LESIONS, partial="allow"))
    failed = (FailedOutput("segment:2", "OUTPUT_TOUCHES_BORDER"),)
    writer.keep(CALL, replace(simulated.findings(simulated.ellipsoid(SHAPE)), failed=failed))
    again = ResultWriter(tmp_path / "results", STYLE)
    assert again.findings(CALL).failed == failed

    written = again.write(CALL, model, LOADED, INTENDED, RECEIPT, None)

    assert written.outcome == "PARTLY_FAILED"
    assert written.failed == [{"output": "segment:2", "code": "OUTPUT_TOUCHES_BORDER"}]
    assert [path.name for path in again.files(CALL)] == ["seg.dcm", "sr.dcm"]
    report = read_document(tmp_path / "results" / CALL / "sr.dcm")
    assert (report.CompletionFlag, report.CompletionFlagDescription) == (
        *("PARTIAL", "Partly failed: OUTPUT_TOUCHES_BORDER"),
    )
    assert any("OUTPUT_TOUCHES_BORDER (Hemorrhage)" in str(item.get("TextValue")) for item in _tree(report))
    assert again.partly(CALL)
    writer.keep(LATER, simulated.findings(simulated.ellipsoid(SHAPE), simulated.ellipsoid(SHAPE)))
    whole = writer.write(LATER, model, LOADED, INTENDED, RECEIPT, None)
    assert (whole.failed, writer.partly(LATER)) == ([], False)


def test_nothing_found_is_a_report_alone(tmp_path: Path) -> None:
    """No empty SEG, no picture, whatever an earlier try left: a report that names what is absent, and is resent."""
    writer = ResultWriter(tmp_path / "results", replace(STYLE, key_images=MARKED))
    model = replace(MODEL, manifest=ABNORMAL)
    empty = np.zeros(SHAPE, dtype=np.bool_)
    writer.keep(CALL, simulated.findings(empty))
    for left in ("seg.dcm", "sc-001.dcm", "gsps.dcm", "kos.dcm"):
        (tmp_path / "results" / CALL / left).write_bytes(b"of a try that was cut off")

    written = writer.write(CALL, model, LOADED, INTENDED, RECEIPT, None)

    assert [path.name for path in writer.files(CALL)] == ["sr.dcm"]
    assert [(o["kind"], o["uid"]) for o in written.outputs] == [("SR", uids.derive("SR", CALL))]
    assert (written.outcome, written.measurements[0]["value"]) == ("NO_FINDINGS", "0.0")
    values = {
        item.ConceptCodeSequence[0].CodeValue
        for item in _tree(read_document(writer.files(CALL)[0]))
        if item.ValueType == "CODE"
    }
    assert {"111241", "272519000"} <= values
    assert writer.write(CALL, model, LOADED, INTENDED, RECEIPT, None) == written


def test_a_report_without_its_segmentation_is_not_whole(writer: ResultWriter, tmp_path: Path) -> None:
    """A SEG that went missing beside its SR is made again, the same, and never left out (I7)."""
    first = writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)
    (tmp_path / "results" / CALL / "seg.dcm").unlink()

    assert writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None) == first


PICTURED = replace(STYLE, key_images=(KeyImage.SC,))
BOTH = VerifiedModel(simulated.REF, simulated.manifest(lesions=True), Path("unused"), MappingProxyType({}))


@pytest.fixture
def pictured(tmp_path: Path) -> ResultWriter:
    """A writer of a site that wants key images, with one call's two segments kept."""
    made = ResultWriter(tmp_path / "results", PICTURED)
    made.keep(CALL, simulated.findings(simulated.ellipsoid(SHAPE), simulated.ellipsoid(SHAPE, size=0.15)))
    return made


def test_key_images_come_after_seg_and_sr(pictured: ResultWriter) -> None:
    """One for each segment, in order, named with their UIDs and digests as the files have them, with the receipt."""
    written = pictured.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None)

    files = pictured.files(CALL)
    assert [path.name for path in files] == ["seg.dcm", "sr.dcm", "sc-001.dcm", "sc-002.dcm"]
    assert [o["kind"] for o in written.outputs] == ["SEG", "SR", "SC", "SC"]
    assert [o["uid"] for o in written.outputs[2:]] == [uids.derive("SC", CALL, n) for n in ("1", "2")]
    for output, path in zip(written.outputs, files, strict=True):
        assert output["digest"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        ds = receipt.read_bytes(path.read_bytes())
        assert ds.SOPInstanceUID == output["uid"]
        assert receipt.read(ds, LOG.verifier)[0] == RECEIPT


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (("GSPS",), ["gsps.dcm"]),
        (("KOS",), ["kos.dcm"]),
        (("SC", "GSPS", "KOS"), ["sc-001.dcm", "sc-002.dcm", "gsps.dcm", "kos.dcm"]),
    ],
)
def test_the_site_chooses_the_kinds_of_key_image(tmp_path: Path, kinds: tuple[str, ...], names: list[str]) -> None:
    """Those that were asked for and no other, after SEG and SR, in the log with their kind, UID, digest and receipt."""
    chosen = tuple(KeyImage(kind) for kind in kinds)
    writer = ResultWriter(tmp_path / "results", replace(STYLE, key_images=chosen))
    writer.keep(CALL, simulated.findings(simulated.ellipsoid(SHAPE), simulated.ellipsoid(SHAPE, size=0.15)))
    written = writer.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None)

    files = writer.files(CALL)
    assert [path.name for path in files] == ["seg.dcm", "sr.dcm", *names]
    for output, path in zip(written.outputs, files, strict=True):
        ds = receipt.read_bytes(path.read_bytes())
        assert output["kind"] == path.stem.partition("-")[0].upper()
        assert output["uid"] == ds.SOPInstanceUID
        assert output["uid"] in {uids.derive("SEG", CALL), uids.derive("SR", CALL), *key_images.names(CALL)}
        assert output["digest"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        assert receipt.read(ds, LOG.verifier)[0] == RECEIPT
    for lost in ("sr.dcm", files[-1].name):
        (tmp_path / "results" / CALL / lost).unlink()
        (tmp_path / "results" / CALL / "sr.dcm").unlink(missing_ok=True)
        assert writer.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None) == written


def _mixed() -> tuple[LoadedSeries, Findings]:
    """Two segments on slices that are rescaled differently, one of them upside down; and the findings."""
    brain, bleed = np.zeros((2, *SHAPE), dtype=np.bool_)
    brain[2, 5:9, 5:9], bleed[7, 5:9, 5:9] = True, True
    headers = simulated.series(SHAPE)
    for k, ds in enumerate(headers):
        ds.RescaleSlope, ds.RescaleIntercept = (-1 if k == 2 else k + 1), 20
    return replace(LOADED, headers=tuple(headers)), simulated.findings(brain, bleed)


def _evidence(path: Path) -> set[str]:
    (study,) = dcmread(path).CurrentRequestedProcedureEvidenceSequence
    return {one.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for one in s.ReferencedSOPSequence}


def test_a_presentation_state_that_cannot_be_is_left_out_alone(tmp_path: Path) -> None:
    """Slices of both signs: all else is made and named, with the code of why, also after a crash; nothing names it."""
    writer = ResultWriter(tmp_path / "results", replace(STYLE, key_images=tuple(KeyImage)))
    mixed, found = _mixed()
    writer.keep(CALL, found)
    with structlog.testing.capture_logs() as said:
        written = writer.write(CALL, BOTH, mixed, INTENDED, RECEIPT, None)

    assert [(one["event"], one["code"]) for one in said] == [("key_image_not_sent", "RESCALE_MIXED")]
    files = writer.files(CALL)
    assert [path.name for path in files] == ["seg.dcm", "sr.dcm", "sc-001.dcm", "sc-002.dcm", "kos.dcm"]
    assert [one["kind"] for one in written.outputs] == ["SEG", "SR", "SC", "SC", "KOS"]
    for document in (files[1], files[-1]):
        assert _evidence(document) <= {
            *(one["uid"] for one in written.outputs),
            *(str(ds.SOPInstanceUID) for ds in mixed.headers),
        }
    assert writer.unmade(CALL) == "RESCALE_MIXED"
    files[1].unlink()
    assert writer.write(CALL, BOTH, mixed, INTENDED, RECEIPT, None) == written
    assert writer.unmade(CALL) == "RESCALE_MIXED"


def test_what_is_not_wanted_any_more_is_not_lacking(tmp_path: Path) -> None:
    """Turned off between a crash and the restart: no code is left; nor is there one where the state was made."""
    style = replace(STYLE, key_images=(KeyImage.GSPS,))
    mixed, found = _mixed()
    wanting, plain = (ResultWriter(tmp_path / "results", one) for one in (style, STYLE))
    wanting.keep(CALL, found)
    wanting.write(CALL, BOTH, mixed, INTENDED, RECEIPT, None)
    (tmp_path / "results" / CALL / "sr.dcm").unlink()
    plain.write(CALL, BOTH, mixed, INTENDED, RECEIPT, None)
    assert plain.unmade(CALL) is None

    wanting.keep(LATER, found)
    assert wanting.write(LATER, BOTH, LOADED, INTENDED, RECEIPT, None).outputs[-1]["kind"] == "GSPS"
    assert wanting.unmade(LATER) is None


def test_any_other_fault_of_a_presentation_state_ends_the_run(tmp_path: Path) -> None:
    """Voxels that are not the slices': OutputInvalid, and no report (I7)."""
    writer = ResultWriter(tmp_path / "results", replace(STYLE, key_images=(KeyImage.GSPS,)))
    writer.keep(CALL, _found())
    torn = replace(LOADED, volume=replace(LOADED.volume, voxels=np.zeros((3, 3, 3), dtype=np.float32)))
    with pytest.raises(OutputInvalid) as refused:
        writer.write(CALL, MODEL, torn, INTENDED, RECEIPT, None)

    assert refused.value.code == "GRID_MISMATCH"
    assert not any(path.exists() for path in writer.files(CALL))


def test_without_the_setting_there_is_no_key_image(writer: ResultWriter) -> None:
    """Off by default: two objects, as ever."""
    written = writer.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)

    assert len(written.outputs) == len(writer.files(CALL)) == 2


@pytest.mark.parametrize("lost", [["sr.dcm"], ["seg.dcm", "sr.dcm"], ["sc-002.dcm", "seg.dcm", "sr.dcm"]])
def test_a_half_made_set_is_made_again_with_the_same_bytes(
    pictured: ResultWriter, tmp_path: Path, lost: list[str]
) -> None:
    """A crash after any of the files, which are written in this order: the next try makes all, byte for byte."""
    first = pictured.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None)
    for name in lost:
        (tmp_path / "results" / CALL / name).unlink()

    assert pictured.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None) == first


def test_pictures_of_a_half_made_set_do_not_outlive_the_setting(pictured: ResultWriter, tmp_path: Path) -> None:
    """The setting was turned off between the crash and the restart: no picture is sent that nobody wants."""
    pictured.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None)
    (tmp_path / "results" / CALL / "sr.dcm").unlink()
    plain = ResultWriter(tmp_path / "results", STYLE)

    assert [o["kind"] for o in plain.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None).outputs] == ["SEG", "SR"]
    assert len(plain.files(CALL)) == 2


@pytest.mark.parametrize(("before", "after"), [(PICTURED, STYLE), (STYLE, PICTURED)])
def test_a_whole_set_stays_what_it_was(tmp_path: Path, before: ResultStyle, after: ResultStyle) -> None:
    """What the log may name already is neither more nor less after the setting was changed (I6)."""
    first = ResultWriter(tmp_path / "results", before)
    first.keep(CALL, _found())
    written = first.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)
    files = first.files(CALL)
    later = ResultWriter(tmp_path / "results", after)

    assert later.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None) == written
    assert later.files(CALL) == files


SAYING = replace(STYLE, key_images=tuple(KeyImage))
NOTHING = {
    "nothing": simulated.findings(np.zeros(SHAPE, np.bool_), np.zeros(SHAPE, np.bool_)),
    "inconclusive": Findings((), (), dict.fromkeys(("load", "total"), 0), "cpu", inconclusive="LOW_QUALITY"),
}


@pytest.mark.parametrize("outcome", NOTHING)
def test_a_run_without_a_finding_has_its_picture(tmp_path: Path, outcome: str) -> None:
    """Report and picture, in the log as what they are; made again after a crash, described after that: the same."""
    writer = ResultWriter(tmp_path / "results", SAYING)
    writer.keep(CALL, NOTHING[outcome])
    written = writer.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None)

    files = writer.files(CALL)
    assert [path.name for path in files] == ["sr.dcm", "sc-000.dcm"]
    assert [(o["kind"], o["uid"]) for o in written.outputs] == [
        ("SR", uids.derive("SR", CALL)),
        ("SC", uids.derive("SC", CALL, "0")),
    ]
    assert written.outputs[1]["digest"] == "sha256:" + hashlib.sha256(files[1].read_bytes()).hexdigest()
    ds = receipt.read_bytes(files[1].read_bytes())
    assert (ds.SOPInstanceUID, receipt.read(ds, LOG.verifier)[0]) == (written.outputs[1]["uid"], RECEIPT)
    for lost in (["sr.dcm"], ["sr.dcm", "sc-000.dcm"], []):
        for name in lost:
            (tmp_path / "results" / CALL / name).unlink()
        assert writer.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None) == written
        assert writer.files(CALL) == files


def test_a_run_with_a_finding_has_no_picture_that_says_otherwise(tmp_path: Path) -> None:
    """Even where an earlier try left one; and the later run of images with a finding has its own pictures alone."""
    writer = ResultWriter(tmp_path / "results", SAYING)
    writer.keep(CALL, NOTHING["nothing"])
    first = writer.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None)
    writer.keep(LATER, simulated.findings(simulated.ellipsoid(SHAPE), np.zeros(SHAPE, np.bool_)))
    (tmp_path / "results" / LATER / "sc-000.dcm").write_bytes(b"of a try that was cut off")
    later = writer.write(LATER, BOTH, LOADED, INTENDED, RECEIPT, CALL)

    names = [path.name for path in writer.files(LATER)]
    assert names == ["seg.dcm", "sr.dcm", "sc-001.dcm", "gsps.dcm", "kos.dcm"]
    assert {o["uid"] for o in later.outputs}.isdisjoint(o["uid"] for o in first.outputs)


def test_a_picture_of_nothing_comes_neither_late_nor_goes(tmp_path: Path) -> None:
    """The setting was changed after the result was made: what the log names is what is sent (I6)."""
    for number, (before, after) in enumerate([(SAYING, PICTURED), (PICTURED, SAYING)]):
        first = ResultWriter(tmp_path / str(number), before)
        first.keep(CALL, NOTHING["nothing"])
        written = first.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None)
        assert len(written.outputs) == (2 if before is SAYING else 1)
        later = ResultWriter(tmp_path / str(number), after)
        assert later.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None) == written
        assert later.files(CALL) == first.files(CALL)


def test_a_later_report_with_key_images_names_the_one_it_replaces(pictured: ResultWriter) -> None:
    """Superseding is the reports' business: the predecessor is the earlier SR, whatever else there is."""
    first = pictured.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None)
    pictured.keep(LATER, simulated.findings(simulated.ellipsoid(SHAPE), simulated.ellipsoid(SHAPE, size=0.15)))
    later = pictured.write(LATER, BOTH, LOADED, INTENDED, RECEIPT, CALL)

    named = read_document(pictured.files(LATER)[1]).PredecessorDocumentsSequence
    assert (
        named[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        == (first.outputs[1]["uid"])
    )
    assert {o["uid"] for o in later.outputs}.isdisjoint(o["uid"] for o in first.outputs)


def test_the_profile_shapes_the_report_and_a_kept_report_keeps_its_shape(tmp_path: Path) -> None:
    """PLANAR groups where the peer wants them; what was made before the setting was changed is sent as it was made."""
    planar = ResultWriter(tmp_path / "results", replace(STYLE, report_groups=ReportGroups.PLANAR))
    planar.keep(CALL, _found())
    written = planar.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)
    assert templates(planar) == {"1410"}
    assert [path.name for path in planar.files(CALL)] == ["seg.dcm", "sr.dcm"]

    usual = ResultWriter(tmp_path / "results", STYLE)
    assert usual.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None) == written
    assert templates(usual) == {"1410"}

    fresh = ResultWriter(tmp_path / "others", STYLE)
    fresh.keep(CALL, _found())
    fresh.write(CALL, MODEL, LOADED, INTENDED, RECEIPT, None)
    assert templates(fresh) == {"1411"}


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_peer_s_label_map_or_binary_with_a_code(tmp_path: Path, overlapping: bool) -> None:
    """One SEG under one UID, of the wanted type; where segments overlap it is BINARY, and a warning says why."""
    wanted = replace(STYLE, report_groups=ReportGroups.PLANAR, segmentation=Segmentation.LABELMAP)
    writer = ResultWriter(tmp_path / "results", wanted)
    brain, bleed = simulated.ellipsoid(SHAPE), simulated.ellipsoid(SHAPE, size=0.15)
    writer.keep(CALL, simulated.findings(brain if overlapping else brain & ~bleed, bleed))
    with structlog.testing.capture_logs() as said:
        written = writer.write(CALL, BOTH, LOADED, INTENDED, RECEIPT, None)

    seg = read_segmentation(writer.files(CALL)[0])
    assert seg.kind == ("BINARY" if overlapping else "LABELMAP")
    assert seg.labels == ("Brain", "Hemorrhage")
    assert written.outputs[0]["uid"] == seg.sop_uid == uids.derive("SEG", CALL)
    warning = {
        "event": "segmentation_is_binary",
        "log_level": "warning",
        "model": MODEL.ref.name,
        "code": "SEGMENTS_OVERLAP",
    }
    assert said == ([warning] if overlapping else [])


MAPPED = VerifiedModel(
    simulated.REF,
    replace(simulated.manifest(), heat_maps=(BLEED, replace(BLEED, id="score", calibrated=False))),
    Path("unused"),
    MappingProxyType({}),
)


def _mapped(*names: str) -> Findings:
    grid = np.zeros(SHAPE, np.uint8)
    grid[3:6, 4:9, 5:9] = 128
    return replace(_found(), heat_maps=tuple(HeatMap(name, grid) for name in names))


def test_heat_maps_come_after_the_report_that_leads_to_them(tmp_path: Path) -> None:
    """Where the site wants them: one more object with its UID and digest, the receipt, and a place in the evidence."""
    writer = ResultWriter(tmp_path / "results", replace(STYLE, heat_maps=True, key_images=(KeyImage.SC,)))
    writer.keep(CALL, _mapped("bleed"))
    written = writer.write(CALL, MAPPED, LOADED, INTENDED, RECEIPT, None)

    files = writer.files(CALL)
    assert [path.name for path in files] == ["seg.dcm", "sr.dcm", "heat.dcm", "sc-001.dcm"]
    assert [o["kind"] for o in written.outputs] == ["SEG", "SR", "HEAT", "SC"]
    heat = receipt.read_bytes(files[2].read_bytes())
    assert written.outputs[2]["uid"] == heat.SOPInstanceUID == uids.derive("HEAT", CALL)
    assert written.outputs[2]["digest"] == "sha256:" + hashlib.sha256(files[2].read_bytes()).hexdigest()
    assert receipt.read(heat, LOG.verifier)[0] == RECEIPT
    assert heat.SOPInstanceUID in _evidence(files[1])
    (tmp_path / "results" / CALL / "sr.dcm").unlink()
    assert writer.write(CALL, MAPPED, LOADED, INTENDED, RECEIPT, None) == written


def test_heat_maps_that_nobody_wants_or_that_say_no_probability_stay_here(tmp_path: Path) -> None:
    """Off by default; one that is not calibrated is kept with the findings, and the service's log says why."""
    plain = ResultWriter(tmp_path / "plain", STYLE)
    wanting = ResultWriter(tmp_path / "wanting", replace(STYLE, heat_maps=True))
    for writer, names, told in ((plain, ("bleed", "score"), []), (wanting, ("score",), ["HEAT_MAP_UNCALIBRATED"])):
        writer.keep(CALL, _mapped(*names))
        with structlog.testing.capture_logs() as said:
            written = writer.write(CALL, MAPPED, LOADED, INTENDED, RECEIPT, None)
        assert [o["kind"] for o in written.outputs] == ["SEG", "SR"]
        assert [one["code"] for one in said] == told
        assert [one.id for one in writer.findings(CALL).heat_maps] == list(names)
        # What was not made is no evidence.
        assert uids.derive("HEAT", CALL) not in _evidence(writer.files(CALL)[1])


def test_heat_maps_do_not_outlive_the_setting(tmp_path: Path) -> None:
    """Turned off between a crash and the restart: the half-made set goes; a whole one stays what it was."""
    wanting = ResultWriter(tmp_path / "results", replace(STYLE, heat_maps=True))
    plain = ResultWriter(tmp_path / "results", STYLE)
    wanting.keep(CALL, _mapped("bleed"))
    whole = wanting.write(CALL, MAPPED, LOADED, INTENDED, RECEIPT, None)
    assert plain.write(CALL, MAPPED, LOADED, INTENDED, RECEIPT, None) == whole
    (tmp_path / "results" / CALL / "sr.dcm").unlink()
    assert [o["kind"] for o in plain.write(CALL, MAPPED, LOADED, INTENDED, RECEIPT, None).outputs] == ["SEG", "SR"]


def templates(writer: ResultWriter) -> set[str]:
    """Of the report's measurement groups."""
    report = read_document(writer.files(CALL)[-1])
    groups = [i for i in _tree(report) if "ContentTemplateSequence" in i]
    return {group.ContentTemplateSequence[0].TemplateIdentifier for group in groups}
