"""Peer: another application entity that the configuration names; the only ones we ever talk to."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dicom_bridge.errors import PeerInvalid

# PS3.5 section 6.2, VR AE: at most 16 characters of the default repertoire, no backslash, no control
# characters, not only spaces; leading and trailing spaces do not count.
_AE_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")
# The peer's name goes into audit entries, so it must be a token.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}")
_PORT_MAX = 65535


def valid_ae_title(title: str) -> bool:
    """Say whether `title` is an AE title without padding (PS3.5 section 6.2)."""
    return _AE_TITLE.fullmatch(title) is not None


@dataclass(frozen=True, slots=True)
class Peer:
    """One application entity: a name for people and the log, and where it listens.

    `counts` says that it answers C-FIND with the number of instances of a series, so assembly may ask it.
    Raises PeerInvalid when a field cannot be what it says.
    """

    name: str
    ae_title: str
    host: str
    port: int
    counts: bool = False

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise PeerInvalid("PEER_INVALID", "the name must be 1 to 64 of A-Z a-z 0-9 . _ -")
        if not valid_ae_title(self.ae_title):
            raise PeerInvalid("PEER_INVALID", "the AE title must be 1 to 16 printable ASCII characters, no backslash")
        if _HOST.fullmatch(self.host) is None:
            raise PeerInvalid("PEER_INVALID", "the host must be a host name or an address")
        if isinstance(self.port, bool) or not 1 <= self.port <= _PORT_MAX:
            raise PeerInvalid("PEER_INVALID", f"the port must lie between 1 and {_PORT_MAX}")


def parse_peer(text: str, *, name: str | None = None) -> Peer:
    """Read `AET@host:port`, as typed on a command line; IPv6 addresses stand in brackets.

    The peer's name is `name`, or the AE title with everything that a name may not hold replaced by `-`.
    Raises PeerInvalid.
    """
    title, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    if not at or not colon or not port.isascii() or not port.isdecimal() or len(port) > len(str(_PORT_MAX)):
        raise PeerInvalid("PEER_INVALID", "expected AET@host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    # The prefix keeps a title that starts with punctuation a valid name.
    made = re.sub(r"[^A-Za-z0-9._-]", "-", title)
    if not made[:1].isalnum():
        made = f"peer{made}"
    return Peer(name=name or made, ae_title=title, host=host, port=int(port))
