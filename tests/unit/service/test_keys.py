"""Pseudonyms are keyed, stable and apart from each other."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.keys import PSEUDONYM_KEY_BYTES, Pseudonyms

PART = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=20)


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    """The second start reads the first one's key; nobody else may read it."""
    path = tmp_path / "keys" / "pseudonym.key"

    first = Pseudonyms.load(path).of("study", "1.2.3")
    second = Pseudonyms.load(path).of("study", "1.2.3")

    assert first == second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_key_gives_another_name() -> None:
    """Without the key nobody can make the name from the identifier."""
    names = {Pseudonyms(bytes([n]) * PSEUDONYM_KEY_BYTES).of("study", "1.2.3") for n in range(3)}

    assert len(names) == 3


@given(a=st.lists(PART, min_size=1, max_size=3), b=st.lists(PART, min_size=1, max_size=3))
def test_different_things_have_different_names(a: list[str], b: list[str]) -> None:
    """Parts cannot be moved from one to the next without changing the name."""
    names = Pseudonyms(b"k" * PSEUDONYM_KEY_BYTES)

    assert (names.of("x", *a) == names.of("x", *b)) is (a == b)


def test_the_shape_is_what_entries_want() -> None:
    """32 lower-case hexadecimal digits."""
    name = Pseudonyms(b"k" * PSEUDONYM_KEY_BYTES).of("study", "1.2.3")

    assert len(name) == 32
    assert set(name) <= set("0123456789abcdef")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_damaged_key_is_refused(size: int) -> None:
    """A truncated key file is never used: its names would be others."""
    with pytest.raises(ValueError, match="32 bytes"):
        Pseudonyms(b"k" * size)
