"""Codes, ranges, refs and the canonical listing: the words that everything else is written in."""

import hashlib
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codes import Code, Range, snomed_check_digit_ok
from models.errors import CodeInvalid, RefInvalid
from models.ref import FileDigest, ModelRef, digest_of, is_member_path, listing
from models.strict import Fields, Malformed, parse_json

DIGEST = "sha256:" + "ab" * 32
FOLDER = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "value", ["12738006", "118565006", "91723000", "123037004", "50960005", "816094009", "1386000"]
)
def test_snomed_codes_of_the_standard_have_right_check_digits(value: str) -> None:
    """Codes that DICOM itself uses pass."""
    assert snomed_check_digit_ok(value)


@pytest.mark.parametrize("value", ["95457006", "274110009"])
def test_snomed_codes_known_to_be_wrong_are_refused(value: str) -> None:
    """Two wrong codes of public software, which look right, are refused."""
    with pytest.raises(CodeInvalid) as caught:
        Code(value, "SCT", "Intraventricular hemorrhage")
    assert caught.value.code == "CODE_INVALID"


@settings(deadline=None)
@given(place=st.integers(0, 7), digit=st.integers(0, 9))
def test_any_one_wrong_digit_is_seen(place: int, digit: int) -> None:
    """The check digit sees every single wrong digit, and every swap of two neighbours."""
    right = "12738006"
    wrong = right[:place] + str(digit) + right[place + 1 :]
    assert snomed_check_digit_ok(wrong) == (wrong == right)
    swapped = right[:place] + right[place + 1 : place + 2] + right[place] + right[place + 2 :]
    assert snomed_check_digit_ok(swapped) == (swapped == right)


def test_every_snomed_code_in_our_own_text_is_right() -> None:
    """Every SCT code in the cards and in our source has a right check digit."""
    found = 0
    for path in [*FOLDER.glob("models/cards/*/*.json"), *FOLDER.glob("dicom_bridge/*.py"), *FOLDER.glob("models/*.py")]:
        text = path.read_text(encoding="utf-8")
        pattern = r'"(\d{6,18})",\s*(?:"scheme":\s*)?"SCT"'
        for value in re.findall(pattern, text):
            assert snomed_check_digit_ok(value), f"{path.name}: {value}"
            found += 1
    assert found >= 4


@pytest.mark.parametrize(
    ("value", "scheme", "meaning"),
    [
        ("", "DCM", "x"), ("1" * 17, "DCM", "x"), ("a b", "DCM", "x"), ("1\\2", "DCM", "x"), ("1", "", "x"),
        ("1", "dcm", "x"), ("1", "D" * 17, "x"), ("1", "DCM", ""), ("1", "DCM", "x" * 65), ("1", "DCM", "a\\b"),
        ("1", "DCM", "a\nb"), ("0", "SCT", "x"), ("12738006 ", "SCT", "x"), ("１２７３８００６", "SCT", "x"),
    ],
)  # fmt: skip
def test_a_code_that_dicom_cannot_hold_is_refused(value: str, scheme: str, meaning: str) -> None:
    """Code values and schemes have 16 characters, meanings 64, and none a backslash."""
    with pytest.raises(CodeInvalid):
        Code(value, scheme, meaning)


@pytest.mark.parametrize("unit", ["cm3", "mm", "[hnsf'U]", "{ratio}", "1", "%", "mm2", "10*3/ul"])
def test_units_are_codes_too(unit: str) -> None:
    """UCUM's brackets, braces and signs fit."""
    Code(unit, "UCUM", "unit")


def test_a_range_includes_its_ends() -> None:
    """Both ends are inside; NaN is nowhere."""
    one = Range(0.5, 2.0)
    assert one.contains(0.5)
    assert one.contains(2.0)
    assert not one.contains(math.nextafter(0.5, 0))
    assert not one.contains(math.nextafter(2.0, 3))
    assert not one.contains(math.nan)


@pytest.mark.parametrize(("low", "high"), [(2, 1), (math.nan, 1), (0, math.inf), (-math.inf, 0)])
def test_a_range_is_finite_and_in_order(low: float, high: float) -> None:
    """A range that holds nothing, or everything, is a mistake."""
    with pytest.raises(CodeInvalid):
        Range(low, high)


@pytest.mark.parametrize(
    ("name", "version", "digest"),
    [
        ("", "1", DIGEST), ("A", "1", DIGEST), ("../a", "1", DIGEST), ("a/b", "1", DIGEST), ("a" * 65, "1", DIGEST),
        ("-a", "1", DIGEST), ("a", "", DIGEST), ("a", "..", DIGEST), ("a", ".1", DIGEST), ("a", "1/2", DIGEST),
        ("a", "1.2.840.10008.1.2", DIGEST), ("a", "1" * 33, DIGEST), ("a", "1", ""), ("a", "1", "ab" * 32),
        ("a", "1", "sha256:" + "AB" * 32), ("a", "1", DIGEST + "0"), ("a\n", "1", DIGEST), ("a", "1", DIGEST + "\n"),
    ],
)  # fmt: skip
def test_a_ref_is_safe_as_a_folder_and_in_the_log(name: str, version: str, digest: str) -> None:
    """Names and versions cannot leave a folder, and digests have one writing."""
    with pytest.raises(RefInvalid) as caught:
        ModelRef(name, version, digest)
    assert caught.value.code == "REF_INVALID"


@pytest.mark.parametrize("path", ["a", "a/b.json", "models/model.pt", "x-1.0.dist-info/LICENSE", "_a/B+c"])
def test_plain_paths_are_member_paths(path: str) -> None:
    """Ordinary relative paths may be in a model."""
    assert is_member_path(path)


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/./b", ".a", "a/.b", "a\\b", "C:a", "a b", "é", "a\n", "a\0",
     "x" * 256,     "a/" * 127 + "ab", "~a", "-a"],
)  # fmt: skip
def test_other_paths_are_not(path: str) -> None:
    """Absolute, climbing, hidden, odd and overlong paths may not."""
    assert not is_member_path(path)


def test_the_digest_is_over_the_canonical_listing() -> None:
    """Anybody can compute a model's digest: SHA-256 of the sorted JSON of path, size and hash."""
    files = {"b": FileDigest(2, DIGEST), "a": FileDigest(1, "sha256:" + "0" * 64)}
    text = json.dumps(
        {
            "files": {path: {"sha256": files[path].sha256, "size": files[path].size} for path in sorted(files)},
            "schema": "zhiying.files/1",
        },
        separators=(",", ":"),
    )
    assert listing(files) == text.encode()
    assert digest_of(files) == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert digest_of(dict(reversed(files.items()))) == digest_of(files)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"\A[a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,2}\Z"),
        st.builds(FileDigest, st.integers(0, 99), st.sampled_from([DIGEST, "sha256:" + "00" * 32])),
        min_size=1,
    ),
    st.data(),
)
def test_any_other_file_is_another_digest(files: dict[str, FileDigest], data: st.DataObject) -> None:
    """A path, size or hash that differs, and a file more or less, all give another digest."""
    path = data.draw(st.sampled_from(sorted(files)))
    one = files[path]
    rest = {name: file for name, file in files.items() if name != path}
    others = [
        rest,
        rest | {path: FileDigest(one.size + 1, one.sha256)},
        rest | {path: FileDigest(one.size, "sha256:" + "12" * 32)},
        rest | {path + "x9x9x9x": one},
        files | {"x9x9x9x": one},
    ]
    assert digest_of(files) not in [digest_of(other) for other in others]


@pytest.mark.parametrize(
    "files", [{"../a": FileDigest(0, DIGEST)}, {"a": FileDigest(0, DIGEST), "A": FileDigest(0, DIGEST)}]
)
def test_paths_that_a_file_system_could_confuse_have_no_digest(files: dict[str, FileDigest]) -> None:
    """Climbing paths, and two paths that differ in case only, are refused."""
    with pytest.raises(RefInvalid):
        digest_of(files)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff{}", b'{"a":1,"a":2}', b"[NaN]", b"[Infinity]", b"[-Infinity]", b"[" * 100_000, b"[1]x", b"[1.]",
     b'"' + b"x" * 300_000 + b'"', b"[" + b"1" * 5000 + b"]", b'{"a":{"b":1,"b":1}}'],
)  # fmt: skip
def test_json_that_two_readers_could_read_differently_is_refused(data: bytes) -> None:
    """Other encodings, keys given twice, NaN, giants and endless nesting are no JSON of ours."""
    with pytest.raises(Malformed):
        parse_json(data)


def test_a_huge_integer_is_no_number_of_ours() -> None:
    """An integer that no float can hold is refused instead of breaking the arithmetic."""
    with pytest.raises(Malformed):
        Fields({"a": [0, 10**400]}, "", ("a",)).range("a", 0, 1)
