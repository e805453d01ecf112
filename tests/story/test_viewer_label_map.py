"""Our label map in the real viewer: each segment in its own colour, unless the background is described first."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.demo.servers import free_port
from tests.simulators import findings as phantom
from tests.simulators import ohif
from tests.simulators.real_orthanc import RealOrthanc, orthanc_for, running
from tests.simulators.series import make_slice, write_file
from tests.simulators.written import write_label_map

SHAPE = (6, 64, 64)
SLICE = 2
DICE_MIN = 0.97
"""Of the pixels that are red on the screen, with those of the one red segment."""


def masks() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The brain, which is grey, and the haemorrhage, which is red."""
    grey, red = np.zeros(SHAPE, np.bool_), np.zeros(SHAPE, np.bool_)
    grey[1:5, 8:30, 8:56], red[1:5, 36:58, 8:56] = True, True
    return grey, red


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Dataset], RealOrthanc]]:
    """The images' headers, and an Orthanc that holds the images."""
    root = tmp_path_factory.mktemp("label-map")
    made = [make_slice(k, shape=SHAPE[1:], step_mm=2.0) for k in range(SHAPE[0])]
    paths = [write_file(ds, root / f"{k}.dcm") for k, ds in enumerate(made)]
    with running(orthanc_for(root / "pacs", 104, ports=(free_port(), free_port()))) as orthanc:
        orthanc.put(paths)
        yield [pydicom.dcmread(path, stop_before_pixels=True) for path in paths], orthanc


@pytest.fixture(scope="module")
def viewers(headers: tuple[list[Dataset], RealOrthanc]) -> Iterator[dict[str, ohif.Viewer]]:
    """Both versions of the viewer, before that Orthanc."""
    with ohif.viewers(headers[1].url, *ohif.VERSIONS) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("version", "first"), [("3.13.2", False), ("3.12.10", False), ("3.12.10", True)])
def test_each_segment_has_its_own_colour(
    headers: tuple[list[Dataset], RealOrthanc],
    viewers: dict[str, ohif.Viewer],
    version: str,
    first: bool,
    tmp_path: Path,
) -> None:
    """Red is where the red segment is and nowhere else; with the background first it is not (hazards.md, V5)."""
    heads, pacs = headers
    data = write_label_map(
        phantom.findings(*masks()), phantom.manifest(lesions=True), phantom.REF, heads, phantom.context()
    )
    seg = pydicom.dcmread(io.BytesIO(data))
    if first:
        seg.SegmentSequence = [seg.SegmentSequence[-1], *seg.SegmentSequence[:-1]]
    seg.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    held = pacs.ask("POST", "/instances", content=(tmp_path / "seg.dcm").read_bytes())["ID"]
    plane = ohif.planes([heads[SLICE]])[0]
    try:
        with viewers[version].screen(tmp_path) as screen:
            screen.open(str(heads[0].StudyInstanceUID), str(heads[0].SeriesInstanceUID), plane.sop_uid)
            labels = screen.load_segmentation(str(seg.SeriesDescription), plane.sop_uid)
            pixels = screen.shoot("seg")
            red = screen.project(masks()[1][SLICE], plane, (pixels.shape[0], pixels.shape[1]))
            right = ohif.dice(ohif.coloured(pixels), red) > DICE_MIN
            assert labels == ["Brain", "Hemorrhage"]
            assert right is not first
            assert screen.seen.errors == []
    finally:
        pacs.ask("DELETE", f"/instances/{held}")
