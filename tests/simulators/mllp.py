"""A receiver of HL7 messages by MLLP, in a thread: what it should do with each, one after another, and what it got.

It polices its contract: a message that is not framed, or not begun by MSH, is a complaint.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from dicom_bridge.tls import TlsFiles, server_context

LOOPBACK = "127.0.0.1"
WAIT_S = 30.0
START, END = b"\x0b", b"\x1c\r"
ACCEPT, ERROR, REJECT, COMMIT = "AA", "AE", "AR", "CA"
HANG, CLOSE, RESET, GARBAGE, HALF, FLOOD, OTHER, UNFRAMED = (
    *("hang", "close", "reset", "garbage", "half", "flood", "other", "unframed"),
)
"""What else it can do with a message that it has read: see `_reply`."""


def control_id(message: bytes) -> str:
    """MSH-10."""
    return message.split(b"\r")[0].split(b"|")[9].decode("ascii")


def acknowledgment(code: str, of: str, error: str = "") -> bytes:
    """An ACK of this code, framed."""
    err = f"ERR|||{error}^text that quotes TEST^Phantom||E\r" if error else ""
    text = f"MSH|^~\\&|RIS|HOSP|ZHIYING|HOSP|20261129120000||ACK^R01^ACK|A{of}|P|2.5.1\rMSA|{code}|{of}\r{err}"
    return START + text.encode() + END


class Ris:
    """Listens on loopback until `stop`. `messages`: each that came whole, in order. `does`: what comes next; then AA.

    `before_answer` is called with each message before it is answered.
    """

    def __init__(self, *does: str, port: int = 0, files: TlsFiles | None = None) -> None:
        self.does = list(does)
        self.messages: list[bytes] = []
        self.complaints: list[str] = []
        self.connections = 0
        self.error = ""
        self.before_answer: Callable[[bytes], None] = lambda _: None
        self._context = None if files is None else server_context(files)
        self._dead = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((LOOPBACK, port))
        self.port = int(self._listener.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Ris:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def ids(self) -> list[str]:
        """The control ids, in the order in which they came."""
        return [control_id(message) for message in self.messages]

    def stop(self) -> None:
        """Listen no more; who hangs is let go."""
        self._dead.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._acceptor, *self._threads):
            thread.join(5)

    def _accept(self) -> None:
        while not self._dead.is_set():
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._talk, args=(raw,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _talk(self, raw: socket.socket) -> None:
        raw.settimeout(WAIT_S)
        with suppress(OSError, ssl.SSLError):
            link = raw if self._context is None else self._context.wrap_socket(raw, server_side=True)
            with link:
                held = b""
                while data := link.recv(4096):
                    held += data
                    while END in held:
                        frame, _, held = held.partition(END)
                        self._take(link, frame)

    def _take(self, link: socket.socket, frame: bytes) -> None:
        if not frame.startswith(START + b"MSH|^~\\&|"):
            self.complaints.append("not a message in its frame")
            link.close()
            return
        message = frame[len(START) :]
        self.messages.append(message)
        does = self.does.pop(0) if self.does else ACCEPT
        self.before_answer(message)
        self._reply(link, does, control_id(message))

    def _reply(self, link: socket.socket, does: str, of: str) -> None:
        if does == HANG:
            self._dead.wait(WAIT_S)
        elif does == CLOSE:
            link.shutdown(socket.SHUT_RDWR)
        elif does == RESET:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close()
        elif does == HALF:
            link.sendall(acknowledgment(ACCEPT, of)[:-9])
            link.shutdown(socket.SHUT_RDWR)
        elif does == FLOOD:
            link.sendall(START + b"MSH|" + b"x" * 200_000)
        elif does == UNFRAMED:
            link.sendall(b"\n" + acknowledgment(ACCEPT, of)[1:])
        else:
            answers = {GARBAGE: START + b"\x00\xff?" + END, OTHER: acknowledgment(ACCEPT, f"{of[:-1]}_")}
            link.sendall(answers.get(does) or acknowledgment(does, of, self.error))
