"""Time stamps by a real authority (openssl ts), whose certificate is pinned."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from service.timestamping import Authority, TimestampRefused, query, verify

DATA = b"hospital.example/audit\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
CONFIG = """[tsa]
default_tsa = here
[here]
serial = {folder}/serial
default_policy = 1.2.3.4.1
digests = sha256, sha512
signer_digest = sha256
ess_cert_id_alg = sha256
"""


def openssl(*words: str | Path) -> None:
    """Run it, or fail."""
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


class LocalAuthority:
    """A root, and a time-stamping certificate under it."""

    def __init__(self, folder: Path, usage: str = "critical,timeStamping", root: LocalAuthority | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        self.root = root or self
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")
        if root is None:
            made = ("-keyout", folder / "root.key", "-out", folder / "root.pem", "-subj", f"/CN=root {folder.name}")
            openssl("req", "-x509", *curve, *made, "-addext", "basicConstraints=critical,CA:TRUE")
        openssl("req", *curve[:-2], "-keyout", folder / "tsa.key", "-out", folder / "tsa.csr", "-subj", "/CN=tsa")
        (folder / "ext").write_text(f"extendedKeyUsage={usage}\n", encoding="utf-8")
        by = ("-CA", self.root.folder / "root.pem", "-CAkey", self.root.folder / "root.key", "-CAcreateserial")
        signed = ("-in", folder / "tsa.csr", "-out", folder / "tsa.pem", "-extfile", folder / "ext", "-days", "30")
        openssl("x509", "-req", *by, *signed)
        (folder / "serial").write_text("01\n", encoding="utf-8")
        (folder / "config").write_text(CONFIG.format(folder=folder), encoding="utf-8")

    @property
    def pinned(self) -> Authority:
        """What a hospital pins."""
        return Authority.parse((self.folder / "tsa.pem").read_bytes(), (self.root.folder / "root.pem").read_bytes())

    def answer(self, der: bytes, *bag: Path) -> bytes:
        """The authority's response; `bag`: certificates that come along."""
        (self.folder / "query").write_bytes(der)
        (self.folder / "bag").write_bytes(b"".join(path.read_bytes() for path in bag))
        along = ("-chain", self.folder / "bag") if bag else ()
        keys = ("-inkey", self.folder / "tsa.key", "-signer", self.folder / "tsa.pem", *along)
        files = ("-queryfile", self.folder / "query", "-out", self.folder / "answer")
        openssl("ts", "-reply", "-config", self.folder / "config", *keys, *files)
        return (self.folder / "answer").read_bytes()


def test_a_stamp_the_whole_way(tmp_path: Path) -> None:
    """Asked, answered, verified, also later without the nonce; `openssl ts -verify` agrees."""
    authority = LocalAuthority(tmp_path / "a")
    asked = query(DATA)
    stamp = verify(DATA, authority.answer(asked.der), authority.pinned, asked.nonce)
    assert verify(DATA, stamp.response, authority.pinned) == stamp
    assert stamp.at.tzinfo is not None
    (tmp_path / "data").write_bytes(DATA)
    chain = ("-CAfile", authority.folder / "root.pem", "-untrusted", authority.folder / "tsa.pem")
    openssl("ts", "-verify", "-in", authority.folder / "answer", "-data", tmp_path / "data", *chain)


def test_other_bytes_and_other_nonces_are_refused(tmp_path: Path) -> None:
    """A token for something else, or the answer to another question; nonsense and cut tokens."""
    authority = LocalAuthority(tmp_path / "a")
    asked = query(DATA)
    good = authority.answer(asked.der)
    flipped = bytes([good[len(good) // 2] ^ 1])
    changed = good[: len(good) // 2] + flipped + good[len(good) // 2 + 1 :]
    for data, response, nonce in (
        (DATA + b"x", good, asked.nonce),
        (DATA, good, asked.nonce + 1),
        (DATA, good, query(DATA).nonce),
        (DATA, good[:-1], asked.nonce),
        (DATA, changed, asked.nonce),
        (DATA, b"", None),
        (DATA, b"\x30\x03\x02\x01\x00", None),
        (DATA, b"x" * 100_000, None),
    ):
        with pytest.raises(TimestampRefused):
            verify(data, response, authority.pinned, nonce)


def test_swapped_certificates_are_refused(tmp_path: Path) -> None:
    """Another authority; another certificate under the same root; the pinned one thrown into the bag; a wrong root."""
    mine, foreign = LocalAuthority(tmp_path / "mine"), LocalAuthority(tmp_path / "foreign")
    sister = LocalAuthority(tmp_path / "sister", root=mine)
    asked = query(DATA)
    own, root = mine.folder / "tsa.pem", mine.folder / "root.pem"
    for response in (
        foreign.answer(asked.der),
        foreign.answer(asked.der, own),
        foreign.answer(asked.der, own, root),
        sister.answer(asked.der),
        sister.answer(asked.der, own),
    ):
        with pytest.raises(TimestampRefused):
            verify(DATA, response, mine.pinned, asked.nonce)
    good = mine.answer(asked.der)
    assert verify(DATA, good, mine.pinned, asked.nonce)
    with pytest.raises(TimestampRefused):
        verify(DATA, good, replace(mine.pinned, roots=foreign.pinned.roots), asked.nonce)
    assert verify(DATA, sister.answer(asked.der), sister.pinned, asked.nonce)


def test_certificates_must_be_pem() -> None:
    """What cannot be read pins nothing."""
    with pytest.raises(TimestampRefused):
        Authority.parse(b"x", b"y")
