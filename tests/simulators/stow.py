"""Both ends of STOW-RS for tests: bodies as a client writes them, and our endpoint behind a real uvicorn."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI

BOUNDARY = b"a-boundary-of-the-test"
CONTENT_TYPE = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY.decode()}"'
_DICOM = b"Content-Type: application/dicom\r\n"
_WAIT_S = 30


def part(content: bytes, headers: bytes = _DICOM, boundary: bytes = BOUNDARY) -> bytes:
    """One part, its boundary before it."""
    return b"--" + boundary + b"\r\n" + headers + b"\r\n" + content + b"\r\n"


def body(contents: Sequence[bytes], boundary: bytes = BOUNDARY) -> bytes:
    """A whole body of application/dicom parts."""
    return b"".join(part(content, boundary=boundary) for content in contents) + b"--" + boundary + b"--\r\n"


class Switch:
    """An application whose routes can be changed while a server runs it: starting one costs a test 0.2 s."""

    def __init__(self, router: APIRouter | None = None) -> None:
        self.turn(router or APIRouter())

    def turn(self, router: APIRouter) -> None:
        """Serve these from now on."""
        self._app = FastAPI()
        self._app.include_router(router)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI calls it."""
        await self._app(scope, receive, send)


@contextmanager
def serving(switch: Switch) -> Iterator[str]:
    """Run it behind uvicorn, as the service does, on a free port of loopback; the base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(switch, log_level="warning", access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
        thread.start()
        deadline = time.monotonic() + _WAIT_S
        while not server.started:
            assert time.monotonic() < deadline, "uvicorn does not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_WAIT_S)
