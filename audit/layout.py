"""Names and forms of everything in a log's directory: C2SP tlog-tiles (https://c2sp.org/tlog-tiles). Pure.

::

    <root>/
      checkpoint                  public: the newest signed tree head whose tiles are all there
      tile/<L>/<N>[.p/<W>]        public: hashes of level L, 256 to a full tile, W in a partial one
      tile/entries/<N>[.p/<W>]    public: entries, each after its length in 16 bits big-endian
      head                        the commit point: the newest signed tree head, replaced atomically
      sm3/checkpoint              public, where the site turned it on: the head of the SM3 tree over the same entries
      staging/<from>-<to>-<root>  entries of a commit that is not yet published; gone when it is
      lock                        who holds its flock may write

<N> is written in groups of three digits, all but the last led by "x": 1234067 is x001/x234/067.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from audit.errors import EntryInvalid
from audit.merkle import TILE_WIDTH

CHECKPOINT = "checkpoint"
SM3_CHECKPOINT = "sm3/checkpoint"
HEAD = "head"
LOCK = "lock"
STAGING = "staging"
TILE = "tile"
ENTRIES_LEVEL = -1
"""The level that stands for entry bundles where tiles have theirs."""
LEVEL_MAX = 63
_LENGTH_BYTES = 2
_TILE_NAME = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)
_STAGED_NAME = re.compile(r"(?P<start>0|[1-9][0-9]*)-(?P<size>[1-9][0-9]*)-(?P<root>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class TileName:
    """One tile: its level (ENTRIES_LEVEL for entries), its index in the level, its width from 1 to 256."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Relative to the log's root."""
        level = "entries" if self.level == ENTRIES_LEVEL else str(self.level)
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        return f"{TILE}/{level}/{number}" + ("" if self.width == TILE_WIDTH else f".p/{self.width}")

    @property
    def full(self) -> TileName:
        """The full tile of the same place."""
        return TileName(self.level, self.index)


@dataclass(frozen=True, slots=True)
class StagedName:
    """A commit under way: entries from ``start`` up to ``size``, which make this ``root`` (32 bytes)."""

    start: int
    size: int
    root: bytes

    @property
    def path(self) -> str:
        """Relative to the log's root."""
        return f"{STAGING}/{self.start}-{self.size}-{self.root.hex()}"


def parse_tile(path: str) -> TileName | None:
    """The tile that a path relative to the root names, if it names one exactly as we would."""
    match = _TILE_NAME.fullmatch(path)
    if match is None:
        return None
    level = ENTRIES_LEVEL if match["level"] == "entries" else int(match["level"])
    index = int("".join(group.removeprefix("x") for group in match["index"].split("/")))
    name = TileName(level, index, int(match["width"] or TILE_WIDTH))
    return name if level <= LEVEL_MAX and name.width <= TILE_WIDTH and name.path == path else None


def parse_staged(name: str) -> StagedName | None:
    """The commit that a file name in the staging folder names."""
    match = _STAGED_NAME.fullmatch(name)
    if match is None or int(match["start"]) >= int(match["size"]):
        return None
    return StagedName(int(match["start"]), int(match["size"]), bytes.fromhex(match["root"]))


def bundles(start: int, size: int) -> Iterator[TileName]:
    """The entry bundles of a tree of ``size`` that hold any of the entries from ``start`` on."""
    for index in range(start // TILE_WIDTH, -(-size // TILE_WIDTH)):
        yield TileName(ENTRIES_LEVEL, index, min(TILE_WIDTH, size - index * TILE_WIDTH))


def tiles(old_size: int, new_size: int) -> Iterator[TileName]:
    """The hash tiles and entry bundles of a tree of ``new_size`` that a tree of ``old_size`` has not."""
    yield from (name for name in bundles(old_size, new_size) if _last(name) > old_size)
    level, old, new = 0, old_size, new_size
    while new:
        if new != old:
            for index in range(old // TILE_WIDTH, new // TILE_WIDTH):
                yield TileName(level, index)
            if new % TILE_WIDTH:
                yield TileName(level, new // TILE_WIDTH, new % TILE_WIDTH)
        level, old, new = level + 1, old // TILE_WIDTH, new // TILE_WIDTH


def superseded(old_size: int, new_size: int) -> Iterator[str]:
    """Folders of partial tiles whose full tile a growth from ``old_size`` to ``new_size`` made."""
    for name in tiles(old_size, new_size):
        if name.width == TILE_WIDTH:
            yield str(PurePosixPath(TileName(name.level, name.index, 1).path).parent)


def pack(entries: Sequence[bytes]) -> bytes:
    """An entry bundle."""
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def unpack(bundle: bytes) -> tuple[bytes, ...]:
    """The entries of a bundle. Raises EntryInvalid if it is cut short."""
    entries: list[bytes] = []
    at = 0
    while at < len(bundle):
        begin = at + _LENGTH_BYTES
        end = begin + int.from_bytes(bundle[at:begin], "big")
        if end > len(bundle):
            raise EntryInvalid("bundle: cut short")
        entries.append(bundle[begin:end])
        at = end
    return tuple(entries)


def _last(name: TileName) -> int:
    return name.index * TILE_WIDTH + name.width
