"""Frames of a BINARY segmentation: one bit a pixel, the lowest first, frames without a gap (PS3.5 section 8.1.1)."""

import numpy as np
from numpy.typing import NDArray


def frame_of(data: bytes | memoryview, index: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Frame `index`, counted from 0, as a mask (R, C), and no other one. ValueError where it is not all there."""
    size = shape[0] * shape[1]
    begin = index * size
    octets = np.frombuffer(data, dtype=np.uint8, count=(begin + size + 7) // 8 - begin // 8, offset=begin // 8)
    bits = np.unpackbits(octets, bitorder="little")[begin % 8 :][:size]
    return bits.reshape(shape).view(np.bool_)


def any_blank(data: memoryview, count: int, size: int) -> bool:
    """Whether one of the first `count` frames, of `size` pixels each, has no pixel set. ValueError as `frame_of`."""
    if size % 8 == 0:
        octets = np.frombuffer(data, dtype=np.uint8, count=count * size // 8).reshape(count, size // 8)
        return not octets.max(axis=1).all()
    return not all(frame_of(data, index, (1, size)).any() for index in range(count))
