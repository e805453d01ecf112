"""Transactions to a FHIR server by HTTP, to the one address that the configuration names and nowhere else.

2xx: taken. 4xx: refused, and the same would be refused again; but 408 and 429 ask for another try. Anything else (5xx,
a redirect, no answer, a 2xx that FHIR did not write): nobody knows, and the same bytes are told again, which puts the
same resources.
"""

from __future__ import annotations

import json
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from dicom_bridge.tls import TlsFiles, TlsUnusable, client_context
from service.reporting.answer import Answer, Fate

ANSWER_BYTES_MAX: Final = 4 * 1024**2
"""The outcome of a transaction has some hundred bytes for each resource."""
TOKEN_BYTES_MAX: Final = 16 * 1024
JSON: Final = "application/fhir+json"
_AGAIN: Final = frozenset({408, 429})
_GOOD: Final = range(200, 300)
_REFUSED: Final = range(400, 500)


@dataclass(frozen=True, slots=True)
class Server:
    """Where transactions go. `token`: a file with a bearer token, read at each try, so that it may be renewed.

    `answer_s`: for connecting, for each byte, and for the whole answer. `files`: mutual TLS; without them an https
    address is believed by the machine's own list of authorities.
    """

    url: str
    answer_s: float = 10.0
    files: TlsFiles | None = None
    pin: str | None = None
    token: Path | None = None


class FhirClient:
    """Tells one server."""

    def __init__(self, to: Server) -> None:
        self._to = to

    def tell(self, content: bytes) -> Answer:
        """One transaction. Raises nothing: whatever goes wrong is LATER."""
        try:
            status, body = self.ask("POST", self._to.url, content)
        except TlsUnusable as wrong:
            return Answer(Fate.LATER, wrong.code)
        except OSError:
            return Answer(Fate.LATER, "FHIR_TOKEN_UNREADABLE")
        except httpx.TimeoutException:
            return Answer(Fate.LATER, "FHIR_NO_ANSWER")
        except (httpx.HTTPError, httpx.InvalidURL):
            return Answer(Fate.LATER, "FHIR_UNREACHABLE")
        if status in _REFUSED and status not in _AGAIN:
            return Answer(Fate.REFUSED, f"HTTP_{status}")
        if status not in _GOOD:
            return Answer(Fate.LATER, f"HTTP_{status}")
        # A proxy's friendly page is a 200, too.
        if body is None or not _of_fhir(body):
            return Answer(Fate.LATER, "FHIR_ANSWER_INVALID")
        return Answer(Fate.DELIVERED, f"HTTP_{status}")

    def metadata(self) -> int:
        """The status with which the server answers for what it is. Raises httpx.HTTPError, TlsUnusable, OSError."""
        return self.ask("GET", f"{self._to.url.rstrip('/')}/metadata", None)[0]

    def ask(self, method: str, url: str, content: bytes | None) -> tuple[int, bytes | None]:
        """Status and body; no body where it is too long. Raises httpx.HTTPError, TlsUnusable, OSError."""
        until = time.monotonic() + self._to.answer_s
        headers = {"Content-Type": JSON, "Accept": JSON, "Accept-Encoding": "identity"} | self._authorization()
        # No proxy or netrc out of the environment, and no redirect: nothing leaves but to the peer that was named (I8).
        with (
            httpx.Client(
                timeout=self._to.answer_s, trust_env=False, follow_redirects=False, verify=self._context()
            ) as client,
            client.stream(method, url, content=content, headers=headers) as answer,
        ):
            held = bytearray()
            for part in answer.iter_raw():
                held += part
                if len(held) > ANSWER_BYTES_MAX:
                    return answer.status_code, None
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer comes in drops")
            return answer.status_code, bytes(held)

    def _context(self) -> ssl.SSLContext | bool:
        if self._to.files is not None:
            return client_context(self._to.files, self._to.pin)
        return self._to.url.startswith("https") and ssl.create_default_context()

    def _authorization(self) -> dict[str, str]:
        if self._to.token is None:
            return {}
        with self._to.token.open("rb") as file:
            token = file.read(TOKEN_BYTES_MAX).strip()
        return {"Authorization": f"Bearer {token.decode('ascii', 'replace')}"}


def _of_fhir(body: bytes) -> bool:
    """Nothing at all (as was asked by nobody, but is allowed), or a resource."""
    if not body.strip():
        return True
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("resourceType") in ("Bundle", "OperationOutcome")
