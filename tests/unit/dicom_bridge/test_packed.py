"""Frames of a BINARY segmentation, read and written, against pydicom's packing of whole masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels.utils import pack_bits

from dicom_bridge.packed import any_blank, frame_of
from dicom_bridge.packing import pack
from inference.types import SegmentMask


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


@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 40) | st.sampled_from((8, 16, 24)), st.integers(0, 2**32 - 1)
)
def test_boxes_are_packed_as_whole_masks_are(count: int, rows: int, columns: int, seed: int) -> None:
    """Of any size and place, in rows of whole octets or not: all frames, one after another, and nothing else."""
    random = np.random.default_rng(seed)
    masks = random.random((3, count, rows, columns)) > 0.3
    # Each in a corner of its own.
    masks[0, :, :, columns // 3 + 1 :] = False
    masks[1, :, : rows // 2] = False
    masks[2, :, :, : columns // 2] = False
    segments = [SegmentMask(n, mask) for n, mask in enumerate(masks, start=1)]
    frames = [(s, s.origin[0] + k) for s in segments for k in range(len(s.part))]
    pages = [masks[s.number - 1][k] for s, k in frames]
    packed = b"".join(bytes(piece) for piece in pack(frames, (rows, columns)))
    expected = pack_bits(np.array(pages, dtype=np.uint8).ravel(), pad=False) if pages else b""
    assert packed == expected


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_one_blank_frame_is_seen(count: int, size: int, seed: int) -> None:
    """Wherever it begins and ends; one pixel is enough, and what follows the last frame is nobody's."""
    frames = np.zeros((count, size), dtype=np.uint8)
    random = np.random.default_rng(seed)
    frames[np.arange(count), random.integers(0, size, count)] = 1
    after = np.ones(16, dtype=np.uint8)
    assert not any_blank(memoryview(pack_bits(np.append(frames, after))), count, size)
    frames[random.integers(0, count)] = 0
    assert any_blank(memoryview(pack_bits(np.append(frames, after))), count, size)
