"""One slice as a picture: windowed, enlarged, one segment outlined, lines of text above and below. Pure.

What is drawn is what `Picture` holds, and it holds no attribute of a patient: nothing else can get into the pixels.

The text is English at every site. The font is the one inside Pillow (Aileron, CC0), which has no Chinese; a font that
has is 8 MB and more, or is whatever this machine happens to have, and then the same call would not give the same bytes.
Boxes in place of the marking would be worse than English. Chinese stands in the object's attributes (see `keyimage`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage import color

SIDE_PX = 768  # of the picture's longer side: a small matrix becomes readable, a large one still fits a screen
MARGIN_PX = 128  # black on either side, so that the bands' text is far from the corners, where viewers write
LINE_PX = 30
OUTLINE_PX = 2
INK = (235, 235, 235)
MARKING_INK = (255, 196, 0)
MARKING_SIZE = 21
TEXT_SIZE = 19
TEXT_SIZE_MIN = 14  # of a line that is read letter by letter, such as an address
LINE_SHARE = 0.68  # of the width that a line may take; the corners (0.15 each) are a viewer's own, and ink spreads
COLOURED_MIN = 48  # between the strongest and the weakest of red, green and blue
PERCENTILES = (1.0, 99.5)  # of what is brighter than the slice's darkest value: a metal artefact darkens nothing


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Everything that is drawn.

    plane: (R, C), the slice in the modality's unit; mask: (R, C) bool. spacing: mm between rows, between columns.
    window: lowest and highest value shown, None: from the slice itself. colour_lab: as PS3.3 C.10.7.1.1.
    above, below: lines of text; the first of `above` is the marking.
    """

    plane: NDArray[np.float32]
    mask: NDArray[np.bool_]
    spacing: tuple[float, float]
    window: tuple[float, float] | None
    colour_lab: tuple[int, int, int]
    above: Sequence[str]
    below: Sequence[str]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where on the canvas (pixels) the slice lies, and how large: the canvas's rows `top`..., columns `left`..."""

    top: int
    left: int
    height: int
    width: int


def draw(picture: Picture) -> NDArray[np.uint8]:
    """The canvas (H, W, 3) in RGB; the same picture gives the same pixels."""
    at = placed(picture)
    room = at.left * 2 + at.width
    sheet = Image.new("RGB", (room, at.top + at.height + _band(picture.below)))
    grey = Image.fromarray(_windowed(picture)).resize((at.width, at.height), Image.Resampling.BICUBIC)
    sheet.paste(grey.convert("RGB"), (at.left, at.top))
    pen = ImageDraw.Draw(sheet)
    _write(pen, picture.above, room, 0, marked=True)
    _write(pen, picture.below, room, at.top + at.height, marked=False)
    canvas = np.array(sheet)
    shown = Image.fromarray(picture.mask.astype(np.uint8) * 255).resize((at.width, at.height), Image.Resampling.NEAREST)
    inside = np.zeros(canvas.shape[:2], dtype=np.bool_)
    inside[at.top : at.top + at.height, at.left : at.left + at.width] = np.asarray(shown) > 0
    # Around the mask, never on it: what it marks stays to be seen, and a single voxel is marked as well as an organ.
    grown = _grown(inside, OUTLINE_PX)
    canvas[_grown(grown, 1) & ~inside] = 0
    canvas[grown & ~inside] = outline_colour(picture.colour_lab)
    return canvas


def placed(picture: Picture) -> Placed:
    """Where `draw` puts the slice: its true aspect ratio, its longer side `SIDE_PX`."""
    rows, columns = picture.plane.shape
    high, wide = rows * picture.spacing[0], columns * picture.spacing[1]
    scale = SIDE_PX / max(high, wide)
    # Text needs the width of a square slice, whatever the slice's own.
    height, width = max(1, round(high * scale)), max(1, round(wide * scale))
    return Placed(_band(picture.above), (SIDE_PX - width) // 2 + MARGIN_PX, height, width)


def wrapped(text: str) -> list[str]:
    """`text` as lines that fit into a picture at TEXT_SIZE, broken at blanks; a longer word has a line of its own."""
    font = ImageFont.load_default(size=float(TEXT_SIZE))
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= (SIDE_PX + 2 * MARGIN_PX) * LINE_SHARE:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def readable(line: str) -> bool:
    """Whether `line` fits into a picture without becoming smaller than TEXT_SIZE_MIN."""
    room = (SIDE_PX + 2 * MARGIN_PX) * LINE_SHARE
    return ImageFont.load_default(size=float(TEXT_SIZE_MIN)).getlength(line) <= room


def outline_colour(colour_lab: tuple[int, int, int]) -> tuple[int, int, int]:
    """The segment's colour; the marking's, where that is a grey, which on a grey picture shows nothing."""
    colour = rgb(colour_lab)
    return colour if max(colour) - min(colour) >= COLOURED_MIN else MARKING_INK


def grey_range(plane: NDArray[np.float32]) -> tuple[float, float]:
    """Lowest and highest value to show of a slice (R, C) that has no window of its own."""
    values = np.nan_to_num(plane.astype(np.float64))
    tissue = values[values > values.min()]
    low, high = (float(v) for v in np.percentile(tissue if tissue.size else values, PERCENTILES))
    return low, high


def rgb(colour_lab: tuple[int, int, int]) -> tuple[int, int, int]:
    """Recommended Display CIELab Value (16-bit, PS3.3 C.10.7.1.1) as sRGB of 8 bits.

    DICOM's white (D50) becomes the screen's, as viewers do it: white is white and grey is grey.
    """
    lightness, a, b = (value / 65535.0 for value in colour_lab)
    lab = np.array([[[lightness * 100.0, a * 255.0 - 128.0, b * 255.0 - 128.0]]])
    red, green, blue = np.rint(np.clip(color.lab2rgb(lab, illuminant="D65"), 0, 1)[0, 0] * 255.0).astype(int)
    return int(red), int(green), int(blue)


def _band(lines: Sequence[str]) -> int:
    return LINE_PX * len(lines) + LINE_PX // 2


def _write(pen: ImageDraw.ImageDraw, lines: Sequence[str], room: int, top: int, *, marked: bool) -> None:
    """Lines in the middle; one that is too long is written smaller, never cut."""
    for number, line in enumerate(lines):
        first = marked and number == 0
        size = float(MARKING_SIZE if first else TEXT_SIZE)
        font = ImageFont.load_default(size=size)
        if (length := font.getlength(line)) > room * LINE_SHARE:
            font = ImageFont.load_default(size=size * room * LINE_SHARE / length)
        middle = (room / 2, top + LINE_PX // 4 + LINE_PX * number + LINE_PX / 2)
        pen.text(middle, line, fill=MARKING_INK if first else INK, font=font, anchor="mm")


def _windowed(picture: Picture) -> NDArray[np.uint8]:
    """Grey values 0..255 of the slice (R, C)."""
    plane = np.nan_to_num(picture.plane.astype(np.float64))
    low, high = grey_range(picture.plane) if picture.window is None else picture.window
    return np.rint(np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255.0).astype(np.uint8)


def _grown(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask and what lies within `steps` pixels of it, diagonals included."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        rows = padded[:-2] | padded[1:-1] | padded[2:]
        mask = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return mask
