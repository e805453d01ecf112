"""Time-stamp authorities around `openssl ts`: honest and false ones, and a small HTTP server that can misbehave."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from service.timestamping import Authority
from tests.simulators.certificates import private_pem, today

POLICY = "1.2.3.4.1"
STAMPING = ExtendedKeyUsageOID.TIME_STAMPING
CONFIG = """[tsa]
default_tsa = here
[here]
serial = {folder}/serial
default_policy = {policy}
digests = sha256, sha512
signer_digest = sha256
ess_cert_id_alg = sha256
"""
DAY_S = 86_400


def openssl(*words: str | Path) -> None:
    """Run it, or fail."""
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=300)


class LocalAuthority:
    """A root, and a time-stamping certificate under it; files of PEM in `folder`: root.pem, tsa.pem, tsa.key."""

    def __init__(
        self,
        folder: Path,
        *,
        usage: ObjectIdentifier = STAMPING,
        critical: bool = True,
        root: LocalAuthority | None = None,
        twin: LocalAuthority | None = None,
        seconds: float = 90 * DAY_S,
        policy: str = POLICY,
    ) -> None:
        """`twin`: whose names and serial number this one has as well, with keys of its own."""
        folder.mkdir()
        self.folder, self.root = folder, root or self
        self._root_key = self.root._root_key if root else ec.generate_private_key(ec.SECP256R1())
        issuer = _name(f"root {twin.root.folder.name if twin else self.root.folder.name}")
        if root is None:
            ca = x509.BasicConstraints(ca=True, path_length=None)
            made = _builder(issuer, issuer, self._root_key, 365 * DAY_S).add_extension(ca, critical=True)
            _save(folder / "root.pem", made.sign(self._root_key, hashes.SHA256()))
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name("tsa"), issuer, key, seconds, twin.serial if twin else None)
        made = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=critical)
        certificate = made.sign(self._root_key, hashes.SHA256())
        self.serial = certificate.serial_number
        self.ends = certificate.not_valid_after_utc
        _save(folder / "tsa.pem", certificate)
        (folder / "tsa.key").write_bytes(private_pem(key))
        (folder / "serial").write_text("01\n", encoding="utf-8")
        (folder / "config").write_text(CONFIG.format(folder=folder, policy=policy), encoding="utf-8")

    @property
    def file(self) -> Path:
        """The one certificate: what a reviewer pins."""
        return self.folder / "tsa.pem"

    @property
    def chain(self) -> Path:
        """What is above it."""
        return self.root.folder / "root.pem"

    @property
    def pinned(self) -> Authority:
        """What a hospital pins."""
        return Authority.pinned(self.file.read_bytes(), self.chain.read_bytes())

    def answer(self, der: bytes, *bag: Path) -> bytes:
        """The authority's response; `bag`: certificates that come along."""
        (self.folder / "query").write_bytes(der)
        (self.folder / "bag").write_bytes(b"".join(path.read_bytes() for path in bag))
        along = ("-chain", self.folder / "bag") if bag else ()
        keys = ("-inkey", self.folder / "tsa.key", "-signer", self.folder / "tsa.pem", *along)
        files = ("-queryfile", self.folder / "query", "-out", self.folder / "answer")
        openssl("ts", "-reply", "-config", self.folder / "config", *keys, *files)
        return (self.folder / "answer").read_bytes()


class TsaServer:
    """HTTP around an authority (RFC 3161, 3.4). `answers` may be exchanged; `status` too; `asked` is what came.

    Polices its contract: only POST of an application/timestamp-query is answered.
    """

    def __init__(self, answers: Callable[[bytes], bytes]) -> None:
        self.answers, self.status = answers, 200
        self.headers: dict[str, str] = {}
        self.asked: list[bytes] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                good = self.headers["Content-Type"] == "application/timestamp-query"
                query = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.append(query)
                body = server.answers(query) if good else b""
                self.send_response(server.status if good else 415)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(body)))
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is the library's
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/tsa"

    def __enter__(self) -> TsaServer:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, seconds: float, serial: int | None = None
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(serial or x509.random_serial_number())
    return builder.not_valid_before(today(-1)).not_valid_after(today() + timedelta(seconds=seconds))


def _save(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
