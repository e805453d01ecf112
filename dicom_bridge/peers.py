"""Peer: another application entity that the configuration names; the only ones we ever talk to."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

from dicom_bridge.errors import PeerInvalid
from dicom_bridge.tls import TlsFiles

# PS3.5 section 6.2, VR AE: at most 16 characters of the default repertoire, no backslash, no control
# characters, not only spaces; leading and trailing spaces do not count.
_AE_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")
# The peer's name goes into audit entries, so it must be a token.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+(?:/[A-Za-z0-9._~/-]*)?")
_PORT_MAX = 65535


def valid_ae_title(title: str) -> bool:
    """Say whether `title` is an AE title without padding (PS3.5 section 6.2)."""
    return _AE_TITLE.fullmatch(title) is not None


class Send(StrEnum):
    """How results reach a peer."""

    C_STORE = "C-STORE"
    STOW_RS = "STOW-RS"


class Retrieve(StrEnum):
    """How a study is fetched from a peer."""

    C_MOVE = "C-MOVE"
    C_GET = "C-GET"
    WADO_RS = "WADO-RS"
    ORTHANC = "ORTHANC"


class ReportGroups(StrEnum):
    """The kind of measurement group (PS3.16 TID 1500) in which a segment's numbers stand in the reports for a peer.

    VOLUMETRIC: volumetric ROI, TID 1411, which refers to the segment; PLANAR: planar ROI, TID 1410, with the outline.
    """

    VOLUMETRIC = "VOLUMETRIC"
    PLANAR = "PLANAR"


class Segmentation(StrEnum):
    """The type (PS3.3 C.8.20.2) of the segmentations for a peer.

    BINARY: one bit a pixel, a frame for each segment; LABELMAP: numbers of segments, in a storage class of its own,
    where no two of them overlap, else BINARY all the same.
    """

    BINARY = "BINARY"
    LABELMAP = "LABELMAP"


@dataclass(frozen=True, slots=True)
class Peer:
    """One application entity: a name for people and the log, where it listens, and what it can do.

    counts: it answers C-FIND with the number of instances of a series, so assembly may ask it.
    commitment: it is a storage commitment SCP; results count as delivered when it has committed them.
    tls: our certificate and its authority, when associations with it are DICOM TLS.
    send, retrieve: how results go there and how studies come from there.
    web: its DICOMweb root, such as https://pacs:8443/dicom-web; orthanc: the root of its Orthanc REST API.
    addresses: networks (192.0.2.7/32, 2001:db8::/64) that it may call from; () means any.
    certificate: SHA-256 fingerprint, 64 hexadecimal digits, of the only certificate that it may call with.
    assumed_charset: the character set (0008,0005) of what it sends without one, or with one that is not true.
    quiet_s: seconds of silence after which a study of its is complete, where it answers no counts.
    report_groups: the reports that its viewers can show.
    segmentation: the segmentations that it takes and its viewers can show.
    Raises PeerInvalid when a field cannot be what it says.
    """

    name: str
    ae_title: str
    host: str
    port: int
    counts: bool = False
    commitment: bool = False
    tls: TlsFiles | None = None
    send: Send = Send.C_STORE
    retrieve: Retrieve = Retrieve.C_MOVE
    web: str | None = None
    orthanc: str | None = None
    addresses: tuple[str, ...] = ()
    certificate: str | None = None
    assumed_charset: str | None = None
    quiet_s: float | None = None
    report_groups: ReportGroups = ReportGroups.VOLUMETRIC
    segmentation: Segmentation = Segmentation.BINARY

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise PeerInvalid("PEER_INVALID", "the name must be 1 to 64 of A-Z a-z 0-9 . _ -")
        if not valid_ae_title(self.ae_title):
            raise PeerInvalid("PEER_INVALID", "the AE title must be 1 to 16 printable ASCII characters, no backslash")
        if _HOST.fullmatch(self.host) is None:
            raise PeerInvalid("PEER_INVALID", "the host must be a host name or an address")
        if isinstance(self.port, bool) or not 1 <= self.port <= _PORT_MAX:
            raise PeerInvalid("PEER_INVALID", f"the port must lie between 1 and {_PORT_MAX}")
        if self.certificate is not None and _FINGERPRINT.fullmatch(self.certificate) is None:
            raise PeerInvalid("PEER_INVALID", "the certificate must be 64 lower-case hexadecimal digits (SHA-256)")
        for url in (self.web, self.orthanc):
            if url is not None and _URL.fullmatch(url) is None:
                raise PeerInvalid("PEER_INVALID", "the web root must be an http or https URL without a user or a query")
        for network in self.addresses:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise PeerInvalid("PEER_INVALID", "an address is no network such as 192.0.2.7/32") from None
        if Send.STOW_RS is self.send and self.web is None:
            raise PeerInvalid("PEER_INVALID", "STOW-RS needs the peer's web root")
        if self.retrieve is Retrieve.WADO_RS and self.web is None:
            raise PeerInvalid("PEER_INVALID", "WADO-RS needs the peer's web root")
        if self.retrieve is Retrieve.ORTHANC and self.orthanc is None:
            raise PeerInvalid("PEER_INVALID", "retrieval from Orthanc needs the root of its REST API")


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
