"""Peers: only what can be an application entity becomes one."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_bridge.errors import PeerInvalid
from dicom_bridge.peers import Peer, Retrieve, Send, parse_peer, valid_ae_title


@pytest.mark.parametrize("title", ["A", "ORTHANC", "A" * 16, "PACS 1", "x-y_z.9", "!#$%"])
def test_titles_of_the_standard_are_valid(title: str) -> None:
    """1 to 16 printable ASCII characters make an AE title, spaces inside included."""
    assert valid_ae_title(title)


@pytest.mark.parametrize("title", ["", " ", "A" * 17, " A", "A ", "A\\B", "A\nB", "影像", "A\x7f"])
def test_other_titles_are_not(title: str) -> None:
    """Empty, too long, padded, with backslash, control or foreign characters: refused."""
    assert not valid_ae_title(title)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PACS@127.0.0.1:4242", ("PACS", "127.0.0.1", 4242)),
        ("MY PACS@pacs.example:104", ("MY PACS", "pacs.example", 104)),
        ("P@[::1]:11112", ("P", "::1", 11112)),
    ],
)
def test_a_typed_peer_is_read(text: str, expected: tuple[str, str, int]) -> None:
    """AET@host:port is read, IPv6 in brackets."""
    peer = parse_peer(text)
    assert (peer.ae_title, peer.host, peer.port) == expected
    assert not peer.counts


@pytest.mark.parametrize(
    "text",
    ["PACS", "PACS@host", "@host:104", "PACS@:104", "PACS@host:0", "PACS@host:65536", "PACS@host:1e3", "PACS@host:-1",
     "PACS@host:٣", "PACS@ho st:104", "PACS@host:999999999999", "A\\B@host:104", "PACS@-x:1"],
)  # fmt: skip
def test_what_cannot_be_a_peer_is_refused(text: str) -> None:
    """Every malformed part is refused with PEER_INVALID."""
    with pytest.raises(PeerInvalid) as caught:
        parse_peer(text)
    assert caught.value.code == "PEER_INVALID"


def test_a_title_becomes_a_name_for_the_log() -> None:
    """A peer without a name gets one made of its title, in the characters of a token."""
    assert parse_peer("MY PACS@host:104").name == "MY-PACS"
    assert parse_peer("#1@host:104").name == "peer-1"
    assert parse_peer("X@host:104", name="archive").name == "archive"


@pytest.mark.parametrize("name", ["", "a b", "../x", "影像", "x" * 65])
def test_a_name_is_a_token(name: str) -> None:
    """A name that could not stand in an audit entry is refused."""
    with pytest.raises(PeerInvalid):
        Peer(name=name, ae_title="A", host="h", port=104)


def test_a_port_is_no_boolean() -> None:
    """True is an int in Python, and no port."""
    with pytest.raises(PeerInvalid):
        Peer(name="a", ae_title="A", host="h", port=True)


GOOD = {"name": "pacs", "ae_title": "PACS", "host": "192.0.2.1", "port": 104}


@pytest.mark.parametrize(
    "options",
    [
        {"certificate": "AB" * 32},
        {"certificate": "ab" * 31},
        {"addresses": ("192.0.2.1/24",)},
        {"addresses": ("",)},
        {"web": "pacs/dicom-web"},
        {"web": "https://user:secret@pacs/dicom-web"},
        {"web": "https://pacs/dicom-web?token=1"},
        {"orthanc": "file:///etc/passwd"},
        {"send": Send.STOW_RS},
        {"retrieve": Retrieve.WADO_RS},
        {"retrieve": Retrieve.ORTHANC},
    ],
)
def test_abilities_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    """A fingerprint, network or web root that cannot be one, or a way that lacks its root: refused at once."""
    with pytest.raises(PeerInvalid) as caught:
        Peer(**GOOD, **options)
    assert caught.value.code == "PEER_INVALID"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"certificate": "ab" * 32},
        {"addresses": ("192.0.2.0/24", "2001:db8::/64", "192.0.2.9")},
        {"send": Send.STOW_RS, "web": "https://pacs:8443/dicom-web"},
        {"retrieve": Retrieve.WADO_RS, "web": "http://[2001:db8::1]:8042/dicom-web"},
        {"retrieve": Retrieve.ORTHANC, "orthanc": "http://localhost:8042"},
    ],
)
def test_abilities_that_can_work_are_taken(options: dict[str, Any]) -> None:
    """What a site may write is taken as it is."""
    peer = Peer(**GOOD, **options)
    assert all(getattr(peer, name) == value for name, value in options.items())
