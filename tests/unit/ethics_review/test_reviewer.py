"""The reviewer's tool: its arithmetic is Ed25519's, its notes are the house's, and nothing gets past its digests."""

import ast
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.entry import canonical
from audit.note import Signer, Verifier, open_note
from ethics_review import handing_over, reviewer, states, submission, vocabulary
from ethics_review.reviewer import Wrong, main, open_submission, packed
from models.library import Library
from models.ref import ModelRef
from tests.simulators import dossiers, small_model

TOOL = Path(reviewer.__file__)
ACT = ["--event", "BEGIN_REVIEW", "--from", "SUBMITTED", "--to", "UNDER_REVIEW", "--reason", "COMPLETE"]
TERMS: dict[str, Any] = {
    "approval": "TEST-2026-0001",
    "criteria_set": "TEST-AI-MED/1.0",
    "reviewer_org": "Test Review Centre 测试审查中心",
    "valid": {"from": "2026-12-01", "to": "2027-05-31"},
    "follow_up": {"days": 365, "listed": False},
    "conditions": {
        "modality": ["MR"],
        "body_part": ["BRAIN", "HEAD"],
        "age_years": [18, 120],
        "sex": ["F", "M"],
        "manufacturer": ["UIH"],
        "site": ["test-site"],
        "slice_spacing_mm": ["0.5", "2.0"],
        "max_autonomy": "A1",
        "care_setting": ["IP", "OP"],
        "reading_mode": ["second_reader"],
        "max_calls_day": 2000,
        "require": ["opt_out_check", "pia:PIA-2026-03"],
    },
    "monitor": {"disagree_p0": "0.06", "disagree_p1": "0.12"},
    "acceptance": [{"metric": "DICE", "subgroup": None, "n": 100, "at_least": "0.90", "at_most": None}],
    "on_breach": "SUSPEND",
}


@pytest.fixture(scope="module")
def packet(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A submission of a model that is installed, as `zhiying review submit` writes it."""
    folder = tmp_path_factory.mktemp("submitted")
    library = Library(folder / "models")
    ref = library.install(small_model.stage(folder / "staged"))
    dossiers.write(folder / "dossier", ref)
    (folder / "dossier" / "report.pdf").write_bytes(b"%PDF-1.7\x00invented")
    dossiers.index(folder / "dossier", ref)
    frozen = submission.freeze(folder / "dossier", dossiers.TODAY, ref)
    words = {name: (library.open(ref).path / name).read_bytes() for name in ("files.json", "manifest.json")}
    return handing_over.pack(frozen, words)


@pytest.fixture
def desk(tmp_path: Path, packet: bytes) -> Path:
    """A reviewer's folder: the submission, and terms."""
    (tmp_path / "s.zip").write_bytes(packet)
    (tmp_path / "terms.json").write_text(json.dumps(TERMS, ensure_ascii=False, indent=2), encoding="utf-8")
    return tmp_path


def parts(packet: bytes) -> dict[str, bytes]:
    """Its members."""
    with zipfile.ZipFile(io.BytesIO(packet)) as file:
        return {name: file.read(name) for name in file.namelist()}


# ---- Ed25519

VECTORS = [  # RFC 8032, section 7.1: tests 1, 2, 3 and SHA(abc)
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
            "655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
            "b00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
            "c027beceea1ec40a"
        ),
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        (
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e"
            "2a9ac94fa54ca49f"
        ),
        (
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17a"
            "d9bef1177331a704"
        ),
    ),
]


@pytest.mark.parametrize(("seed", "key", "message", "signature"), VECTORS)
def test_the_standards_own_vectors(seed: str, key: str, message: str, signature: str) -> None:
    """RFC 8032, section 7.1, to the byte."""
    assert reviewer.public_key(bytes.fromhex(seed)).hex() == key
    assert reviewer.ed25519_sign(bytes.fromhex(seed), bytes.fromhex(message)).hex() == signature


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_the_arithmetic_is_openssls(seed: bytes, message: bytes) -> None:
    """For any key and message: the same public key and the same signature as `cryptography` gives."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    assert reviewer.public_key(seed) == private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert reviewer.ed25519_sign(seed, message) == private.sign(message)


# ---- keys and notes


def test_a_key_is_the_houses_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """keygen: mode 0600, read by audit.note, the public line printed and the secret one never."""
    path = tmp_path / "my.key"

    assert main(["keygen", "--name", "reviewer.example/ai", "--out", str(path)]) == 0

    printed = capsys.readouterr()
    signer = Signer.load(path)
    assert printed.out == f"{signer.vkey}\n"
    assert Verifier.parse(signer.vkey).name == "reviewer.example/ai"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_text().strip().split("+", 4)[4]  # base64, which may hold a plus itself
    assert secret not in printed.out + printed.err


def test_a_key_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A taken name, a link included, is left alone."""
    path = tmp_path / "my.key"
    path.write_text("precious")
    (tmp_path / "link.key").symlink_to(tmp_path / "nowhere")

    assert main(["keygen", "--name", "n", "--out", str(path)]) == 3
    assert main(["keygen", "--name", "n", "--out", str(tmp_path / "link.key")]) == 3
    assert path.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "x" * 129])
def test_a_bad_name_makes_no_key(tmp_path: Path, name: str) -> None:
    """A name that a note cannot carry is refused before a key is made."""
    assert main(["keygen", "--name", name, "--out", str(tmp_path / "k")]) == 1
    assert not (tmp_path / "k").exists()


def test_keys_of_the_service_are_read(tmp_path: Path) -> None:
    """A key that `zhiying review keygen` made signs here, to the same bytes."""
    signer = Signer.generate("reviewer.example/ai")
    signer.save(tmp_path / "k")
    text = act_text()

    name, seed = reviewer.read_key(tmp_path / "k")

    assert reviewer.public_line(name, seed) == signer.vkey
    assert reviewer.signed(text.encode(), name, seed).decode() == signer.sign(text)


def spoil(tmp_path: Path, how: str) -> Path:
    """A key file that is none."""
    Signer.generate("reviewer.example/ai").save(tmp_path / "k")
    line = (tmp_path / "k").read_text().strip()
    (tmp_path / "k").write_text(
        {
            "cut": line[:-8],
            "flipped": line[:-6] + ("A" if line[-6] != "A" else "B") + line[-5:],
            "public": Signer.generate("n").vkey,
            "empty": "",
            "renamed": line.replace("reviewer", "somebody"),
            "twice": f"{line}\n{line}",
            "binary": "\x00\xff",
        }[how]
    )
    return tmp_path / "k"


@pytest.mark.parametrize("how", ["cut", "flipped", "public", "empty", "renamed", "twice", "binary"])
def test_a_spoilt_key_signs_nothing_and_is_not_shown(desk: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3, and the message holds nothing of the file."""
    path = spoil(desk, how)
    (desk / "t").write_text(act_text())

    assert main(["sign", str(desk / "t"), "--key", str(path), "--out", str(desk / "n")]) == 3
    printed = capsys.readouterr()
    assert not (desk / "n").exists()
    assert not any(word in printed.err for word in path.read_text(errors="replace").split("+") if len(word) > 20)


def test_a_key_that_others_can_read_signs_nothing(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """chmod 600, or no signature."""
    Signer.generate("n").save(desk / "k")
    (desk / "k").chmod(0o640)
    (desk / "t").write_text(act_text())
    assert main(["sign", str(desk / "t"), "--key", str(desk / "k"), "--out", str(desk / "n")]) == 3
    assert "chmod 600" in capsys.readouterr().err


def act_text(**changes: Any) -> str:
    """An act that may be signed."""
    model = {"name": "small-model", "version": "1.0", "digest": dossiers.DIGEST}
    fields = {"event": "REJECT", "from": "UNDER_REVIEW", "to": "REJECTED", "reason": "BIAS", "after": None}
    return reviewer.act_text({**fields, "statement": {"words": "不予批准"}, "model": model} | changes)


def test_two_reviewers_sign_one_text(desk: Path) -> None:
    """The second signature goes under the first; audit.note opens the note with both keys. Twice is once."""
    text = desk / "act.txt"
    text.write_text(act_text(), encoding="utf-8")
    signers = []
    for number, source in enumerate([text, desk / "0.note"]):
        key = desk / f"{number}.key"
        main(["keygen", "--name", f"reviewer{number}.example", "--out", str(key)])
        assert main(["sign", str(source), "--key", str(key), "--out", str(desk / f"{number}.note")]) == 0
        signers.append(Signer.load(key))
    note = (desk / "1.note").read_text(encoding="utf-8")
    names = ("reviewer0.example", "reviewer1.example")
    assert open_note(note, [one.verifier for one in signers]) == (act_text(), names)
    again = ["sign", str(desk / "1.note"), "--key", str(desk / "0.key"), "--out", str(desk / "2.note")]
    assert main(again) == 1
    assert not (desk / "2.note").exists()


@pytest.mark.parametrize(
    "text",
    [
        "hospital.example/audit\n12\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        'zhiying.audit/restore/1\n{"reason":"BACKUP"}\n',
        "zhiying-approval/1\n{}\n",
        "zhiying-act/1\n{}",
        "zhiying-act/1\n{ }\n",
        "zhiying-act/1\n[]\n",
        "zhiying-act/1\n{}\n\n— a b\n",
        'zhiying-act/1\n{"a":1.5}\n',
        'zhiying-act/1\n{"a":1,"a":1}\n',
        'zhiying-act/1\n{"a":"\x1b"}\n',
        "",
        "zhiying-act/1\n" + json.dumps({"a": "x" * 12_000}, separators=(",", ":")) + "\n",
    ],
)
def test_other_texts_are_not_signed(text: str) -> None:
    """A checkpoint, a restore statement, a text with two readings: a reviewer's key is for two kinds of text alone."""
    with pytest.raises(ValueError, match=r"."):
        reviewer.signed(text.encode(), "n", bytes(32))


@given(st.binary(max_size=300))
def test_no_bytes_to_sign_crash_it(data: bytes) -> None:
    """Whatever is laid before it: a ValueError, which is one line for the reviewer."""
    for given_data in (data, b"zhiying-act/1\n" + data, act_text().encode() + b"\n" + data):
        with pytest.raises(ValueError, match=r"."):
            reviewer.signed(given_data, "n", bytes(32))


# ---- submissions


def test_an_honest_submission_is_what_it_says(packet: bytes) -> None:
    """The root is the product's, every document is there, and the model's digest covers its manifest."""
    found = open_submission(packet)
    files = parts(packet)
    assert found.root == dossiers.digest(files["submission.json"])
    assert set(found.documents) == {*dossiers.FILES, "report_pdf"}
    assert found.model["digest"] == dossiers.digest(files["model/files.json"])


def test_the_tool_packs_as_the_product_does(packet: bytes) -> None:
    """Taking the members out and packing them again gives the same bytes: the form has no freedom in it."""
    assert packed(parts(packet)) == packet


CHANGES: dict[str, Callable[[dict[str, bytes]], object]] = {
    "document": lambda m: m.update({"documents/privacy.json": m["documents/privacy.json"] + b" "}),
    "document-gone": lambda m: m.pop("documents/privacy.json"),
    "document-more": lambda m: m.update({"documents/late.json": b"{}"}),
    "dossier": lambda m: m.update({"dossier.json": m["dossier.json"] + b" "}),
    "root": lambda m: m.update({"submission.json": m["submission.json"].replace(b"sha256:", b"sha256:0", 1)}),
    "root-gone": lambda m: m.pop("submission.json"),
    "root-spaced": lambda m: m.update({"submission.json": m["submission.json"] + b" "}),
    "root-list": lambda m: m.update({"submission.json": b"[]"}),
    "manifest": lambda m: m.update({"model/manifest.json": m["model/manifest.json"].replace(b"A2", b"A4")}),
    "listing": lambda m: m.update({"model/files.json": m["model/files.json"].replace(b'"size":1', b'"size":2', 1)}),
    "listing-empty": lambda m: m.update({"model/files.json": b'{"files":{},"schema":"zhiying.files/1"}'}),
    "stranger": lambda m: m.update({"autorun.inf": b""}),
    "outside": lambda m: m.update({"documents/../../x": b""}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_changed_is_named(packet: bytes, change: str) -> None:
    """A member that was changed, taken out or put in makes it no submission, though the zip is whole."""
    files = parts(packet)
    CHANGES[change](files)
    assert packed(files) != packet
    with pytest.raises(Wrong):
        open_submission(packed(files))


def test_a_whole_dossier_exchanged_is_another_root(packet: bytes, tmp_path: Path) -> None:
    """Who exchanges papers and digests together makes a submission with another root, which nobody has approved."""
    files = parts(packet)
    top = json.loads(files["submission.json"])
    ref = ModelRef(**top["model"])
    paper = dossiers.papers()["hazards"]
    paper["hazards"][0]["residual"] = "None at all."
    other = submission.freeze(dossiers.write(tmp_path / "d", ref, hazards=paper), dossiers.TODAY, ref)
    words = {name: files[f"model/{name}"] for name in ("files.json", "manifest.json")}
    assert open_submission(handing_over.pack(other, words)).root != open_submission(packet).root


def with_prefix(packet: bytes) -> bytes:
    """Bytes before the first member: unzip does not mind."""
    return b"#!/bin/sh\n" + packet


def compressed(packet: bytes) -> bytes:
    """The same members, deflated."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in parts(packet).items():
            made.writestr(name, data)
    return file.getvalue()


def doubled(packet: bytes) -> bytes:
    """One name twice: two programs would show two papers."""
    file = io.BytesIO(packet)
    with zipfile.ZipFile(file, "a") as made, pytest.warns(UserWarning, match="Duplicate"):
        made.writestr("documents/privacy.json", b"{}")
    return file.getvalue()


def commented(packet: bytes) -> bytes:
    """A comment at the end."""
    file = io.BytesIO(packet)
    with zipfile.ZipFile(file, "a") as made:
        made.comment = b"approved"
    return file.getvalue()


@pytest.mark.parametrize(
    "form", [with_prefix, compressed, doubled, commented, lambda p: p + b"x", lambda p: p[:-1], lambda _: b""]
)
def test_a_zip_of_another_form_is_refused(packet: bytes, form: Callable[[bytes], bytes]) -> None:
    """Only the one form of these members is a submission: no byte is left in which to hide something."""
    with pytest.raises(ValueError, match=r"."):
        open_submission(form(packet))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_flipped_bit_is_seen(packet: bytes, data: st.DataObject) -> None:
    """Wherever it is: in papers, in the zip's own words, in tools (whose bytes the zip's sums cover)."""
    at = data.draw(st.integers(0, len(packet) - 1))
    spoilt = packet[:at] + bytes([packet[at] ^ (1 << data.draw(st.integers(0, 7)))]) + packet[at + 1 :]
    with pytest.raises(ValueError, match=r"."):
        open_submission(spoilt)


@given(st.binary(max_size=400))
def test_no_bytes_crash_it(data: bytes) -> None:
    """Whatever the file holds: a ValueError."""
    for given_data in (data, b"PK\x03\x04" + data, b"PK\x05\x06" + data):
        with pytest.raises(ValueError, match=r"."):
            open_submission(given_data)


def test_a_paper_cannot_paint_on_the_screen(packet: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters and writing that turns around are shown as what they are."""
    assert main(["show", str(write(tmp_path, packet)), "model_card"]) == 0
    assert "勾画脑部" in capsys.readouterr().out
    assert reviewer._plain("a\x1b[2J\u202eb\u009bc\n") == "a\\u001b[2J\\u202eb\\u009bc\n"


def write(folder: Path, packet: bytes) -> Path:
    """The submission as a file."""
    (folder / "x.zip").write_bytes(packet)
    return folder / "x.zip"


def test_everything_can_be_shown(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """show: every paper, the manifest and the hospital's findings; what is no JSON is named with its digest."""
    assert main(["show", str(desk / "s.zip")]) == 0
    shown = capsys.readouterr().out
    for name in (*dossiers.FILES, "manifest", "check", "report_pdf"):
        assert f"==== {name} (" in shown
    assert "not shown: sha256:" in shown
    assert main(["show", str(desk / "s.zip"), "nothing"]) == 1


# ---- drafts


def test_an_approval_names_what_was_reviewed(desk: Path, packet: bytes) -> None:
    """approve: the terms, the model and the root, in canonical form under its header."""
    arguments = ["approve", str(desk / "s.zip"), "--terms", str(desk / "terms.json"), "--out", str(desk / "a.txt")]
    assert main(arguments) == 0
    found = open_submission(packet)
    value = TERMS | {"model": found.model, "submission": found.root}
    assert (desk / "a.txt").read_bytes() == b"zhiying-approval/2\n" + canonical(value) + b"\n"
    assert main(arguments) == 3  # a draft is never overwritten either


@pytest.mark.parametrize(
    "change",
    [
        {"surplus": 1},
        {"approval": "a b"},
        {"approval": None},
        {"valid": {"from": "2027-01-01", "to": "2026-01-01"}},
        {"valid": {"from": "2027-02-30", "to": "2028-01-01"}},
        {"valid": {"from": 1, "to": 2}},
        {"follow_up": {"days": 365}},
        {"conditions": {}},
        {"conditions": TERMS["conditions"] | {"moon_phase": "full"}},
        {"monitor": []},
        {"acceptance": {}},
        {"on_breach": "IGNORE"},
        {"model": {}},
        {"criteria_set": "x" * 12_000},
    ],
)
def test_terms_that_are_none_make_no_draft(desk: Path, change: dict[str, Any]) -> None:
    """A key too many or too few, days that are none, a condition that nobody knows: status 1, and no file."""
    (desk / "terms.json").write_text(json.dumps(TERMS | change), encoding="utf-8")
    out = desk / "a.txt"
    assert main(["approve", str(desk / "s.zip"), "--terms", str(desk / "terms.json"), "--out", str(out)]) == 1
    assert not out.exists()


@pytest.mark.parametrize("wrong", ['{"on_breach":"IGNORE",', '{"x":1.5,', "{" * 9999, "\ufeff{"])
def test_terms_with_two_readings_make_no_draft(desk: Path, wrong: str) -> None:
    """A key twice, a fraction, no end: what the reviewer reads and what is drafted could be two things."""
    text = json.dumps(TERMS).replace("{", wrong, 1)
    (desk / "terms.json").write_text(text, encoding="utf-8")
    out = desk / "a.txt"
    assert main(["approve", str(desk / "s.zip"), "--terms", str(desk / "terms.json"), "--out", str(out)]) == 1
    assert not out.exists()


def test_the_tool_and_the_gate_know_the_same_conditions() -> None:
    """Every condition of the product's vocabulary is one that the tool wants, too."""
    assert {condition.value for condition in vocabulary.Condition} <= set(reviewer.CONDITIONS)
    assert {state.value for state in states.State} == set(reviewer.STATES) - {"NONE"}


def test_an_act_says_what_changes(desk: Path, packet: bytes) -> None:
    """act: event, states, reason, the note that it follows, the statement, and the model of the submission."""
    (desk / "why.json").write_text('{"findings": ["不足"]}', encoding="utf-8")
    more = ["--after", dossiers.DIGEST, "--statement", str(desk / "why.json"), "--out", str(desk / "act.txt")]
    assert main(["act", str(desk / "s.zip"), *ACT, *more]) == 0
    value = {
        "event": "BEGIN_REVIEW",
        "from": "SUBMITTED",
        "to": "UNDER_REVIEW",
        "reason": "COMPLETE",
        "after": dossiers.DIGEST,
        "statement": {"findings": ["不足"]},
        "model": open_submission(packet).model,
    }
    assert (desk / "act.txt").read_bytes() == b"zhiying-act/1\n" + canonical(value) + b"\n"


@pytest.mark.parametrize(
    "change",
    [
        {"event": "APPROVE"},
        {"event": "CELEBRATE"},
        {"from": "NOWHERE"},
        {"to": "live"},
        {"reason": "because"},
        {"after": "sha256:1"},
        {"statement": []},
    ],
)
def test_an_act_that_is_none_is_not_drafted(change: dict[str, Any]) -> None:
    """Events and states of the contract alone; an approval is no act."""
    with pytest.raises(Wrong):
        act_text(**change)


# ---- as a stranger runs it


def test_it_needs_the_standard_library_alone() -> None:
    """Nothing else is imported, and nothing that could reach a network."""
    names = set()
    for node in ast.walk(ast.parse(TOOL.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names <= sys.stdlib_module_names
    assert not names & {"socket", "urllib", "http", "ssl", "ftplib", "smtplib", "asyncio", "subprocess", "ctypes"}


@pytest.mark.parametrize("python", ["pypy3", sys.executable], ids=["python-3.9", "this"])
def test_a_reviewer_alone_in_an_empty_folder(desk: Path, packet: bytes, python: str) -> None:
    """From a key to an approval that two have signed, by the one file, with `-I`, on Python 3.9: the same bytes."""
    if python == "pypy3":
        version = [python, "-c", "import sys; print(sys.version_info[:2])"]
        assert subprocess.run(version, capture_output=True, text=True, check=True).stdout == "(3, 9)\n"
    shutil.copy(TOOL, desk / "reviewer.py")

    def run(*words: str, status: int = 0) -> str:
        command = [python, "-I", "reviewer.py", *words]
        lonely = {"PATH": os.environ["PATH"], "LANG": "C"}
        done = subprocess.run(command, cwd=desk, env=lonely, capture_output=True, check=False, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        assert b"Traceback" not in done.stderr
        return done.stdout.decode()

    checked = json.loads(run("check", "s.zip", "--json"))
    assert checked["root"] == open_submission(packet).root
    assert "勾画脑部" in run("show", "s.zip", "intended_use")
    vkeys = [run("keygen", "--name", name, "--out", f"{name}.key").strip() for name in ("one.example", "two.example")]
    run("approve", "s.zip", "--terms", "terms.json", "--out", "a.txt")
    run("sign", "a.txt", "--key", "one.example.key", "--out", "a1.note")
    shown = run("sign", "a1.note", "--key", "two.example.key", "--out", "a2.note")
    run("act", "s.zip", *ACT, "--out", "act.txt")
    text, names = open_note((desk / "a2.note").read_text("utf-8"), [Verifier.parse(vkey) for vkey in vkeys])
    assert names == ("one.example", "two.example")
    assert text == (desk / "a.txt").read_text("utf-8")
    assert checked["root"] in shown
    first = Signer.load(desk / "one.example.key")
    assert (desk / "a1.note").read_text("utf-8") == first.sign(text)
    assert stat.S_IMODE((desk / "one.example.key").stat().st_mode) == 0o600

    (desk / "s.zip").write_bytes(packet[:5000] + bytes([packet[5000] ^ 1]) + packet[5001:])
    run("check", "s.zip", status=1)
    run("check", "nothing.zip", status=3)
    run("nonsense", status=2)
