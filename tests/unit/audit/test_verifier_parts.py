"""The verifier's own parts against those that it must not share: Ed25519, notes, trees, JSON, time stamps, policies."""

import contextlib
import hashlib
import json
import random
import subprocess
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import merkle, verifier
from audit.canonical import parse_canonical
from audit.errors import EntryInvalid
from audit.export import Evidence, export
from audit.note import Signer
from tests.simulators.audit_package import Hospital, WitnessKey, check, signed_head

# RFC 8032, section 7.1: TEST 1, 2, 3 and SHA(abc), as (public key, message, signature).
RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]


@pytest.mark.parametrize(("key", "message", "signature"), RFC_8032)
def test_published_signatures_verify(key: str, message: str, signature: str) -> None:
    """RFC 8032, section 7.1; and not with any one bit of signature or message changed."""
    public, text, signed = bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature)
    assert verifier.ed25519_verify(public, text, signed)
    assert not verifier.ed25519_verify(public, text + b"\0", signed)
    for bit in range(0, 512, 37):
        other = bytearray(signed)
        other[bit // 8] ^= 1 << bit % 8
        assert not verifier.ed25519_verify(public, text, bytes(other))


def test_random_signatures_verify_as_cryptography_says() -> None:
    """Good ones do; with a random byte changed anywhere, both say the same."""
    generator = random.Random(8032)
    for _ in range(60):
        private = Ed25519PrivateKey.from_private_bytes(generator.randbytes(32))
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        message = generator.randbytes(generator.randrange(200))
        signature = bytearray(private.sign(message))
        assert verifier.ed25519_verify(public, message, bytes(signature))
        signature[generator.randrange(64)] ^= generator.randrange(256)
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(bytes(signature), message)
            good = True
        except InvalidSignature:
            good = False
        assert verifier.ed25519_verify(public, message, bytes(signature)) is good


def test_other_encodings_of_a_good_signature_are_refused() -> None:
    """S + L, wrong lengths, and keys that are no canonical point or of small order."""
    key, message, signature = (bytes.fromhex(text) for text in RFC_8032[1])
    s = int.from_bytes(signature[32:], "little") + verifier.L
    assert not verifier.ed25519_verify(key, message, signature[:32] + s.to_bytes(32, "little"))
    assert not verifier.ed25519_verify(key, message, signature[:63])
    assert not verifier.ed25519_verify(key[:31], message, signature)
    small = [
        0,
        1,
        verifier.P - 1,
        verifier.P,
        verifier.P + 1,
        1 | 1 << 255,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
        2**256 - 1,
        2,
    ]
    for y in small:
        forged = y.to_bytes(32, "little")
        assert verifier._negated(forged) is None or y == 2
        # With A of small order, R = the identity and S = 0 would "sign" one message in eight.
        assert not any(
            verifier.ed25519_verify(forged, bytes([n]), (1).to_bytes(32, "little") + bytes(32)) for n in range(32)
        )


def test_non_canonical_r_is_refused() -> None:
    """R is compared as bytes: a second encoding of the same point is another signature."""
    # S = 0 and k * A = 0 cannot be had with an honest key, so the encoding alone is tested.
    assert verifier._decode_point((verifier.P + 1).to_bytes(32, "little")) is None
    assert verifier._decode_point((1 | 1 << 255).to_bytes(32, "little")) is None
    assert verifier._decode_point((1).to_bytes(32, "little")) == (0, 1, 1, 0)


def test_keys_are_read_as_the_house_writes_them() -> None:
    """Both kinds; one changed character is refused."""
    signer, witness = Signer.generate("hospital.example/audit"), WitnessKey("commission.example/w")
    assert verifier.parse_key(signer.vkey, verifier.NOTE_KEY).key == signer.verifier.key
    assert verifier.parse_key(witness.vkey, verifier.COSIGNATURE_KEY).name == "commission.example/w"
    bad = [signer.vkey[:-1], "x" + signer.vkey, signer.vkey.replace("+", "-"), signer.vkey + "=", ""]
    for line in (*bad, witness.vkey):
        with pytest.raises(verifier.Malformed):
            verifier.parse_key(line, verifier.NOTE_KEY)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=400), st.data())
def test_any_changed_note_is_refused_or_unsigned(at: int, data: st.DataObject) -> None:
    """No byte of a signed checkpoint is free to differ."""
    signer = Signer.parse("PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")
    note = signed_head(signer, [b"leaf"]).note.encode()
    key = verifier.parse_key(signer.vkey, verifier.NOTE_KEY)
    assert verifier.signed_at(verifier.parse_note(note), key) == 0
    at %= len(note)
    other = data.draw(st.integers(0, 255).filter(lambda value: value != note[at]))
    with contextlib.suppress(verifier.Malformed):
        assert verifier.signed_at(verifier.parse_note(note[:at] + bytes([other]) + note[at + 1 :]), key) is None


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_answered(data: bytes) -> None:
    """Parsers give a value or Malformed, and nothing else."""
    for parse in (verifier.parse_note, verifier.parse_json):
        with pytest.raises(verifier.Malformed):
            parse(data + b"\x01")
    with pytest.raises(verifier.Malformed):
        verifier.Package(BytesIO(data + b"\x01"), verifier.Report())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_AZ09", max_size=4), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(VALUES, st.integers(0, 10**6), st.integers(0, 255))
def test_json_is_judged_as_the_log_judges_it(value: object, at: int, byte: int) -> None:
    """The verifier's form and the log's form are one, for good bytes and for changed ones."""
    try:
        data = verifier.canonical(value)
    except ValueError:
        return  # lone surrogates
    assert parse_canonical(data) is not Ellipsis
    assert verifier.parse_json(data) == value
    changed = bytearray(data)
    changed[at % len(data)] = byte
    try:
        parse_canonical(bytes(changed))
        good = True
    except EntryInvalid:
        good = False
    try:
        verifier.parse_json(bytes(changed))
        assert good
    except verifier.Malformed:
        assert not good


@pytest.mark.parametrize("size", [1, 2, 3, 1023, 1024, 1025, 2048, 3000, 5121])
def test_roots_are_those_of_the_logs_tree(size: int) -> None:
    """At any size, with checkpoints inside and at the edges of chunks."""
    leaves = [merkle.leaf_hash(b"%d" % number) for number in range(size)]
    sizes = sorted({1, 2, size // 2 + 1, 1024, 1025, size} & set(range(size + 1)))
    report = verifier.Report()
    tree = verifier.Tree([verifier.Checkpoint(one, merkle.root(leaves[:one]), "", ()) for one in sizes], report)
    for first in range(0, size, verifier.CHUNK):
        tree.take(leaves[first : first + verifier.CHUNK])
    assert not report.remarks
    wrong = verifier.Tree([verifier.Checkpoint(size, merkle.root(leaves[::-1]), "", ())], report)
    for first in range(0, size, verifier.CHUNK):
        wrong.take(leaves[first : first + verifier.CHUNK])
    assert len(report.remarks) == (size > 1)


def test_a_checkpoint_of_no_entries_has_the_root_of_nothing() -> None:
    """RFC 6962, section 2.1: SHA-256 of no bytes; another root there is wrong before anything was read."""
    report = verifier.Report()
    empty = hashlib.sha256(b"").digest()
    tree = verifier.Tree([verifier.Checkpoint(0, empty, "", ()), verifier.Checkpoint(1, bytes(32), "", ())], report)
    assert (tree.good, report.remarks) == (0, [])
    tree.take([bytes(32)])
    assert (tree.good, report.remarks) == (1, [])
    verifier.Tree([verifier.Checkpoint(0, bytes(32), "", ())], report)
    assert [one.where for one in report.remarks] == ["checkpoint of size 0"]


BAD_POLICIES = {
    "nothing": "",
    "no log": "quorum 1",
    "two logs": "log {log}\nlog {log}",
    "unknown word": "log {log}\ntrust everybody",
    "quorum alone": "log {log}\nquorum 1",
    "witness alone": "log {log}\nwitness {witness}",
    "quorum too large": "log {log}\nwitness {witness}\nquorum 2",
    "quorum of none": "log {log}\nwitness {witness}\nquorum 0",
    "one witness twice": "log {log}\nwitness {witness}\nwitness {witness}\nquorum 2",
    "operator reviews": "log {log}\nreviewer {log}",
    "witness key as reviewer": "log {log}\nreviewer {witness}",
    "heartbeat in words": "log {log}\nheartbeat often",
    "no such certificate": "log {log}\ntsa absent.pem",
    "empty certificate": "log {log}\ntsa /dev/null",
    "too many words": "log {log} origin and more",
}


@pytest.mark.parametrize("text", BAD_POLICIES.values(), ids=BAD_POLICIES)
def test_a_policy_that_is_not_clear_is_refused(tmp_path: Path, text: str) -> None:
    """Better no answer than one to another question."""
    hospital = Hospital()
    path = tmp_path / "policy"
    path.write_text(text.format(log=hospital.signer.vkey, witness=hospital.witnesses[0].vkey))
    with pytest.raises(verifier.Unusable):
        verifier.Policy(path)


def test_an_origin_other_than_the_keys_name_is_written_in_the_policy(tmp_path: Path) -> None:
    """The key's name is the origin unless the policy says which."""
    hospital = Hospital(signer=Signer.generate("some.example/key"))
    export(hospital.log, tmp_path / "p.zip", evidence=Evidence(checkpoint=hospital.witnessed()))
    data = (tmp_path / "p.zip").read_bytes()
    assert check(data, hospital.policy(tmp_path)).verdict == "FAIL"
    named = hospital.policy(tmp_path, f"log {hospital.signer.vkey} hospital.example/audit", without="log")
    assert check(data, named).verdict == "PASS"


AGREE = [
    (["MR", "CT"], "CT", True),
    (["MR"], "CT", False),
    (["*"], "ANYTHING", True),
    (["*"], "UNKNOWN", False),
    ([18, 120], "15-19", True),
    ([18, 120], "10-14", False),
    ([18, 89], "90+", False),
    ([18, 90], "90+", True),
    (["0.5", "2.0"], "2.0", True),
    (["0.5", "2.0"], "2.01", False),
    (["0.5", "2.0"], "0.49", False),
    (["0.5", "2.0"], "thin", False),
    ("A1", "A0", True),
    ("A1", "A2", False),
    ("A1", "B0", False),
    (["联影 UIH"], "__ UIH", True),
    ({"a": 1}, "a", False),
    (None, "a", False),
]


@pytest.mark.parametrize(("allowed", "observed", "holds"), AGREE)
def test_conditions_are_weighed_again(allowed: object, observed: str, holds: bool) -> None:
    """Lists, ranges of numbers and bands, levels; what is not understood does not hold."""
    assert verifier.condition_holds(allowed, observed) is holds


class Authority:
    """A time-stamp authority made with OpenSSL, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "serial").write_text("01\n")
        (folder / "ts.cnf").write_text(
            "[ts]\nserial=serial\nsigner_digest=sha256\ndefault_policy=1.2.3.4.1\ndigests=sha256\n"
            "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=Test stamps\n"
            "[ext]\nextendedKeyUsage=critical,timeStamping\nkeyUsage=critical,digitalSignature\n"
        )
        new = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out tsa.pem -days 3650 -config ts.cnf"
        self._openssl(*new.split())

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)

    def stamp(self, text: str, *, token: bool = False) -> bytes:
        """A response, or the bare token, over this text."""
        (self.folder / "text").write_text(text)
        self._openssl("ts", "-query", "-data", "text", "-sha256", "-cert", "-out", "query")
        reply = "ts -reply -queryfile query -signer tsa.pem -inkey key.pem -config ts.cnf -section ts -out stamp"
        self._openssl(*reply.split(), *(["-token_out"] if token else []))
        return (self.folder / "stamp").read_bytes()


def head_text(note: str) -> str:
    """What is stamped: the three lines."""
    return note.rpartition("\n\n")[0] + "\n"


def test_time_stamps_are_checked_against_the_pinned_authority(tmp_path: Path) -> None:
    """Both forms verify; another authority's, another text's and a changed one do not; none is INCOMPLETE."""
    authority, other = Authority(tmp_path / "tsa"), Authority(tmp_path / "other")
    # The authority's clock is the machine's; the log's must agree with it.
    hospital = Hospital(start=datetime.now(UTC) - timedelta(seconds=10))
    hospital.assembled(1)
    note = hospital.witnessed()
    text, size = head_text(note), len(hospital.log.made)
    good = [authority.stamp(text), authority.stamp(text, token=True)]
    changed = bytearray(good[0])
    changed[-10] ^= 1
    cases = {
        "PASS": good,
        "INCOMPLETE": [],
        "FAIL other authority": [other.stamp(text)],
        "FAIL other text": [authority.stamp(text + "more\n")],
        "FAIL changed": [bytes(changed)],
        "FAIL nothing": [b""],
    }
    lines = [f"tsa {tmp_path / 'tsa' / 'tsa.pem'}"]
    policy = hospital.policy(tmp_path, *lines)
    for number, (case, stamps) in enumerate(cases.items()):
        path = tmp_path / f"{number}.zip"
        export(hospital.log, path, evidence=Evidence(checkpoint=note, stamps=[(size, stamp) for stamp in stamps]))
        report = check(path.read_bytes(), policy)
        assert report.verdict == case.split()[0], (case, report.remarks)
        assert report.figures["stamped_size"] == (size if case == "PASS" else 0)


def test_a_report_for_a_terminal_holds_no_control_characters() -> None:
    """What a stranger wrote cannot drive the reader's terminal."""
    report = verifier.Report()
    report.add(verifier.FAIL, "member\x1b[2J", "what\x07")
    assert not set(verifier.as_text(report)) & {"\x1b", "\x07"}
    assert json.loads(json.dumps(report.as_json()))["verdict"] == "FAIL"


def test_remarks_are_bounded_and_counted() -> None:
    """A million bad entries do not make a million lines; the first bad index is kept whatever the order."""
    report = verifier.Report()
    for index in range(1000, 0, -1):
        report.add(verifier.FAIL, f"entry {index}", "bad", 1001 - index)
    report.add(verifier.FAIL, "entry 0", "bad", 0)
    assert (report.first_bad, report.totals["FAIL"], report.remarks[0].index) == (0, 1001, 0)
    assert len(report.remarks) <= verifier.SHOWN_MAX + 1
    assert "and 960 more" in verifier.as_text(report)
