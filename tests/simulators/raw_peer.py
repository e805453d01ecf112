"""A peer that speaks PDUs byte by byte (PS3.8 section 9.3), right or wrong, where pynetdicom would not."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType

VERIFICATION = "1.2.840.10008.1.1"
APPLICATION = "1.2.840.10008.3.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
WAIT_S = 30.0


def item(kind: int, value: bytes) -> bytes:
    """One item or sub-item."""
    return struct.pack(">BxH", kind, len(value)) + value


def context_item(number: int, sop_class: str, syntaxes: Sequence[str]) -> bytes:
    """One presentation context of a request."""
    inner = item(0x30, sop_class.encode()) + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
    return item(0x20, bytes((number, 0, 0, 0)) + inner)


def user_information(pdu_bytes_max: int = 16384, *, more: bytes = b"") -> bytes:
    """The user information item; `more`: further sub-items."""
    return item(0x50, item(0x51, struct.pack(">L", pdu_bytes_max)) + item(0x52, b"1.2.3.4") + more)


def request(
    contexts: Iterable[tuple[int, str, Sequence[str]]],
    *,
    called: str = "ZHIYING",
    calling: str = "RAWPEER",
    version: int = 1,
    application: str = APPLICATION,
    user: bytes | None = None,
) -> bytes:
    """An A-ASSOCIATE-RQ with its header."""
    fixed = struct.pack(">Hxx16s16s32x", version, called.ljust(16).encode(), calling.ljust(16).encode())
    items = item(0x10, application.encode()) + b"".join(context_item(*context) for context in contexts)
    return pdu(0x01, fixed + items + (user_information() if user is None else user))


def pdu(kind: int, body: bytes) -> bytes:
    """One PDU with its header."""
    return struct.pack(">BxL", kind, len(body)) + body


def pdv(context: int, control: int, fragment: bytes) -> bytes:
    """One presentation data value; `control`: 1 command, 2 last."""
    return struct.pack(">LBB", len(fragment) + 2, context, control) + fragment


def data(context: int, control: int, fragment: bytes) -> bytes:
    """A P-DATA-TF of one PDV."""
    return pdu(0x04, pdv(context, control, fragment))


RELEASE = pdu(0x05, bytes(4))
ABORT = pdu(0x07, bytes(4))


def command(elements: Sequence[tuple[int, bytes]]) -> bytes:
    """A command set of these (element, value), the group length first."""
    body = b"".join(struct.pack("<HHL", 0, element, len(value)) + value for element, value in elements)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def short(value: int) -> bytes:
    """A US value."""
    return struct.pack("<H", value)


def uid(text: str) -> bytes:
    """A UI value."""
    return text.encode() + b"\0" * (len(text) % 2)


def store_command(sop_class: str, sop_uid: str, *, message: int = 1, priority: int = 2, data_set: int = 1) -> bytes:
    """A C-STORE-RQ."""
    return command(
        [
            (0x0002, uid(sop_class)),
            (0x0100, short(0x0001)),
            (0x0110, short(message)),
            (0x0700, short(priority)),
            (0x0800, short(data_set)),
            (0x1000, uid(sop_uid)),
        ]
    )


def echo_command(message: int = 1) -> bytes:
    """A C-ECHO-RQ."""
    fields = [(0x0002, uid(VERIFICATION)), (0x0100, short(0x0030)), (0x0110, short(message)), (0x0800, short(0x0101))]
    return command(fields)


def elements(command_set: bytes) -> dict[int, bytes]:
    """The elements of a command set."""
    found, at = {}, 0
    while at < len(command_set):
        _, element, length = struct.unpack_from("<HHL", command_set, at)
        found[element] = command_set[at + 8 : at + 8 + length]
        at += 8 + length
    return found


class RawPeer:
    """One connection to a listener on loopback."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Go, without a word."""
        with suppress(OSError):
            self.socket.close()

    def send(self, *pieces: bytes) -> None:
        """Send, and do not care whether the other side still reads."""
        with suppress(ConnectionError):
            self.socket.sendall(b"".join(pieces))

    def pdu(self) -> tuple[int, bytes]:
        """Read one PDU: type and body; (0, b"") when the connection ends instead."""
        header = self._exactly(6)
        if len(header) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxL", header)
        return kind, self._exactly(length)

    def ended(self) -> bool:
        """Whether the other side closes now, saying nothing more."""
        return self.pdu() == (0, b"")

    def associate(self, contexts: Iterable[tuple[int, str, Sequence[str]]], **options: object) -> bytes:
        """Propose, and return the body of the acceptance."""
        self.send(request(contexts, **options))  # type: ignore[arg-type] # of request's own
        kind, body = self.pdu()
        assert kind == 0x02, f"PDU {kind} {body.hex()}"
        return body

    def answer(self) -> dict[int, bytes]:
        """Read one response, of one PDV or more, and return its elements."""
        whole = b""
        while True:
            kind, body = self.pdu()
            assert kind == 0x04, f"PDU {kind} {body.hex()}"
            whole += body[6:]
            assert body[5] & 1
            if body[5] & 2:
                return elements(whole)

    def status(self) -> int:
        """Read one response and return its status."""
        return int.from_bytes(self.answer()[0x0900], "little")

    def store(self, context: int, sop_class: str, sop_uid: str, encoded: bytes, fragment: int = 16000) -> int:
        """One whole C-STORE; returns the status."""
        self.send(data(context, 3, store_command(sop_class, sop_uid)))
        for start in range(0, max(len(encoded), 1), fragment):
            last = start + fragment >= len(encoded)
            self.send(data(context, 2 if last else 0, encoded[start : start + fragment]))
        return self.status()

    def _exactly(self, length: int) -> bytes:
        got = b""
        with suppress(ConnectionError):
            while len(got) < length:
                more = self.socket.recv(length - len(got))
                if not more:
                    break
                got += more
        return got
