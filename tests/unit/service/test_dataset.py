"""dataset.json is read to the letter, and any byte of the set changes its digest."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from service.dataset import Dataset, files_of, read
from service.errors import DatasetInvalid

RIGHTS = "sha256:" + "5" * 64


def fields() -> dict[str, Any]:
    """A good set of two cases."""
    return {
        "schema": "zhiying.dataset/1",
        "id": "test-set",
        "task": "SEGMENTATION",
        "segment": 1,
        "rights": RIGHTS,
        "cases": [
            {"id": "a", "folder": "one", "truth": "PRESENT", "mask": "one.nii", "volume_cm3": "12.5"},
            {"id": "b", "folder": "more/two", "truth": None, "mask": "two.nii", "volume_cm3": None},
        ],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folders and files of the set, without its dataset.json."""
    for name in ("one", "more/two"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.dcm").write_bytes(name.encode())
    (tmp_path / "one.nii").write_bytes(b"mask")
    (tmp_path / "two.nii").write_bytes(b"mask")
    (tmp_path / "remark.txt").write_bytes(b"of no case")
    return tmp_path


def given(root: Path, value: object) -> Dataset:
    """The set with this dataset.json."""
    (root / "dataset.json").write_text(json.dumps(value), encoding="utf-8")
    return read(root)


def test_read(root: Path) -> None:
    """Everything is where the file says."""
    found = given(root, fields())
    assert (found.id, found.task, found.segment, found.rights) == ("test-set", "SEGMENTATION", 1, RIGHTS)
    one, two = found.cases
    assert (one.id, one.truth, one.volume_cm3) == ("a", "PRESENT", Fraction(25, 2))
    assert (two.truth, two.mask, two.volume_cm3) == (None, root / "two.nii", None)
    assert files_of(two) == (root / "more" / "two" / "1.dcm",)


def change(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Put a value at a dotted path; a number is a place in the list of cases."""

    def done(target: dict[str, Any]) -> None:
        *way, last = path.split(".")
        at: Any = target
        for step in way:
            at = at[int(step)] if step.isdecimal() else at[step]
        at[last] = value

    return done


BAD = [
    ("schema", "zhiying.dataset/2", "schema"),
    ("id", "测试", "id"),
    ("id", "a/b", "id"),
    ("task", "DETECTION", "task"),
    ("segment", None, "segment"),
    ("segment", 0, "segment"),
    ("segment", True, "segment"),
    ("rights", "we may", "rights"),
    ("patient", "TEST^Phantom", "patient"),
    ("cases", [], "cases"),
    ("cases.0.id", "b", "cases"),
    ("cases.0.folder", "more/two", "cases"),
    ("cases.0.folder", "../one", "cases[0].folder"),
    ("cases.0.folder", "/one", "cases[0].folder"),
    ("cases.0.folder", "none", "cases[0].folder"),
    ("cases.0.folder", "one.nii", "cases[0].folder"),
    ("cases.0.mask", "none.nii", "cases[0].mask"),
    ("cases.0.mask", "../x", "cases[0].mask"),
    ("cases.0.truth", "YES", "cases[0].truth"),
    ("cases.0.volume_cm3", 12.5, "cases[0].volume_cm3"),
    ("cases.0.volume_cm3", "0.000", "cases[0].volume_cm3"),
    ("cases.0.volume_cm3", "-1", "cases[0].volume_cm3"),
    ("cases.0.volume_cm3", "1e3", "cases[0].volume_cm3"),
    ("cases.1.mask", None, "cases[1]"),
    ("cases.1.name", "TEST^Phantom", "cases[1].name"),
]


@pytest.mark.parametrize(("path", "value", "where"), BAD, ids=[f"{path}={value}" for path, value, _ in BAD])
def test_refused(root: Path, path: str, value: object, where: str) -> None:
    """What is not exactly known is refused, and the key is named."""
    said = fields()
    change(path, value)(said)
    with pytest.raises(DatasetInvalid) as refused:
        given(root, said)
    assert f"dataset.json: {where}:" in str(refused.value)


def test_classification(root: Path) -> None:
    """A classification has a truth for each case, and neither segment, mask nor volume."""
    said = fields() | {"task": "CLASSIFICATION", "segment": None}
    bare = {"mask": None, "volume_cm3": None}
    said["cases"] = [one | bare | {"truth": "ABSENT"} for one in said["cases"]]
    assert {case.truth for case in given(root, said).cases} == {"ABSENT"}
    for wrong in ({"truth": None}, {"mask": "one.nii"}, {"volume_cm3": "1"}):
        with pytest.raises(DatasetInvalid):
            given(root, said | {"cases": [said["cases"][0] | wrong]})
    with pytest.raises(DatasetInvalid, match="segment"):
        given(root, said | {"segment": 1})


def test_which_classification(root: Path) -> None:
    """By its id in the manifest, or not at all; it is part of the digest, and of no other task."""
    bare = {"mask": None, "volume_cm3": None, "truth": "ABSENT"}
    said = fields() | {"task": "CLASSIFICATION", "segment": None}
    said["cases"] = [one | bare for one in said["cases"]]
    silent = given(root, said)
    before = silent.digest()
    named = given(root, said | {"classification": "bleed"})
    assert (silent.classification, named.classification) == (None, "bleed")
    assert named.digest() != before
    for wrong in (None, "", "Bleed", 1, ["bleed"]):
        with pytest.raises(DatasetInvalid, match="classification"):
            given(root, said | {"classification": wrong})
    with pytest.raises(DatasetInvalid, match="classification: only of CLASSIFICATION"):
        given(root, fields() | {"classification": "bleed"})


def test_no_file(tmp_path: Path) -> None:
    """A folder without dataset.json, and one whose file is no JSON."""
    with pytest.raises(DatasetInvalid, match=r"holds no dataset\.json"):
        read(tmp_path)
    (tmp_path / "dataset.json").write_bytes(b"{")
    with pytest.raises(DatasetInvalid, match="not JSON"):
        read(tmp_path)


def test_digest(root: Path) -> None:
    """The same set has the same digest anywhere; an image, a mask, a label, a name or a new file changes it."""
    found = given(root, fields())
    before = found.digest()
    (root / "remark.txt").write_bytes(b"changed")
    assert found.digest() == before
    seen = {before}
    for path, data in (("one/1.dcm", b"other"), ("two.nii", b"other"), ("one/2.dcm", b"new")):
        (root / path).write_bytes(data)
        seen.add(found.digest())
    (root / "one" / "2.dcm").rename(root / "one" / "3.dcm")
    seen.add(found.digest())
    relabelled = fields()
    relabelled["cases"][0]["truth"] = "ABSENT"
    seen.add(given(root, relabelled).digest())
    assert len(seen) == 6
