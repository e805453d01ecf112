"""What the demo's PACS holds, judged by tools that are not ours: DCMTK, dicom3tools, PixelMed, highdicom, Orthanc.

The PACS is started again on the demo's folder, with a reading room's workstation on its list of known nodes; we are not
running. Our own readers and validity checks are not used here: pydicom and highdicom read, others judge.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import highdicom as hd
import numpy as np
import orthanc_api_client
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from audit.entry import Entry
from service import wire
from service.demo.servers import free_port
from tests.simulators import dcmtk, validators
from tests.simulators.dcmtk import ToolFailed, Workstation
from tests.simulators.demo_run import Told
from tests.simulators.orthanc import Node, Orthanc, running_orthanc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STATION = "READINGROOM"
NAME = "TEST^Phantom=测试^幻影"
KINDS = {"SR": "SR", "SEG": "SEG", "SC": "OT"}
"""Each kind of result, and its modality."""
VOLUME_CM3 = 1950.0
"""Of this brain, by `deepbet` itself (test_against_deepbet.py compares the masks)."""
VOLUME_TOLERANCE = 0.01
WAYS = ("C-GET", "C-MOVE", "REST")


@pytest.fixture(scope="module")
def pacs(told: Told, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """The demo's PACS, up again, with what it holds."""
    station = Node("reading-room", STATION, free_port())
    held = tmp_path_factory.mktemp("judged") / "pacs"
    shutil.copytree(told.folder / "work" / "pacs", held)
    with running_orthanc(held, known=(station,)) as running:
        yield running


@pytest.fixture(scope="module")
def station(pacs: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Workstation:
    """A workstation that the PACS knows."""
    return Workstation(STATION, pacs.known[0].port, pacs, tmp_path_factory.mktemp("station"))


@pytest.fixture(scope="module")
def study(told: Told) -> str:
    """The demo's study."""
    return f"StudyInstanceUID={told.run['study']['uid']}"


@pytest.fixture(scope="module")
def series(station: Workstation, study: str) -> dict[str, str]:
    """Modality -> the key that names its only series, as the PACS says by C-FIND."""
    answers = station.find("SERIES", study, "SeriesInstanceUID", "Modality")
    keys = {str(a.attributes.Modality): f"SeriesInstanceUID={a.attributes.SeriesInstanceUID}" for a in answers}
    assert len(keys) == len(answers)
    return keys


@pytest.fixture(scope="module")
def fetched(
    station: Workstation, study: str, series: dict[str, str], told: Told, pacs: Orthanc
) -> dict[tuple[str, str], Path]:
    """(kind, way) -> the one object of that kind, as it comes from the PACS by that way."""
    found: dict[tuple[str, str], Path] = {}
    client = orthanc_api_client.OrthancApiClient(pacs.url)
    for kind in KINDS:
        (found[kind, "C-GET"],) = station.get(study, series[KINDS[kind]])
        (found[kind, "C-MOVE"],) = station.move(study, series[KINDS[kind]])
        (instance,) = client.lookup(told.run["outputs"][kind], "Instance")
        found[kind, "REST"] = station.root / f"{kind}.dcm"
        found[kind, "REST"].write_bytes(client.instances.get_file(instance))
    client.close()
    return found


@pytest.fixture(scope="module")
def report(fetched: dict[tuple[str, str], Path]) -> Dataset:
    """The SR, by C-GET."""
    return dcmread(fetched["SR", "C-GET"])


@pytest.fixture(scope="module")
def mask(fetched: dict[tuple[str, str], Path]) -> hd.seg.Segmentation:
    """The SEG, by C-GET, as highdicom reads it."""
    return hd.seg.segread(fetched["SEG", "C-GET"])


@pytest.fixture(scope="module")
def sources(told: Told) -> list[Dataset]:
    """The images that the scanner sent, foot to head."""
    images = [dcmread(path) for path in (told.folder / "work" / "scanner").rglob("*.dcm")]
    mine = [image for image in images if image.StudyInstanceUID == told.run["study"]["uid"]]
    assert len(mine) == told.run["study"]["images"]
    return sorted(mine, key=lambda image: float(image.ImagePositionPatient[2]))


@pytest.fixture(scope="module")
def voxels(mask: hd.seg.Segmentation, sources: list[Dataset]) -> np.ndarray:
    """The mask on the source's grid (K, R, C) bool, as highdicom lays it there by the slices that its frames name."""
    uids = [image.SOPInstanceUID for image in sources]
    drawn = mask.get_pixels_by_source_instance(uids, segment_numbers=[1], assert_missing_frames_are_empty=True)
    return np.asarray(drawn[..., 0]).astype(bool)


@pytest.fixture(scope="module")
def log(told: Told) -> dict[str, Entry]:
    """The log's entries of the call that made the results, by kind."""
    with wire.offline(told.folder / "work" / "hospital" / "zhiying.toml") as site:
        entries = list(site.log.entries())
    (call,) = {entry.call for entry in entries if entry.kind == "RELEASED"}
    return {entry.kind.value: entry for entry in entries if entry.call == call}


def outputs(log: Mapping[str, Entry]) -> dict[str, dict[str, str]]:
    """Kind -> UID and digest, as the CALL_RESULT entry has them."""
    listed = cast("list[Any]", log["CALL_RESULT"].body["outputs"])
    return {output["kind"]: output for output in listed}


def items(item: Dataset, code: str) -> list[Dataset]:
    """Content items below `item` with this concept name's code value."""
    found = []
    for child in item.get("ContentSequence", []):
        names = child.get("ConceptNameCodeSequence")
        found += [child] if names and names[0].CodeValue == code else []
        found += items(child, code)
    return found


def volume_said(report: Dataset) -> str:
    """The report's only number, as it is printed there."""
    (number,) = items(report, "118565006")
    return str(number.MeasuredValueSequence[0].NumericValue)


# ---- what the PACS says ----------------------------------------------------------------------------------------------


def test_a_stranger_is_not_let_in(station: Workstation, study: str) -> None:
    """The answers below are given to a node of the PACS's list; another AE title gets none."""
    stranger = Workstation("STRANGER", station.port, station.pacs, station.root)
    with pytest.raises(ToolFailed, match="Calling AE Title Not Recognized"):
        stranger.find("STUDY", study)


def test_findscu_counts_one_result_of_each_kind(station: Workstation, study: str, told: Told) -> None:
    """The study has four series: the images that were sent; SR, SEG and key image of one instance each."""
    images = told.run["study"]["images"]
    asked = ("ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances")
    (whole,) = station.find("STUDY", study, *asked)
    parts = station.find("SERIES", study, "Modality", "SeriesInstanceUID", "NumberOfSeriesRelatedInstances")

    assert set(whole.attributes.ModalitiesInStudy) == {"MR", *KINDS.values()}
    assert (whole.attributes.NumberOfStudyRelatedSeries, whole.attributes.NumberOfStudyRelatedInstances) == (
        4,
        images + 3,
    )
    counted = sorted((str(a.attributes.Modality), int(a.attributes.NumberOfSeriesRelatedInstances)) for a in parts)
    assert counted == [("MR", images), ("OT", 1), ("SEG", 1), ("SR", 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_findscu_finds_the_instances_that_the_log_names(
    station: Workstation, study: str, series: dict[str, str], log: dict[str, Entry], kind: str
) -> None:
    """On the level of instances SR, SEG and key image are those of the CALL_RESULT entry."""
    (answer,) = station.find("IMAGE", study, series[KINDS[kind]], "SOPInstanceUID")
    assert answer.attributes.SOPInstanceUID == outputs(log)[kind]["uid"]


@pytest.mark.parametrize("level", ["STUDY", "SERIES"])
def test_findscu_shows_the_name_in_chinese(station: Workstation, study: str, level: str) -> None:
    """DCMTK, going by the character set that each answer declares, shows the patient's name in Chinese."""
    answers = station.find(level, study, "PatientName", "SeriesInstanceUID", "SeriesDescription")
    for answer in answers:
        assert answer.attributes.SpecificCharacterSet == "ISO_IR 192"
        assert f"PN [{NAME}]" in answer.text
    if level == "SERIES":
        assert sum("非诊断用" in answer.text for answer in answers) == 3


def test_the_study_is_found_by_its_chinese_name(station: Workstation, told: Told) -> None:
    """Who types the characters finds the study, and another name does not."""
    (answer,) = station.find("STUDY", "PatientName=*幻影*", "StudyInstanceUID")
    assert answer.attributes.StudyInstanceUID == told.run["study"]["uid"]
    assert station.find("STUDY", "PatientName=*幻象*", "StudyInstanceUID") == []


def test_orthanc_api_client_counts_the_same(pacs: Orthanc, told: Told) -> None:
    """Orthanc's own client counts one study, one result of each kind and the images, in four series."""
    client = orthanc_api_client.OrthancApiClient(pacs.url)
    try:
        (study,) = client.lookup(told.run["study"]["uid"], "Study")
        held = [client.series.get(one) for one in client.studies.get_series_ids(study)]
        counted = sorted((one.main_dicom_tags.get("Modality"), one.statistics.instances_count) for one in held)
        studies = client.studies.get_all_ids()
    finally:
        client.close()
    assert counted == [("MR", told.run["study"]["images"]), ("OT", 1), ("SEG", 1), ("SR", 1)]
    assert studies == [study]


# ---- what the PACS gives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_gives_the_same_object(fetched: dict[tuple[str, str], Path], kind: str) -> None:
    """C-GET, C-MOVE and REST give equal data sets, element by element; only the encoding of lengths may differ."""
    one, two, three = (dcmread(fetched[kind, way]) for way in WAYS)
    assert one == two == three


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_names_these_very_bytes(
    fetched: dict[tuple[str, str], Path], told: Told, log: dict[str, Entry], kind: str
) -> None:
    """The log's digest is that of the kept file, and the PACS's data set behind that file's meta header gives it again.

    The digest is of our Part 10 file. Preamble and group 0002 belong to whoever writes a file (PS3.10 7.1), so Orthanc
    has its own: a digest of Orthanc's file as it is proves nothing. Its data set is byte for byte ours. What DCMTK
    receives it encodes anew with other lengths of sequences: there only the values can be compared.
    """
    (kept,) = (told.folder / "work" / "hospital" / "data" / "results").glob(f"*/{kind.lower()}*.dcm")
    ours, theirs = kept.read_bytes(), fetched[kind, "REST"].read_bytes()
    start = data_set_at(ours)

    again = ours[:start] + theirs[data_set_at(theirs) :]

    assert dcmread(fetched[kind, "REST"]).SOPInstanceUID == outputs(log)[kind]["uid"]
    for data in (ours, again):
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == outputs(log)[kind]["digest"]
    assert dcmread(kept) == dcmread(fetched[kind, "C-GET"])


def data_set_at(data: bytes) -> int:
    """Where the data set begins: 128 bytes, DICM, (0002,0000) UL with the length of the rest of group 0002."""
    assert data[128:140] == b"DICM\x02\x00\x00\x00UL\x04\x00"
    return 144 + int.from_bytes(data[140:144], "little")


@pytest.mark.parametrize("way", ["C-GET", "REST"])
@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error(fetched: dict[tuple[str, str], Path], kind: str, way: str) -> None:
    """dicom3tools knows the object definitions, and finds no error but what the allow-list names."""
    assert validators.dciodvfy(fetched[kind, way]) == []


def test_pixelmed_and_dcmtk_accept_the_report(fetched: dict[tuple[str, str], Path]) -> None:
    """PixelMed knows the templates, dsrdump the relationships: no error."""
    assert validators.sr_validator(fetched["SR", "C-GET"]) == []
    assert validators.dsrdump(fetched["SR", "C-GET"]) == []


def test_dsr2html_shows_the_number_to_a_reader(fetched: dict[tuple[str, str], Path], report: Dataset) -> None:
    """A reader sees 'Volume: <number> cm3' and the finding Brain, the flags, and that a physician must confirm."""
    page = re.sub(r"<[^>]+>", "", dcmtk.as_page(fetched["SR", "C-GET"]))
    shown = re.sub(r"\s+", " ", page)
    assert f"Volume: {volume_said(report)} cm3" in shown
    for part in ("Finding: Brain (12738006, SCT)", "PRELIMINARY", "UNVERIFIED", "须经医师审核确认", "非诊断用"):
        assert part in shown


@pytest.mark.parametrize("kind", [*KINDS, "MR"])
def test_the_name_is_readable_in_every_object(
    fetched: dict[tuple[str, str], Path], sources: list[Dataset], kind: str
) -> None:
    """DCMTK reads the same Chinese name in the scanner's GB18030 images and in our UTF-8 results."""
    path = Path(str(sources[0].filename)) if kind == "MR" else fetched[kind, "C-GET"]
    text = dcmtk.as_text(path)
    assert f"PN [{NAME}]" in text
    assert dcmread(path).SpecificCharacterSet == ("GB18030" if kind == "MR" else "ISO_IR 192")


@pytest.mark.parametrize("kind", KINDS)
def test_patient_and_study_are_the_source_s(
    fetched: dict[tuple[str, str], Path], sources: list[Dataset], kind: str
) -> None:
    """Identity is copied, not made: with another birth date or accession number it would lie in another file."""
    result = dcmread(fetched[kind, "C-GET"])
    names = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID"]
    for name in [*names, "StudyDate", "StudyTime", "AccessionNumber"]:
        assert result[name].value == sources[0][name].value, name


# ---- what the objects say -------------------------------------------------------------------------------------------


def test_the_mask_lies_on_the_source_s_slices(mask: hd.seg.Segmentation, sources: list[Dataset]) -> None:
    """Rows, columns, frame of reference, orientation, spacing and each frame's position are those of its slice."""
    by_uid = {image.SOPInstanceUID: image for image in sources}
    first = sources[0]
    gap = float(sources[1].ImagePositionPatient[2]) - float(first.ImagePositionPatient[2])
    shared = mask.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]

    assert (mask.Rows, mask.Columns) == (first.Rows, first.Columns)
    assert mask.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == first.ImageOrientationPatient
    assert measures.PixelSpacing == first.PixelSpacing
    assert float(measures.SpacingBetweenSlices) == pytest.approx(gap, abs=1e-6)
    named = []
    for frame in mask.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        image = by_uid[source.ReferencedSOPInstanceUID]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient
        named.append(image.SOPInstanceUID)
    assert len(named) == len(set(named)) == int(mask.NumberOfFrames)


def test_the_mask_lies_on_the_brain(voxels: np.ndarray, sources: list[Dataset]) -> None:
    """What it covers is brighter than what it would cover flipped, or moved by 3 voxels along any axis."""
    pixels = np.stack([image.pixel_array for image in sources])
    here = pixels[voxels].mean()
    for axis in range(3):
        for other in (np.flip(voxels, axis), np.roll(voxels, 3, axis), np.roll(voxels, -3, axis)):
            assert pixels[other].mean() < here


def test_the_volume_of_the_mask_is_the_report_s_number(
    voxels: np.ndarray, sources: list[Dataset], report: Dataset
) -> None:
    """Voxels that highdicom counts, times the source's spacing, round to the printed number; it is 1950 within 1 %."""
    rows, columns = (float(value) for value in sources[0].PixelSpacing)
    positions = np.array([image.ImagePositionPatient for image in sources], dtype=float)
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    said = volume_said(report)
    printed = 0.5 * 10.0 ** -len(said.partition(".")[2])

    counted = voxels.sum() * rows * columns * gaps.mean() / 1000

    assert gaps.std() < 1e-6
    assert abs(counted - float(said)) <= printed + 1e-9
    assert abs(counted - VOLUME_CM3) <= VOLUME_TOLERANCE * VOLUME_CM3


def test_the_number_is_the_log_s(report: Dataset, log: dict[str, Entry]) -> None:
    """The log's measurement, the report's number and its unit are the same text."""
    (number,) = items(report, "118565006")
    unit = number.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("cm3", "UCUM")
    (measured,) = cast("list[Any]", log["CALL_RESULT"].body["measurements"])
    assert dict(measured) == {"code": "118565006", "value": volume_said(report), "unit": "cm3"}


def test_the_report_says_that_nobody_has_verified_it(report: Dataset, mask: hd.seg.Segmentation) -> None:
    """UNVERIFIED, PRELIMINARY, no verifying observer; both series are marked in the worklist, for research only."""
    flags = (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert "VerifyingObserverSequence" not in report
    for result in (report, mask):
        assert result.ContentQualification == "RESEARCH"
        assert "非诊断用" in result.SeriesDescription
        assert str(result.SeriesDescription).startswith("AI ")


def test_the_algorithm_is_the_same_in_five_places(
    report: Dataset, mask: hd.seg.Segmentation, log: dict[str, Entry]
) -> None:
    """Contributing equipment of both, device observer, TID 4019, the SEG's macro: one vendor, name, version, device."""
    equipment, other = (one.ContributingEquipmentSequence for one in (report, mask))
    ((device,), (same,)) = (list(equipment), list(other))
    macro = mask.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    model = cast("dict[str, str]", log["CALL_INTENT"].body["model"])

    def said(code: str) -> str:
        (item,) = items(report, code)
        return str(item.get("TextValue") or item.UID)

    assert device == same
    assert device.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert {device.Manufacturer, said("121014"), macro.AlgorithmSource} == {device.Manufacturer}
    assert {device.ManufacturerModelName, said("121015"), said("111001"), macro.AlgorithmName} == {model["name"]}
    assert {device.SoftwareVersions, said("111003"), macro.AlgorithmVersion} == {
        f"{model['version']}+{model['digest'].removeprefix('sha256:')[:12]}"
    }
    assert device.DeviceUID == said("121012")
    assert mask.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    # The product is another device than the model.
    assert report.Manufacturer == mask.Manufacturer != device.Manufacturer


def test_every_reference_ends_in_the_pacs(
    report: Dataset, mask: hd.seg.Segmentation, station: Workstation, study: str, series: dict[str, str]
) -> None:
    """Each instance that SR and SEG name is one that findscu finds; the SR names the SEG's segment and its tracking."""
    listed = station.find("IMAGE", study, series["MR"], "SOPInstanceUID")
    held = {str(answer.attributes.SOPInstanceUID) for answer in listed} | {str(mask.SOPInstanceUID)}
    for result in (report, mask):
        named = {str(element.value) for element in result.iterall() if element.keyword == "ReferencedSOPInstanceUID"}
        assert named
        assert named <= held
    (segment,) = items(report, "121191")
    assert segment.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == mask.SOPInstanceUID
    (tracking,), (tracking_uid,) = items(report, "112039"), items(report, "112040")
    assert (tracking.TextValue, tracking_uid.UID) == (
        mask.SegmentSequence[0].TrackingID,
        mask.SegmentSequence[0].TrackingUID,
    )
