"""The one file in a multipart answer: whole, alone, or not taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.multipart import only_part
from dicom_bridge.patience import RetrieveFailed

BOUNDARY = "b0undary"
RELATED = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'


def body(*parts: bytes, end: bytes = b"--\r\n") -> bytes:
    """Return a multipart body."""
    head = b"\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(b"\r\n--b0undary" + head + part for part in parts) + b"\r\n--b0undary" + end


def cut(data: bytes, size: int) -> list[bytes]:
    """Return it in pieces."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def read(content_type: str, *pieces: bytes) -> bytes:
    """Return the only part."""
    return b"".join(only_part(content_type, iter(pieces)))


@given(st.binary(max_size=200), st.integers(1, 50))
def test_the_part_comes_out_as_it_went_in(content: bytes, size: int) -> None:
    """However the network cuts it, and whatever is in it."""
    assert read(RELATED, *cut(body(content), size)) == content


def test_content_that_looks_like_a_boundary_stays() -> None:
    """Line ends and dashes occur in pixels."""
    content = b"\r\n--b0undar\r\n--\r\n\r\n--B0UNDARY--\r\n"
    for size in (1, 2, 7, 1000):
        assert read(RELATED, *cut(body(content), size)) == content


def test_a_plain_file_is_its_own_part() -> None:
    """As some servers answer."""
    assert read("application/dicom; transfer-syntax=1.2.840.10008.1.2.1", b"ab", b"c") == b"abc"


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("text/html", b"<html>"),
        ("", b""),
        ("multipart/related", body(b"x")),
        ('multipart/related; boundary="' + "x" * 5000 + '"', body(b"x")),
        ("multipart/related; boundary=schön", body(b"x")),
        (RELATED, b""),
        (RELATED, body(b"x")[:-6]),
        (RELATED, body(b"x", end=b"")),
        (RELATED, body()),
        (RELATED, body(b"x", b"y")),
        (RELATED, b"no boundary at all"),
        (RELATED, b"\r\n--b0undary\r\nA header without an end" + b"x" * 100_000),
    ],
    ids=range(12),
)
def test_anything_else_is_no_answer(content_type: str, data: bytes) -> None:
    """Another type, no boundary, cut off, none, two: an error before anybody takes half a file for a whole one."""
    with pytest.raises(RetrieveFailed) as caught:
        read(content_type, *cut(data, 1000))
    assert caught.value.code == "PULL_ANSWER_INVALID"


@given(st.binary(max_size=400))
def test_rubbish_never_raises_anything_else(data: bytes) -> None:
    """What a broken server sends is a coded error."""
    with pytest.raises(RetrieveFailed) as caught:
        read(RELATED, data)
    assert caught.value.code == "PULL_ANSWER_INVALID"
