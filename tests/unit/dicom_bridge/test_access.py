"""Who may open an association: titles, addresses, certificates, and every mixture of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.access import Access, Denied
from dicom_bridge.peers import Peer
from dicom_bridge.tls import TlsFiles, fingerprint

CT_CERTIFICATE, MR_CERTIFICATE = b"certificate of a CT", b"certificate of an MR"
FILES = TlsFiles(Path("a.pem"), Path("a.key"), Path("ca.pem"))


def peer(title: str, *addresses: str, certificate: bytes | None = None, tls: bool = False, name: str = "x") -> Peer:
    """A peer of the configuration."""
    pinned = None if certificate is None else fingerprint(certificate)
    return Peer(name, title, "192.0.2.1", 104, addresses=addresses, certificate=pinned, tls=FILES if tls else None)


ANYWHERE = peer("ANYWHERE")
PACS = peer("PACS", "192.0.2.7/32", "2001:db8::/64")
NETWORK = peer("NETWORK", "198.51.100.0/24")
CT = peer("CT", certificate=CT_CERTIFICATE, tls=True)
SECURE = peer("SECURE", tls=True)
BOTH = peer("BOTH", "203.0.113.0/28", certificate=CT_CERTIFICATE, tls=True)
MAPPED = peer("MAPPED", "::ffff:192.0.2.0/120")
ALL_V6 = peer("ALLV6", "::/0")
FIRST = peer("TWICE", "192.0.2.7/32", certificate=CT_CERTIFICATE, name="first")
SECOND = peer("TWICE", "192.0.2.8/32", name="second")
THIRD = peer("TWICE", "192.0.2.7/32", certificate=MR_CERTIFICATE, name="third")
PEERS = (ANYWHERE, PACS, NETWORK, CT, SECURE, BOTH, MAPPED, ALL_V6, FIRST, SECOND, THIRD)

# calling AE title, address, certificate, what is said
TABLE: list[tuple[str, str, bytes | None, Denied | None]] = [
    ("ANYWHERE", "203.0.113.9", None, None),
    ("ANYWHERE", "no address at all", None, None),
    # A certificate that the authority signed does no harm where none is asked for.
    ("ANYWHERE", "203.0.113.9", MR_CERTIFICATE, None),
    # Addresses.
    ("PACS", "192.0.2.7", None, None),
    ("PACS", "192.0.2.8", None, Denied.ADDRESS),
    ("PACS", "::ffff:192.0.2.7", None, None),
    ("PACS", "::FFFF:C000:0207", None, None),
    ("PACS", "::ffff:192.0.2.8", None, Denied.ADDRESS),
    ("PACS", "2001:db8::7", None, None),
    ("PACS", "2001:db8::7%eth0", None, None),
    ("PACS", "2001:db8:0:1::7", None, Denied.ADDRESS),
    ("PACS", "::192.0.2.7", None, Denied.ADDRESS),
    ("PACS", "", None, Denied.ADDRESS),
    ("PACS", "192.0.2.7.", None, Denied.ADDRESS),
    ("PACS", "192.0.2.07", None, Denied.ADDRESS),
    ("PACS", "pacs.example", None, Denied.ADDRESS),
    ("NETWORK", "198.51.100.255", None, None),
    ("NETWORK", "198.51.101.0", None, Denied.ADDRESS),
    ("MAPPED", "192.0.2.200", None, None),
    ("MAPPED", "::ffff:192.0.2.200", None, None),
    ("MAPPED", "192.0.3.1", None, Denied.ADDRESS),
    ("ALLV6", "2001:db8::7", None, None),
    ("ALLV6", "192.0.2.7", None, Denied.ADDRESS),
    ("ALLV6", "::ffff:192.0.2.7", None, Denied.ADDRESS),
    # Certificates.
    ("CT", "203.0.113.1", CT_CERTIFICATE, None),
    ("CT", "203.0.113.1", MR_CERTIFICATE, Denied.CERTIFICATE),
    ("CT", "203.0.113.1", b"", Denied.CERTIFICATE),
    ("CT", "203.0.113.1", None, Denied.CERTIFICATE),
    ("SECURE", "203.0.113.1", MR_CERTIFICATE, None),
    ("SECURE", "203.0.113.1", None, Denied.CERTIFICATE),
    # Both.
    ("BOTH", "203.0.113.1", CT_CERTIFICATE, None),
    ("BOTH", "203.0.113.1", MR_CERTIFICATE, Denied.CERTIFICATE),
    ("BOTH", "203.0.113.16", CT_CERTIFICATE, Denied.ADDRESS),
    # The same title twice: whichever fits, but one of them wholly.
    ("TWICE", "192.0.2.7", CT_CERTIFICATE, None),
    ("TWICE", "192.0.2.7", MR_CERTIFICATE, None),
    ("TWICE", "192.0.2.8", None, None),
    ("TWICE", "192.0.2.7", None, Denied.CERTIFICATE),
    ("TWICE", "192.0.2.9", CT_CERTIFICATE, Denied.ADDRESS),
    # Titles: padding does not count, case and anything else does.
    (" PACS           ", "192.0.2.8", None, Denied.ADDRESS),
    ("PACS\0", "192.0.2.7", None, Denied.CALLING_AE),
    ("pacs", "192.0.2.7", None, Denied.CALLING_AE),
    ("NOBODY", "192.0.2.7", CT_CERTIFICATE, Denied.CALLING_AE),
    ("", "192.0.2.7", None, Denied.CALLING_AE),
]


@pytest.mark.parametrize(("calling", "address", "certificate", "said"), TABLE)
def test_known_callers(calling: str, address: str, certificate: bytes | None, said: Denied | None) -> None:
    """Where only configured peers may call, a caller is let in exactly when it fits one of them wholly."""
    access = Access("ZHIYING", PEERS, known_only=True)

    assert access.check("ZHIYING", calling, address, certificate) is said


@pytest.mark.parametrize(("calling", "address", "certificate", "said"), TABLE)
def test_others_are_let_in_if_configured(
    calling: str, address: str, certificate: bytes | None, said: Denied | None
) -> None:
    """Where others may call, an unknown title is let in; who claims to be a peer must still be that peer."""
    access = Access("ZHIYING", PEERS, known_only=False)
    expected = None if said is Denied.CALLING_AE else said

    assert access.check("ZHIYING", calling, address, certificate) is expected


@pytest.mark.parametrize(
    ("called", "ours"),
    [
        ("ZHIYING", True),
        ("ZHIYING         ", True),
        (" ZHIYING ", True),
        ("zhiying", False),
        ("ZHIYING2", False),
        ("", False),
        ("ANY-SCP", False),
        ("ZHIYING\0", False),
    ],
)
@pytest.mark.parametrize("known_only", [True, False])
def test_the_called_title_is_ours(called: str, ours: bool, known_only: bool) -> None:
    """Whoever asks for another application entity is not served, known or not."""
    said = Access("ZHIYING", PEERS, known_only).check(called, "ANYWHERE", "203.0.113.9", None)

    assert said is (None if ours else Denied.CALLED_AE)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("198.51.100.9", "NETWORK"),
        ("::ffff:198.51.100.9", "NETWORK"),
        ("2001:db8:ff::1", "ALLV6"),
        # Two peers have it, or one that needs a certificate, or none, or one that may be anywhere.
        ("192.0.2.8", None),
        ("203.0.113.1", None),
        ("203.0.113.99", None),
        ("", None),
        ("pacs.example", None),
    ],
)
def test_who_calls_from_an_address(address: str, name: str | None) -> None:
    """Where no title is said, only an address that is one peer's alone tells who it is."""
    peer = Access("ZHIYING", PEERS, known_only=True).caller(address)

    assert (peer.ae_title if peer else None) == name


def test_nobody_is_known_without_peers() -> None:
    """An empty configuration with known callers only lets nobody in."""
    assert Access("ZHIYING", (), known_only=True).check("ZHIYING", "PACS", "192.0.2.7", None) is Denied.CALLING_AE


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=45), st.none() | st.binary(max_size=40))
def test_whatever_comes_is_answered(called: str, calling: str, address: str, certificate: bytes | None) -> None:
    """No title, address or certificate raises, and none of them is let in as a peer by luck."""
    access = Access("ZHIYING", (PACS, CT, BOTH), known_only=True)

    assert isinstance(access.check(called, calling, address, certificate), Denied)
    assert isinstance(access.check("ZHIYING", "BOTH", address, certificate), Denied)
