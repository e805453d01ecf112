"""Sending files to one peer by STOW-RS (PS3.18 section 10.5), as a user agent, for the outbox.

The answer is read instance by instance and given back as the C-STORE statuses that it consists of anyway (PS3.18 table
10.5.3-2), so that what happens next is decided in one place. Only the configured address is spoken to: no redirect is
followed, no proxy and no password of the environment is used.
"""

from __future__ import annotations

import json
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from dicom_bridge import tls
from dicom_bridge.ledger import HELD
from dicom_bridge.peers import Peer
from dicom_bridge.status import Fate, fate
from dicom_bridge.store_scu import SendResult, always, kind_of
from dicom_bridge.tls import TlsUnusable
from dicom_bridge.uids import IMPLEMENTATION_VERSION_NAME

TIMEOUT: Final = httpx.Timeout(connect=10.0, read=120.0, write=120.0, pool=10.0)
"""Seconds; as for C-STORE: a PACS may write a large object to a slow archive before it answers."""
ANSWER_S: Final = 600.0
"""Seconds for the answer to arrive whole; a peer that drips would hold the sender for ever."""
ANSWER_BYTES_MAX: Final = 4 << 20
"""An answer has some 300 bytes for each instance of a batch."""
_PIECE: Final = 1 << 20

_OK: Final = frozenset({200, 202, 409})
"""Statuses whose body says what became of each instance."""
_HOPELESS: Final = frozenset({400, 406, 409, 411, 413, 415, 422})
"""The same request will be refused again; all others (login, address, overload) somebody may repair any minute."""
_JSON: Final = "application/dicom+json"

_STATUS_MAX: Final = 0xFFFF
_REFERENCED_SOP, _FAILED_SOP = "00081199", "00081198"
_INSTANCE_UID, _FAILURE_REASON, _WARNING_REASON = "00081155", "00081197", "00081196"


class _Held(Exception):
    """The request is broken off, as nothing may leave any more."""


def send(
    files: Sequence[Path],
    peer: Peer,
    calling_ae: str,  # noqa: ARG001 - a Store
    timeout: httpx.Timeout = TIMEOUT,
    *,
    go_on: Callable[[], bool] = always,
) -> SendResult:
    """Send `files` in one request to the peer's web root. Raises SendRefused for files that are not DICOM.

    `go_on` is asked before each file; where it says no, the request is broken off, and its peer can store none of it.
    `error` of the result: PEER_UNREACHABLE, PEER_NO_ANSWER (also when an instance is not in it), HELD or HTTP_nnn.
    """
    if not files:
        return SendResult((), None)
    uids = [kind_of(path).sop_uid for path in files]
    try:
        trusted: ssl.SSLContext | bool = True if peer.tls is None else tls.client_context(peer.tls, peer.certificate)
        with httpx.Client(verify=trusted, timeout=timeout, follow_redirects=False, trust_env=False) as client:
            status, body = _post(client, f"{(peer.web or '').rstrip('/')}/studies", files, go_on)
    except TlsUnusable as unusable:
        return _none(files, unusable.code)
    except _Held:
        return _none(files, HELD)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL):
        return _none(files, "PEER_UNREACHABLE")
    except (httpx.HTTPError, OSError):
        # Broken off or too slow, perhaps after the peer has stored everything: sending it again does no harm.
        return _none(files, "PEER_NO_ANSWER")
    return _read(status, body, uids)


def _none(files: Sequence[Path], error: str) -> SendResult:
    return SendResult((None,) * len(files), error)


def _post(client: httpx.Client, url: str, files: Sequence[Path], go_on: Callable[[], bool]) -> tuple[int, bytes]:
    boundary = secrets.token_hex(16)
    sizes = [path.stat().st_size for path in files]
    heads = [_head(boundary)] * len(files)
    tail = f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        # Not chunked: small servers, Orthanc's among them, want to know how much comes.
        "Content-Length": str(sum(map(len, heads)) + sum(sizes) + len(tail)),
        "Accept": _JSON,
        "User-Agent": IMPLEMENTATION_VERSION_NAME,
    }
    content = _content(files, heads, tail, go_on)
    with client.stream("POST", url, headers=headers, content=content) as response:
        return response.status_code, _bounded(response)


def _head(boundary: str) -> bytes:
    return f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()


def _content(files: Sequence[Path], heads: Sequence[bytes], tail: bytes, go_on: Callable[[], bool]) -> Iterator[bytes]:
    """The files as they are, byte for byte, a piece at a time."""
    for path, head in zip(files, heads, strict=True):
        if not go_on():
            raise _Held
        yield head
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    yield tail


def _bounded(response: httpx.Response) -> bytes:
    """The body; of one that is too large or too slow nothing, for half of it says nothing."""
    until, body = time.monotonic() + ANSWER_S, bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > ANSWER_BYTES_MAX or time.monotonic() > until:
            return b""
    return bytes(body)


def _read(status: int, body: bytes, uids: Sequence[str]) -> SendResult:
    if status not in _OK:
        return SendResult((None,) * len(uids), f"HTTP_{status}", hopeless=status in _HOPELESS)
    said = _instances(body)
    if said is None and status == 200:
        # PS3.18 table 10.5.3-1: all were stored. Servers that say no more than this exist.
        return SendResult((0x0000,) * len(uids), None)
    if said is None:
        return SendResult((None,) * len(uids), f"HTTP_{status}", hopeless=status in _HOPELESS)
    statuses = tuple(said.get(uid) for uid in uids)
    return SendResult(statuses, "PEER_NO_ANSWER" if None in statuses else None)


def _instances(body: bytes) -> Mapping[str, int] | None:
    """Status by SOP Instance UID; None for an answer that is not DICOM JSON."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, dict):
        return None
    stored = _items(answer, _REFERENCED_SOP, _WARNING_REASON)
    # Stored in any case; a warning that C-STORE does not know is none that we can pass on.
    said = {uid: why if why is not None and fate(why) is Fate.STORED else 0x0000 for uid, why in stored}
    failed = _items(answer, _FAILED_SOP, _FAILURE_REASON)
    # One in both lists was not stored, nor was one without a reason: a processing failure (PS3.18 table 10.5.3-2).
    return said | {uid: why if why is not None and fate(why) is not Fate.STORED else 0x0110 for uid, why in failed}


def _items(answer: Mapping[str, Any], sequence: str, reason: str) -> Iterator[tuple[str, int | None]]:
    for item in _values(answer, sequence):
        uid, why = _first(item, _INSTANCE_UID), _first(item, reason)
        if isinstance(uid, str):
            yield uid, why if isinstance(why, int) and 0 < why <= _STATUS_MAX else None


def _first(item: Any, tag: str) -> Any:
    return next(iter(_values(item, tag)), None)


def _values(item: Any, tag: str) -> Sequence[Any]:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else ()
