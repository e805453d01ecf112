"""UIDs: the same parts, the same UID; nothing that is not a UID may name a file."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge import uids

HOSTILE = ["..", "../..", "../../etc/passwd", "/etc/passwd", "1..2", ".1", "1.", "1.2.", "", " ", "1.2 ", "1/2", "1\\2",
           "1.2\n", "1.2\0", "1" * 65, "1.2." + "3" * 61, "1.2.a", "1.2.３", "-1.2", "1.2*", "1.2.3?"]  # fmt: skip


def test_derivation_never_changes() -> None:
    """This very UID is in the PACS of hospitals: a change here would duplicate every result."""
    assert uids.derive("SR", "0" * 32) == "2.25.118935055077676291055280371237455604673"
    assert uids.IMPLEMENTATION_CLASS_UID == "2.25.214937386656029419388862823686643647406"


@given(st.text(min_size=1, max_size=8), st.lists(st.text(max_size=70), min_size=1, max_size=5))
def test_derived_uids_are_valid_and_deterministic(kind: str, parts: list[str]) -> None:
    """Whatever the parts, the UID is one by PS3.5 section 9.1, at most 44 characters, and comes out again."""
    made = uids.derive(kind, *parts)
    assert uids.valid(made)
    assert uids.storable(made)
    assert uids.own(made)
    assert len(made) <= 44
    assert made == uids.derive(kind, *parts)


def test_parts_do_not_run_together() -> None:
    """("ab", "c") and ("a", "bc") are different objects, and so is another kind."""
    made = {
        uids.derive("SR", "ab", "c"),
        uids.derive("SR", "a", "bc"),
        uids.derive("SR", "abc"),
        uids.derive("SEG", "abc"),
    }
    assert len(made) == 4


def test_a_uid_needs_parts() -> None:
    """Without a kind or a part there is nothing to derive from."""
    with pytest.raises(ValueError, match="derived"):
        uids.derive("SR")
    with pytest.raises(ValueError, match="derived"):
        uids.derive("", "x")


def test_any_change_of_the_model_changes_the_device() -> None:
    """Vendor, name, version and digest each change the Device UID."""
    base = ("v", "n", "1", "sha256:0")
    made = {
        uids.device_uid(*(part + "x" if i == changed else part for i, part in enumerate(base))) for changed in range(5)
    }
    assert len(made) == 5


@pytest.mark.parametrize("uid", HOSTILE)
def test_hostile_uids_are_neither_valid_nor_storable(uid: str) -> None:
    """Dots, slashes, foreign digits, controls, emptiness and length beyond 64 are refused."""
    assert not uids.valid(uid)
    assert not uids.storable(uid)


@given(st.text(alphabet="0123456789./\\ \n\0~a*", max_size=70))
def test_a_storable_uid_cannot_leave_its_folder(uid: str) -> None:
    """Whatever passes is one plain name inside the folder."""
    if uids.storable(uid):
        folder = Path("/spool")
        assert (folder / uid).resolve().parent == folder
        assert (folder / uid).name == uid


@pytest.mark.parametrize(
    ("uid", "by_the_letter"), [("1.2.840.10008.1.2", True), ("1.02.3", False), ("1", False), ("0.0", True)]
)
def test_leading_zeros_are_kept_though_not_valid(uid: str, by_the_letter: bool) -> None:
    """What modalities in the field do send is stored; only `valid` follows the letter."""
    assert uids.storable(uid)
    assert uids.valid(uid) is by_the_letter


def test_own_is_a_matter_of_form() -> None:
    """Only UIDs under 2.25 have the form of ours."""
    assert not uids.own("1.2.840.10008.1.2")
    assert not uids.own("2.25.")
    assert len(uids.IMPLEMENTATION_VERSION_NAME) <= 16


def test_name_based_is_what_derive_makes() -> None:
    """No random UUID, no other version or variant, no longer number; so that another maker's are told apart."""
    ours = uids.derive("SR", "0" * 32)
    number = int(ours.removeprefix("2.25."))
    version, variant = 1 << 76, 1 << 63
    assert uids.name_based(ours)
    assert uids.name_based(uids.IMPLEMENTATION_CLASS_UID)
    for other in (number ^ version, number ^ variant, number + (1 << 128), uuid.uuid4().int, 1):
        assert uids.own(f"2.25.{other}")
        assert not uids.name_based(f"2.25.{other}")
    for uid in ("1.2.840.10008.1.2", "2.25.", f"{ours}.1", ours.replace("2.25.", "2.26."), f"2.25.{number}x"):
        assert not uids.name_based(uid)
