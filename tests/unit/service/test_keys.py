"""Pseudonyms are keyed, stable and apart from each other."""

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import PeriodErased
from service.keys import PSEUDONYM_KEY_BYTES, PeriodKeys, Pseudonyms

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


def test_each_month_has_its_own_names(tmp_path: Path) -> None:
    """Months, and the two uses of a month's key, share nothing; the same month gives the same names again."""
    keys = PeriodKeys(tmp_path / "keys")

    first, second = (keys.names(month).of("study", "1.2.3") for month in ("2026-10", "2026-11"))

    assert first != second
    assert PeriodKeys(tmp_path / "keys").names("2026-10").of("study", "1.2.3") == first
    assert keys.sealing("2026-10") != keys.sealing("2026-11")
    assert list(keys.living()) == ["2026-10", "2026-11"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_a_month_that_was_destroyed_never_comes_back(tmp_path: Path) -> None:
    """Also for a process that used it before: another key in its place would make names that fit nothing."""
    keys, other = PeriodKeys(tmp_path / "keys"), PeriodKeys(tmp_path / "keys")
    other.names("2026-10")

    keys.destroy("2026-10")
    keys.destroy("2026-10")

    for which in (keys, other):
        for ask in (which.names, which.sealing):
            with pytest.raises(PeriodErased):
                ask("2026-10")
    assert keys.erased("2026-10")
    assert list(keys.living()) == []


def test_threads_that_begin_a_month_together_agree(tmp_path: Path) -> None:
    """One key is made, whoever is first."""
    keys = PeriodKeys(tmp_path / "keys")
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: keys.names("2026-11").of("study", "1.2.3"), range(64)))

    assert len(names) == 1


def test_a_month_is_utc() -> None:
    """A moment is of one month everywhere."""
    new_year = datetime(2027, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=8)))

    assert PeriodKeys.month(new_year) == PeriodKeys.month(new_year.astimezone(UTC)) == "2026-12"


@pytest.mark.parametrize("period", ["", "2026", "2026-13", "2026-1", "../../x", "2026-10/..", "2026-10\n"])
def test_only_a_month_is_a_period(tmp_path: Path, period: str) -> None:
    """What is typed becomes the name of a file."""
    with pytest.raises(ValueError, match="month"):
        PeriodKeys(tmp_path / "keys").destroy(period)
