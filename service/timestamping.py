"""RFC 3161: a time-stamp authority's word that a checkpoint existed at a time. Its certificate is pinned.

Requests and answers are bytes, for HTTP or for a file that travels. Whatever a token brings along, only the pinned
certificate may have signed it, and its chain must end at the pinned roots.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import (
    Certificate,
    DuplicateExtension,
    ExtendedKeyUsage,
    ExtensionNotFound,
    InvalidVersion,
    ObjectIdentifier,
    UnsupportedGeneralNameType,
    load_pem_x509_certificates,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, VerificationError, VerifierBuilder
from rfc3161_client import decode_timestamp_response as decode

from service.errors import ServiceError

SHA256_OID = "2.16.840.1.101.3.4.2.1"
ANSWER_BYTES_MAX = 64 * 1024
"""A token with a chain of certificates has some 5 KiB."""
# What the libraries raise for certificates and tokens that are not what their standards say.
_NOT_SO = (
    *(VerificationError, ValueError, InvalidVersion, DuplicateExtension),
    *(UnsupportedAlgorithm, UnsupportedGeneralNameType),
)


class TimestampRefused(ServiceError):
    """A token that does not prove that our bytes existed, by the authority that we trust."""

    code = "TIMESTAMP_REFUSED"


@dataclass(frozen=True, slots=True)
class Query:
    """What to send, as application/timestamp-query; `nonce` binds the answer to it."""

    der: bytes
    nonce: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """An answer: when (UTC), and the whole response, which `openssl ts -verify -in` reads."""

    at: datetime
    response: bytes


@dataclass(frozen=True, slots=True)
class Unproven:
    """What a response says, believed by nobody yet: `imprint` is the SHA-256 of what it is over."""

    stamp: Stamp
    imprint: bytes
    nonce: int | None


@dataclass(frozen=True, slots=True)
class Authority:
    """Whom we trust: the certificate that must have signed, and the roots at which its chain must end.

    `policy`: under which policy of its own it must have stamped; None is any.
    """

    certificate: Certificate
    roots: Sequence[Certificate]
    intermediates: Sequence[Certificate] = ()
    policy: str | None = None

    @classmethod
    def parse(cls, certificate: bytes, roots: bytes, intermediates: bytes = b"") -> "Authority":
        """From PEM. Raises TimestampRefused."""
        return cls(_one(certificate), _certificates(roots), _certificates(intermediates) if intermediates else ())

    @classmethod
    def pinned(cls, certificate: bytes, chain: bytes = b"", policy: str | None = None) -> "Authority":
        """From two PEM texts: the one certificate, and those above it in any order; none if it signed itself.

        Raises TimestampRefused.
        """
        own, above = _one(certificate), _certificates(chain) if chain else []
        if not _stamps(own):
            raise TimestampRefused("the authority's certificate is not for time stamping alone (RFC 3161, 2.3)")
        roots = [one for one in (own, *above) if one.subject == one.issuer]
        if not roots:
            raise TimestampRefused("the authority's chain ends at no root: give the certificates above it too")
        return cls(own, roots, [one for one in above if one.subject != one.issuer], policy)


def query(data: bytes) -> Query:
    """A request over SHA-256 of `data`, with a fresh nonce, that asks for the certificate to come along."""
    made = TimestampRequestBuilder().data(data).hash_algorithm(HashAlgorithm.SHA256).cert_request(cert_request=True)
    request = made.nonce(nonce=True).build()
    if request.nonce is None:
        raise TimestampRefused("a request without a nonce")
    return Query(request.as_bytes(), request.nonce)


def verify(data: bytes, response: bytes, authority: Authority, nonce: int | None = None) -> Stamp:
    """The stamp, if it is over exactly `data` and the pinned certificate made it. Raises TimestampRefused.

    `nonce`: of the query, when its answer comes in; None when a kept one is looked at again.
    """
    try:
        builder = VerifierBuilder(
            policy_id=None if authority.policy is None else ObjectIdentifier(authority.policy),
            tsa_certificate=authority.certificate,
            roots=list(authority.roots),
            intermediates=list(authority.intermediates),
            nonce=nonce,
        )
        said = read(response)
        builder.build().verify_message(decode(response), data)
    except _NOT_SO as error:
        # The library's own words go on for lines; what comes first says enough.
        raise TimestampRefused(f"the token proves nothing: {str(error).split(':', 1)[0]}") from None
    # The library has compared it too; that it is SHA-256 is what `read` has seen.
    if said.imprint != imprint_of(data):
        raise TimestampRefused("the token is over other bytes")
    return said.stamp


def read(response: bytes) -> Unproven:
    """Take a response apart. Raises TimestampRefused for what is none, or over another hash than SHA-256."""
    if len(response) > ANSWER_BYTES_MAX:
        raise TimestampRefused("the answer is too long")
    try:
        token = decode(response).tst_info
        over, said = token.message_imprint.hash_algorithm, token.message_imprint.message
        made = Unproven(Stamp(token.gen_time, response), said, token.nonce)
    except _NOT_SO:
        raise TimestampRefused("not the answer of a time-stamp authority") from None
    # The library would take SHA-384 and SHA-512 too; we asked for this one.
    if over.dotted_string != SHA256_OID:
        raise TimestampRefused("the token is over another hash than was asked for")
    return made


def imprint_of(data: bytes) -> bytes:
    """What a stamp over `data` holds of it."""
    return hashlib.sha256(data).digest()


def _certificates(pem: bytes) -> list[Certificate]:
    try:
        return load_pem_x509_certificates(pem)
    except _NOT_SO:
        raise TimestampRefused("the authority's certificates cannot be read: give PEM files") from None


def _stamps(certificate: Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(ExtendedKeyUsage)
    except (ExtensionNotFound, *_NOT_SO):
        return False
    return usage.critical and list(usage.value) == [ExtendedKeyUsageOID.TIME_STAMPING]


def _one(pem: bytes) -> Certificate:
    found = _certificates(pem)
    if len(found) != 1:
        raise TimestampRefused("the authority's file holds more than the one certificate that must have signed")
    return found[0]
