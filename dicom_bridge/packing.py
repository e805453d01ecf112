"""Masks to frames of a BINARY segmentation: one bit a pixel, lowest first, no gap between frames (PS3.5 8.1.1, D.1)."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from inference.types import SegmentMask


def pack(frames: Sequence[tuple[SegmentMask, int]], shape: tuple[int, int]) -> Iterator[memoryview]:
    """Successive frames, each a segment's slice k, (R, C) pixels; each piece holds until the next one is asked for."""
    return _in_octets(frames, shape) if shape[1] % 8 == 0 else _by_eight(frames, shape)


def _in_octets(frames: Sequence[tuple[SegmentMask, int]], shape: tuple[int, int]) -> Iterator[memoryview]:
    """Where each row is whole octets, only those that a segment's box touches are packed: of an organ, one in ten."""
    page = np.zeros((shape[0], shape[1] // 8), dtype=np.uint8)
    last: SegmentMask | None = None
    for found, k in frames:
        if found is not last:
            last, (octets, place) = found, _octets_of(found)
        page[place] = octets[k - found.origin[0]]
        yield page.data
        page[place] = 0


def _octets_of(found: SegmentMask) -> tuple[NDArray[np.uint8], tuple[slice, slice]]:
    """The planes of a segment's box, its columns widened to whole octets; and where in a page of octets they lie."""
    _, rows, columns = found.box
    first, end = columns.start // 8, (columns.stop + 7) // 8
    wide = np.zeros((*found.part.shape[:2], 8 * (end - first)), dtype=np.bool_)
    wide[:, :, columns.start - 8 * first :][:, :, : found.part.shape[2]] = found.part
    packed = np.packbits(wide, bitorder="little").reshape(*wide.shape[:2], end - first)
    return packed, (rows, slice(first, end))


def _by_eight(frames: Sequence[tuple[SegmentMask, int]], shape: tuple[int, int]) -> Iterator[memoryview]:
    """Eight frames at a time: of any size they end with an octet, and they stay in the processor's cache."""
    pages = np.empty((8, *shape), dtype=np.bool_)
    for first in range(0, len(frames), 8):
        some = frames[first : first + 8]
        pages[:] = False
        for page, (found, k) in zip(pages, some, strict=False):
            page[found.box[1:]] = found.part[k - found.origin[0]]
        yield np.packbits(pages[: len(some)], bitorder="little").data
