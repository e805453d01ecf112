"""STOW-RS over HTTP: POST /dicom-web/studies and /dicom-web/studies/{study} (PS3.18 section 10.5).

The body is read as it arrives; storing, which waits for the disk, happens in threads, so that no other request waits
for it. What is refused by its header alone is refused before anything is stored.
"""

import asyncio
import ipaddress
import json
import re
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from dicom_bridge import stow_answer
from dicom_bridge.access import Access
from dicom_bridge.inbox import Inbox
from dicom_bridge.stow import Intake, Report, RequestRefused, StowLimits, boundary_of
from dicom_bridge.uids import storable

SENDER: Final = "STOW"
"""What a study's sender is called where the configuration does not tell who calls."""
_BATCH: Final = 1 << 18
"""Bytes that are collected before a thread takes them, 256 KiB: uvicorn brings 64 KiB, and a change of thread costs."""
_DRAINED: Final = 64 << 20
"""Bytes of a refused request that are read and thrown away, 64 MiB: who still sends would not hear the answer."""
_RETRY_S: Final = 30
"""Retry-After of a service that is full, busy or stopping."""
_QUALITY: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """requests_max: at once; each takes a thread while it stores; more are asked to come later.

    silence_s: without a byte, before a request is given up. bytes_per_s_min: a request that is slower in the long run
    is given up too, so that a few that trickle cannot shut the others out; the time of our own disk does not count.
    """

    requests_max: int = 8
    silence_s: float = 60.0
    bytes_per_s_min: int = 16_384
    body: StowLimits = field(default_factory=StowLimits)


def stow_router(
    inbox: Inbox,
    *,
    sender: Callable[[Request], str | None] = lambda _request: SENDER,
    stopping: Callable[[], bool] = lambda: False,
    limits: DoorLimits | None = None,
) -> APIRouter:
    """The two routes. `sender` names who calls, as studies show it, or refuses him with None (403).

    While `stopping` says so, new requests get 503.
    """
    router = APIRouter(prefix="/dicom-web")
    door = _Door(inbox, sender, stopping, limits or DoorLimits())

    @router.post("/studies")
    async def store(request: Request) -> Response:
        return await door.take(request, None)

    @router.post("/studies/{study_uid}")
    async def store_in_study(request: Request, study_uid: str) -> Response:
        return await door.take(request, study_uid)

    return router


def known_senders(access: Access) -> Callable[[Request], str | None]:
    """Name callers as the DICOM port does: by the AE title of the peer that calls from there.

    Others are SENDER, if the site lets others in; from this machine itself they always are. The address is that of the
    connection: a server that believes X-Forwarded-For (uvicorn's `proxy_headers`) would let callers choose it.
    """

    def sender(request: Request) -> str | None:
        host = request.client.host if request.client is not None else ""
        peer = access.caller(host)
        if peer is not None:
            return peer.ae_title
        return SENDER if not access.known_only or loopback(host) else None

    return sender


def loopback(host: str) -> bool:
    """Whether this address is only this machine's own; a name is none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


class _Refused(Exception):
    """By the request's header."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        headers = {"Retry-After": str(_RETRY_S)} if status == 503 else None
        self.response = JSONResponse({"error": {"code": code, "message": message}}, status, headers)


class _Door:
    """Lives in the event loop: nothing here is called from two threads."""

    def __init__(
        self,
        inbox: Inbox,
        sender: Callable[[Request], str | None],
        stopping: Callable[[], bool],
        limits: DoorLimits,
    ) -> None:
        self._inbox, self._sender, self._stopping, self._limits = inbox, sender, stopping, limits
        self._open = 0

    async def take(self, request: Request, study_uid: str | None) -> Response:
        try:
            form, sender, boundary = self._checked(request, study_uid)
        except _Refused as refused:
            await self._drain(request)
            return refused.response
        self._open += 1
        intake = Intake(self._inbox, boundary, sender, study_uid=study_uid, limits=self._limits.body)
        try:
            await self._feed(request, intake)
            return _response(await run_in_threadpool(intake.finish), form)
        except TimeoutError:
            return _Refused(408, "TOO_SLOW", "the request came too slowly; what was stored may be sent again").response
        except ClientDisconnect:
            # Nobody hears this; what was stored was not acknowledged.
            return Response(status_code=400)
        finally:
            self._open -= 1
            intake.close()

    def _checked(self, request: Request, study_uid: str | None) -> tuple[str, str, bytes]:
        """The answer's media type, the sender's name and the body's boundary. Raises _Refused."""
        sender = self._sender(request)
        if sender is None:
            raise _Refused(403, "NOT_A_PEER", "only configured peers may store here")
        if study_uid is not None and not storable(study_uid):
            raise _Refused(400, "UID_INVALID", "the address names no study")
        form = acceptable(request.headers.getlist("accept"))
        if form is None:
            raise _Refused(406, "NOT_ACCEPTABLE", f"answers are {stow_answer.JSON} or {stow_answer.XML}")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refused(415, "STOW_MEDIA_TYPE", "the body must not be compressed")
        try:
            boundary = boundary_of(request.headers.get("content-type", ""))
        except RequestRefused as refused:
            raise _Refused(415 if refused.code == "STOW_MEDIA_TYPE" else 400, refused.code, refused.detail) from None
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.body.request_bytes_max:
            raise _Refused(413, "TOO_LARGE", "the request is larger than this service takes; send a part of it")
        if self._stopping():
            raise _Refused(503, "STOPPING", "the service is shutting down; send again later")
        if self._open >= self._limits.requests_max:
            raise _Refused(503, "BUSY", "as many requests as may be are under way; send again later")
        return form, sender, boundary

    async def _feed(self, request: Request, intake: Intake) -> None:
        """Raises TimeoutError and ClientDisconnect."""
        waited, received, ignored = 0.0, 0, 0
        batch: list[bytes] = []
        size = 0
        async with aclosing(request.stream()) as stream:
            while ignored <= _DRAINED:
                patience = self._limits.silence_s + received / self._limits.bytes_per_s_min - waited
                began = time.monotonic()
                async with asyncio.timeout(min(self._limits.silence_s, patience)):
                    chunk = await anext(stream, None)
                waited += time.monotonic() - began
                if chunk is not None:
                    batch.append(chunk)
                    size += len(chunk)
                    received += len(chunk)
                if batch and (chunk is None or size >= _BATCH):
                    ignored += size if intake.over else 0
                    await run_in_threadpool(intake.feed, b"".join(batch))
                    batch, size = [], 0
                if chunk is None:
                    return

    async def _drain(self, request: Request) -> None:
        """Let the client finish, so that it reads the answer; one that waits for our word is told at once."""
        if request.headers.get("expect", "").lower() == "100-continue":
            return
        left = _DRAINED
        try:
            async with asyncio.timeout(self._limits.silence_s):
                async for chunk in request.stream():
                    left -= len(chunk)
                    if left < 0:
                        return
        except (TimeoutError, ClientDisconnect):
            return


def acceptable(headers: list[str]) -> str | None:
    """Which of our two forms an Accept header asks for (RFC 9110 section 12.5.1): JSON unless XML is preferred."""
    ranges = [part for header in headers for part in header.split(",") if part.strip()]
    if not ranges:
        return stow_answer.JSON
    plain = _quality(ranges, (stow_answer.JSON, "application/json", "application/*", "*/*"))
    xml = _quality(ranges, (stow_answer.XML, "application/*", "*/*"))
    if max(plain, xml) <= 0:
        return None
    return stow_answer.JSON if plain >= xml else stow_answer.XML


def _quality(ranges: list[str], names: tuple[str, ...]) -> float:
    """The quality of the first name, the most specific, that stands among the ranges; 0 if none does."""
    said: dict[str, float] = {}
    for one in ranges:
        kind, *parameters = (part.strip().lower() for part in one.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        said[kind] = float(weight) if _QUALITY.fullmatch(weight) else 0.0
    return next((said[name] for name in names if name in said), 0.0)


def _response(report: Report, form: str) -> Response:
    status = stow_answer.http_status(report)
    if status == 413:
        return _Refused(
            status, "TOO_LARGE", "the request is larger than this service takes; send a part of it"
        ).response
    if status == 400:
        return _Refused(status, "STOW_MALFORMED", "the multipart body is not well formed; nothing was stored").response
    headers = {"Retry-After": str(_RETRY_S)} if status == 503 else None
    body = json.dumps(stow_answer.as_json(report)) if form == stow_answer.JSON else stow_answer.as_xml(report)
    return Response(body, status, headers, form)
