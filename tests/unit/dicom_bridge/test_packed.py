"""Frames of a BINARY segmentation, against numpy's own unpacking of all of it and pydicom's packing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels.utils import pack_bits

from dicom_bridge.packed import frame_of


@given(st.integers(1, 5), st.integers(1, 19), st.integers(1, 19), st.integers(0, 2**32 - 1))
def test_each_frame_is_what_was_packed(count: int, rows: int, columns: int, seed: int) -> None:
    """Of any size, so that frames begin and end inside an octet; what pads the last one is nobody's pixel."""
    frames = np.random.default_rng(seed).integers(0, 2, (count, rows, columns), dtype=np.uint8)
    data = pack_bits(frames.ravel())
    for index in range(count):
        mask = frame_of(data, index, (rows, columns))
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, frames[index])


@pytest.mark.parametrize(("octets", "index"), [(0, 0), (4, 0), (9, 1)])
def test_what_is_not_there_is_no_frame(octets: int, index: int) -> None:
    """Two frames of 5 x 8 pixels are ten octets: one fewer, and the second is not whole."""
    with pytest.raises(ValueError, match="buffer"):
        frame_of(b"\xff" * octets, index, (5, 8))
