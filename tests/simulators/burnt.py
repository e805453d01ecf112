"""What is written in the pixels of a key image: where its lines are, and whether they say what they must."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

LINE_PX = 30
MARKING_SIZE, TEXT_SIZE = 21, 19
SAME_MIN = 0.99
"""Correlation of a line with the ink of the text that it must say; that of one other letter is below."""

Box = tuple[slice, slice]
"""Rows and columns of a picture."""


def grey(sc: Dataset) -> NDArray[np.float64]:
    """The key image (rows, columns), 0 to 255."""
    found: NDArray[np.float64] = sc.pixel_array.mean(axis=-1)
    return found


def lines(picture: NDArray[np.float64]) -> list[Box]:
    """Where lines of text are, from the top: rows with ink that are no higher than a line, between rows without."""
    ink = np.flatnonzero(np.diff(np.concatenate(([0], picture.any(axis=1), [0]))))
    rows = [slice(top, bottom) for top, bottom in ink.reshape(-1, 2) if bottom - top <= LINE_PX]
    columns = [np.flatnonzero(picture[row].any(axis=0)) for row in rows]
    return [(row, slice(at[0], at[-1] + 1)) for row, at in zip(rows, columns, strict=True)]


def written(text: str, size: int) -> NDArray[np.float64]:
    """The text as ink, cut out; (height, width)."""
    sheet = Image.new("L", (1024, 2 * LINE_PX))
    ImageDraw.Draw(sheet).text((512, LINE_PX), text, fill=255, font=ImageFont.load_default(float(size)), anchor="mm")
    return np.asarray(sheet.crop(sheet.getbbox()), dtype=np.float64)


def unsaid(sc: Dataset, words: Sequence[tuple[str, int]]) -> list[str]:
    """Those of `words` (text, size) that the picture does not say, letter by letter, as its lines from the top."""
    picture = grey(sc)
    boxes = lines(picture)
    wrong = [text for text, _ in words[len(boxes) :]]
    for box, (text, size) in zip(boxes, words, strict=False):
        ink = written(text, size)
        if picture[box].shape != ink.shape or np.corrcoef(picture[box].ravel(), ink.ravel())[0, 1] < SAME_MIN:
            wrong.append(text)
    return wrong
