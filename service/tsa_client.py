"""How a query reaches a time-stamp authority: plain HTTP (RFC 3161, 3.4), to the address that the site names."""

import time

import httpx

from service.errors import ServiceError
from service.timestamping import ANSWER_BYTES_MAX, TimestampRefused

TIMEOUT_S = 10.0
"""For each of connect, write and read, and for the whole of an answer that comes in drops."""


class TimestampUnreachable(ServiceError):
    """No answer, or none that is a yes: try again later."""

    code = "TIMESTAMP_UNREACHABLE"


def post(url: str, query: bytes) -> bytes:
    """The answer, believed by nobody yet. Raises TimestampUnreachable, TimestampRefused for one that is too long."""
    kind = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    # No proxy or netrc out of the environment, and no redirect: nothing leaves but to the peer that was named (I8).
    try:
        with (
            httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client,
            client.stream("POST", url, content=query, headers=kind) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise TimestampUnreachable(f"the time-stamp authority answers with status {answer.status_code}")
            deadline = time.monotonic() + TIMEOUT_S
            held = bytearray()
            for part in answer.iter_raw():
                held += part
                if len(held) > ANSWER_BYTES_MAX:
                    raise TimestampRefused("the answer is too long")
                if time.monotonic() > deadline:
                    raise TimestampUnreachable("the time-stamp authority takes too long")
            return bytes(held)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TimestampUnreachable(f"the time-stamp authority does not answer: {type(error).__name__}") from None
