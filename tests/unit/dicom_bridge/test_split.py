"""Series that are more, or less, than one volume: every case of the reference's geometry gates, from real files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_bridge import uids
from dicom_bridge.candidates import read_series, sort_files
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.rules import SeriesSummary
from dicom_bridge.split import Kind, kind_of
from dicom_bridge.volume import load
from tests.simulators.series import CORONAL, SAGITTAL, make_slice, write_file

DIGEST = "sha256:" + "0" * 64
N = 6
Change = Callable[[Dataset], None]


def put(**values: object) -> Change:
    """Return a change that sets attributes; None deletes."""

    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)

    return change


def volume(change: Change = lambda _: None, *, of: Sequence[int] = range(N), **options: Any) -> list[Dataset]:
    """Return slices of one volume, each changed."""
    out = []
    for index in of:
        ds = make_slice(index, **options)
        change(ds)
        out.append(ds)
    return out


def together(*volumes: list[Dataset]) -> list[Dataset]:
    """Return all of them as one series of different instances."""
    every = [ds for one in volumes for ds in one]
    for number, ds in enumerate(every):
        ds.SOPInstanceUID = uids.derive("TEST", "split", str(number))
    return every


def summaries(folder: Path, series: list[Dataset]) -> tuple[SeriesSummary, ...]:
    """Write the series under meaningless names, and return what selection would see of it."""
    return read_series(written(folder, series), {}, {}).summaries


def written(folder: Path, series: list[Dataset]) -> list[Path]:
    """Write the series, in an order that says nothing."""
    folder.mkdir(exist_ok=True)
    shuffled = np.random.default_rng(7).permutation(len(series))
    return [write_file(series[at], folder / f"{number}.dcm") for number, at in enumerate(shuffled)]


def seen(found: Sequence[SeriesSummary]) -> list[tuple[str, str, str, int]]:
    """Return (volume's name, kind, refusal, images) of each."""
    return [(one.label, one.kind.value, one.refused, one.count) for one in found]


KEYS: dict[str, tuple[list[Change], str, list[str]]] = {
    "acquisitions": ([put(AcquisitionNumber=n) for n in (2, 1)], "ACQUISITION_NUMBER", ["1", "2"]),
    "temporal positions": (
        [put(TemporalPositionIdentifier=n) for n in (1, 2, 10)],
        "TEMPORAL_POSITION",
        ["1", "2", "10"],
    ),
    "trigger times": ([put(TriggerTime=n) for n in ("612.5", "0", "30")], "TRIGGER_TIME", ["0", "30", "612.5"]),
    "echo times": ([put(EchoTime=n) for n in ("12.1", "4.6")], "ECHO_TIME", ["4.6", "12.1"]),
    "echo numbers": ([put(EchoTime="5", EchoNumbers=n) for n in (1, 2)], "ECHO_NUMBER", ["1", "2"]),
    "b-values": ([put(DiffusionBValue=float(n)) for n in (1000, 0, 50)], "B_VALUE", ["0", "50", "1000"]),
    "before and after contrast": (
        [put(), put(ContrastBolusAgent="Gd-DOTA")],
        "CONTRAST_AGENT",
        ["none", "Gd-DOTA"],
    ),
    "image types": (
        [put(ImageType=["ORIGINAL", "PRIMARY", "M", part]) for part in ("WATER", "FAT", "IN", "OPP")],
        "IMAGE_TYPE",
        ["M\\FAT", "M\\IN", "M\\OPP", "M\\WATER"],
    ),
    "kernels": ([put(ConvolutionKernel=k) for k in ("B70f", "B30f")], "KERNEL", ["B30f", "B70f"]),
    "acquisition times": (
        [put(AcquisitionTime=t) for t in ("093001.5", "093040")],
        "ACQUISITION_TIME",
        ["093001.5", "093040"],
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_each_key_divides_a_series_into_full_volumes(tmp_path: Path, name: str) -> None:
    """Named by key and value, in the order of the values: numbers as numbers."""
    changes, key, values = KEYS[name]
    series = together(*(volume(change) for change in changes))
    found = summaries(tmp_path, series)
    assert seen(found) == [(f"{key}={value}", "VOLUME", "", N) for value in values]
    assert [(one.ordinal, one.volumes) for one in found] == [(n, len(values)) for n in range(1, len(values) + 1)]
    assert [one.part for one in found] == [f"{key}-{n}" for n in range(1, len(values) + 1)]


@pytest.mark.parametrize("name", KEYS)
def test_the_named_volume_is_loaded_and_no_other(tmp_path: Path, name: str) -> None:
    """Each part has exactly its own pixels; without a name none is loaded."""
    changes, _, values = KEYS[name]
    parts = [volume(change) for change in changes]
    for number, part in enumerate(parts):
        for ds in part:
            ds.PixelData = (np.frombuffer(ds.PixelData, "<i2") + 1000 * number).astype("<i2").tobytes()
    paths = written(tmp_path, together(*parts))
    loads = [load(paths, DIGEST, part=one.part) for one in read_series(paths, {}, {}).summaries]
    firsts = {int(one.volume.voxels[0, 0, 0]) // 1000 for one in loads}
    assert firsts == set(range(len(values)))
    for one in loads:
        assert len({int(v) // 1000 for v in one.volume.voxels[:, 0, 0]}) == 1
        assert one.volume.shape[0] == N
    with pytest.raises(VolumeRefused) as refused:
        load(paths, DIGEST)
    assert refused.value.code == "AMBIGUOUS_VOLUMES"
    with pytest.raises(VolumeRefused) as refused:
        load(paths, DIGEST, part="ECHO_TIME-9")
    assert refused.value.code == "AMBIGUOUS_VOLUMES"


def test_the_first_key_that_fits_names_the_volumes(tmp_path: Path) -> None:
    """Acquisition number and echo time both tell them apart: the order of the keys decides, not of the files."""
    series = together(*(volume(put(AcquisitionNumber=n, EchoTime=str(5 - n))) for n in (1, 2)))
    assert [one.label for one in summaries(tmp_path, series)] == ["ACQUISITION_NUMBER=1", "ACQUISITION_NUMBER=2"]


def test_a_key_that_gives_other_than_full_volumes_is_passed_over(tmp_path: Path) -> None:
    """Acquisition numbers that change inside a phase, as on some scanners: the trigger time tells the phases."""
    first = volume(put(TriggerTime="0", AcquisitionNumber=1))
    second = volume(put(TriggerTime="40", AcquisitionNumber=2))
    first[0].AcquisitionNumber, second[0].AcquisitionNumber = 2, 1
    first[3].AcquisitionNumber = 2
    assert [one.label for one in summaries(tmp_path, together(first, second))] == ["TRIGGER_TIME=0", "TRIGGER_TIME=40"]


def test_halves_of_volumes_are_no_volumes(tmp_path: Path) -> None:
    """Two phases, each acquired in two halves of its own number: four regular stacks, but two volumes."""
    series = []
    for phase in (1, 2):
        slices = volume(put(TriggerTime=str(10 * phase)))
        for index, ds in enumerate(slices):
            ds.AcquisitionNumber = 2 * phase + index // 3
        series.append(slices)
    assert [one.label for one in summaries(tmp_path, together(*series))] == ["TRIGGER_TIME=10", "TRIGGER_TIME=20"]


# -- every other case of the table


def tilt(ds: Dataset) -> None:
    """Shift each slice sideways, as a tilted gantry does."""
    x, y, z = (float(v) for v in ds.ImagePositionPatient)
    ds.ImagePositionPatient = [f"{v:.6f}" for v in (x, y + 0.3 * (z + 30), z)]


def localizers(count: int = 3, **options: Any) -> list[Dataset]:
    """Return views across the volume."""
    views = [SAGITTAL, CORONAL, SAGITTAL, CORONAL]
    return [make_slice(0, orientation=views[n], origin=(0.0, 5.0 * n, 0.0), **options) for n in range(count)]


def called(kind: Sequence[str], some: list[Dataset]) -> list[Dataset]:
    """Give them an Image Type."""
    for ds in some:
        ds.ImageType = list(kind)
    return some


def screen(sop_class: str, description: str) -> list[Dataset]:
    """Return a captured screen: colour, no place in space."""
    ds = make_slice(0)
    ds.SOPClassUID, ds.SeriesDescription, ds.Modality = sop_class, description, "CT"
    ds.PhotometricInterpretation, ds.SamplesPerPixel = "RGB", 3
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        delattr(ds, keyword)
    return [ds]


def report(sop_class: str) -> list[Dataset]:
    """Return a structured report."""
    ds = make_slice(0)
    ds.SOPClassUID, ds.Modality = sop_class, "SR"
    for keyword in ("PixelData", "Rows", "Columns", "PixelSpacing", "SamplesPerPixel", "ImageType"):
        delattr(ds, keyword)
    return [ds]


def unknown_phases() -> list[Dataset]:
    """Two volumes that nothing tells apart."""
    return together(volume(), volume())


SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.67"
GE_DOSE = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
PHASES = [put(TemporalPositionIdentifier=n) for n in (1, 2)]
CASES: dict[str, tuple[Callable[[], list[Dataset]], list[tuple[str, str, str, int]]]] = {
    "one volume": (volume, [("", "VOLUME", "", 6)]),
    "a missing slice": (lambda: volume(of=(0, 1, 3, 4)), [("", "VOLUME", "SLICE_MISSING", 4)]),
    "a spacing jump": (
        lambda: together(volume(of=(0, 1, 2)), volume(of=(2, 3), step_mm=1.7)),
        [("", "VOLUME", "NON_UNIFORM_SPACING", 5)],
    ),
    "one slice": (lambda: volume(of=(0,)), [("", "VOLUME", "SINGLE_SLICE", 1)]),
    "gantry tilt": (lambda: volume(tilt), [("", "VOLUME", "GANTRY_TILT", 6)]),
    "duplicates": (unknown_phases, [("", "VOLUME", "DUPLICATE_POSITION", 12)]),
    "one position twice": (
        lambda: together(volume(), volume(of=(3,))),
        [("", "VOLUME", "DUPLICATE_POSITION", 7)],
    ),
    "a phase that lacks a slice": (
        lambda: together(volume(PHASES[0]), volume(PHASES[1], of=(0, 1, 2, 4, 5))),
        [("", "VOLUME", "VOLUMES_INCOMPLETE", 11)],
    ),
    "phases that are tilted": (
        lambda: together(*(volume(lambda ds, change=change: (tilt(ds), change(ds))) for change in PHASES)),  # type: ignore[misc]
        [("", "VOLUME", "DUPLICATE_POSITION", 12)],
    ),
    "mixed orientation": (
        lambda: together(volume(), volume(orientation=SAGITTAL)),
        [("", "VOLUME", "MIXED_ORIENTATION", 12)],
    ),
    "a localizer inside, named so": (
        lambda: together(volume(), called(["ORIGINAL", "PRIMARY", "LOCALIZER"], localizers())),
        [("", "VOLUME", "", 6), ("LOCALIZER", "LOCALIZER", "MIXED_ORIENTATION", 3)],
    ),
    "a localizer inside, not named so": (
        lambda: together(volume(), localizers()),
        [("", "VOLUME", "", 6), ("LOCALIZER", "LOCALIZER", "MIXED_ORIENTATION", 3)],
    ),
    "a localizer inside, of another matrix": (
        lambda: together(volume(), localizers(1, shape=(32, 32))),
        [("", "VOLUME", "", 6), ("LOCALIZER", "LOCALIZER", "MIXED_ORIENTATION", 1)],
    ),
    "a localizer beside two phases": (
        lambda: together(*(volume(change) for change in PHASES), localizers(2)),
        [
            ("TEMPORAL_POSITION=1", "VOLUME", "", 6),
            ("TEMPORAL_POSITION=2", "VOLUME", "", 6),
            ("LOCALIZER", "LOCALIZER", "MIXED_ORIENTATION", 2),
        ],
    ),
    "four images across: perhaps no localizer": (
        lambda: together(volume(), localizers(4)),
        [("", "VOLUME", "MIXED_ORIENTATION", 10)],
    ),
    "a localizer across a volume with a gap": (
        lambda: together(volume(of=(0, 1, 3, 4)), localizers(1)),
        [("", "VOLUME", "MIXED_ORIENTATION", 5)],
    ),
    "a series of localizers": (
        lambda: together(called(["ORIGINAL", "PRIMARY", "LOCALIZER"], localizers())),
        [("", "LOCALIZER", "MIXED_ORIENTATION", 3)],
    ),
    "projections": (lambda: called(["DERIVED", "PRIMARY", "MIP"], volume()), [("", "PROJECTION", "", 6)]),
    "reformatted": (lambda: called(["DERIVED", "SECONDARY", "MPR"], volume()), [("", "REFORMATTED", "", 6)]),
    "derived": (lambda: called(["DERIVED", "SECONDARY", "OTHER"], volume()), [("", "DERIVED", "", 6)]),
    "projections among slices": (
        lambda: together(volume(), called(["DERIVED", "PRIMARY", "MIP"], volume(of=(0, 1)))),
        [("", "VOLUME", "", 6), ("PROJECTION", "PROJECTION", "", 2)],
    ),
    "a dose sheet as a screen": (
        lambda: screen(SECONDARY_CAPTURE, "Dose Report"),
        [("", "DOSE_SHEET", "NOT_GRAYSCALE", 1)],
    ),
    "a dose sheet as a CT image": (
        lambda: called(GE_DOSE, volume(of=(0,), modality="CT")),
        [("", "DOSE_SHEET", "SINGLE_SLICE", 1)],
    ),
    "a screen": (
        lambda: screen(SECONDARY_CAPTURE + ".4", "3D view"),
        [("", "SECONDARY_CAPTURE", "NOT_GRAYSCALE", 1)],
    ),
    "a dose report": (lambda: report(DOSE_SR), [("", "DOSE_SHEET", "NOT_AN_IMAGE", 0)]),
    "a report": (lambda: report("1.2.840.10008.5.1.4.1.1.88.11"), [("", "REPORT", "NOT_AN_IMAGE", 0)]),
    "an object without pixels": (
        lambda: report("1.2.840.10008.5.1.4.1.1.66"),
        [("", "NO_IMAGE", "NOT_AN_IMAGE", 0)],
    ),
    "two patients": (
        lambda: together(volume(), volume(put(PatientID="TEST-2"))),
        [("", "VOLUME", "IDENTITY_CONFLICT", 12)],
    ),
    "CT without units": (
        lambda: volume(put(RescaleSlope=None), modality="CT"),
        [("", "VOLUME", "RESCALE_MISSING", 6)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_case_is_told_apart_with_its_own_code(tmp_path: Path, name: str) -> None:
    """What was found, by kind and by code; nothing is repaired, and a volume beside something else is still found."""
    make, expected = CASES[name]
    assert seen(summaries(tmp_path, make())) == expected


def test_a_volume_beside_its_localizer_is_loaded_alone(tmp_path: Path) -> None:
    """The only volume needs no name, and holds none of the localizer's images."""
    loaded = load(written(tmp_path, together(volume(), localizers())), DIGEST)
    assert loaded.volume.shape == (N, 16, 12)
    assert {tuple(header.ImageOrientationPatient) for header in loaded.headers} == {(1, 0, 0, 0, 1, 0)}


def test_images_set_apart_can_be_named(tmp_path: Path) -> None:
    """For a model that is made for them: projections among slices, by the name that explains them."""
    paths = written(tmp_path, together(volume(), called(["DERIVED", "PRIMARY", "MIP"], volume(of=(0, 1, 2)))))
    assert load(paths, DIGEST, part="PROJECTION").volume.shape[0] == 3
    assert load(paths, DIGEST).volume.shape[0] == N


def test_an_instance_twice_is_refused(tmp_path: Path) -> None:
    """The same UID under two names is no second volume."""
    paths = written(tmp_path / "a", volume()) + written(tmp_path / "b", volume())
    (one,) = read_series(paths, {}, {}).summaries
    assert one.refused == "DUPLICATE_INSTANCE"


def test_what_is_seen_of_a_volume_is_what_rules_ask(tmp_path: Path) -> None:
    """Spacing and matrix as measured, orientation by name, the agent, the sender, the protocol."""
    series = volume(
        put(ContrastBolusAgent="碘海醇", ProtocolName="头颅平扫", SeriesDescription="T1 头颅"),
        spacing=(0.5, 0.75),
        step_mm=2.5,
        orientation=SAGITTAL,
    )
    paths = written(tmp_path, series)
    (one,) = read_series(paths, dict.fromkeys(paths, "MR3T"), {}).summaries
    assert (one.rows, one.columns, one.pixel_spacing_mm) == (16, 12, (0.5, 0.75))
    assert (one.slice_spacing_mm, one.orientation) == (pytest.approx(2.5), "SAGITTAL")
    assert (one.contrast, one.lossy, one.senders) == ({True}, False, {"MR3T"})
    assert (one.protocol, one.description, one.series_number) == ("头颅平扫", "T1 头颅", 3)
    assert (one.modality, one.body_part, one.image_types) == ("MR", "BRAIN", {("ORIGINAL", "PRIMARY", "M")})


TILTED = [(1, 0, 0, 0, np.cos(a), np.sin(a)) for a in np.radians((25, 35))]


@pytest.mark.parametrize(
    ("orientation", "name"),
    [
        ((1, 0, 0, 0, 1, 0), "AXIAL"),
        ((-1, 0, 0, 0, 1, 0), "AXIAL"),
        (TILTED[0], "AXIAL"),
        (TILTED[1], "OBLIQUE"),
        (SAGITTAL, "SAGITTAL"),
        (CORONAL, "CORONAL"),
    ],
)
def test_orientations_have_names(tmp_path: Path, orientation: Sequence[float], name: str) -> None:
    """A head scanned along the skull base is still axial; beyond 30 degrees it is oblique."""
    (one,) = summaries(tmp_path, volume(orientation=orientation))
    assert one.orientation == name


@pytest.mark.parametrize(
    ("sop_class", "image_type", "kind"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", ("ORIGINAL", "PRIMARY", "AXIAL"), Kind.VOLUME),
        ("1.2.840.10008.5.1.4.1.1.2", (), Kind.VOLUME),
        ("1.2.840.10008.5.1.4.1.1.4", ("DERIVED", "PRIMARY", "DIS2D"), Kind.VOLUME),
        ("1.2.840.10008.5.1.4.1.1.4", ("DERIVED", "SECONDARY", "ADC"), Kind.DERIVED),
        ("1.2.840.10008.5.1.4.1.1.4", ("DERIVED", "SECONDARY", "PROJECTION IMAGE"), Kind.PROJECTION),
        ("1.2.840.10008.5.1.4.1.1.4.1", ("DERIVED", "PRIMARY", "ANGIO", "MAX_IP"), Kind.PROJECTION),
        ("1.2.840.10008.5.1.4.1.1.2", ("DERIVED", "SECONDARY", "AXIAL", "CSA REFORMATTED"), Kind.REFORMATTED),
        ("1.2.840.10008.5.1.4.1.1.70", ("ORIGINAL", "PRIMARY"), Kind.VOLUME),
    ],
)
def test_kinds_are_told_by_class_and_image_type(sop_class: str, image_type: tuple[str, ...], kind: Kind) -> None:
    """A value of its own, not a part of a word; a class whose number merely begins alike is another class."""
    assert kind_of(sop_class, image_type) is kind


def files(folder: Path) -> Iterator[Path]:
    """Write two studies, and what is no DICOM."""
    for seed in ("one", "two"):
        for ds in volume(of=(0, 1), seed=seed):
            yield write_file(ds, folder / f"{ds.SOPInstanceUID}.dcm")
    for name, data in {"readme.txt": b"hello", "empty": b"", "cut.dcm": b"\0" * 128 + b"DICM\x02\0"}.items():
        (folder / name).write_bytes(data)
        yield folder / name


def test_loose_files_are_sorted_by_what_they_say(tmp_path: Path) -> None:
    """By study and series; what is no instance is counted, not hidden and not an error."""
    found = sort_files(list(files(tmp_path)))
    assert found.skipped == 3
    assert sorted(len(paths) for study in found.studies.values() for paths in study.values()) == [2, 2]
    assert set(found.studies) == {make_slice(0, seed=seed).StudyInstanceUID for seed in ("one", "two")}
