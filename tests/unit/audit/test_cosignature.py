"""Cosignatures (C2SP tlog-cosignature): the standard's bytes, and nothing that is not them."""

import base64
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.cosignature import COSIGNATURE_V1, CosignatureVerifier, Cosigner, cosignatures, parse_lines
from audit.errors import BadSignature, KeyUnsafe, NoteMalformed
from audit.note import Note, Signature, parse_note

REMORA = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
"""A witness's key as transparency-dev/formats publishes it in its tests (type 0x04)."""
SPEC_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
SPEC_TIME_S = 1679315147
TEXT = "example.com/log\n3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
cosigner = Cosigner.generate("witness.example/w1")


def test_the_published_key_parses_and_formats_to_itself() -> None:
    """Key id and form of type 0x04 are those of another implementation."""
    verifier = CosignatureVerifier.parse(REMORA)
    assert verifier.vkey == REMORA
    assert verifier.key_id == 0xDA77ADE7


def test_the_standards_example_has_the_layout_that_we_write() -> None:
    """Key id, then the time in 8 bytes, then 64 of signature: the example's time is the one its text shows."""
    parsed = parse_note(SPEC_CHECKPOINT)
    payload = parsed.signatures[1].data
    assert len(payload) == 72
    assert int.from_bytes(payload[:8], "big") == SPEC_TIME_S
    ours = cosigner.cosign(TEXT, SPEC_TIME_S)
    assert (len(ours.data), ours.data[:8]) == (72, payload[:8])


def test_what_is_signed_is_the_standards_message() -> None:
    """Built here by hand from the standard's words, not by the code under test."""
    line = cosigner.cosign(TEXT, SPEC_TIME_S)
    key = cosigner.verifier.key
    message = b"cosignature/v1\ntime 1679315147\n" + TEXT.encode()
    Ed25519PublicKey.from_public_bytes(key).verify(line.data[8:], message)
    assert line.key_id.to_bytes(4, "big") == hashlib.sha256(b"witness.example/w1\n\x04" + key).digest()[:4]
    assert line.format() == (
        "— witness.example/w1 " + base64.b64encode(line.key_id.to_bytes(4, "big") + line.data).decode() + "\n"
    )


def test_verifying_gives_the_time_and_refuses_everything_else() -> None:
    """Another text, time, signature, length, no time."""
    good = cosigner.cosign(TEXT, SPEC_TIME_S).data
    assert cosigner.verifier.verify(TEXT, good) == SPEC_TIME_S
    bad = [
        good[:-1],
        good + b"\0",
        b"",
        (SPEC_TIME_S + 1).to_bytes(8, "big") + good[8:],
        bytes(8) + good[8:],
        b"\xff" * 8 + good[8:],
        *(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(8, 72, 7)),
    ]
    for payload in bad:
        with pytest.raises(BadSignature):
            cosigner.verifier.verify(TEXT, payload)
    with pytest.raises(BadSignature):
        cosigner.verifier.verify(TEXT.replace("3", "4"), good)


@pytest.mark.parametrize("time_s", [0, 2**63])
def test_a_true_signature_without_a_time_is_no_cosignature(time_s: int) -> None:
    """The key signed it, and it is refused all the same: it says nothing about when."""
    private = Ed25519PrivateKey.generate()
    verifier = CosignatureVerifier("w.example", private.public_key().public_bytes_raw())
    payload = time_s.to_bytes(8, "big") + private.sign(f"cosignature/v1\ntime {time_s}\n{TEXT}".encode())
    with pytest.raises(BadSignature):
        verifier.verify(TEXT, payload)


@pytest.mark.parametrize("time_s", [0, -1, 2**63])
def test_no_cosignature_without_a_time(time_s: int) -> None:
    """The standard wants a time above 0 that fits 63 bits."""
    with pytest.raises(NoteMalformed):
        cosigner.cosign(TEXT, time_s)


def test_cosignatures_counts_each_trusted_key_once() -> None:
    """Strangers count for nothing, a repeated line once, a false line in a trusted name refuses the whole."""
    other, stranger = Cosigner.generate("w2.example"), Cosigner.generate("w3.example")
    lines = [one.cosign(TEXT, SPEC_TIME_S) for one in (stranger, cosigner, other, cosigner)]
    found = cosignatures(Note(TEXT, tuple(lines)), (other.verifier, cosigner.verifier))
    assert [(each.verifier, each.time_s) for each in found] == [
        (cosigner.verifier, SPEC_TIME_S),
        (other.verifier, SPEC_TIME_S),
    ]
    forged = Signature(cosigner.name, cosigner.verifier.key_id, lines[0].data)
    with pytest.raises(BadSignature):
        cosignatures(Note(TEXT, (*lines, forged)), (cosigner.verifier,))
    # The same name with another key id is a stranger.
    assert cosignatures(Note(TEXT, (Signature(cosigner.name, 1, lines[0].data),)), (cosigner.verifier,)) == ()


def test_keys_are_read_strictly() -> None:
    """A plain note key, a wrong id, bad names, cut or loose base64, spare parts."""
    name, key_id, encoded = REMORA.split("+", 2)
    plain = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    for vkey in (
        plain,
        f"{name}+{key_id}",
        f"{name}+00000000+{encoded}",
        f"{name}+{key_id.upper()}+{encoded}",
        f"{name}+{key_id}+{encoded[:-4]}",
        f"{name}+{key_id}+{encoded}\n",
        f"{name}+{key_id}+*{encoded}",
        f"a b+{key_id}+{encoded}",
        f"+{key_id}+{encoded}",
        f"a\n\nb+{key_id}+{encoded}",
        "",
    ):
        with pytest.raises(NoteMalformed):
            CosignatureVerifier.parse(vkey)
    for bad in ("", "a b", "a+b", "a\nb", "a\x01b"):
        with pytest.raises(NoteMalformed):
            Cosigner.generate(bad)


def test_private_keys_are_kept_and_never_shown(tmp_path: Path) -> None:
    """Mode 0600, never overwritten, never in repr, refused when open to others or not a witness's key."""
    path = tmp_path / "key"
    cosigner.save(path)
    again = Cosigner.load(path)
    assert again.vkey == cosigner.vkey
    assert again.cosign(TEXT, 1) == cosigner.cosign(TEXT, 1)
    seed = path.read_text().strip().split("+", 4)[-1]
    assert seed not in repr(again)
    assert base64.b64decode(seed)[0] == COSIGNATURE_V1
    with pytest.raises(FileExistsError):
        cosigner.save(path)
    path.chmod(0o640)
    with pytest.raises(KeyUnsafe):
        Cosigner.load(path)
    path.chmod(0o600)
    for data in (
        b"\xff",
        b"",
        cosigner.vkey.encode(),
        path.read_bytes() + b"\n",
        path.read_bytes().replace(b"w1", b"w2"),
    ):
        path.write_bytes(data)
        with pytest.raises(NoteMalformed):
            Cosigner.load(path)


def test_answers_are_signature_lines_and_nothing_else() -> None:
    """One or more lines, each with its newline; no text before, between or after."""
    one, two = cosigner.cosign(TEXT, 1), Cosigner.generate("w2.example").cosign(TEXT, 2)
    assert parse_lines(one.format() + two.format()) == (one, two)
    line = one.format()
    for lines in ("", "\n", line[:-1], f"\n{line}", f"{line}\n", f"{line}\n{line}", f"text\n\n{line}", f"{line}x\n"):
        with pytest.raises(NoteMalformed):
            parse_lines(lines)
