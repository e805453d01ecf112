"""Names and forms on disk against C2SP tlog-tiles, and checkpoints against tlog-checkpoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, format_text, parse_text
from audit.errors import BadSignature, EntryInvalid, NoteMalformed, UnknownSigner
from audit.layout import (
    ENTRIES_LEVEL,
    StagedName,
    TileName,
    bundles,
    pack,
    parse_staged,
    parse_tile,
    superseded,
    tiles,
    unpack,
)
from audit.note import Signer
from tests.simulators.audit_log import ORIGIN, SIGNER


def test_names_of_the_standard() -> None:
    """The examples of tlog-tiles."""
    assert TileName(0, 1234067).path == "tile/0/x001/x234/067"
    assert TileName(1, 0, 17).path == "tile/1/000.p/17"
    assert TileName(ENTRIES_LEVEL, 999).path == "tile/entries/999"
    assert TileName(ENTRIES_LEVEL, 1000, 1).path == "tile/entries/x001/000.p/1"


@given(st.integers(-1, 63), st.integers(0, 10**10), st.integers(1, 256))
def test_names_both_ways(level: int, index: int, width: int) -> None:
    """Every name parses to the tile that it names."""
    name = TileName(level, index, width)
    assert parse_tile(name.path) == name


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/001/x234",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/300",
        "tile/0/000.p/01",
        "tile/0/000.p",
        "tile/0/000\n",
        "tile/data/000",
        "Tile/0/000",
        "tile/0/٠٠٠",
        "",
    ],
)
def test_other_names_are_no_tiles(path: str) -> None:
    """One tile has one name."""
    assert parse_tile(path) is None


def test_the_tiles_of_the_standards_example() -> None:
    """Sizes 70,000 and 256, as tlog-tiles counts them."""
    names = [name for name in tiles(0, 70_000) if name.level != ENTRIES_LEVEL]
    assert len([name for name in names if name.level == 0 and name.width == 256]) == 273
    assert [name for name in names if name.level == 0 and name.width != 256] == [TileName(0, 273, 112)]
    assert [name for name in names if name.level == 1] == [TileName(1, 0), TileName(1, 1, 17)]
    assert [name for name in names if name.level == 2] == [TileName(2, 0, 1)]
    assert [name for name in tiles(0, 256) if name.level >= 0] == [TileName(0, 0), TileName(1, 0, 1)]


@given(st.integers(0, 70_000), st.integers(0, 600))
def test_growing_writes_what_the_new_tree_has_more(old: int, more: int) -> None:
    """The tiles from old to new are those of the new tree that the old one has not; none is written twice."""
    before, after = set(tiles(0, old)), set(tiles(0, old + more))
    assert set(tiles(old, old + more)) == after - before


def test_bundles_of_a_range() -> None:
    """From the bundle of the first entry to the partial one at the end."""
    assert list(bundles(0, 0)) == []
    assert list(bundles(3, 5)) == [TileName(ENTRIES_LEVEL, 0, 5)]
    assert list(bundles(255, 513)) == [TileName(-1, 0), TileName(-1, 1), TileName(-1, 2, 1)]
    assert list(bundles(256, 256)) == []


def test_superseded_are_the_partials_of_new_full_tiles() -> None:
    """When a tile is complete its partial forms may go, and only those."""
    assert set(superseded(250, 257)) == {"tile/entries/000.p", "tile/0/000.p"}
    assert list(superseded(3, 9)) == []


def test_staged_names_both_ways() -> None:
    """A staged commit's name says from where, to where and to which root."""
    name = StagedName(3, 5, bytes(range(32)))
    assert parse_staged(name.path.removeprefix("staging/")) == name
    for bad in ("3-5", "5-3-" + "0" * 64, "5-5-" + "0" * 64, "03-5-" + "0" * 64, "3-5-" + "A" * 64, ".3-5.tmp"):
        assert parse_staged(bad) is None


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_bundles_both_ways(entries: list[bytes]) -> None:
    """Entries survive packing; a bundle that is cut anywhere but between entries is refused."""
    data = pack(entries)
    assert list(unpack(data)) == entries
    ends = {len(pack(entries[:count])) for count in range(len(entries) + 1)}
    for cut in set(range(len(data))) - ends:
        with pytest.raises(EntryInvalid):
            unpack(data[:cut])


def test_checkpoint_of_the_standard() -> None:
    """The example of tlog-checkpoint, and an empty tree."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    origin, size, root = parse_text(text)
    assert (origin, size, root[:2].hex()) == ("example.com/behind-the-sofa", 20852163, "0ac5")
    assert format_text(origin, size, root) == text
    assert parse_text(format_text("o", 0, bytes(32)))[1] == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n1\n",
        "\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "o\n01\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "o\n-1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "o\n1 \nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "o\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n",
        "o\n1\nAAAA\n",
        "o\n1\n*\n",
        "o\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "o\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nextension\n",
        "o\n99999999999999999999\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    ],
)
def test_other_texts_are_no_checkpoints(text: str) -> None:
    """Exactly three canonical lines; extension lines are refused, as nobody could audit them."""
    with pytest.raises(NoteMalformed):
        parse_text(text)


def test_a_checkpoint_is_opened_by_its_key_only() -> None:
    """Signed by the log's key, it opens; by another, it does not; changed, it does not."""
    checkpoint = Checkpoint.sign(SIGNER, ORIGIN, 7, bytes(32))
    assert Checkpoint.open(checkpoint.note, (SIGNER.verifier,)) == checkpoint == Checkpoint.unverified(checkpoint.note)
    with pytest.raises(UnknownSigner):
        Checkpoint.open(checkpoint.note, (Signer.generate("stranger").verifier,))
    with pytest.raises(BadSignature):
        Checkpoint.open(checkpoint.note.replace("\n7\n", "\n8\n"), (SIGNER.verifier,))
