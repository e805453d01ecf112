"""Syslog over TLS: frames (RFC 5424 in RFC 5425), and the one thread that writes them to the audit repository.

RFC 5425 has no acknowledgement, so nobody can promise that a message was stored. The promise here: a frame stays in the
spool until it was written to a connection, the repository's machine has acknowledged its bytes, and the connection has
lived on for `settle_s`; or until the repository answered our close_notify, which it does after having read everything.
A connection that breaks before is opened again, and everything that had not settled is written again, in order and from
its first byte: at least once, and twice at most once per break. What a repository loses after that shows as a gap in
the log's indices, which each message carries.
"""

from __future__ import annotations

import fcntl
import re
import socket
import ssl
import struct
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from dicom_bridge.tls import TlsFiles, TlsUnusable, client_context
from service.errors import ServiceError
from service.syslog_spool import Spool, SpoolUnavailable

PORT: Final = 6514
MESSAGE_BYTES_MAX: Final = 32_768
"""What every receiver must take (IHE ITI-20); a longer one might be cut, so it is refused here."""
MSGID: Final = "IHE+RFC-3881"
"""As IHE names it; DICOM's own name is DICOM+RFC3881."""
NOTICE: Final = 85
"""PRI: facility 10 (security), severity 5."""
WARNING: Final = 84

CONNECT_S: Final = 10.0
WRITE_S: Final = 30.0
"""A repository that takes nothing for so long is gone; also what TCP waits for an acknowledgement."""
GOODBYE_S: Final = 2.0
IDLE_S: Final = 5.0
"""How often an idle connection is looked at: a repository that went away is then known before the next event."""
BATCH: Final = 64

_BOM: Final = b"\xef\xbb\xbf"
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_log = structlog.get_logger()


class SyslogInvalid(ServiceError):
    """A header field that RFC 5424 does not allow, or a message that is too long or no text."""

    code = "SYSLOG_MESSAGE_INVALID"


@dataclass(frozen=True, slots=True)
class Header:
    """What each message says of its sender (RFC 5424 section 6): visible ASCII without spaces. Raises SyslogInvalid."""

    host: str
    app: str = "zhiying"
    process: str = "-"
    msgid: str = MSGID

    def __post_init__(self) -> None:
        """Refuse what the grammar does not allow."""
        for name, text, most in (
            ("host", self.host, 255),
            ("app", self.app, 48),
            ("process", self.process, 128),
            ("msgid", self.msgid, 32),
        ):
            if not re.fullmatch(rf"[!-~]{{1,{most}}}", text):
                raise SyslogInvalid(f"{name}: not 1 to {most} visible ASCII characters")


def frame(header: Header, message: str, *, at: str, priority: int = NOTICE) -> bytes:
    """The message as it goes over the wire: its length in octets, a space, the RFC 5424 message with a UTF-8 BOM.

    `at`: the event's time (RFC 3339, at most microseconds). Raises SyslogInvalid.
    """
    if not _TIME.fullmatch(at):
        raise SyslogInvalid("at: not a time of RFC 3339")
    if not 0 <= priority <= 191:
        raise SyslogInvalid("priority: not within 0 and 191")
    try:
        text = message.encode()
    except UnicodeEncodeError:
        raise SyslogInvalid("message: not Unicode text") from None
    head = f"<{priority}>1 {at} {header.host} {header.app} {header.process} {header.msgid} - ".encode("ascii")
    line = head + _BOM + text
    if len(line) > MESSAGE_BYTES_MAX:
        raise SyslogInvalid(f"message: more than {MESSAGE_BYTES_MAX} octets")
    return b"%d %b" % (len(line), line)


@dataclass(frozen=True, slots=True)
class Repository:
    """Where messages go. `files` are read at each connection, so that a renewed certificate needs no restart.

    `pin`: as in dicom_bridge.tls, the fingerprint of the one certificate that it may show.
    """

    host: str
    files: TlsFiles
    port: int = PORT
    pin: str | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: the first pause after a failure and the longest (each is twice the last), and until a frame settled."""

    first_s: float = 1.0
    most_s: float = 60.0
    settle_s: float = 2.0


@dataclass(frozen=True, slots=True)
class SyslogState:
    """For /health, metrics and the doctor. `code`: why the last connection ended, none while there is one."""

    connected: bool
    waiting: int
    waiting_bytes: int
    settled: int
    refused: int
    code: str | None


class SyslogSender:
    """Writes what the spool holds, in order, for ever. Callers only touch the spool: none waits for the network."""

    def __init__(self, spool: Spool, repository: Repository, patience: Patience | None = None) -> None:
        self._spool = spool
        self._repository = repository
        self._patience = patience or Patience()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._guard = threading.Lock()  # of the counts
        self._settled = self._refused = 0
        self._pause_s = self._patience.first_s
        self._code: str | None = None
        self._link: _Link | None = None
        self._thread = threading.Thread(target=self._run, name="syslog", daemon=True)

    @property
    def state(self) -> SyslogState:
        """As it is now."""
        with self._guard:
            connected, code = self._link is not None, self._code
            counts = (self._spool.waiting, self._spool.waiting_bytes, self._settled, self._refused)
        return SyslogState(connected, *counts, code)

    @property
    def running(self) -> bool:
        """For /health."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin, with what a former process left."""
        self._thread.start()

    def stop(self) -> None:
        """End after the frame under way. What had not settled stays for the next start."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(GOODBYE_S + 1)
        link = self._link
        if link is not None:
            link.abort()  # a write that hangs ends with its connection
        self._thread.join(GOODBYE_S)

    def mark(self, name: str) -> str | None:
        """See Spool. Raises SpoolUnavailable."""
        return self._spool.mark(name)

    def offer(self, frames: Sequence[bytes], mark: tuple[str, str] | None = None) -> bool:
        """Keep the frames durably, and move the mark with them; or False: spool full, or disk. Counted and logged.

        Never raises and never waits for the network.
        """
        try:
            kept, code = self._spool.add(frames, mark), "SYSLOG_SPOOL_FULL"
        except SpoolUnavailable as error:
            kept, code = False, error.code
        if kept:
            self._wake.set()
            return True
        with self._guard:
            self._refused += 1
            refused = self._refused
        if refused & (refused - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: never silent, and no flood
            _log.error("syslog_refused", code=code, refused=refused, waiting=self._spool.waiting)
        return False

    # ---- everything below runs in the one thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._spool.waiting == 0:
                self._wake.wait()
                self._wake.clear()
                continue
            try:
                self._serve()
            except (OSError, TlsUnusable) as error:
                self._failed(error)
            if not self._stopping.is_set():
                self._stopping.wait(self._pause_s)
                self._pause_s = min(2 * self._pause_s, self._patience.most_s)

    def _serve(self) -> None:
        """Write over one connection until it breaks, or until we stop."""
        link = _Link(self._repository)
        written: deque[tuple[int, float]] = deque()
        with self._guard:
            self._link, self._code = link, None
        _log.info("syslog_connected", waiting=self._spool.waiting)
        try:
            last = 0
            while not self._stopping.is_set():
                rows = self._spool.after(last, BATCH)
                for number, content in rows:
                    link.write(content)
                    last = number
                    written.append((number, time.monotonic()))
                    if self._stopping.is_set():
                        break
                # After the writing: what went to a connection that is gone has not settled, and is written again.
                link.refuse_broken()
                self._settle(link, written)
                if not rows:
                    self._wake.wait(self._patience.settle_s / 4 if written else IDLE_S)
                    self._wake.clear()
            if link.goodbye() and written:
                self._forget(len(written), written[-1][0])
        finally:
            with self._guard:
                self._link = None
            link.close()

    def _settle(self, link: _Link, written: deque[tuple[int, float]]) -> None:
        """Forget the frames that the connection has outlived."""
        ripe = time.monotonic() - self._patience.settle_s
        if not written or written[0][1] > ripe or link.unacknowledged():
            return
        settled = [written.popleft()[0] for _ in range(sum(1 for _, at in written if at <= ripe))]
        self._forget(len(settled), settled[-1])
        self._pause_s = self._patience.first_s  # it works: the next failure is a new one

    def _forget(self, count: int, number: int) -> None:
        # A crash before this is durable: these are written once more.
        self._spool.drop(number)
        with self._guard:
            self._settled += count

    def _failed(self, error: Exception) -> None:
        if isinstance(error, (TlsUnusable, SpoolUnavailable)):
            code = error.code
        elif isinstance(error, ssl.SSLCertVerificationError):
            code = "SYSLOG_CERTIFICATE_REFUSED"
        elif isinstance(error, ssl.SSLError):
            code = "SYSLOG_TLS_FAILED"
        else:
            code = "SYSLOG_UNREACHABLE"
        with self._guard:
            self._code = code
        name = type(error).__name__
        _log.warning("syslog_failed", code=code, error_type=name, waiting=self._spool.waiting, pause_s=self._pause_s)


class _Link:
    """One TLS connection to the repository."""

    def __init__(self, repository: Repository) -> None:
        context = client_context(repository.files, repository.pin)
        raw = socket.create_connection((repository.host, repository.port), CONNECT_S)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if sys.platform == "linux":
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(WRITE_S * 1000))
            self._socket = context.wrap_socket(raw, server_hostname=repository.host)
        except BaseException:
            raw.close()
            raise

    def write(self, content: bytes) -> None:
        """All of it, or an error, after which this connection must not be used: half a frame may be out."""
        self._socket.settimeout(WRITE_S)
        self._socket.sendall(content)

    def refuse_broken(self) -> None:
        """Raise OSError if the repository closed, or said by an alert that it does not want us."""
        self._socket.setblocking(False)
        try:
            # A repository has nothing to say; what it says nevertheless is not for us.
            while self._socket.recv(4096):
                pass
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return
        raise ConnectionResetError("the repository closed the connection")

    def unacknowledged(self) -> bool:
        """Whether bytes wait for the other machine's acknowledgement, or to be sent at all (Linux: SIOCOUTQ)."""
        try:
            answer = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except OSError:
            return False
        waiting: int = struct.unpack("i", answer)[0]
        return waiting > 0

    def goodbye(self) -> bool:
        """Say close_notify (RFC 5425 4.4); whether the repository answered it, having read all that was written."""
        try:
            self._socket.settimeout(GOODBYE_S)
            self._socket.unwrap()
        except (OSError, ValueError):
            return False
        return True

    def abort(self) -> None:
        """End the connection at once, from any thread: whatever is under way fails."""
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """End it, and let go of the socket. Idempotent; only in the thread that uses it."""
        self.abort()
        self._socket.close()
