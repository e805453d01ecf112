"""RFC 3161: a time-stamp authority's word that a checkpoint existed at a time. Its certificate is pinned.

Requests and answers are bytes, for HTTP or for a file that travels. Whatever a token brings along, only the pinned
certificate may have signed it, and its chain must end at the pinned roots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.x509 import Certificate, load_pem_x509_certificate, load_pem_x509_certificates
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, VerificationError, VerifierBuilder
from rfc3161_client import decode_timestamp_response as decode

from service.errors import ServiceError

SHA256_OID = "2.16.840.1.101.3.4.2.1"
ANSWER_BYTES_MAX = 64 * 1024
"""A token with a chain of certificates has some 5 KiB."""


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
    """A verified answer: when (UTC), and the whole response, which `openssl ts -verify -in` reads."""

    at: datetime
    response: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """Whom we trust: the certificate that must have signed, and the roots at which its chain must end."""

    certificate: Certificate
    roots: Sequence[Certificate]
    intermediates: Sequence[Certificate] = ()

    @classmethod
    def parse(cls, certificate: bytes, roots: bytes, intermediates: bytes = b"") -> "Authority":
        """From PEM. Raises TimestampRefused."""
        try:
            between = load_pem_x509_certificates(intermediates) if intermediates else []
            return cls(load_pem_x509_certificate(certificate), load_pem_x509_certificates(roots), between)
        except ValueError:
            raise TimestampRefused("the authority's certificates cannot be read: give PEM files") from None


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
    if len(response) > ANSWER_BYTES_MAX:
        raise TimestampRefused("the answer is too long")
    builder = VerifierBuilder(
        tsa_certificate=authority.certificate,
        roots=list(authority.roots),
        intermediates=list(authority.intermediates),
        nonce=nonce,
    )
    try:
        answer = decode(response)
        # The library would take SHA-384 and SHA-512 too; we asked for this one.
        if answer.tst_info.message_imprint.hash_algorithm.dotted_string != SHA256_OID:
            raise TimestampRefused("the token is over another hash than was asked for")
        builder.build().verify_message(answer, data)
    except (VerificationError, ValueError) as error:
        raise TimestampRefused(f"the token proves nothing: {error}") from None
    return Stamp(answer.tst_info.gen_time, response)
