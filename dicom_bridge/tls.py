"""DICOM TLS (PS3.15 annex B.12, BCP 195): our certificate, whom we believe, and why we would not start.

Both sides show a certificate, always. TLS 1.2 or 1.3; forward secrecy and authenticated encryption only; no
compression, no renegotiation, no resumed sessions (a certificate that was taken out of trust ends with its connection).

Whom we believe when we call: the site's authority must have signed the peer's certificate, and it must be this peer's.
Hospitals address their systems by IP, and the certificates of their systems often hold another name, or none. So a
peer is either pinned, by the SHA-256 fingerprint of the one certificate it may show, and then no name is compared; or
the host that the configuration names, host name or address, must stand in the certificate's subject alternative names.
To skip both would let each system of the hospital pass for its PACS.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from dicom_bridge.errors import BridgeError, Fault

# BCP 195 (RFC 9325 section 4.2) for TLS 1.2; those of 1.3 are all good. Level 2 refuses RSA keys below 2048 bits,
# elliptic curves below 224 and SHA-1 signatures, whatever the machine's own OpenSSL configuration says.
_CIPHERS: Final = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsUnusable(BridgeError):
    """The TLS files of the configuration cannot be used: nothing that needs them starts.

    TLS_FILE_UNREADABLE            a file is missing, or the service's account may not read it
    TLS_CERTIFICATE_INVALID        no usable certificate in the certificate's file
    TLS_CERTIFICATE_EXPIRED        it, or one of its chain, is past its end
    TLS_CERTIFICATE_NOT_YET_VALID  its time has not begun; or the machine's clock is wrong
    TLS_KEY_INVALID                no private key in the key's file
    TLS_KEY_LOCKED                 the key is protected by a passphrase, and nobody is there to type it
    TLS_KEY_MISMATCH               the key is not that of the certificate
    TLS_AUTHORITY_INVALID          no certificate in the authority's file
    TLS_AUTHORITY_EXPIRED          every certificate in the authority's file is past its end
    """

    CODES = frozenset(
        {
            "TLS_FILE_UNREADABLE",
            "TLS_CERTIFICATE_INVALID",
            "TLS_CERTIFICATE_EXPIRED",
            "TLS_CERTIFICATE_NOT_YET_VALID",
            "TLS_KEY_INVALID",
            "TLS_KEY_LOCKED",
            "TLS_KEY_MISMATCH",
            "TLS_AUTHORITY_INVALID",
            "TLS_AUTHORITY_EXPIRED",
        }
    )
    fault = Fault.SITE


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate (chain), its key, and the authority that signs the certificates of our peers.

    certificate: our own first, then the intermediate ones. key: without a passphrase.
    authority: one or more certificates; a peer's self-signed certificate may stand there, too.
    """

    certificate: Path
    key: Path
    authority: Path


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context for connections that peers open to us: each must show a certificate of the authority's.

    The files are read now; a new certificate needs a new context. Raises TlsUnusable. Call `check` before.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    # A resumed session would not look at the peer's certificate again.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    return context


def client_context(files: TlsFiles, pin: str | None = None) -> ssl.SSLContext:
    """Return a context for connections that we open, to be used with the peer's host as `server_hostname`.

    `pin`: SHA-256 fingerprint, 64 lower-case hexadecimal digits, of the only certificate that the peer may show; see
    the module on why no name is compared then. Raises TlsUnusable. Another certificate ends the handshake with
    ssl.SSLCertVerificationError.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    context.hostname_checks_common_name = False  # RFC 9525 section 2: names stand in the alternative names
    if pin is not None:
        context.check_hostname = False
        context.sslsocket_class = _pinned(pin)
    return context


def check(files: TlsFiles, now: datetime) -> None:
    """Return when the files hold what they should, and are valid at `now` (aware). Raises TlsUnusable.

    To be called before anything starts: a peer would only see the connection fail.
    """
    chain, authorities = _read(files)
    for certificate in chain:
        if now > certificate.not_valid_after_utc:
            ended = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
            raise TlsUnusable("TLS_CERTIFICATE_EXPIRED", f"{files.certificate} ended on {ended}; ask for a new one")
        if now < certificate.not_valid_before_utc:
            begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            raise TlsUnusable(
                "TLS_CERTIFICATE_NOT_YET_VALID",
                f"{files.certificate} begins on {begins}; is this machine's clock right?",
            )
    if all(now > authority.not_valid_after_utc for authority in authorities):
        raise TlsUnusable("TLS_AUTHORITY_EXPIRED", f"every certificate in {files.authority} has ended")


def expires_at(files: TlsFiles) -> datetime:
    """Return the time, in UTC, at which connections will begin to fail if nothing is renewed. Raises TlsUnusable.

    That is the end of our certificate, of one of its chain, or of the authority that lasts longest.
    """
    chain, authorities = _read(files)
    last_authority = max(authority.not_valid_after_utc for authority in authorities)
    return min(last_authority, *(certificate.not_valid_after_utc for certificate in chain))


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 fingerprint of a certificate in DER, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(der).hexdigest()


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    _read(files)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_ciphers(_CIPHERS)
    try:
        # A passphrase is given, so that OpenSSL never asks for one on a terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (ssl.SSLError, OSError) as error:
        why = _reason(error)
        raise TlsUnusable("TLS_CERTIFICATE_INVALID", f"{files.certificate} is refused by OpenSSL ({why})") from error
    try:
        context.load_verify_locations(files.authority)
    except (ssl.SSLError, OSError) as error:
        why = _reason(error)
        raise TlsUnusable("TLS_AUTHORITY_INVALID", f"{files.authority} is refused by OpenSSL ({why})") from error
    return context


def _reason(error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return str(reason or type(error).__name__)


def _pinned(pin: str) -> type[ssl.SSLSocket]:
    """A socket whose handshake fails when the peer shows another certificate than the pinned one."""

    class Pinned(ssl.SSLSocket):
        """Nothing is sent before the handshake has ended, so nothing reaches a peer that is not the pinned one."""

        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001 - as inherited
            super().do_handshake(block)
            shown = self.getpeercert(binary_form=True)
            if shown is None or not hmac.compare_digest(fingerprint(shown), pin):
                raise ssl.SSLCertVerificationError("the peer's certificate is not the pinned one")

    return Pinned


def _read(files: TlsFiles) -> tuple[list[x509.Certificate], list[x509.Certificate]]:
    """Return our chain and the authorities; the key is there, can be used, and is that of the first of the chain."""
    chain = _certificates(files.certificate, "TLS_CERTIFICATE_INVALID")
    key = _key(files.key)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        raise TlsUnusable("TLS_KEY_MISMATCH", f"{files.key} is not the key of the first certificate in its file")
    return chain, _certificates(files.authority, "TLS_AUTHORITY_INVALID")


def _certificates(path: Path, code: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_bytes(path))
    except ValueError as error:
        raise TlsUnusable(code, f"{path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from error


def _key(path: Path) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(_bytes(path), None)
    except TypeError as error:
        # Python asks for it on the terminal, where a service would wait for ever.
        raise TlsUnusable("TLS_KEY_LOCKED", f"{path} has a passphrase; save the key without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TlsUnusable("TLS_KEY_INVALID", f"{path} holds no private key in PEM form") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsUnusable("TLS_FILE_UNREADABLE", f"{path} cannot be read ({error.strerror})") from error
