"""The HTTP server of a witness: C2SP tlog-witness ``add-checkpoint``, and its newest checkpoints for who wants to see.

Whoever reaches the port may ask; only what a known log signed changes anything. Log lines hold codes and sizes.
"""

import asyncio
import socket

import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from audit.errors import AuditError
from audit.submission import BODY_BYTES_MAX
from audit.witness import TEXT, Answer, Witness

BODY_WAIT_S = 10
"""For a whole request: 64 KiB take that long only on a line that nobody has, or from somebody who holds us up."""
CONNECTIONS_MAX = 64
"""At once; a log asks once a minute. More are told 503 at the door."""
KEEP_ALIVE_S = 75
HEADER_BYTES_MAX = 16 * 1024
STOP_S = 5

_log = structlog.get_logger()


class _TooLong(Exception):
    """The body went over its limit."""


def build_app(witness: Witness) -> FastAPI:
    """The application over one witness."""
    app = FastAPI(title="Zhiying witness", openapi_url=None, docs_url=None, redoc_url=None)

    @app.post("/add-checkpoint")
    async def add_checkpoint(request: Request) -> Response:
        try:
            async with asyncio.timeout(BODY_WAIT_S):
                body = await _body(request)
        except _TooLong:
            return _answered(Answer(413, b"WITNESS_SUBMISSION_BAD: too long\n", code="WITNESS_SUBMISSION_BAD"))
        except (TimeoutError, ClientDisconnect):
            return _answered(Answer(408, b"WITNESS_SUBMISSION_BAD: too slow\n", code="WITNESS_SUBMISSION_BAD"))
        return _answered(await run_in_threadpool(_asked, witness, body))

    @app.get("/{origin_hash}/checkpoint")
    def checkpoint(origin_hash: str) -> Response:
        try:
            note = witness.latest(origin_hash)
        except (AuditError, OSError) as error:
            return _failed(error)
        if note is None:
            return PlainTextResponse("WITNESS_ORIGIN_UNKNOWN: nothing cosigned here\n", 404)
        return Response(note.encode(), 200, media_type=TEXT)

    @app.get("/health")
    def health() -> Response:
        """Every state is read: one that is lost shows here before a log meets it."""
        try:
            known = witness.logs()
        except (AuditError, OSError) as error:
            return _failed(error)
        return PlainTextResponse(f"ok {len(known)}\n")

    return app


async def _body(request: Request) -> bytes:
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) > BODY_BYTES_MAX:
            raise _TooLong
    return bytes(held)


def _asked(witness: Witness, body: bytes) -> Answer:
    try:
        return witness.answer(body)
    except (AuditError, OSError) as error:  # the disk, or another process that holds the state
        return Answer(503, b"WITNESS_UNAVAILABLE: ask again later\n", code=_code(error))


def _answered(answer: Answer) -> Response:
    if answer.code is None:
        _log.info("witness_cosigned", status=answer.status)
    else:
        _log.warning("witness_refused", status=answer.status, code=answer.code)
    # Not media_type: that would add a charset, and the standard's type has none.
    return Response(answer.body, answer.status, headers={"Content-Type": answer.content_type})


def _failed(error: Exception) -> Response:
    code = _code(error)
    _log.error("witness_failed", code=code)
    return PlainTextResponse(f"{code}: this witness needs its operator\n", 503)


def _code(error: Exception) -> str:
    return error.code if isinstance(error, AuditError) else "WITNESS_UNAVAILABLE"


class WitnessServer:
    """uvicorn over one witness. ``run`` returns when ``stop`` was called, from any thread."""

    def __init__(self, witness: Witness, host: str, port: int) -> None:
        """Binds at once, so that ``port`` (0: any) is known and a taken one is told. Raises OSError."""
        self._socket = socket.create_server((host, port))
        self._server = uvicorn.Server(
            uvicorn.Config(
                build_app(witness),
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                lifespan="off",
                http="h11",
                limit_concurrency=CONNECTIONS_MAX,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
                h11_max_incomplete_event_size=HEADER_BYTES_MAX,
            )
        )
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def run(self) -> None:
        """Serve until stopped."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Let requests under way end, then return from ``run``. May be called before it."""
        self._server.should_exit = True
