"""DICOM TLS: which files can be used, and which connections come about; with real sockets on both sides."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from dicom_bridge.errors import Fault
from dicom_bridge.tls import TlsFiles, TlsUnusable, check, client_context, expires_at, fingerprint, server_context
from tests.simulators.certificates import Authority, der, pin, private_pem, self_signed, today

WAIT_S = 30
NOW = datetime.now(UTC)


class House:
    """The certificates of a hospital: ours, a PACS's, and those of others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = Authority(folder / "site")
        self.ours = self.site.issue("zhiying")
        self.pacs = self.site.issue("pacs")
        self.other = self.site.issue("other")
        self.stranger = Authority(folder / "elsewhere", "TEST Elsewhere CA").issue("stranger")

    def trusting(self, files: TlsFiles) -> TlsFiles:
        """Somebody else's certificate, held by one who trusts our site's authority."""
        return TlsFiles(files.certificate, files.key, self.site.file)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Made once; tests add files and change none."""
    return House(tmp_path_factory.mktemp("house"))


# -- files ------------------------------------------------------------------------------------------------------


def spoiled(house: House, folder: Path, what: str) -> TlsFiles:
    """Our files, with one thing wrong."""
    certificate, key, authority = (
        shutil.copy(path, folder / path.name) for path in (house.ours.certificate, house.ours.key, house.ours.authority)
    )
    files = TlsFiles(certificate, key, authority)
    rsa_key = rsa.generate_private_key(65537, 1024) if what == "weak" else None  # noqa: S505 - must be refused
    spoil: dict[str, Callable[[], object]] = {
        "no certificate": certificate.unlink,
        "no key": key.unlink,
        "no authority": authority.unlink,
        "a folder": lambda: (key.unlink(), key.mkdir()),
        "empty certificate": lambda: certificate.write_bytes(b""),
        "key for certificate": lambda: shutil.copy(key, certificate),
        "DER": lambda: certificate.write_bytes(der(certificate)),
        "cut off": lambda: certificate.write_bytes(certificate.read_bytes()[:-200]),
        "certificate for key": lambda: shutil.copy(certificate, key),
        "another key": lambda: shutil.copy(house.pacs.key, key),
        "rubbish authority": lambda: authority.write_bytes(b"\xff\x00 rubbish"),
        "key for authority": lambda: shutil.copy(key, authority),
        "weak": lambda: rsa_key and shutil.copy(house.site.issue("weak", key=rsa_key).certificate, certificate),
    }
    spoil[what]()
    if rsa_key is not None:
        key.write_bytes(private_pem(rsa_key))
    return files


SPOILED = [
    ("no certificate", "TLS_FILE_UNREADABLE", "zhiying.pem"),
    ("no key", "TLS_FILE_UNREADABLE", "zhiying.key"),
    ("no authority", "TLS_FILE_UNREADABLE", "authority.pem"),
    ("a folder", "TLS_FILE_UNREADABLE", "zhiying.key"),
    ("empty certificate", "TLS_CERTIFICATE_INVALID", "zhiying.pem"),
    ("key for certificate", "TLS_CERTIFICATE_INVALID", "zhiying.pem"),
    ("DER", "TLS_CERTIFICATE_INVALID", "zhiying.pem"),
    ("cut off", "TLS_CERTIFICATE_INVALID", "zhiying.pem"),
    ("certificate for key", "TLS_KEY_INVALID", "zhiying.key"),
    ("another key", "TLS_KEY_MISMATCH", "zhiying.key"),
    ("rubbish authority", "TLS_AUTHORITY_INVALID", "authority.pem"),
    ("key for authority", "TLS_AUTHORITY_INVALID", "authority.pem"),
    ("weak", "TLS_CERTIFICATE_INVALID", "zhiying.pem"),
]


@pytest.mark.parametrize(("what", "code", "file"), SPOILED)
@pytest.mark.parametrize("make", [server_context, client_context])
def test_files_that_cannot_be_used_are_named(
    house: House, tmp_path: Path, make: Callable[[TlsFiles], ssl.SSLContext], what: str, code: str, file: str
) -> None:
    """Whatever is wrong with a file ends in a code, a sentence and the file's name; nothing starts."""
    with pytest.raises(TlsUnusable) as raised:
        make(spoiled(house, tmp_path, what))

    assert (raised.value.code, raised.value.fault) == (code, Fault.SITE)
    assert file in raised.value.detail
    assert "KEY-----" not in str(raised.value)


def test_a_locked_key_is_refused_and_nobody_is_asked(house: House) -> None:
    """A key with a passphrase would make OpenSSL ask on a terminal, where a service waits for ever."""
    files = house.site.issue("locked", passphrase=b"secret")

    with pytest.raises(TlsUnusable) as raised:
        server_context(files)
    assert raised.value.code == "TLS_KEY_LOCKED"


def test_valid_files_pass_the_check(house: House) -> None:
    """The check before the start is silent when all is well."""
    check(house.ours, NOW)


@pytest.mark.parametrize(
    ("days", "code"), [(31, "TLS_CERTIFICATE_EXPIRED"), (-3, "TLS_CERTIFICATE_NOT_YET_VALID"), (29, None)]
)
def test_the_check_looks_at_the_clock(house: House, days: float, code: str | None) -> None:
    """An expired certificate, or one whose time has not begun, is told before anything starts, with the date."""
    if code is None:
        check(house.ours, NOW + timedelta(days=days))
        return
    with pytest.raises(TlsUnusable) as raised:
        check(house.ours, NOW + timedelta(days=days))
    assert raised.value.code == code
    assert f"{today().year // 100}" in raised.value.detail


def test_each_certificate_of_the_chain_counts(house: House, tmp_path: Path) -> None:
    """An intermediate certificate that has ended breaks the chain, so it is told too."""
    old = house.site.issue("intermediate", until=5)
    both = tmp_path / "chain.pem"
    both.write_bytes(house.ours.certificate.read_bytes() + old.certificate.read_bytes())
    files = TlsFiles(both, house.ours.key, house.ours.authority)

    check(files, NOW)
    assert expires_at(files) - today(5) < timedelta(minutes=5)
    with pytest.raises(TlsUnusable, match="TLS_CERTIFICATE_EXPIRED"):
        check(files, NOW + timedelta(days=6))


def test_one_living_authority_is_enough(house: House, tmp_path: Path) -> None:
    """While a site changes its authority, the file holds the old and the new one; all of them dead is an error."""
    dead, brief = Authority(tmp_path / "dead", until=-1), Authority(tmp_path / "brief", until=10)
    both = tmp_path / "both.pem"
    both.write_bytes(dead.file.read_bytes() + brief.file.read_bytes())
    files = TlsFiles(house.ours.certificate, house.ours.key, both)

    check(files, NOW)
    assert abs(expires_at(files) - today(10)) < timedelta(minutes=5)
    with pytest.raises(TlsUnusable, match="TLS_AUTHORITY_EXPIRED"):
        check(TlsFiles(house.ours.certificate, house.ours.key, dead.file), NOW)


def test_the_end_is_known(house: House) -> None:
    """`expires_at` is the certificate's own end where the authority lasts longer, in UTC."""
    end = expires_at(house.site.issue("brief", until=7))

    assert end.tzinfo is UTC
    assert abs(end - today(7)) < timedelta(minutes=5)


def test_fingerprints_are_those_of_openssl() -> None:
    """SHA-256 over the DER form, in lower-case hexadecimal digits without colons (FIPS 180 test vector)."""
    assert fingerprint(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# -- connections ------------------------------------------------------------------------------------------------


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[tuple[int, list[str]]]:
    """Accept one connection, answer "heard" to the first bytes; what came of it is in the list at the end."""
    said: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(WAIT_S)

    def serve() -> None:
        plain, _ = listener.accept()
        plain.settimeout(WAIT_S)
        with plain:
            try:
                with context.wrap_socket(plain, server_side=True) as secure:
                    shown = secure.getpeercert(binary_form=True)
                    secure.sendall(b"heard " + secure.recv(64))
                    said.append(f"{secure.version()} {secure.cipher()} {None if shown is None else fingerprint(shown)}")
            except OSError as error:
                said.append(f"refused: {getattr(error, 'reason', None) or type(error).__name__}")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], said
    finally:
        thread.join(WAIT_S)
        listener.close()


def call(port: int, context: ssl.SSLContext, host: str = "127.0.0.1") -> bytes:
    """Connect, say hello, and return the answer. With TLS 1.3 a server's refusal comes only with the answer."""
    with (
        socket.create_connection(("127.0.0.1", port), WAIT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(b"hello")
        return secure.recv(64)


def limited(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """The same, with this version only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context


def anybody(house: House, files: TlsFiles | None) -> ssl.SSLContext:
    """A caller that believes everybody, takes any cipher, and shows this certificate, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    if files is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_sides_know_each_other(house: House, version: ssl.TLSVersion) -> None:
    """TLS 1.2 and 1.3 come about, with a cipher of BCP 195, and each side sees the other's certificate."""
    with serving(server_context(house.ours)) as (port, said):
        assert call(port, limited(client_context(house.pacs), version)) == b"heard hello"

    (heard,) = said
    assert heard.startswith(version.name.replace("_", "."))
    assert "GCM" in heard or "CHACHA20" in heard
    assert heard.endswith(pin(house.pacs.certificate))


def refused(ours: ssl.SSLContext, caller: ssl.SSLContext) -> str:
    """Why our server did not serve the caller, who got no answer."""
    with serving(ours) as (port, said):
        try:
            answer = call(port, caller)
        except OSError:
            answer = b""
    assert answer == b""
    return said[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("nobody", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        ("stranger", "CERTIFICATE_VERIFY_FAILED"),
        ("expired", "CERTIFICATE_VERIFY_FAILED"),
        ("early", "CERTIFICATE_VERIFY_FAILED"),
        ("self-signed", "CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_who_cannot_prove_himself_is_not_served(
    house: House, tmp_path: Path, version: ssl.TLSVersion, who: str, why: str
) -> None:
    """No certificate, one of another authority, one that has ended or not begun: no byte of DICOM is exchanged."""
    files = {
        "nobody": None,
        "stranger": house.stranger,
        "expired": house.site.issue("expired", until=-0.01),
        "early": house.site.issue("early", begins=1),
        "self-signed": self_signed(tmp_path, "modality"),
    }[who]

    assert refused(server_context(house.ours), limited(anybody(house, files), version)) == f"refused: {why}"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_not_spoken(house: House, version: ssl.TLSVersion) -> None:
    """TLS 1.0 and 1.1 are refused even with a good certificate (RFC 8996), and there is no way down to them."""
    said = refused(server_context(house.ours), limited(anybody(house, house.pacs), version))

    assert said == "refused: UNSUPPORTED_PROTOCOL"


@pytest.mark.parametrize("cipher", ["AES256-GCM-SHA384", "DHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-SHA384"])
def test_weak_ciphers_are_not_taken(house: House, cipher: str) -> None:
    """No forward secrecy or no authenticated encryption: no common cipher (RFC 9325 section 4.2)."""
    caller = limited(anybody(house, house.pacs), ssl.TLSVersion.TLSv1_2)
    caller.set_ciphers(f"{cipher}:@SECLEVEL=0")

    assert refused(server_context(house.ours), caller) == "refused: NO_SHARED_CIPHER"


def test_plain_words_are_refused(house: House) -> None:
    """A plain association request on the TLS port ends the connection; nothing of it is answered in plain."""
    answer = b""
    with (
        serving(server_context(house.ours)) as (port, said),
        socket.create_connection(("127.0.0.1", port), WAIT_S) as plain,
        suppress(ConnectionResetError),
    ):
        plain.sendall(b"\x01\x00\x00\x00\x00\xcd" + bytes(205))
        answer = plain.recv(64)

    assert not answer.startswith((b"\x02", b"\x03", b"heard"))
    assert said[0].startswith("refused: ")


def test_an_authority_of_self_signed_certificates(house: House, tmp_path: Path) -> None:
    """A site without an authority lists each modality's own certificate instead; only those are believed."""
    one, two = self_signed(tmp_path, "one"), self_signed(tmp_path, "two")
    ours = TlsFiles(house.ours.certificate, house.ours.key, one.certificate)

    with serving(server_context(ours)) as (port, said):
        assert call(port, anybody(house, one)) == b"heard hello"
    assert said[0].endswith(pin(one.certificate))
    assert refused(server_context(ours), anybody(house, two)) == "refused: CERTIFICATE_VERIFY_FAILED"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_not_resumed(house: House, version: ssl.TLSVersion) -> None:
    """Each connection shows and checks the certificate anew: none lives on after it was taken out of trust."""
    ours, caller = server_context(house.ours), limited(client_context(house.pacs), version)
    session: ssl.SSLSession | None = None
    for _ in range(2):
        with (
            serving(ours) as (port, _said),
            socket.create_connection(("127.0.0.1", port), WAIT_S) as plain,
            caller.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secure,
        ):
            secure.sendall(b"hello")
            assert secure.recv(64) == b"heard hello"
            assert not secure.session_reused
            session = secure.session


# -- whom we call -----------------------------------------------------------------------------------------------

CALLS = [
    # the peer's certificate is for, we call it, pinned, it comes about
    (("127.0.0.1",), "127.0.0.1", False, True),
    (("pacs.test.invalid",), "pacs.test.invalid", False, True),
    (("pacs.test.invalid",), "127.0.0.1", False, False),
    (("192.0.2.7",), "127.0.0.1", False, False),
    (("127.0.0.1",), "pacs.test.invalid", False, False),
    ((), "127.0.0.1", False, False),
    # A name in the subject is no name.
    ((), "named", False, False),
    (("pacs.test.invalid",), "127.0.0.1", True, True),
    ((), "127.0.0.1", True, True),
]


@pytest.mark.parametrize(("names", "host", "pinned", "good"), CALLS)
def test_the_peer_is_the_one_that_was_called(
    house: House, names: tuple[str, ...], host: str, pinned: bool, good: bool
) -> None:
    """Its certificate names the host or address that the configuration names, or it is the pinned one."""
    peer = house.site.issue("named", hosts=names)
    context = client_context(house.ours, pin(peer.certificate) if pinned else None)

    with serving(server_context(peer)) as (port, said):
        if good:
            assert call(port, context, host) == b"heard hello"
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                call(port, context, host)
    assert said[0].startswith("refused") is not good


def test_another_certificate_than_the_pinned_one_is_not_the_peer(house: House) -> None:
    """A neighbour whom the same authority trusts, at the right address, is not the pinned peer: nothing is sent."""
    context = client_context(house.ours, pin(house.pacs.certificate))

    with (
        serving(server_context(house.other)) as (port, said),
        pytest.raises(ssl.SSLCertVerificationError, match="not the pinned one"),
    ):
        call(port, context)

    assert "refused" in said[0] or "heard" not in said[0]


@pytest.mark.parametrize("pinned", [False, True])
def test_a_peer_of_another_authority_is_not_called(house: House, pinned: bool) -> None:
    """The authority counts with a pin, too: a pin makes trust narrower, never wider."""
    theirs = house.trusting(house.stranger)
    context = client_context(house.ours, pin(house.stranger.certificate) if pinned else None)

    with serving(server_context(theirs)) as (port, said), pytest.raises(ssl.SSLCertVerificationError):
        call(port, context)
    assert said[0].startswith("refused")


def test_an_expired_peer_is_not_called(house: House) -> None:
    """Our side looks at the end of the peer's certificate, pinned or not."""
    old = house.site.issue("old", until=-0.01)
    for context in (client_context(house.ours), client_context(house.ours, pin(old.certificate))):
        with serving(server_context(old)) as (port, _), pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            call(port, context)


def test_we_do_not_speak_old_versions(house: House) -> None:
    """A PACS that knows TLS 1.1 only is not called: no fallback."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.load_cert_chain(house.pacs.certificate, house.pacs.key)

    with serving(limited(old, ssl.TLSVersion.TLSv1_1)) as (port, _), pytest.raises(OSError):  # noqa: PT011
        call(port, client_context(house.ours))
