"""OHIF in a headless Chromium before a real PACS's DICOMweb: opens a study as a radiologist does, tells what is seen.

What is on the screen is measured, not believed: coloured pixels are compared with where the voxels of a mask must be.
"""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, Page, sync_playwright
from playwright.sync_api import TimeoutError as NotInTime
from pydicom.dataset import Dataset
from scipy.ndimage import map_coordinates

from service.demo.viewer import application
from tests.simulators.burnt import grey, lines

TOOLS = Path(__file__).parents[2] / ".tools" / "ohif"
"""Where scripts/viewer.sh puts the viewer."""
VERSIONS = ("3.13.2", "3.12.10")
OPENS_MS = 90_000
"""To the first image, on two busy cores without a GPU."""
SHOWN_MS = 30_000
SETTLES_S = 1.0
WINDOW = {"width": 1400, "height": 900}
READ_MIN = 0.97
"""Correlation of a line of text on the screen with the picture's own at the drawn scale; 1.00 was seen."""
DRAWN_MIN = 0.9
"""The same of the whole viewport, where the viewer's own words and buttons are too."""
COLOUR = 60
"""How much redder, greener or bluer than grey a pixel of an overlay is."""
# OHIF 3.12.10 draws an SR at times only after a scroll (docs/hazards.md).
NUDGES = 4

_VIEWPORT = """const s = window.services;
const vp = s.cornerstoneViewportService.getCornerstoneViewport(s.viewportGridService.getActiveViewportId());"""
_GO_TO = f"""(sop) => {{ {_VIEWPORT}
  return Promise.resolve(vp.setImageIdIndex(vp.getImageIds().findIndex(id => id.includes(sop)))).then(() => true); }}"""
_CANVAS = f"""(points) => {{ {_VIEWPORT}
  const b = vp.element.getBoundingClientRect();
  const pane = document.querySelector('[data-cy="viewport-pane"]').getBoundingClientRect();
  return points.map(point => {{
    const at = vp.worldToCanvas(point); return [at[0] + b.x - pane.x, at[1] + b.y - pane.y]; }}); }}"""
_IMAGE = f"() => {{ {_VIEWPORT} return vp ? vp.getCurrentImageId() : ''; }}"
_LABELS = """() => window.services.segmentationService.getSegmentations()
  .flatMap(one => Object.values(one.segments).filter(Boolean).map(each => each.label))"""
_FORGET = "if (location.protocol === 'http:') localStorage.clear();"
_WORDS = """() => [...document.querySelectorAll('svg tspan, svg text')]
  .map(one => one.textContent.trim()).filter(Boolean)"""


@dataclass
class Seen:
    """What went wrong in the browser while it looked."""

    errors: list[str] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Slice:
    """The plane of one image: its UID, the centre of its first pixel, the steps along columns and rows; in mm."""

    sop_uid: str
    position: tuple[float, float, float]
    along_columns: tuple[float, float, float]
    along_rows: tuple[float, float, float]


class Screen:
    """One open viewer."""

    def __init__(self, page: Page, origin: str, shots: Path) -> None:
        self._page = page
        self._origin = origin
        self._shots = shots
        self.seen = Seen()
        page.on("pageerror", lambda error: self.seen.errors.append(str(error)))
        page.on("response", lambda answer: self._answered(answer.status, answer.url))
        page.on("request", lambda request: self._asked(request.url))

    def open(self, study_uid: str, series_uid: str, sop_uid: str) -> None:
        """Open a study at one image."""
        where = f"StudyInstanceUIDs={study_uid}&initialSeriesInstanceUID={series_uid}&initialSopInstanceUID={sop_uid}"
        self._page.goto(f"{self._origin}/viewer?{where}")
        self._page.wait_for_selector("canvas.cornerstone-canvas", timeout=OPENS_MS)
        self.settle()

    def settle(self, seconds: float = SETTLES_S) -> None:
        """Wait until nothing is loaded any more."""
        self._page.wait_for_load_state("networkidle")
        time.sleep(seconds)

    def listed(self) -> list[str]:
        """What the study's list says, an entry each."""
        return [one.inner_text() for one in self._page.locator('[data-cy^="study-browser-thumbnail"]').all()]

    def choose(self, words: str) -> None:
        """Double-click the entry of the study's list that holds the words."""
        entry = self._page.locator('[data-cy^="study-browser-thumbnail"]').filter(has_text=words).first
        entry.scroll_into_view_if_needed()
        entry.dblclick()

    def load_segmentation(self, words: str, at: str) -> list[str]:
        """Load a SEG, go to the image `at`; gives its segments' labels."""
        self.choose(words)
        self._page.wait_for_function(
            "() => window.services.segmentationService.getSegmentations().length > 0", timeout=SHOWN_MS
        )
        self.settle()
        self._page.evaluate(_GO_TO, at)
        self.settle()
        return [label for label in self._page.evaluate(_LABELS) if label != "Background"]

    def load_report(self, words: str, expected: str) -> list[str]:
        """Load an SR; gives the words over the image once `expected` is among them, or when it never came."""
        self.choose(words)
        self.settle()
        for _ in range(NUDGES):
            try:
                self._page.wait_for_function(
                    f"() => ({_WORDS})().some(said => said.includes({json.dumps(expected)}))", timeout=4000
                )
                break
            except NotInTime:
                self._nudge()
        self.settle()
        return [str(one) for one in self._page.evaluate(_WORDS)]

    def open_picture(self, words: str, sop_uid: str) -> None:
        """Open a series of one picture from the study's list."""
        self.choose(words)
        self._page.wait_for_function(f"() => ({_IMAGE})().includes({json.dumps(sop_uid)})", timeout=SHOWN_MS)
        self.settle()

    def image(self) -> str:
        """The image in the viewport, by its address, which holds its SOP Instance UID; "" where there is none."""
        return str(self._page.evaluate(_IMAGE))

    def complaints(self) -> list[str]:
        """What the viewer itself tells its user in passing."""
        return [one.inner_text() for one in self._page.locator("[data-sonner-toast]").all()]

    def text(self) -> str:
        """All text of the page."""
        return str(self._page.inner_text("body"))

    def shoot(self, name: str) -> NDArray[np.int64]:
        """The viewport as (height, width, 3) pixels; kept as NAME.png."""
        data = self._page.locator('[data-cy="viewport-pane"]').first.screenshot()
        (self._shots / f"{name}.png").write_bytes(data)
        self._page.screenshot(path=self._shots / f"{name}-page.png")
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int64)

    def project(self, mask: NDArray[np.bool_], plane: Slice, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Where the pixels of a mask (rows, columns) of this plane are on a viewport of `shape` (height, width)."""
        row, column = np.round(self._below(plane, shape)).astype(int)
        inside = (column >= 0) & (row >= 0) & (column < mask.shape[1]) & (row < mask.shape[0])
        found: NDArray[np.bool_] = inside & mask[row.clip(0, mask.shape[0] - 1), column.clip(0, mask.shape[1] - 1)]
        return found

    def project_picture(
        self, picture: NDArray[np.float64], plane: Slice, shape: tuple[int, int]
    ) -> NDArray[np.float64]:
        """How a picture (rows, columns) of this plane must look on a viewport of `shape`; 0 beside it."""
        found: NDArray[np.float64] = map_coordinates(picture, self._below(plane, shape), order=1, cval=0.0)
        return found

    def _below(self, plane: Slice, shape: tuple[int, int]) -> NDArray[np.float64]:
        """The row and the column (2, height, width) of the plane that lie below each pixel of the viewport."""
        reach = 100.0
        origin = np.array(plane.position)
        ends = [origin, origin + reach * np.array(plane.along_columns), origin + reach * np.array(plane.along_rows)]
        zero, right, down = (
            np.array(at) for at in self._page.evaluate(_CANVAS, [[float(x) for x in each] for each in ends])
        )
        # Screen = zero + column * (right - zero) / reach + row * (down - zero) / reach; solved for column and row.
        step = np.linalg.inv(np.stack([(right - zero) / reach, (down - zero) / reach], axis=1))
        # The middle of a pixel of the screen is half a pixel from where it begins.
        y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
        column, row = np.einsum("ij,jhw->ihw", step, np.stack([x - zero[0], y - zero[1]]))
        return np.stack([row, column])

    def _nudge(self) -> None:
        box = self._page.locator('[data-cy="viewport-pane"]').first.bounding_box()
        assert box is not None
        self._page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self._page.mouse.wheel(0, 120)
        time.sleep(SETTLES_S)
        self._page.mouse.wheel(0, -120)

    def _answered(self, status: int, url: str) -> None:
        if status >= 400:
            self.seen.refused.append((status, url))

    def _asked(self, url: str) -> None:
        if not url.startswith((self._origin, "blob:", "data:")):
            self.seen.foreign.append(url)


def coloured(pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a viewport shows a colour: images are grey."""
    found: NDArray[np.bool_] = np.ptp(pixels, axis=-1) > COLOUR
    return found


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """How far two areas are the same: 1 for equal ones, 0 for none in common."""
    return float(2 * np.count_nonzero(one & other) / max(1, np.count_nonzero(one) + np.count_nonzero(other)))


def alike(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """How far two pictures are the same but for brightness and contrast (correlation); 0 where one shows nothing."""
    if min(one.std(), other.std()) == 0.0:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def misread(screen: Screen, shown: Dataset, meant: Dataset, words: Sequence[str]) -> dict[str, bool]:
    """Open the key image `shown` of the study that is open; by its name what of `meant` is not to be seen.

    `words` name the lines of `meant` that are looked for, from the top.
    """
    picture = grey(meant)
    # Without a position of its own, the viewer lays the picture's pixels out in steps of 1.
    plane = Slice(str(shown.SOPInstanceUID), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    found: dict[str, bool] = {}
    screen.open_picture(str(shown.SeriesDescription), plane.sop_uid)
    pixels = screen.shoot("4-key-image").mean(axis=-1)
    expected = screen.project_picture(picture, plane, (pixels.shape[0], pixels.shape[1]))
    found["another picture"] = alike(pixels, expected) < DRAWN_MIN
    for box, line in zip(lines(picture), words, strict=False):
        area = np.zeros(picture.shape, np.bool_)
        area[box] = True
        there = screen.project(area, plane, (pixels.shape[0], pixels.shape[1]))
        found[f"unread: {line.partition(' ')[0]}"] = alike(pixels[there], expected[there]) < READ_MIN
    found["an error in the page"] = bool(screen.seen.errors)
    found["a refused request"] = bool(screen.seen.refused)
    found["a request to another origin"] = bool(screen.seen.foreign)
    found["a complaint to the user"] = bool(screen.complaints())
    return found


class Viewer:
    """OHIF of one version before an Orthanc; each Screen is a new page, which knows nothing of the ones before it."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self._context = context
        self._origin = origin

    @contextmanager
    def screen(self, shots: Path) -> Iterator[Screen]:
        """A page of its own; its pictures go to `shots`."""
        page = self._context.new_page()
        try:
            yield Screen(page, self._origin, shots)
        finally:
            page.close()


@contextmanager
def viewers(orthanc_url: str, *versions: str) -> Iterator[dict[str, Viewer]]:
    """OHIF of each version, in one Chromium: each compiles its scripts once, and not for each page anew."""
    with ExitStack() as ends:
        play = ends.enter_context(sync_playwright())
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        assert chromium is not None, "Chromium is not installed: scripts/setup.sh test"
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        ends.callback(browser.close)
        made = {}
        for version in versions:
            changes: dict[str, object] = {"investigationalUseDialog": {"option": "never"}}
            origin, stop = _served(TOOLS / version / "dist", orthanc_url, changes)
            ends.callback(stop)
            context = browser.new_context(viewport=WINDOW)  # type: ignore[arg-type]
            context.add_init_script(_FORGET)
            made[version] = Viewer(context, origin)
        yield made


def _served(dist: Path, orthanc_url: str, changes: dict[str, object]) -> tuple[str, Any]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(dist, orthanc_url, changes), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(10)
        listening.close()

    return f"http://127.0.0.1:{listening.getsockname()[1]}", stop


def planes(headers: Sequence[Any]) -> list[Slice]:
    """The planes of classic images."""
    made = []
    for ds in headers:
        across, down = np.array(ds.ImageOrientationPatient[:3], float), np.array(ds.ImageOrientationPatient[3:], float)
        between_rows, between_columns = (float(value) for value in ds.PixelSpacing)
        made.append(
            Slice(
                str(ds.SOPInstanceUID),
                tuple(float(x) for x in ds.ImagePositionPatient),  # type: ignore[arg-type]
                tuple(across * between_columns),
                tuple(down * between_rows),
            )
        )
    return made
