"""Who may open an association with us: called AE title, calling AE title, address, certificate. Pure.

An AE title is a name that anybody can write; it is tied here to what is harder to forge. A calling title that the
configuration knows is a claim to be that peer, and must come from the peer's addresses and under its certificate.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from dicom_bridge.peers import Peer
from dicom_bridge.tls import fingerprint

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
"""IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2): how a socket for both families shows a peer on IPv4."""


class Denied(StrEnum):
    """Why an association is not opened."""

    CALLED_AE = "CALLED_AE"
    CALLING_AE = "CALLING_AE"
    ADDRESS = "ADDRESS"
    CERTIFICATE = "CERTIFICATE"


@dataclass(frozen=True, slots=True)
class Access:
    """called: our AE title; peers: those of the configuration; known_only: nobody else may call.

    Several peers may have the same AE title: a caller that fits any of them is let in.
    """

    called: str
    peers: tuple[Peer, ...]
    known_only: bool

    def check(self, called_ae: str, calling_ae: str, address: str, certificate_der: bytes | None) -> Denied | None:
        """Return why this association must be rejected; None lets it in.

        Titles may be padded with spaces (PS3.8 section 9.3.2); case counts (PS3.5 section 6.2). `address` is the
        numeric one of the socket; `certificate_der` the certificate that the handshake has verified, None without TLS.
        Of a peer that is configured with TLS, a connection without it is no connection of that peer.
        """
        if called_ae.strip(" ") != self.called:
            return Denied.CALLED_AE
        title = calling_ae.strip(" ")
        namesakes = [peer for peer in self.peers if peer.ae_title == title]
        if not namesakes:
            return Denied.CALLING_AE if self.known_only else None
        here = [peer for peer in namesakes if _from(peer, address)]
        if not here:
            return Denied.ADDRESS
        return None if any(_proves(peer, certificate_der) for peer in here) else Denied.CERTIFICATE

    def caller(self, address: str) -> Peer | None:
        """Return the peer that calls from an address where nothing else tells who calls, as in STOW-RS without TLS.

        None unless exactly one peer has it among its addresses and needs no certificate to prove itself.
        """
        here = [peer for peer in self.peers if peer.addresses and _from(peer, address) and _proves(peer, None)]
        return here[0] if len(here) == 1 else None


def _from(peer: Peer, address: str) -> bool:
    if not peer.addresses:
        return True
    caller = _address(address)
    return caller is not None and any(_within(caller, _network(text)) for text in peer.addresses)


def _proves(peer: Peer, certificate_der: bytes | None) -> bool:
    if certificate_der is None:
        return peer.certificate is None and peer.tls is None
    return peer.certificate is None or hmac.compare_digest(fingerprint(certificate_der), peer.certificate)


def _address(text: str) -> Address | None:
    try:
        # The zone of a link-local address (fe80::1%eth0) names our interface, not the caller.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _network(text: str) -> Network:
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        plain = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return ipaddress.IPv4Network((plain, network.prefixlen - _MAPPED.prefixlen))
    return network


def _within(caller: Address, network: Network) -> bool:
    if isinstance(caller, ipaddress.IPv4Address):
        return isinstance(network, ipaddress.IPv4Network) and caller in network
    return isinstance(network, ipaddress.IPv6Network) and caller in network
