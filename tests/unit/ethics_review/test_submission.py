"""A dossier's folder: what strangers put there is bounded, and what is frozen has one root."""

import hashlib
import io
import json
import os
import shutil
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ethics_review import handing_over, submission
from ethics_review.errors import DossierIncomplete, DossierInvalid
from ethics_review.papers import PAPERS, Finding, Outcome
from ethics_review.submission import ATTACHMENT_BYTES_MAX, DOCUMENTS_MAX, body_of, check, collect, freeze, read_dossier
from models.ref import ModelRef
from models.strict import DOCUMENT_BYTES_MAX
from tests.simulators import dossiers
from tests.simulators.dossiers import TODAY
from tests.simulators.reviewer import MODEL

OTHER = ModelRef("small-model", "1.0", "sha256:" + "ef" * 32)
MODEL_FILES = {"files.json": b"{}", "manifest.json": b"{}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete dossier."""
    return dossiers.write(tmp_path / "dossier")


def blocking(found: tuple[Finding, ...]) -> set[tuple[str, Outcome, str]]:
    """What keeps it from being submitted."""
    return {(one.control, one.outcome, one.document) for one in found if one.blocks}


def dossier(folder: Path) -> dict[str, Any]:
    """dossier.json, to be changed."""
    value: dict[str, Any] = json.loads((folder / "dossier.json").read_bytes())
    return value


def rewrite(folder: Path, value: object) -> None:
    """dossier.json with another content."""
    (folder / "dossier.json").write_text(json.dumps(value), encoding="utf-8")


def test_a_complete_dossier_has_nothing_that_blocks(folder: Path) -> None:
    """Each control that papers can answer is there, once for each thing asked, and only what is not known is open."""
    found = check(folder, TODAY, MODEL)

    assert not blocking(found)
    open_ = {(one.control, one.document) for one in found if one.outcome is not Outcome.OK}
    assert open_ == {("FA-01", "subgroups"), ("SE-06", "sbom")}
    wanted = {
        "SP-01",
        "SP-02",
        "SP-08",
        "FA-01",
        "PR-01",
        "TR-02",
        "TR-03",
        "LC-01",
        "LC-03",
        "LC-08",
        "SE-04",
        "SE-06",
    }
    assert wanted <= {one.control for one in found}


@pytest.mark.parametrize("paper", [paper for paper in PAPERS if paper.needed], ids=lambda paper: paper.name)
def test_each_paper_that_is_missing_is_named(tmp_path: Path, paper: Any) -> None:
    """Its control is MISSING, and the finding says which file to add."""
    folder = dossiers.write(tmp_path / "d", lacks=paper.name)

    found = check(folder, TODAY, MODEL)

    assert blocking(found) == {(paper.control, Outcome.MISSING, paper.name)}
    assert any(paper.file in one.what for one in found if one.blocks)


def test_a_protocol_stands_in_for_a_registration(tmp_path: Path) -> None:
    """Without either SP-01 is missing; with a protocol alone the submission is for SHADOW only."""
    folder = dossiers.write(tmp_path / "d", lacks="registration")
    assert blocking(check(folder, TODAY, MODEL)) == {("SP-01", Outcome.MISSING, "registration")}

    dossiers.write(folder, lacks="registration", protocol=dossiers.PROTOCOL)
    assert freeze(folder, TODAY, MODEL).shadow_only
    dossiers.write(folder, protocol=dossiers.PROTOCOL)
    assert not freeze(folder, TODAY, MODEL).shadow_only


def test_a_bill_of_materials_may_be_missing(folder: Path) -> None:
    """SE-06 is INSUFFICIENT without one, and OK with one, whose bytes are bound and not read."""
    (without,) = [one for one in check(folder, TODAY, MODEL) if one.control == "SE-06"]
    assert (without.outcome, without.blocks) == (Outcome.INSUFFICIENT, False)

    (folder / "sbom.json").write_bytes(b"\x00not JSON")
    dossiers.index(folder)

    (with_one,) = [one for one in check(folder, TODAY, MODEL) if one.control == "SE-06"]
    assert with_one.outcome is Outcome.OK
    assert "sbom" in {one.name for one in freeze(folder, TODAY, MODEL).documents}


def test_other_reports_go_along(folder: Path) -> None:
    """A file that no paper is for is an attachment under its own name, bound like the others."""
    (folder / "bench-report.pdf").write_bytes(b"%PDF-1.7 invented")
    dossiers.index(folder)

    frozen = freeze(folder, TODAY, MODEL)

    assert frozen.files["bench-report.pdf"] == b"%PDF-1.7 invented"
    assert "bench_report_pdf" in {one.name for one in frozen.documents}


def test_what_is_incomplete_is_not_frozen(tmp_path: Path) -> None:
    """DOSSIER_INCOMPLETE names each control, how it stands and where."""
    folder = dossiers.write(tmp_path / "d", lacks="subgroups")
    with pytest.raises(DossierIncomplete, match="FA-01 MISSING subgroups") as refused:
        freeze(folder, TODAY, MODEL)
    assert refused.value.gaps == ("FA-01 MISSING subgroups",)
    dossiers.write(folder)
    with pytest.raises(DossierIncomplete, match="PR-01 EXPIRED privacy; SP-01 EXPIRED registration"):
        freeze(folder, date(2029, 1, 1), MODEL)


def test_the_dossier_is_about_the_installed_bytes(folder: Path) -> None:
    """SE-04: the same name and version with other bytes is another model; without one installed it is said."""
    assert blocking(check(folder, TODAY, OTHER)) == {("SE-04", Outcome.INVALID, "model")}
    with pytest.raises(DossierIncomplete, match="SE-04"):
        freeze(folder, TODAY, OTHER)
    (found,) = [one for one in check(folder, TODAY) if one.control == "SE-04"]
    assert (found.outcome, found.blocks) == (Outcome.INSUFFICIENT, False)


# ---- the root


def test_the_root_is_of_every_byte(folder: Path) -> None:
    """One changed byte in any document, in dossier.json or in the model is another root."""
    roots = {freeze(folder, TODAY, MODEL).root}
    for file in sorted(folder.iterdir()):
        before = file.read_bytes()
        file.write_bytes(before + b"\n")
        if file.name != "dossier.json":
            dossiers.index(folder)
        roots.add(freeze(folder, TODAY, MODEL).root)
        file.write_bytes(before)
        dossiers.index(folder)
    other = dossiers.write(folder.with_name("other"), OTHER)
    roots.add(freeze(other, TODAY, OTHER).root)
    assert len(roots) == len(dossiers.FILES) + 3


def test_the_root_can_be_made_by_hand(folder: Path) -> None:
    """SHA-256 of canonical JSON with model, dossier.json's digest and each document's: twenty lines in any language."""
    frozen = freeze(folder, TODAY, MODEL)
    documents = {name: dossiers.digest((folder / file).read_bytes()) for name, file in dossiers.FILES.items()}
    by_hand = json.dumps(
        {
            "documents": documents,
            "dossier": dossiers.digest((folder / "dossier.json").read_bytes()),
            "model": {"digest": MODEL.digest, "name": MODEL.name, "version": MODEL.version},
            "schema": "zhiying.submission/1",
        },
        separators=(",", ":"),
        sort_keys=True,
    )
    assert frozen.body == by_hand.encode()
    assert frozen.root == "sha256:" + hashlib.sha256(by_hand.encode()).hexdigest()
    assert body_of(frozen.model, frozen.documents, frozen.dossier) == frozen.body
    assert frozen.interested == {"test-vendor"}


def test_where_the_folder_lies_does_not_matter(folder: Path, tmp_path: Path) -> None:
    """The same papers in another place, written in another order, are the same file for the reviewer, to the byte."""
    shutil.copytree(folder, tmp_path / "copy")
    one, other = freeze(folder, TODAY, MODEL), freeze(tmp_path / "copy", TODAY, MODEL)
    assert handing_over.pack(one, MODEL_FILES) == handing_over.pack(other, dict(reversed(MODEL_FILES.items())))


def test_the_file_for_the_reviewer_can_be_opened_by_any_unzip(folder: Path) -> None:
    """A plain zip: the submission first, the papers as they were, and the tools."""
    frozen = freeze(folder, TODAY, MODEL)
    with zipfile.ZipFile(io.BytesIO(handing_over.pack(frozen, MODEL_FILES))) as packed:
        assert packed.testzip() is None
        assert packed.namelist()[0] == "submission.json"
        for file in dossiers.FILES.values():
            assert packed.read(f"documents/{file}") == (folder / file).read_bytes()
        assert packed.read("reviewer.py") == (Path(submission.__file__).parent / "reviewer.py").read_bytes()
        found = json.loads(packed.read("check.json"))
    assert {one["control"] for one in found} == {one.control for one in frozen.findings}
    assert "不联网" in handing_over.README


# ---- strangers


def test_a_changed_paper_is_seen(folder: Path) -> None:
    """A paper that is not the one that dossier.json names is INVALID, whatever it says."""
    with (folder / "privacy.json").open("a") as file:
        file.write(" ")
    assert blocking(check(folder, TODAY, MODEL)) == {("PR-01", Outcome.INVALID, "privacy")}


def test_a_file_that_nobody_named_is_seen(folder: Path) -> None:
    """Who puts a paper into the folder should not believe that it was submitted."""
    (folder / "late-thought.txt").write_text("x")
    (folder / ".hidden").write_text("x")
    found = check(folder, TODAY, MODEL)
    assert blocking(found) == {("LC-01", Outcome.INVALID, "dossier.json")}
    assert any("late-thought.txt" in one.what for one in found)


def plant_link(path: Path, outside: Path) -> None:
    """A link to a file elsewhere that holds the same bytes."""
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)


def plant_folder(path: Path, _: Path) -> None:
    """A folder."""
    path.unlink()
    path.mkdir()


def plant_pipe(path: Path, _: Path) -> None:
    """A pipe, which a careless reader would wait at for ever."""
    path.unlink()
    os.mkfifo(path)


def plant_giant(path: Path, _: Path) -> None:
    """A file without end."""
    with path.open("r+b") as file:
        file.truncate(DOCUMENT_BYTES_MAX + 1)


@pytest.mark.parametrize("plant", [plant_link, plant_folder, plant_pipe, plant_giant])
def test_what_is_no_plain_file_is_not_read(folder: Path, tmp_path: Path, plant: Any) -> None:
    """A link, a folder, a pipe or a giant in a paper's place is INVALID; in dossier.json's, refused at once."""
    plant(folder / "hazards.json", tmp_path / "outside")
    assert blocking(check(folder, TODAY, MODEL)) == {("SP-08", Outcome.INVALID, "hazards")}

    plant(folder / "dossier.json", tmp_path / "outside")
    with pytest.raises(DossierInvalid, match="a plain file"):
        check(folder, TODAY, MODEL)


def test_an_attachment_has_its_bound(folder: Path) -> None:
    """16 MiB are enough for a report; one byte more is refused, when indexing and when checking."""
    path = folder / "report.pdf"
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(ATTACHMENT_BYTES_MAX)
    dossiers.index(folder)
    assert not blocking(check(folder, TODAY, MODEL))
    with path.open("r+b") as file:
        file.truncate(ATTACHMENT_BYTES_MAX + 1)
    assert blocking(check(folder, TODAY, MODEL)) == {("LC-01", Outcome.INVALID, "report_pdf")}
    with pytest.raises(DossierInvalid, match=r"report\.pdf"):
        collect(folder, MODEL)


@pytest.mark.parametrize(
    "file",
    ["../outside.json", "/etc/hostname", "a/b.json", "A.json", ".hidden", "dossier.json", "", "a\x00b", "x" * 99],
)
def test_no_name_leaves_the_folder(folder: Path, file: str) -> None:
    """A document's file is a plain name in the folder itself; dossier.json is none."""
    value = dossier(folder)
    value["documents"]["extra"] = {"file": file, "digest": dossiers.DIGEST}
    rewrite(folder, value)
    with pytest.raises(DossierInvalid, match=r"extra\.file"):
        check(folder, TODAY, MODEL)


def too_many(value: dict[str, Any]) -> None:
    """More documents than a dossier may name."""
    for number in range(DOCUMENTS_MAX):
        value["documents"][f"n{number}"] = {"file": f"n{number}.txt", "digest": dossiers.DIGEST}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value.pop("schema"),
        lambda value: value.update(surplus=1),
        lambda value: value.update(schema="zhiying.dossier/2"),
        lambda value: value["model"].update(digest="sha256:short"),
        lambda value: value["model"].update(name="../x"),
        lambda value: value.update(documents=[]),
        lambda value: value["documents"].update({"Bad Name": value["documents"]["privacy"]}),
        lambda value: value["documents"]["privacy"].update(digest="md5:0"),
        lambda value: value["documents"]["privacy"].update(file="hazards.json"),
        lambda value: value["documents"]["privacy"].update(file="other.json"),
        lambda value: value["documents"].update(copy=value["documents"]["privacy"]),
        too_many,
    ],
)
def test_a_dossier_is_exactly_what_it_must_be(folder: Path, spoil: Any) -> None:
    """DOSSIER_INVALID for whatever is not the schema, to the key."""
    value = dossier(folder)
    spoil(value)
    rewrite(folder, value)
    with pytest.raises(DossierInvalid) as refused:
        check(folder, TODAY, MODEL)
    assert refused.value.code == "DOSSIER_INVALID"
    assert str(refused.value).isprintable()


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    """Whatever lies there under the name dossier.json is refused by name."""
    with pytest.raises(DossierInvalid):
        read_dossier(data)


@pytest.mark.parametrize("data", [b'{"schema":1,"schema":1}', b"[" * 9999, b"NaN", b"\xff", b""])
def test_a_paper_that_is_no_json_is_invalid(folder: Path, data: bytes) -> None:
    """Two meanings, no end, no text: the control is INVALID, and nothing crashes."""
    (folder / "notices.json").write_bytes(data)
    dossiers.index(folder)
    assert blocking(check(folder, TODAY, MODEL)) == {("TR-03", Outcome.INVALID, "notices")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.data())
def test_one_changed_byte_anywhere_is_seen(folder: Path, data: st.DataObject) -> None:
    """Any flipped byte of any paper makes it another paper."""
    file = folder / data.draw(st.sampled_from(sorted(dossiers.FILES.values())))
    before = file.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    file.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
    try:
        assert blocking(check(folder, TODAY, MODEL))
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("name", ["Großes.pdf", "two words.pdf", "UPPER.PDF", "x" * 70 + ".pdf"])
def test_a_file_with_an_odd_name_is_not_indexed(folder: Path, name: str) -> None:
    """A name that another system would write differently is refused, not changed."""
    (folder / name).write_bytes(b"x")
    with pytest.raises(DossierInvalid):
        collect(folder, MODEL)


def test_a_link_is_not_indexed(folder: Path) -> None:
    """What a link leads to is not in the folder."""
    (folder / "notes.txt").symlink_to("/etc/hostname")
    with pytest.raises(DossierInvalid, match=r"notes\.txt"):
        collect(folder, MODEL)
