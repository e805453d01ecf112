"""Readers that we did not write: highdicom, and dcmqi (DCMTK and ITK), find our mask and numbers where we put them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from scipy.spatial import KDTree

from dicom_bridge.peers import ReportGroups
from dicom_bridge.report import write_sr
from dicom_bridge.volume import load
from inference.types import Findings
from tests.simulators import findings as phantom
from tests.simulators import validators
from tests.simulators.enhanced import make_enhanced
from tests.simulators.series import write_file
from tests.simulators.written import write_seg

SHAPE = (6, 16, 12)
OBLIQUE = (0.9396926208, 0.3420201433, 0.0, -0.2961981327, 0.8137976814, 0.5)
FRAMES = (3, 0, 5, 1, 4, 2)
SOURCES = (
    *("axial", "oblique", "anisotropic", "backwards", "oblique backwards"),
    *("CT", "oblique anisotropic backwards CT"),
    *("enhanced oblique CT", "enhanced oblique MR", "enhanced axial anisotropic CT", "enhanced oblique anisotropic MR"),
)
"""MR where it does not say CT; the voxels of all have three different sizes."""


def headers(kind: str, folder: Path) -> list[Dataset]:
    """The series of this kind, in slice order."""
    orientation = OBLIQUE if "oblique" in kind else phantom.AXIAL
    step_mm = 7.5 if "anisotropic" in kind else 2.0
    modality = "CT" if "CT" in kind else "MR"
    if kind.startswith("enhanced"):
        ds = make_enhanced(FRAMES, modality=modality, shape=SHAPE[1:], orientation=orientation, step_mm=step_mm)
        return list(load([write_file(ds, folder / "source.dcm")], "sha256:" + "0" * 64).headers)
    step_mm = -step_mm if "backwards" in kind else step_mm
    made = phantom.series(SHAPE, orientation=orientation, step_mm=step_mm, modality=modality)
    for ds in made:
        ds.SOPClassUID = CTImageStorage if modality == "CT" else ds.SOPClassUID
    return made


def masks() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two solids that overlap, neither symmetric."""
    return phantom.ellipsoid(SHAPE, shift=0.08, size=0.45), phantom.ellipsoid(SHAPE, shift=-0.1, size=0.25)


def places(mask: NDArray[np.bool_], sources: list[Dataset]) -> NDArray[np.float64]:
    """Position in mm of each set voxel, by the headers alone (PS3.3 C.7.6.2.1.1)."""
    found = []
    for k, r, c in np.argwhere(mask):
        ds = sources[k]
        cosines = np.array(ds.ImageOrientationPatient, dtype=float)
        down, along = (float(v) for v in ds.PixelSpacing)
        found.append(np.array(ds.ImagePositionPatient, dtype=float) + r * down * cosines[3:] + c * along * cosines[:3])
    return np.array(found)


def assert_same(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> None:
    """Each point of ours is one of theirs within 0.01 mm and the other way round; no reader keeps another's order."""
    assert len(ours) == len(theirs) > 0
    distance, which = KDTree(theirs).query(ours)
    assert distance.max() < 0.01
    assert len(set(which)) == len(ours)


def written(sources: list[Dataset], groups: ReportGroups = ReportGroups.VOLUMETRIC) -> tuple[bytes, bytes, Findings]:
    """SEG, SR and what they were made of."""
    found, known = phantom.findings(*masks()), phantom.manifest(lesions=True)
    context = phantom.context(report_groups=groups)
    seg = write_seg(found, known, phantom.REF, sources, context)
    return seg, write_sr(found, known, phantom.REF, sources, dcmread(io.BytesIO(seg)), context), found


@pytest.mark.parametrize("kind", SOURCES)
def test_highdicom_reads_each_voxel_where_it_lies(kind: str, tmp_path: Path) -> None:
    """The affine of its volume takes exactly our voxels to the positions of the source's voxels."""
    sources = headers(kind, tmp_path)
    seg = hd.seg.segread(io.BytesIO(written(sources)[0]))
    for number, mask in enumerate(masks(), start=1):
        volume = seg.get_volume(segment_numbers=[number])
        at = np.argwhere(volume.array[..., 0] > 0)
        homogeneous = np.column_stack([at, np.ones(len(at))])
        assert_same(places(mask, sources), (homogeneous @ volume.affine.T)[:, :3])


@pytest.mark.parametrize("kind", SOURCES)
def test_highdicom_reads_each_voxel_of_each_source_image(kind: str, tmp_path: Path) -> None:
    """Asked by the source's images, or its frames, highdicom gives the masks that were written, and nothing else."""
    sources = headers(kind, tmp_path)
    seg = hd.seg.segread(io.BytesIO(written(sources)[0]))
    (uids, frames) = ([str(ds.SOPInstanceUID) for ds in sources], [ds.get("ReferencedFrameNumber") for ds in sources])
    if kind.startswith("enhanced"):
        assert frames == [FRAMES.index(k) + 1 for k in range(len(FRAMES))]
        read = seg.get_pixels_by_source_frame(uids[0], frames, assert_missing_frames_are_empty=True)
    else:
        read = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    assert np.array_equal(read > 0, np.stack(masks(), axis=-1))


@pytest.mark.parametrize("kind", SOURCES)
def test_dcmqi_reads_each_voxel_where_it_lies(kind: str, tmp_path: Path) -> None:
    """`segimage2itkimage` gives one image for each segment: the same voxels at the same positions."""
    sources = headers(kind, tmp_path)
    (tmp_path / "seg.dcm").write_bytes(written(sources)[0])
    validators.dcmqi(
        "segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "-t", "nii"
    )
    for number, mask in enumerate(masks(), start=1):
        (path,) = (p for p in tmp_path.iterdir() if p.name.startswith(f"{number}.nii"))
        image = nibabel.load(path)
        at = nibabel.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj) > 0))
        # NIfTI's x and y point to the right and to the front, DICOM's to the left and to the back.
        assert_same(places(mask, sources), at * (-1, -1, 1))


def printed(found: Findings) -> list[float]:
    """Our numbers as the manifest rounds them."""
    return [round(one.value, 1) for one in found.measurements]


@pytest.mark.parametrize("kind", SOURCES)
def test_both_read_the_report_s_numbers(kind: str, tmp_path: Path) -> None:
    """Value, unit and segment, by highdicom's `srread` and by `tid1500reader`."""
    _, data, found = written(headers(kind, tmp_path))
    (tmp_path / "sr.dcm").write_bytes(data)
    report = hd.sr.srread(tmp_path / "sr.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    theirs = [(m.value, m.unit.value) for group in groups for m in group.get_measurements()]
    assert theirs == [(value, "cm3") for value in printed(found)]

    validators.dcmqi("tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json")
    said = json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["Measurements"]
    numbers = [(float(item["value"]), item["units"]["CodeValue"]) for one in said for item in one["measurementItems"]]
    assert numbers == [(value, "cm3") for value in printed(found)]
    assert [one["ReferencedSegment"] for one in said] == [1, 2]


@pytest.mark.parametrize("kind", SOURCES)
def test_both_read_the_numbers_of_planar_groups(kind: str, tmp_path: Path) -> None:
    """Value, unit and tracking, in order; and highdicom the slice and the outline, whose box is the mask's."""
    sources = headers(kind, tmp_path)
    _, data, found = written(sources, ReportGroups.PLANAR)
    (tmp_path / "sr.dcm").write_bytes(data)
    groups = hd.sr.srread(tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()
    theirs = [(m.value, m.unit.value) for group in groups for m in group.get_measurements()]
    assert theirs == [(value, "cm3") for value in printed(found)]
    for group, mask in zip(groups, masks(), strict=True):
        key = int(mask.sum(axis=(1, 2)).argmax())
        (image,) = group.roi.ContentSequence
        reference = image.ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == sources[key].SOPInstanceUID
        assert reference.get("ReferencedFrameNumber") == sources[key].get("ReferencedFrameNumber")
        rows, columns = np.nonzero(mask[key])
        points = np.asarray(group.roi.value)
        assert points.min(axis=0).tolist() == [columns.min(), rows.min()]
        assert points.max(axis=0).tolist() == [columns.max() + 1, rows.max() + 1]

    validators.dcmqi("tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json")
    said = json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["Measurements"]
    numbers = [(float(item["value"]), item["units"]["CodeValue"]) for one in said for item in one["measurementItems"]]
    assert numbers == [(value, "cm3") for value in printed(found)]
    assert [one["TrackingUniqueIdentifier"] for one in said] == [group.tracking_uid for group in groups]
