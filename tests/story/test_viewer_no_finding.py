"""A run without a finding in the real viewer: its words are on the screen, where its report shows nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge import uids
from dicom_bridge.no_finding import write_no_finding
from dicom_bridge.report import write_sr
from dicom_bridge.result_context import MARKING
from inference.types import Findings
from service.demo.servers import free_port
from tests.simulators import findings as phantom
from tests.simulators import ohif
from tests.simulators.burnt import MARKING_SIZE, TEXT_SIZE, grey, lines, unsaid
from tests.simulators.real_orthanc import orthanc_for, running
from tests.simulators.series import make_slice, set_pixels, write_file

SHAPE = (6, 96, 80)
NOTHING = Findings((), (), {}, "cpu")
WORDS = ["Search for bleeding: no finding.", "Absent: Hemorrhage (Brain)"]
"""What the report says by its codes, and the picture in words."""


def voxels() -> NDArray[np.float32]:
    """A skull with a brain in it, more or less: bright, dark and grey rings, brighter to one side."""
    k, r, c = np.indices(SHAPE)
    far = np.hypot((r - 48) / 44, (c - 40) / 34) + 0.02 * k
    return np.select([far < 0.8, far < 0.9, far < 1.0], [500 + 2 * c, 60 + r, 900], 0).astype(np.float32)


@dataclass(frozen=True)
class Opened:
    """The viewer at a study without a finding; its picture, and the same without words in a series of its own."""

    screen: ohif.Screen
    picture: Dataset
    blank: Dataset


def results(heads: list[Dataset], pixels: NDArray[np.float32]) -> list[Dataset]:
    """The report of nothing found, the picture, and the picture without words."""
    looks_for = phantom.manifest(kind="detections")
    title = {"en": "Search for bleeding", "zh": "出血检测"}
    manifest = replace(looks_for, title=title, detections=looks_for.detections[1:])
    report = write_sr(NOTHING, manifest, phantom.REF, heads, None, phantom.context())
    data = write_no_finding(NOTHING, manifest, phantom.REF, heads, pixels, phantom.context())
    assert data is not None
    picture, blank = (pydicom.dcmread(io.BytesIO(data)) for _ in range(2))
    wiped = blank.pixel_array.copy()
    for box in lines(grey(blank)):
        wiped[box] = 0
    blank.PixelData, blank.SeriesDescription = wiped.tobytes(), "BLANK"
    blank.SOPInstanceUID, blank.SeriesInstanceUID = (uids.derive("TEST-BLANK", one) for one in ("image", "series"))
    blank.file_meta.MediaStorageSOPInstanceUID = blank.SOPInstanceUID
    return [pydicom.dcmread(io.BytesIO(report)), picture, blank]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Once for all of this file: a start of the viewer takes some ten seconds."""
    root, pixels = tmp_path_factory.mktemp("no-finding"), voxels()
    paths = []
    for k in range(SHAPE[0]):
        ds = make_slice(k, shape=SHAPE[1:], step_mm=5.0, spacing=(2.0, 2.0))
        set_pixels(ds, pixels[k].astype(np.int16))
        paths.append(write_file(ds, root / f"{k}.dcm"))
    heads = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    made = results(heads, pixels)
    for number, ds in enumerate(made):
        paths.append(root / f"result-{number}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    head = heads[SHAPE[0] // 2]
    with running(orthanc_for(root / "pacs", 104, ports=(free_port(), free_port()))) as orthanc:
        orthanc.put(paths)
        version = ohif.VERSIONS[0]
        with ohif.viewers(orthanc.url, version) as made_ready, made_ready[version].screen(root) as screen:
            screen.open(str(head.StudyInstanceUID), str(head.SeriesInstanceUID), str(head.SOPInstanceUID))
            yield Opened(screen, *made[1:])


def unread(opened: Opened, shown: Dataset) -> list[str]:
    """Choose `shown` in the viewer; what of the picture is then not to be seen as it must be."""
    found = ohif.misread(opened.screen, shown, opened.picture, [MARKING["en-US"], *WORDS])
    return [name for name, holds in found.items() if holds]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_viewer_says_that_nothing_was_found(opened: Opened) -> None:
    """The picture says it letter by letter, and each of its lines is on the screen: nothing lies over it."""
    assert unsaid(opened.picture, [(MARKING["en-US"], MARKING_SIZE), *((line, TEXT_SIZE) for line in WORDS)]) == []
    assert unread(opened, opened.picture) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_picture_without_its_words_is_noticed(opened: Opened) -> None:
    """The same test fails where the lines are blank."""
    assert unread(opened, opened.blank) == ["unread: AI", "unread: Search", "unread: Absent:"]
