"""HL7 messages over TCP by MLLP (HL7 v2.5.1 appendix C; MLLP release 1), one at a time, each over its own connection.

A message is `0x0B`, the message, `0x1C 0x0D`; so is its answer. Only an acknowledgment that names our control id says
anything: AA and CA (taken), AE, AR, CE and CR (refused: the same message would be refused again). Whatever else
happens, nobody knows whether the message was taken, and it is told again under the same control id, by which the
receiver knows it.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from dicom_bridge.tls import TlsFiles, TlsUnusable, client_context
from service.reporting.answer import Answer, Fate

START: Final = b"\x0b"
END: Final = b"\x1c\r"
ANSWER_BYTES_MAX: Final = 64 * 1024
"""An acknowledgment has some hundred; more is no answer to us."""
CONNECT_S: Final = 10.0

_TAKEN: Final = frozenset({"AA", "CA"})
_REFUSED: Final = frozenset({"AE", "AR", "CE", "CR"})
_ERROR: Final = re.compile(r"[0-9]{3}")
"""ERR-3, HL7 table 0357."""
_SEPARATOR_AT: Final = 3
_CHUNK: Final = 4096


@dataclass(frozen=True, slots=True)
class Mllp:
    """Where messages go. `answer_s`: from the connection to the last byte of the answer. `files`: none for no TLS."""

    host: str
    port: int
    answer_s: float = 30.0
    files: TlsFiles | None = None
    pin: str | None = None


class MllpClient:
    """Tells one receiver. `abort` may be called from another thread; after it nothing is told any more."""

    def __init__(self, to: Mllp) -> None:
        self._to = to
        self._guard = threading.Lock()
        self._open: socket.socket | None = None
        self._aborted = False

    def tell(self, content: bytes, control_id: str) -> Answer:
        """Send one message and wait for its acknowledgment. Raises nothing: whatever goes wrong is LATER."""
        until = time.monotonic() + self._to.answer_s
        try:
            link = self.connect()
            try:
                link.sendall(START + content + END)
                return _understood(self._answer(link, until), control_id)
            finally:
                link.close()
        except ssl.SSLCertVerificationError:
            return Answer(Fate.LATER, "HL7_CERTIFICATE_REFUSED")
        except ssl.SSLError:
            return Answer(Fate.LATER, "HL7_TLS_FAILED")
        except TlsUnusable as wrong:
            return Answer(Fate.LATER, wrong.code)
        except TimeoutError:
            return Answer(Fate.LATER, "HL7_NO_ANSWER")
        except OSError:
            return Answer(Fate.LATER, "HL7_UNREACHABLE")

    def connect(self) -> socket.socket:
        """A connection that was made, with TLS where it is to be; the caller closes it. Raises OSError, TlsUnusable."""
        context = None if self._to.files is None else client_context(self._to.files, self._to.pin)
        link = socket.create_connection((self._to.host, self._to.port), min(CONNECT_S, self._to.answer_s))
        try:
            with self._guard:
                if self._aborted:
                    raise ConnectionAbortedError
                self._open = link
            link.settimeout(self._to.answer_s)
            if context is not None:
                link = context.wrap_socket(link, server_hostname=self._to.host)
                self._open = link
            return link
        except BaseException:
            link.close()
            raise

    def abort(self) -> None:
        """End what is under way."""
        with self._guard:
            self._aborted = True
            if self._open is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self._open, socket.SHUT_RDWR)  # not TLS's own, which would wait

    def _answer(self, link: socket.socket, until: float) -> bytes:
        held = b""
        while END not in held:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            link.settimeout(left)
            part = link.recv(_CHUNK)
            if not part:
                raise ConnectionResetError
            held += part
            if len(held) > ANSWER_BYTES_MAX or not held.startswith(START):
                return b""
        return held[len(START) : held.index(END)]


def _understood(answer: bytes, control_id: str) -> Answer:
    """What an acknowledgment says; only its codes are looked at, which are ASCII in any character set."""
    segments = [line for line in answer.decode("latin-1").split("\r") if line]
    if not segments or not segments[0].startswith("MSH") or len(segments[0]) <= _SEPARATOR_AT:
        return Answer(Fate.LATER, "HL7_ANSWER_INVALID")
    separator = segments[0][_SEPARATOR_AT]
    fields = {line.split(separator)[0]: line.split(separator) for line in reversed(segments)}
    code, of = [*fields.get("MSA", ()), "", "", ""][1:3]
    if code not in _TAKEN | _REFUSED:
        return Answer(Fate.LATER, "HL7_ANSWER_INVALID")
    if of != control_id:
        return Answer(Fate.LATER, "HL7_ANSWER_TO_ANOTHER")
    if code in _TAKEN:
        return Answer(Fate.DELIVERED, code)
    why = [*fields.get("ERR", ()), "", "", "", ""][3].split("^")[0]
    return Answer(Fate.REFUSED, f"HL7_{code}_{why}" if _ERROR.fullmatch(why) else f"HL7_{code}")
