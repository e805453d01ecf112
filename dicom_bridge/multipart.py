"""The one DICOM file in the answer to a WADO-RS Retrieve Instance (PS3.18 section 10.4), piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from dicom_bridge.patience import RetrieveFailed

_DICOM: Final = "application/dicom"
_RELATED: Final = "multipart/related"


def only_part(content_type: str, body: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of the only part of a multipart/related body; a plain application/dicom body is its own.

    The standard had both forms for some years. Raises RetrieveFailed PULL_ANSWER_INVALID for anything else, for a
    second part, and for a body that ends before its last boundary: what was yielded is then not the whole.
    """
    header = Message()
    header["Content-Type"] = content_type
    kind = header.get_content_type()
    if kind == _DICOM:
        yield from body
        return
    boundary = header.get_boundary()
    if kind != _RELATED or not boundary:
        raise RetrieveFailed("PULL_ANSWER_INVALID", "the answer is neither multipart/related nor application/dicom")
    part = _Part(boundary)
    for piece in body:
        yield from part.feed(piece)
    part.end()


class _Part:
    def __init__(self, boundary: str) -> None:
        self._found: list[bytes] = []
        self._parts = 0
        self._ended = False
        callbacks = {"on_part_begin": self._begin, "on_part_data": self._data, "on_end": self._end}
        try:
            self._parser = MultipartParser(boundary.encode("ascii"), callbacks)  # type: ignore[arg-type] # of its own type
        except (FormParserError, UnicodeEncodeError):
            raise RetrieveFailed("PULL_ANSWER_INVALID", "the boundary of the answer is not one") from None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        try:
            self._parser.write(piece)
        except FormParserError:
            raise RetrieveFailed("PULL_ANSWER_INVALID", "the multipart answer is not well formed") from None
        found, self._found = self._found, []
        yield from found

    def end(self) -> None:
        if not self._ended or self._parts != 1:
            raise RetrieveFailed("PULL_ANSWER_INVALID", "the multipart answer has not exactly one whole part")

    def _begin(self) -> None:
        self._parts += 1

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._found.append(data[start:end])

    def _end(self) -> None:
        self._ended = True
