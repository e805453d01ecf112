"""The origin server's side of STOW-RS (PS3.18 section 10.5): one request body, taken apart while it arrives.

    multipart/related -> parts of application/dicom -> inbox -> one answer for each

What C-STORE promises holds here: "stored" is said only of what the inbox holds durably; what cannot be parsed is kept
in quarantine; a bad part harms no other. A crash in the middle leaves what was stored before it, unacknowledged; sent
again, it is the same and makes no second one.
"""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dicom_bridge import status
from dicom_bridge.errors import BridgeError, Fault, InboxUnavailable, InstanceRefused
from dicom_bridge.inbox import Inbox
from dicom_bridge.incoming import Announced, Incoming
from dicom_bridge.incoming_file import IncomingFile
from dicom_bridge.offers import STORAGE_CLASSES, TRANSFER_SYNTAXES
from dicom_bridge.stream import FileMeta, meta_is_whole, read_part10
from dicom_bridge.uids import storable

# It writes bytes of a malformed body into its warnings, and those may be a patient's.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

# RFC 2046 section 5.1.1, but for its 70 characters: Orthanc makes boundaries of 73.
_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,199}[0-9A-Za-z'()+_,./:=?-]")
_DICOM: Final = b"application/dicom"
_RELATED: Final = b"multipart/related"

# PS3.18 table I.2-2; the codes of the inbox have those of C-STORE, see `status`.
_REASONS: Final = {"SYNTAX_UNSUPPORTED": 0xC122, "MEDIA_TYPE": 0xC000}
_CUT_OFF: Final = 0xC000
_OUT_OF_RESOURCES: Final = 0xA700


class RequestRefused(BridgeError):
    """A request that is not read at all, by its header."""

    CODES = frozenset({"STOW_MEDIA_TYPE", "STOW_MALFORMED"})
    fault = Fault.INPUT


class PartRefused(BridgeError):
    """A part of a transfer syntax that no association would have been given, or of another media type than DICOM."""

    CODES = frozenset(_REASONS)
    fault = Fault.INPUT


@dataclass(frozen=True, slots=True)
class StowLimits:
    """request_bytes_max: 64 GiB, no study is larger; that of one instance is the inbox's.

    parts_max: a study of the largest kind has some 10 000 instances; each part costs an answer, kept until the end.
    """

    request_bytes_max: int = 64 << 30
    parts_max: int = 50_000


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance, as both sides know it; the UIDs are `storable`."""

    sop_class: str
    sop_uid: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A part that was not stored: Failure Reason (0008,1197); `reference` is None if it did not say what it is."""

    reason: int
    reference: Reference | None


class Broken(StrEnum):
    """Why the rest of the body was not read."""

    MALFORMED = "MALFORMED"
    TOO_LARGE = "TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of each part, in the order in which they came; see `store_answer` for its form on the wire."""

    stored: tuple[Reference, ...]
    failed: tuple[Failure, ...]
    broken: Broken | None


def boundary_of(content_type: str) -> bytes:
    """Return the boundary of a Store request's Content-Type (PS3.18 section 8.6.1.2, RFC 2387).

    Raises RequestRefused: STOW_MEDIA_TYPE for anything but multipart/related of application/dicom; a missing `type`
    is forgiven, as each part tells its own. STOW_MALFORMED when there is no usable boundary.
    """
    kind, options = parse_options_header(content_type)
    if kind.strip() != _RELATED or options.get(b"type", _DICOM).strip().lower() != _DICOM:
        raise RequestRefused("STOW_MEDIA_TYPE", 'the body must be multipart/related; type="application/dicom"')
    boundary = options.get(b"boundary", b"")
    if _BOUNDARY.fullmatch(boundary) is None:
        raise RequestRefused("STOW_MALFORMED", "the Content-Type has no boundary, or one that is not allowed")
    return boundary


class Intake:
    """The body of one request: `feed` it as it arrives, then `finish`; `close` in any case. For one thread at a time.

    `study_uid`: the study that the request's target names; instances of others are refused.
    """

    def __init__(
        self,
        inbox: Inbox,
        boundary: bytes,
        sender: str,
        *,
        study_uid: str | None = None,
        limits: StowLimits | None = None,
    ) -> None:
        self._inbox, self._sender, self._study_uid = inbox, sender, study_uid
        self._limits = limits or StowLimits()
        self._stored: list[Reference] = []
        self._failed: list[Failure] = []
        self._bytes = self._parts = 0
        self._ended = False
        self._broken: Broken | None = None
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        self._part: _Part | None = None
        callbacks: dict[str, Any] = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._content,
            "on_part_data": self._data,
            "on_part_end": self._settle,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type] # a TypedDict of its own
        # To the inbox a request is what an association is: no run begins while it may still bring instances.
        self._carrier = f"stow-{secrets.token_hex(8)}"
        inbox.activity.opened(self._carrier, sender)

    def feed(self, data: bytes) -> None:
        """Take the next bytes; what is complete is stored when this returns. What follows the end is ignored."""
        self._bytes += len(data)
        if not self.over and self._bytes > self._limits.request_bytes_max:
            self._break(Broken.TOO_LARGE)
        if not self.over:
            try:
                self._parser.write(data)
            except FormParserError:
                self._break(Broken.MALFORMED)

    @property
    def over(self) -> bool:
        """Whether the rest of the body is ignored: it was broken, or has ended."""
        return self._ended or self._broken is not None

    def finish(self) -> Report:
        """Say what became of each part, at the end of the body.

        A body that ends before its last boundary is malformed: whether its last part was whole, nobody can know.
        """
        if not self._ended:
            self._break(Broken.MALFORMED)
        return Report(tuple(self._stored), tuple(self._failed), self._broken)

    def close(self) -> None:
        """End the request, finished or not: what was not whole is forgotten, what is stored stays."""
        part, self._part = self._part, None
        if part is not None:
            part.abandon()
        if self._inbox.activity.closed(self._carrier):
            self._inbox.wake()

    def _break(self, why: Broken) -> None:
        if self._broken is None:
            self._broken = why
            # So that an answer which lists what was stored does not pass for the whole.
            self._failed.append(Failure(_OUT_OF_RESOURCES if why is Broken.TOO_LARGE else _CUT_OFF, None))

    # -- what the parser finds ----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._headers = {}
        self._parts += 1
        if self._parts > self._limits.parts_max:
            self._break(Broken.TOO_LARGE)

    def _header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _content(self) -> None:
        if self._broken is None:
            kind, _ = parse_options_header(self._headers.get(b"content-type", _DICOM))
            self._part = _Part(self._inbox, self._sender, self._carrier, self._study_uid)
            if kind.strip() != _DICOM:
                self._part.refuse(PartRefused("MEDIA_TYPE", "the part is not application/dicom"))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None:
            self._part.write(data[start:end])

    def _settle(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        try:
            self._stored.append(part.finish())
        except (PartRefused, InstanceRefused, InboxUnavailable) as refused:
            reason = _REASONS.get(refused.code) or status.answer(refused).status
            self._failed.append(Failure(reason, part.reference))

    def _end(self) -> None:
        self._ended = True


class _Part:
    """One part while it arrives: its file meta information is looked at, the rest goes to the spool as it comes.

    `reference`: what the part says it is, when that is known. After a refusal the rest of it is ignored.
    """

    def __init__(self, inbox: Inbox, sender: str, carrier: str, study_uid: str | None) -> None:
        self._inbox, self._sender, self._carrier, self._study_uid = inbox, sender, carrier, study_uid
        self._head = bytearray()
        self._spooled: Incoming | IncomingFile | None = None
        self._refused: BridgeError | None = None
        self.reference: Reference | None = None

    def write(self, piece: bytes) -> None:
        if self._refused is not None:
            return
        try:
            if self._spooled is not None:
                self._spooled.write(piece)
                return
            self._head += piece
            if meta_is_whole(self._head):
                self._begin()
        except (PartRefused, InstanceRefused, InboxUnavailable) as refused:
            self.refuse(refused)

    def refuse(self, refused: BridgeError) -> None:
        self._refused = refused
        self.abandon()

    def finish(self) -> Reference:
        """Durable when this returns. Raises PartRefused, InstanceRefused, InboxUnavailable."""
        try:
            if self._refused is not None:
                raise self._refused
            held = (self._spooled or self._begin()).finish().held
            return Reference(held.sop_class, held.sop_uid)
        finally:
            self.abandon()

    def abandon(self) -> None:
        self._head.clear()
        if self._spooled is not None:
            self._spooled.abandon()

    def _begin(self) -> Incoming | IncomingFile:
        head, self._head = self._head, bytearray()
        try:
            meta = read_part10(head)
        except InstanceRefused:
            # The inbox comes to the same conclusion, and then keeps a copy in quarantine.
            file = self._spooled = self._inbox.incoming_file(self._sender, self._carrier)
            file.write(head)
            return file
        self.reference = _reference(meta)
        if meta.sop_class and meta.sop_class not in STORAGE_CLASSES:
            raise InstanceRefused("CLASS_UNSUPPORTED", "not a storage SOP class", 0x00080016)
        if meta.transfer_syntax not in TRANSFER_SYNTAXES:
            raise PartRefused("SYNTAX_UNSUPPORTED", "a transfer syntax that nothing here decodes")
        announced = Announced(meta.transfer_syntax, meta.sop_class, meta.sop_instance, study_uid=self._study_uid)
        spooled = self._spooled = self._inbox.incoming(announced, self._sender, self._carrier)
        if len(head) > meta.dataset_at:
            spooled.write(memoryview(head)[meta.dataset_at :])
        return spooled


def _reference(meta: FileMeta) -> Reference | None:
    if storable(meta.sop_class) and storable(meta.sop_instance):
        return Reference(meta.sop_class, meta.sop_instance)
    return None
