"""What a request brings: its body, of bounded size and in bounded time, and the fields of a form."""

import asyncio
from typing import Final
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.errors import ServiceError

BODY_BYTES_MAX: Final = 16_384
"""A decision has some hundred bytes; 64 differences have five thousand."""
BODY_WAIT_S: Final = 10.0


class BodyRefused(ServiceError):
    """No body is had. `code`: TOO_SLOW or TOO_LARGE; `status`: for HTTP."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


async def whole_body(request: Request, wait_s: float = BODY_WAIT_S) -> bytes:
    """The whole body. Raises BodyRefused where more than BODY_BYTES_MAX come, or not all of it within `wait_s`."""
    held = bytearray()
    try:
        async with asyncio.timeout(wait_s):
            async for piece in request.stream():
                held += piece
                if len(held) > BODY_BYTES_MAX:
                    raise BodyRefused(413, "TOO_LARGE", f"a request has at most {BODY_BYTES_MAX} bytes here")
    except (TimeoutError, ClientDisconnect):
        raise BodyRefused(408, "TOO_SLOW", "the request came too slowly; send it again") from None
    return bytes(held)


def form_pairs(request: Request, data: bytes, fields_max: int) -> list[tuple[str, str]]:
    """The fields of a form in their order, empty ones too; nothing if it is no form or has more fields."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return []
    try:
        return parse_qsl(data.decode("ascii"), True, errors="strict", max_num_fields=fields_max)
    except ValueError:
        return []
