"""A throw-away certificate authority, and certificates of invented hospital systems, good and bad."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dicom_bridge.tls import TlsFiles, fingerprint

LOOPBACK = ("127.0.0.1", "localhost")
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def today(days: float = 0) -> datetime:
    """This many days from now: OpenSSL looks at the machine's own clock."""
    return datetime.now(UTC) + timedelta(days=days)


class Authority:
    """Signs certificates; everything is written below `folder`. `file` holds its own certificate."""

    def __init__(self, folder: Path, name: str = "TEST Hospital CA", *, until: float = 30) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._key = folder, _key()
        self._name = _named(name)
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = _builder(self._name, self._name, self._key, today(-60), today(until))
        made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True).add_extension(
            usage, critical=True
        )
        self.certificate = made.sign(self._key, hashes.SHA256())
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        hosts: Sequence[str] = LOOPBACK,
        begins: float = -1,
        until: float = 30,
        key: Key | None = None,
        digest: hashes.HashAlgorithm | None = None,
        passphrase: bytes | None = None,
    ) -> TlsFiles:
        """A certificate for `hosts`, valid from `begins` until `until` (days from now), and its key, as PEM files."""
        own = key or _key()
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = _builder(_named(name), self._name, own, today(begins), today(until))
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(usages, critical=False)
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(h) for h in hosts]), critical=False
            )
        made = builder.sign(self._key, digest or hashes.SHA256())
        certificate, file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        file.write_bytes(private_pem(own, passphrase))
        return TlsFiles(certificate, file, self.file)


def self_signed(folder: Path, name: str) -> TlsFiles:
    """A modality without any authority; `authority` is its own certificate, which others may put into theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    key = _key()
    made = _builder(_named(name), _named(name), key, today(-1), today(30)).sign(key, hashes.SHA256())
    certificate, file = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    file.write_bytes(private_pem(key))
    return TlsFiles(certificate, file, certificate)


def private_pem(key: Key, passphrase: bytes | None = None) -> bytes:
    """The key in PEM, locked if there is a passphrase."""
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        lock = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


def der(file: Path) -> bytes:
    """The first certificate of a PEM file, as a handshake shows it."""
    return x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(serialization.Encoding.DER)


def pin(file: Path) -> str:
    """Its fingerprint, as a configuration pins it."""
    return fingerprint(der(file))


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, begins: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(until)
    )
