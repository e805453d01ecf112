"""One connection, plain or TLS, read into the caller's buffer, with a limit to every wait.

pynetdicom reads in pieces of 4 KiB and waits for the rest of a PDU for ever; here a read is one call of the system
in the usual case, takes all that has come, and each wait ends when the peer has been silent for too long or is too
slow altogether.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from contextlib import suppress
from typing import ClassVar, Final

from dicom_bridge.errors import BridgeError, Fault

TICK_MAX_S: Final = 1.0
"""Seconds that one call of the system may wait: how often the limits are looked at while nothing comes."""
LINGER_S: Final = 2.0
"""Seconds to wait for the peer's close after our last PDU: closing at once would make the kernel throw it away."""
_LINGER_BYTES: Final = 1 << 16
SMALL: Final = 1024
"""Bytes of which the first may be read with whatever else has come: a header, a command."""
_AT_ONCE: Final = socket.MSG_DONTWAIT
_WHOLE: Final = socket.MSG_WAITALL
_TIMEVAL: Final = struct.Struct("ll")


class AssociationEnded(BridgeError):
    """The association cannot go on.

    PEER_CLOSED: the connection is gone; PEER_SILENT, PEER_SLOW: a limit in time was reached; PEER_ABORTED,
    PEER_RELEASED: the peer said so; PROTOCOL: the peer broke PS3.8; STOPPING: we are being stopped. `abort` is what
    to send: source and reason of A-ABORT (PS3.8 section 9.3.8), or None.
    """

    CODES: ClassVar[frozenset[str]] = frozenset(
        {"PEER_CLOSED", "PEER_SILENT", "PEER_SLOW", "PEER_ABORTED", "PEER_RELEASED", "PROTOCOL", "STOPPING"}
    )
    fault = Fault.SITE

    def __init__(self, code: str, detail: str = "", abort: tuple[int, int] | None = None) -> None:
        super().__init__(code, detail)
        self.abort = abort


BY_USER: Final = (0, 0)
"""A-ABORT by the service user, without a reason: of the application above the upper layer, that is ours."""


class Connection:
    """A connected socket. `tick_s`: how long one call may wait; `send_s`: how long the peer may not take our answer.

    Reading and sending is for one thread; `stop_reading` for any.
    """

    def __init__(self, connected: socket.socket, tick_s: float, send_s: float) -> None:
        self.socket = connected
        self._tick_s, self._send_s = min(tick_s, TICK_MAX_S), send_s
        self._tls = isinstance(connected, ssl.SSLSocket)
        if self._tls:
            connected.settimeout(self._tick_s)
        else:
            # Blocking, with the kernel's own timeout: Python's would cost a poll() for each recv(), and MSG_WAITALL,
            # which reads a whole PDU in one call, works on blocking sockets only.
            connected.setblocking(True)
            self._limit(socket.SO_RCVTIMEO, self._tick_s)
            self._limit(socket.SO_SNDTIMEO, send_s)

    def fill(self, view: memoryview, silence_s: float, deadline: float) -> None:
        """Fill the view. `deadline` is a time of time.monotonic. Raises AssociationEnded."""
        self.receive(view, len(view), silence_s, deadline)

    def receive(self, view: memoryview, least: int, silence_s: float, deadline: float) -> int:
        """Read at least so many bytes, and as many more as are there and fit; gives how many. As `fill`."""
        # A busy receiver finds much more; an idle one waits, in one call, for exactly what is wanting of a PDU.
        got = self._receive(view, _AT_ONCE) if len(view) > least > SMALL else None
        last = time.monotonic()
        filled = got or 0
        while True:
            if got == 0:
                raise AssociationEnded("PEER_CLOSED", "the connection was closed")
            if filled >= least:
                return filled
            now = time.monotonic()
            if got is not None:
                last = now
            if now - last > silence_s:
                raise AssociationEnded("PEER_SILENT", "nothing came for too long", BY_USER)
            if now > deadline:
                raise AssociationEnded("PEER_SLOW", "the message took too long", BY_USER)
            wanting = least - filled
            got = self._receive(view[filled:least], _WHOLE) if wanting > SMALL else self._receive(view[filled:], 0)
            filled += got or 0

    def _receive(self, view: memoryview, flags: int) -> int | None:
        """Return how many bytes came, 0 at the end of the stream, None when none came within a tick."""
        try:
            if self._tls:
                return self.socket.recv_into(view)
            return self.socket.recv_into(view, 0, flags)
        except (BlockingIOError, TimeoutError, InterruptedError):
            return None
        except (OSError, ValueError) as error:
            # ValueError: a TLS socket whose connection was shut from another thread.
            raise AssociationEnded("PEER_CLOSED", f"the connection broke ({type(error).__name__})") from error

    def send(self, data: bytes) -> None:
        """Send all of it. Raises AssociationEnded when the peer does not take it in time."""
        try:
            if self._tls:
                self.socket.settimeout(self._send_s)
            self.socket.sendall(data)
            if self._tls:
                self.socket.settimeout(self._tick_s)
        except (OSError, ValueError) as error:
            raise AssociationEnded("PEER_CLOSED", f"the peer took no answer ({type(error).__name__})") from error

    def farewell(self, last: bytes) -> None:
        """Send a last PDU, if there is one, and wait a little for the peer to close; never raises."""
        with suppress(AssociationEnded, OSError, ValueError):
            if last:
                self.send(last)
            socket.socket.shutdown(self.socket, socket.SHUT_WR)
            scrap = memoryview(bytearray(_LINGER_BYTES))
            end = time.monotonic() + LINGER_S
            # What still comes is of an association that is over (PS3.8, Sta13).
            while time.monotonic() < end and self._receive(scrap[:1], 0) != 0:
                self._discard(scrap)

    def _discard(self, scrap: memoryview) -> None:
        with suppress(BlockingIOError, TimeoutError):
            self.socket.recv_into(scrap, 0, 0 if self._tls else socket.MSG_DONTWAIT)

    def stop_reading(self) -> None:
        """End the wait of the reading thread, whatever it waits for; what is to be sent still is."""
        with suppress(OSError):
            # Not SSLSocket's own, which would drop the session under the thread that uses it.
            socket.socket.shutdown(self.socket, socket.SHUT_RD)

    def close(self) -> None:
        """Give the descriptor back."""
        with suppress(OSError):
            self.socket.close()

    def _limit(self, option: int, seconds: float) -> None:
        # Never 0 s and 0 us, which means no limit.
        micro = int(seconds % 1 * 1_000_000) or 1
        self.socket.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(seconds), micro))
