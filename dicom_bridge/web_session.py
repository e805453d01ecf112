"""An HTTP session with one peer that can go nowhere else, and that cannot hold or flood us.

No redirect is followed, no proxy and no password of the environment is used, only the scheme, host and port of the
configuration are spoken to, what comes is bounded in bytes and time, and what is compressed is not accepted.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from dicom_bridge import tls
from dicom_bridge.errors import PeerFailed
from dicom_bridge.patience import Patience, RetrieveFailed
from dicom_bridge.peers import Peer

# Its warnings quote the address that was asked for, and with it a study's UID.
logging.getLogger("urllib3").setLevel(logging.ERROR)

ANSWER_BYTES_MAX: Final = 256 << 20
"""An answer that is no image: 100 000 instances in DICOM JSON have some 150 MB."""
READ_S: Final = 30.0
"""Seconds without a byte, at most; what is slower than that is asked again."""
_CHUNK: Final = 1 << 18
_OK: Final = range(200, 300)
_REDIRECT: Final = range(300, 400)
_NOT_FOUND: Final = 404


class NotThere(PeerFailed):
    """The peer answers, but has nothing at this address (HTTP status 404)."""


def confine(session: requests.Session, peer: Peer, root: str, patience: Patience, file_bytes_max: int) -> None:
    """Make `session` talk to `root` alone. `file_bytes_max`: of an answer that is read as a stream.

    Whatever goes wrong is raised as PeerFailed or RetrieveFailed. Raises TlsUnusable.
    """
    session.trust_env = False
    session.headers["Accept-Encoding"] = "identity"
    context = None
    if peer.tls is not None:
        context = tls.client_context(peer.tls, peer.certificate)
        # requests adds its own list of public authorities to any context, unless it is told of another.
        session.verify = str(peer.tls.authority)
    adapter = _Confined(_origin(root), context, patience, file_bytes_max)
    session.adapters.clear()
    session.mount("http://", adapter)
    session.mount("https://", adapter)


def timeouts(patience: Patience) -> tuple[float, float]:
    """Return the seconds to connect and to wait for a byte, as requests takes them."""
    return patience.limits.connect_s, min(READ_S, patience.limits.stall_s)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port


class _Confined(HTTPAdapter):
    def __init__(
        self, origin: tuple[str, str, int | None], context: ssl.SSLContext | None, patience: Patience, file_bytes: int
    ) -> None:
        self._origin, self._context = origin, context
        self._patience, self._file_bytes = patience, file_bytes
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **named: Any) -> None:  # noqa: FBT001 - as of requests
        if self._context is not None:
            named["ssl_context"] = self._context
            if not self._context.check_hostname:
                # The one certificate that is pinned needs no name; urllib3 would compare it all the same.
                named["assert_hostname"] = False
        super().init_poolmanager(connections, maxsize, block, **named)

    def send(self, request: Any, stream: bool = False, **named: Any) -> requests.Response:  # type: ignore[override] # noqa: FBT001 - as of requests
        self._patience.check()
        if _origin(request.url) != self._origin:
            raise RetrieveFailed("PULL_REDIRECTED", "another address than the configured one; not gone to")
        try:
            response = super().send(request, stream=True, **named)
        except requests.RequestException as error:
            name = type(error).__name__
            raise PeerFailed("PEER_UNREACHABLE", f"no answer at the peer's address ({name})") from None
        status = response.status_code
        if status not in _OK:
            response.close()
            if status in _REDIRECT:
                raise RetrieveFailed("PULL_REDIRECTED", "the peer names another address; redirects are not followed")
            kind = NotThere if status == _NOT_FOUND else PeerFailed
            raise kind("PEER_FAILURE_STATUS", f"the peer answered with HTTP status {status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise RetrieveFailed("PULL_ANSWER_INVALID", "the peer sends compressed what was asked for as it is")
        response.raw = _Bounded(response.raw, self._file_bytes if stream else ANSWER_BYTES_MAX, self._patience)
        return response


class _Bounded:
    """The body of an answer, as requests reads it: each piece as it comes, so that no drip can hold us."""

    def __init__(self, raw: urllib3.response.BaseHTTPResponse, most: int, patience: Patience) -> None:
        self._raw, self._left, self._patience = raw, most, patience

    def stream(self, _amount: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:  # noqa: ARG002, FBT001 - as of urllib3
        """Yield the body to its end; before that, the connection is closed."""
        whole = False
        try:
            while piece := self._read():
                self._left -= len(piece)
                if self._left < 0:
                    raise RetrieveFailed("PULL_ENDLESS", "an answer is larger than any may be")
                self._patience.check()
                yield piece
            whole = True
        finally:
            if not whole:
                self.close()

    def _read(self) -> bytes:
        try:
            return self._raw.read1(_CHUNK, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            name = type(error).__name__
            raise PeerFailed("PEER_NO_ANSWER", f"the answer broke off ({name})") from None

    def close(self) -> None:
        """End the connection: what was not read will not come."""
        self._raw.close()

    def release_conn(self) -> None:
        """Give the connection back for the next request."""
        self._raw.release_conn()
