"""Time stamps by a real authority (openssl ts), whose certificate is pinned."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from service.timestamping import Authority, TimestampRefused, imprint_of, query, read, verify
from tests.simulators.tsa import POLICY, LocalAuthority, openssl

DATA = b"hospital.example/audit\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


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
    with pytest.raises(TimestampRefused):
        Authority.pinned(b"x")


def test_one_certificate_is_pinned_and_its_chain_ends_somewhere(tmp_path: Path) -> None:
    """A file of two certificates pins none; a chain without its root is refused now, not when a stamp comes."""
    authority = LocalAuthority(tmp_path / "a")
    own, root = authority.file.read_bytes(), authority.chain.read_bytes()
    for certificate, chain in ((own + root, root), (own, b""), (own, own)):
        with pytest.raises(TimestampRefused):
            Authority.pinned(certificate, chain)
    assert Authority.pinned(own, root).roots == authority.pinned.roots


def test_the_policy_must_be_the_one_that_was_named(tmp_path: Path) -> None:
    """An authority may stamp under a lesser policy too."""
    authority = LocalAuthority(tmp_path / "a")
    asked = query(DATA)
    answer = authority.answer(asked.der)
    assert verify(DATA, answer, replace(authority.pinned, policy=POLICY), asked.nonce)
    for policy in ("1.2.3.4.2", "1.2.3.4.1.1"):
        with pytest.raises(TimestampRefused):
            verify(DATA, answer, replace(authority.pinned, policy=policy), asked.nonce)


@pytest.mark.parametrize(
    ("usage", "critical"), [(ExtendedKeyUsageOID.CODE_SIGNING, True), (ExtendedKeyUsageOID.TIME_STAMPING, False)]
)
def test_a_certificate_for_something_else_stamps_nothing(
    tmp_path: Path, usage: ObjectIdentifier, critical: bool
) -> None:
    """RFC 3161 2.3: time stamping alone, and critical; it is refused when it is pinned."""
    with pytest.raises(TimestampRefused):
        _ = LocalAuthority(tmp_path / "a", usage=usage, critical=critical).pinned


def test_a_twin_with_the_same_names_and_serial_number_is_refused(tmp_path: Path) -> None:
    """Everything that a person would look at is equal, but the keys; also with the pinned certificate in its bag."""
    honest = LocalAuthority(tmp_path / "honest")
    twin = LocalAuthority(tmp_path / "twin", twin=honest)
    asked = query(DATA)
    for bag in ((), (honest.file,), (honest.file, honest.chain), (twin.chain, honest.file)):
        with pytest.raises(TimestampRefused):
            verify(DATA, twin.answer(asked.der, *bag), honest.pinned, asked.nonce)


def test_whatever_comes_is_a_stamp_or_refused(tmp_path: Path) -> None:
    """Bytes changed, cut or put in: no other error, and what still verifies says the same."""
    authority = LocalAuthority(tmp_path / "a")
    asked, dice = query(DATA), random.Random(3161)
    good = authority.answer(asked.der)
    said, pinned = read(good), authority.pinned
    assert (said.imprint, said.nonce) == (imprint_of(DATA), asked.nonce)
    for _ in range(1500):
        bad = bytearray(good)
        for _ in range(dice.choice((1, 1, 2, 40))):
            bad[dice.randrange(len(bad))] = dice.randrange(256)
        if dice.random() < 0.2:
            del bad[dice.randrange(len(bad)) :]
        try:
            stamp = verify(DATA, bytes(bad), pinned, asked.nonce)
        except TimestampRefused:
            continue
        assert stamp.at == said.stamp.at
