"""How checkpoints reach witnesses: plain HTTP, to the addresses that the policy names and nowhere else."""

import httpx

from audit.submission import BODY_BYTES_MAX
from audit.witnessing import Reply, WitnessUnreachable

TIMEOUT_S = 10.0
"""For each of connect, write and read: a witness answers in milliseconds, across a country in a second."""

LOOK_TIMEOUT_S = 3.0


def post(url: str, body: bytes) -> Reply:
    """POST `body`; the answer, believed by nobody yet. Raises WitnessUnreachable."""
    return _send("POST", url, body)


def get(url: str) -> Reply:
    """GET; as `post`, and with less patience: a start waits for it."""
    return _send("GET", url, b"", LOOK_TIMEOUT_S)


def _send(method: str, url: str, body: bytes, timeout_s: float = TIMEOUT_S) -> Reply:
    # No proxy or netrc out of the environment, and no redirect: nothing leaves but to the peer that was named (I8).
    try:
        with (
            httpx.Client(timeout=timeout_s, trust_env=False, follow_redirects=False) as client,
            client.stream(method, url, content=body) as answer,
        ):
            held = bytearray()
            for chunk in answer.iter_raw():
                held += chunk
                if len(held) > BODY_BYTES_MAX:
                    raise WitnessUnreachable("a witness answers too much")
            return Reply(answer.status_code, bytes(held))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WitnessUnreachable(f"a witness does not answer: {type(error).__name__}") from None
