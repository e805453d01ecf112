"""Signed notes against the published vectors of C2SP and of golang.org/x/mod/sumdb/note."""

import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import BadSignature, KeyUnsafe, NoteMalformed, UnknownSigner
from audit.note import SIGNATURES_MAX, Signer, Verifier, open_note, parse_note

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_SIGNED = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_SIGNED = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
NOTE = f"{TEXT}\n{PETER_SIGNED}"
peter, enoch = Verifier.parse(PETER), Verifier.parse(ENOCH)


def test_signing_gives_the_published_note() -> None:
    """Ed25519 is deterministic: our note is Go's note, byte for byte."""
    signer = Signer.parse(PETER_PRIVATE)
    assert signer.sign(TEXT) == NOTE
    assert signer.vkey == PETER
    assert signer.verifier == peter


def test_opening_the_published_notes() -> None:
    """Text and names of the keys that signed; signatures by others count for nothing."""
    both = f"{TEXT}\n{PETER_SIGNED}{ENOCH_SIGNED}"
    assert peter.open(NOTE) == TEXT
    assert open_note(both, (peter,)) == (TEXT, ("PeterNeumann",))
    assert open_note(both, (enoch, peter)) == (TEXT, ("PeterNeumann", "EnochRoot"))
    assert open_note(f"{TEXT}\n{PETER_SIGNED * 2}{ENOCH_SIGNED * 2}", (peter,)) == (TEXT, ("PeterNeumann",))


def test_c2sp_checkpoint_example_parses_and_reformats() -> None:
    """The example of tlog-checkpoint and that of signed-note (with an empty line in its text) are canonical."""
    checkpoint = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/behind-"
        "the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    )
    poem = (
        "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
        "— quasimodo.example/salvatore "
        "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
    )
    for note in (checkpoint, poem):
        assert parse_note(note).format() == note
    assert parse_note(poem).text.endswith("sole:\n\ned è subito sera.\n")
    assert parse_note(checkpoint).signatures[0].key_id == 0x033DE0AE


@pytest.mark.parametrize(
    "note",
    [
        "",
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}\n{PETER_SIGNED[:-1]}",
        f"\x01{TEXT}\n{PETER_SIGNED}",
        f"{TEXT}\r\n{PETER_SIGNED}",
        f"\ud800{TEXT}\n{PETER_SIGNED}",
        f"{TEXT}\n— Bad Name x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6Ry\n",
        f"{TEXT}\n— Bad+Name x08go/ZJ\n",
        f"{TEXT}\n—  x08go/ZJ\n",
        f"{TEXT}\n- PeterNeumann x08go/ZJ\n",
        f"{TEXT}\n— PeterNeumann x08go/ZJ \n",
        f"{TEXT}\n— PeterNeumann x08g\n",
        f"{TEXT}\n— PeterNeumann x08go/ZK=\n",
        f"{TEXT}\n— PeterNeumann x08go/Y=\u2028\n",
        f"{TEXT}\n{PETER_SIGNED}Unexpected line.\n",
        f"{TEXT}\n{PETER_SIGNED}\n",
        f"{TEXT}\n{PETER_SIGNED * (SIGNATURES_MAX + 1)}",
        f"{'a' * 1_000_001}\n\n{PETER_SIGNED}",
    ],
)
def test_malformed_notes_are_refused(note: str) -> None:
    """Go's table of malformed notes, and more."""
    with pytest.raises(NoteMalformed):
        parse_note(note)


def test_a_wrong_signature_of_a_trusted_key_spoils_the_note() -> None:
    """Even beside a good one: somebody tried."""
    with pytest.raises(BadSignature) as error:
        peter.open(NOTE.replace("cryptography", "cryptographY"))
    assert error.value.code == "NOTE_SIGNATURE_BAD"
    forged = PETER_SIGNED.replace("x08go/ZJ", "x08go/ZK")
    with pytest.raises(BadSignature):
        open_note(f"{TEXT}\n{ENOCH_SIGNED}{forged}", (peter, enoch))
    with pytest.raises(BadSignature):
        open_note(f"{TEXT}\n{PETER_SIGNED}{forged}", (peter,))


def test_a_note_of_strangers_is_refused() -> None:
    """No trusted signature, no note; a signature in the name of a trusted key with another id is a stranger's."""
    for note, verifiers in ((NOTE, (enoch,)), (NOTE, ()), (NOTE.replace("PeterNeumann", "Peter"), (peter,))):
        with pytest.raises(UnknownSigner) as error:
            open_note(note, verifiers)
        assert error.value.code == "NOTE_SIGNER_UNKNOWN"
    other = Signer.generate("PeterNeumann")
    with pytest.raises(UnknownSigner):
        peter.open(other.sign(TEXT))


def test_every_mangling_of_a_key_is_refused() -> None:
    """Go's test: no part of a key is a key, and no key with one character changed; nor with trailing matter."""
    for key, parse in ((PETER, Verifier.parse), (PETER_PRIVATE, Signer.parse)):
        for begin in range(len(key)):
            for end in range(begin + 1, len(key) + 1):
                if (begin, end) != (0, len(key)):
                    with pytest.raises(NoteMalformed):
                        parse(key[begin:end])
        for at in range(len(key)):
            with pytest.raises(NoteMalformed):
                parse(key[:at] + chr(ord(key[at]) + 1) + key[at + 1 :])
        for bad in (f"{key}\n", f" {key}", key.replace("c74f20a3", "C74F20A3"), f"{key}=", f"{key}A==="):
            with pytest.raises(NoteMalformed):
                parse(bad)
    for bad in (
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ):
        with pytest.raises(NoteMalformed):
            Verifier.parse(bad)


def test_no_private_key_in_messages_or_repr() -> None:
    """What is shown of a signer or of a refused key does not hold the key."""
    assert "AYEK" not in repr(Signer.parse(PETER_PRIVATE))
    with pytest.raises(NoteMalformed) as error:
        Signer.parse(PETER_PRIVATE.replace("c74f20a3", "c74f20a4"))
    assert "AYEK" not in str(error.value)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\tb", "a\u3000b", "\ud800"])
def test_bad_key_names_are_refused(name: str) -> None:
    """A name must survive the formats: not empty, no space of any script, no plus."""
    with pytest.raises(NoteMalformed):
        Signer.generate(name)


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "nul\0\n", "\ud800\n"])
def test_bad_texts_are_not_signed(text: str) -> None:
    """What could not be parsed again is never signed."""
    with pytest.raises(NoteMalformed):
        Signer.parse(PETER_PRIVATE).sign(text)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n"), max_size=40))
def test_any_text_survives(text: str) -> None:
    """Sign, parse, format, open: the same text, also with empty lines and look-alike signature lines."""
    signer = Signer.parse(PETER_PRIVATE)
    note = signer.sign(f"{text}\n")
    assert parse_note(note).format() == note
    assert peter.open(note) == f"{text}\n"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(NOTE) - 1), st.characters())
def test_one_changed_character_never_opens(at: int, character: str) -> None:
    """Any other character at any place: malformed, forged or of a stranger; never the text."""
    changed = NOTE[:at] + character + NOTE[at + 1 :]
    if changed == NOTE:
        return
    with pytest.raises((NoteMalformed, BadSignature)):
        peter.open(changed)


def test_key_file_both_ways(tmp_path: Path) -> None:
    """A saved key loads again, has mode 0600 and is never overwritten."""
    path = tmp_path / "keys" / "log.key"
    made = Signer.load(path, create=True, name="hospital.example/audit")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Signer.load(path).vkey == made.vkey
    assert Signer.load(path, create=True, name="hospital.example/audit").vkey == made.vkey
    with pytest.raises(FileExistsError):
        Signer.generate("hospital.example/audit").save(path)
    assert Signer.load(path).vkey == made.vkey


def test_bad_key_files_are_refused(tmp_path: Path) -> None:
    """Open to others, of another name, not a key, no name for a new one, absent."""
    path = tmp_path / "log.key"
    with pytest.raises(FileNotFoundError):
        Signer.load(path)
    with pytest.raises(NoteMalformed):
        Signer.load(path, create=True)
    Signer.parse(PETER_PRIVATE).save(path)
    with pytest.raises(NoteMalformed):
        Signer.load(path, name="somebody-else")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(KeyUnsafe):
            Signer.load(path)
    for data in (b"", b"\xff\n", f"{PETER_PRIVATE}\n\n".encode(), PETER.encode()):
        path.chmod(0o600)
        path.write_bytes(data)
        with pytest.raises(NoteMalformed):
            Signer.load(path)
