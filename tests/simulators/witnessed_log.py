"""What tests of witnesses share: a log of invented leaves that can sign any head, and witnesses with set clocks."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from audit import durable, merkle
from audit.checkpoint import Checkpoint
from audit.cosignature import Cosigner
from audit.durable import Disk
from audit.layout import TileName
from audit.note import Signer
from audit.submission import Submission
from audit.witness import KEY, Witness
from tests.simulators.audit_log import SIGNER

ORIGIN = "hospital.example/audit"
NOON_S = 1_795_000_000


class Now:
    """A clock in seconds that a test sets."""

    def __init__(self, at: int = NOON_S) -> None:
        self.at = at

    def __call__(self) -> int:
        """Now."""
        return self.at


@cache
def leaf(number: int, history: str = "") -> bytes:
    """An invented leaf's hash; another `history` has other leaves."""
    return merkle.leaf_hash(f"{history}{number}".encode())


def leaves(size: int, *, forked_at: int | None = None) -> list[bytes]:
    """The first leaves; from `forked_at` on those of another history."""
    fork = size if forked_at is None else forked_at
    return [leaf(n, "" if n < fork else "other") for n in range(size)]


def head(hashes: Sequence[bytes], signer: Signer = SIGNER, origin: str = ORIGIN) -> Checkpoint:
    """A signed tree head over these leaves."""
    return Checkpoint.sign(signer, origin, len(hashes), merkle.root(hashes))


def body(old: int, hashes: Sequence[bytes], signer: Signer = SIGNER, origin: str = ORIGIN) -> bytes:
    """An honest request from `old` to all these leaves, its proof by RFC 6962's own definition."""
    proof = merkle.consistency_proof(old, hashes) if 0 < old <= len(hashes) else ()
    return Submission(old, proof, head(hashes, signer, origin)).format()


def witness_in(folder: Path, name: str = "w1.example", now: Now | None = None, disk: Disk = durable) -> Witness:
    """A witness over a folder: the key is made, or found; it knows what it knew."""
    folder.mkdir(exist_ok=True)
    if not (folder / KEY).exists():
        Cosigner.generate(name).save(folder / KEY)
    return Witness(folder, Cosigner.load(folder / KEY), now or Now(), disk)


def knowing_witness(folder: Path, name: str = "w1.example", now: Now | None = None, disk: Disk = durable) -> Witness:
    """A new witness that knows our log and has cosigned nothing."""
    witness = witness_in(folder, name, now, disk)
    witness.add_log(ORIGIN, SIGNER.verifier)
    return witness


class FakeLeaves:
    """Tiles of a tree, by the definition of RFC 6962. Polices its contract: only tiles that a log of that size has."""

    def __init__(self, hashes: Sequence[bytes]) -> None:
        self._hashes = list(hashes)
        self.reads = 0

    def hashes(self, name: TileName) -> tuple[bytes, ...]:
        """The hashes of a tile."""
        self.reads += 1
        span = 256**name.level
        assert name.width == min(256, len(self._hashes) // span - name.index * 256), f"no tile {name.path}"
        first = name.index * 256
        parts = (self._hashes[n * span : (n + 1) * span] for n in range(first, first + name.width))
        return tuple(merkle.root(part) for part in parts)
