"""Our logs and packages before judges that are not ours: Go's checksum-database code, and another Python.

What Go proves and what our own two judges say must be the same, on honest logs and on more than a thousand others.
"""

import base64
import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit import fsck, layout, verifier
from audit.canonical import canonical
from audit.checkpoint import Checkpoint
from audit.export import Evidence, export
from audit.layout import CHECKPOINT, HEAD
from audit.log import AuditLog
from audit.merkle import Tree, leaf_hash
from audit.note import Signer
from tests.simulators.audit_log import ORIGIN, SIGNER, draft, fill, open_log, twin
from tests.simulators.audit_package import FIRST_CALL, Hospital, check, forged, members, repacked, signed_head
from tests.simulators.tlog_judge import TlogJudge, Verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = (1, 2, 255, 256, 257, 300)
"""Of the logs: around the edges of a tile, and at the end beyond one."""
LARGE = 66_000
"""Entries of a log whose tiles have three levels (256 * 256 = 65536)."""
LOG_MUTATIONS, PACKAGE_MUTATIONS = 440, 600


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> TlogJudge:
    """The judge in Go, built here."""
    return TlogJudge(tmp_path_factory.mktemp("judge"))


@dataclass(frozen=True)
class Grown:
    """A log's directory as it grew: copies at each of SIZES, and the checkpoints of all before the last."""

    folder: Path

    def at(self, size: int) -> Path:
        """The log when it had so many entries."""
        return self.folder / str(size)

    @property
    def last(self) -> Path:
        """As it is now."""
        return self.at(SIZES[-1])

    @property
    def older(self) -> Path:
        """The checkpoints before the last, in files of their own."""
        return self.folder / "older"


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """Written by the real log."""
    made = Grown(tmp_path_factory.mktemp("grown"))
    made.older.mkdir()
    with open_log(made.folder / "log") as log:
        for size in SIZES:
            fill(log, range(log.head().size, size))
            twin(made.folder / "log", made.at(size))
            if size != SIZES[-1]:
                (made.older / str(size)).write_text(log.head().note)
    return made


def about(log: Path, older: Path | None = None, signer: Signer = SIGNER) -> list[str]:
    """The question whether this log is as its key says."""
    return ["log", str(log), ORIGIN, "-" if older is None else str(older), signer.vkey]


def test_go_proves_each_honest_log(judge: TlogJudge, grown: Grown) -> None:
    """Signature, every entry, every tile, inclusion from tiles alone: the same size and root as our own judge."""
    verdicts = judge.ask([about(grown.at(size)) for size in SIZES])
    for size, verdict in zip(SIZES, verdicts, strict=True):
        ours = fsck.check(grown.at(size), SIGNER.verifier)
        root = base64.b64encode(bytes.fromhex(ours.root_hash)).decode()
        assert (ours.ok, verdict) == (True, Verdict(True, size, root)), verdict.why


def test_go_proves_that_the_log_only_grew(judge: TlogJudge, grown: Grown, tmp_path: Path) -> None:
    """Each older checkpoint is consistent with the last; a fork's, under the log's own key, is not."""
    [verdict] = judge.ask([about(grown.last, grown.older)])
    assert (verdict.ok, verdict.older) == (True, len(SIZES) - 1), verdict.why
    fork = signed_head(SIGNER, [b"another first entry", b"another second entry"])
    (tmp_path / "fork").write_text(fork.note)
    [verdict] = judge.ask([about(grown.last, tmp_path)])
    assert not verdict.ok


def test_go_proves_a_log_of_three_levels(judge: TlogJudge, tmp_path: Path) -> None:
    """Beyond 65536 entries the tiles have tiles of tiles; written by our layout and tree, read by Go's."""
    leaves = [b"entry %d" % number for number in range(LARGE)]
    written(tmp_path, leaves, SIGNER)
    [verdict] = judge.ask([about(tmp_path)])
    assert (verdict.ok, verdict.size) == (True, LARGE), verdict.why
    tile = tmp_path / "tile" / "1" / "000"
    data = bytearray(tile.read_bytes())
    data[77] ^= 1
    tile.write_bytes(data)
    assert not judge.ask([about(tmp_path)])[0].ok


def written(folder: Path, leaves: Sequence[bytes], signer: Signer) -> None:
    """A log of these leaves that agrees with itself, under this key: what an attacker can write who has the disk."""
    tree, levels = Tree(), [[leaf_hash(leaf) for leaf in leaves]]
    for digest in levels[0]:
        tree.append(digest)
    while len(levels[-1]) >= layout.TILE_WIDTH:
        below = levels[-1]
        levels.append([node(below[at : at + 256]) for at in range(0, len(below) - 255, 256)])
    for name in layout.tiles(0, len(leaves)):
        first = name.index * layout.TILE_WIDTH
        if name.level == layout.ENTRIES_LEVEL:
            data = layout.pack(leaves[first : first + name.width])
        else:
            data = b"".join(levels[name.level][first : first + name.width])
        (folder / name.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name.path).write_bytes(data)
    note = Checkpoint.sign(signer, ORIGIN, len(leaves), tree.root()).note
    (folder / HEAD).write_text(note)
    (folder / CHECKPOINT).write_text(note)


def node(hashes: Sequence[bytes]) -> bytes:
    """The root of a full subtree."""
    while len(hashes) > 1:
        hashes = [hashlib.sha256(b"\1" + hashes[at] + hashes[at + 1]).digest() for at in range(0, len(hashes), 2)]
    return hashes[0]


# What somebody does to a log's directory. Each takes a copy and chance; all of it is seen by both judges, or by none.


def public(log: Path, chance: random.Random) -> Path:
    """One of the files that readers of the newest checkpoint need."""
    return log / chance.choice([CHECKPOINT, *(name.path for name in layout.tiles(0, SIZES[-1]))])


def replaced(path: Path, data: bytes) -> None:
    """Other bytes in a file; not through a hard link, whose other end is somebody else's log."""
    path.unlink()
    path.write_bytes(data)


def flip(log: Path, chance: random.Random) -> None:
    """One bit."""
    path = public(log, chance)
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    replaced(path, bytes(data))


def cut(log: Path, chance: random.Random) -> None:
    """The end of a file."""
    path = public(log, chance)
    data = path.read_bytes()
    replaced(path, data[: chance.randrange(len(data))])


def longer(log: Path, chance: random.Random) -> None:
    """More at the end of a file."""
    path = public(log, chance)
    replaced(path, path.read_bytes() + chance.randbytes(chance.randrange(1, 70)))


def gone(log: Path, chance: random.Random) -> None:
    """A file less."""
    public(log, chance).unlink()


def exchanged(log: Path, chance: random.Random) -> None:
    """Two entries in each other's place, and their hashes in the tile too: as if it had always been so."""
    width = str(SIZES[-1] - layout.TILE_WIDTH)
    bundle, hashes = (log / "tile" / level / "001.p" / width for level in ("entries", "0"))
    leaves = list(layout.unpack(bundle.read_bytes()))
    one, other = chance.sample(range(len(leaves)), 2)
    leaves[one], leaves[other] = leaves[other], leaves[one]
    replaced(bundle, layout.pack(leaves))
    replaced(hashes, b"".join(leaf_hash(leaf) for leaf in leaves))


def stranger(log: Path, chance: random.Random) -> None:
    """The same text, signed by another key of the same name."""
    text = (log / CHECKPOINT).read_text().rpartition("\n\n")[0] + "\n"
    for name in (CHECKPOINT, HEAD):
        replaced(log / name, Signer.generate(SIGNER.name).sign(text).encode())


def all_leaves(log: Path) -> list[bytes]:
    """Every entry of the directory."""
    names = layout.bundles(0, SIZES[-1])
    return [leaf for name in names for leaf in layout.unpack((log / name.path).read_bytes())]


def rewritten(log: Path, chance: random.Random) -> None:
    """A whole other history by somebody who has the operator's key: nothing inside a log can show that."""
    leaves = all_leaves(log)
    at = chance.randrange(1, len(leaves))
    leaves[at] = canonical(json.loads(leaves[at]) | {"key": f"other:{chance.randrange(10**6)}"})
    shutil.rmtree(log)
    written(log, leaves, SIGNER)


def rewritten_unsigned(log: Path, chance: random.Random) -> None:
    """The same without the key: the old signature over another tree."""
    note = (log / CHECKPOINT).read_bytes()
    rewritten(log, chance)
    replaced(log / CHECKPOINT, note)
    replaced(log / HEAD, note)


def untouched(log: Path, chance: random.Random) -> None:
    """Nothing at all."""


LOG_ATTACKS: tuple[Callable[[Path, random.Random], None], ...] = (
    *(flip, flip, flip, cut, longer, gone, exchanged, stranger, rewritten, rewritten_unsigned, untouched),
)


def test_go_and_fsck_agree_on_changed_logs(judge: TlogJudge, grown: Grown) -> None:
    """On each of hundreds of changes by chance, both say yes or both say no, and with yes the same root."""
    chance = random.Random(1962)
    attacks = [LOG_ATTACKS[number % len(LOG_ATTACKS)] for number in range(LOG_MUTATIONS)]
    copies, ours = [], []
    for number, attack in enumerate(attacks):
        copy = twin(grown.last, grown.folder / f"copy-{number}")
        attack(copy, chance)
        copies.append(copy)
        ours.append(fsck.check(copy, SIGNER.verifier))
    verdicts = judge.ask([about(copy) for copy in copies])
    for attack, mine, verdict in zip(attacks, ours, verdicts, strict=True):
        assert mine.ok is verdict.ok, (attack.__name__, mine.problems[:3], verdict.why)
        assert mine.ok is (attack in {rewritten, untouched}), attack.__name__
        assert not mine.ok or base64.b64decode(verdict.root).hex() == mine.root_hash


# What somebody does to a package, with a manifest that fits afterwards.


@dataclass(frozen=True)
class Packed:
    """An honest package with an older checkpoint, witnesses, and some entries out of scope."""

    hospital: Hospital
    parts: dict[str, bytes]
    leaves: list[bytes]
    hidden: tuple[int, ...]
    policy: Path


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Two hours of a hospital."""
    folder = tmp_path_factory.mktemp("packed")
    hospital = Hospital()
    hospital.approve()
    for number in range(3):
        hospital.call(number)
    older = hospital.witnessed()
    hospital.call(3)
    newest, hidden = hospital.witnessed(), (FIRST_CALL, FIRST_CALL + 4, FIRST_CALL + 12)
    export(hospital.log, folder / "p.zip", evidence=Evidence(checkpoint=newest, older=(older,)))
    leaves = hospital.log.leaves()
    parts = members(repacked(members((folder / "p.zip").read_bytes()), leaves, newest, hidden))
    return Packed(hospital, parts, leaves, hidden, hospital.policy(folder))


def judged_by_us(package: bytes, policy: Path) -> tuple[bool, object]:
    """Whether checkpoints and entries make one signed tree, whatever else is wrong with what the entries say."""
    report = check(package, policy)
    places = ("checkpoint", "checkpoints/", "entries/", "zip")
    wrong = [one for one in report.remarks if one.verdict == "FAIL" and one.where.startswith(places)]
    return not wrong, [f"{one.where}: {one.what}" for one in wrong[:3]]


def some_bytes(packed: Packed, name: str, chance: random.Random) -> dict[str, bytes]:
    """The package with one member flipped, cut or longer."""
    data = bytearray(packed.parts[name])
    how = chance.randrange(4)
    if how == 0:
        data = data[: chance.randrange(len(data))]
    elif how == 1:
        data += chance.randbytes(chance.randrange(1, 40))
    else:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return packed.parts | {name: bytes(data)}


def in_checkpoint(packed: Packed, chance: random.Random) -> dict[str, bytes]:
    """The newest head."""
    return some_bytes(packed, "checkpoint", chance)


def in_older(packed: Packed, chance: random.Random) -> dict[str, bytes]:
    """The older head."""
    return some_bytes(packed, next(name for name in packed.parts if name.startswith("checkpoints/")), chance)


def in_entries(packed: Packed, chance: random.Random) -> dict[str, bytes]:
    """The entries: their lengths, their bytes, the hashes of those out of scope."""
    return some_bytes(packed, f"entries/{0:013d}", chance)


def other_leaves(packed: Packed, leaves: list[bytes], *, signed: bool) -> dict[str, bytes]:
    """Other entries; under the old head, or under a new one by the operator's key and witnesses who see no entries."""
    hospital = packed.hospital
    note = packed.parts["checkpoint"].decode()
    if signed:
        note = hospital.witnessed(signed_head(hospital.signer, leaves).note)
    return members(repacked(packed.parts, leaves, note, packed.hidden))


def edited(packed: Packed, chance: random.Random) -> dict[str, bytes]:
    """One entry says something else, signed again or not, before or after the older head."""
    leaves, at = list(packed.leaves), chance.randrange(1, len(packed.leaves))
    leaves[at] = canonical(json.loads(leaves[at]) | {"key": f"other:{chance.randrange(10**6)}"})
    return other_leaves(packed, leaves, signed=chance.random() < 0.5)


def shuffled(packed: Packed, chance: random.Random) -> dict[str, bytes]:
    """Two entries in each other's place."""
    leaves = list(packed.leaves)
    one, other = chance.sample(range(1, len(leaves)), 2)
    leaves[one], leaves[other] = leaves[other], leaves[one]
    return other_leaves(packed, leaves, signed=chance.random() < 0.5)


def dropped(packed: Packed, chance: random.Random) -> dict[str, bytes]:
    """One entry less."""
    leaves = list(packed.leaves)
    leaves.pop(chance.randrange(1, len(leaves)))
    return other_leaves(packed, leaves, signed=chance.random() < 0.5)


def as_it_is(packed: Packed, chance: random.Random) -> dict[str, bytes]:
    """Nothing at all."""
    return packed.parts


PACKAGE_ATTACKS: tuple[Callable[[Packed, random.Random], dict[str, bytes]], ...] = (
    *(in_checkpoint, in_checkpoint, in_older, in_older, in_entries, in_entries, in_entries),
    *(edited, shuffled, dropped, as_it_is),
)


def test_go_and_the_verifier_agree_on_changed_packages(judge: TlogJudge, honest: Packed, tmp_path: Path) -> None:
    """Checkpoints, cosignatures, entries, hashes of hidden ones: on each change both say yes or both say no."""
    chance = random.Random(6962)
    keys = [honest.hospital.signer.vkey, *(witness.vkey for witness in honest.hospital.witnesses)]
    questions, ours, attacks = [], [], []
    for number in range(PACKAGE_MUTATIONS):
        attack = PACKAGE_ATTACKS[number % len(PACKAGE_ATTACKS)]
        package = forged(attack(honest, chance))
        path = tmp_path / f"{number}.zip"
        path.write_bytes(package)
        questions.append(["package", str(path), ORIGIN, "-", *keys])
        ours.append(judged_by_us(package, honest.policy))
        attacks.append(attack)
    good = 0
    for attack, (mine, why), verdict in zip(attacks, ours, judge.ask(questions), strict=True):
        assert mine is verdict.ok, (attack.__name__, why, verdict.why)
        assert mine or attack is not as_it_is
        good += mine
    # Signed again after the older head, an edit is a tree like any other: there both must say yes.
    assert PACKAGE_MUTATIONS / len(PACKAGE_ATTACKS) < good < PACKAGE_MUTATIONS / 3


def test_the_log_of_a_service_is_proven_by_go(judge: TlogJudge, tmp_path: Path) -> None:
    """Also beside a writer: what is public at any time is a whole log of its own."""
    with open_log(tmp_path / "log") as log:
        sizes = [_beside(judge, log, tmp_path, number) for number in range(1, 6)]
    assert sizes == [2, 4, 6, 8, 10]


def _beside(judge: TlogJudge, log: AuditLog, folder: Path, number: int) -> int:
    log.append(draft(2 * number))
    if number > 1:
        log.append(draft(2 * number + 1))
    [verdict] = judge.ask([about(folder / "log")])
    assert verdict.ok, verdict.why
    return verdict.size


# ---- Python 3.9.


def test_a_stranger_needs_no_newer_python_than_3_9(honest: Packed, tmp_path: Path) -> None:
    """PyPy 3.9 runs the one file as a reviewer would: the same verdicts, and no traceback."""
    version = ["pypy3", "-c", "import sys; print(sys.version_info[:2])"]
    assert subprocess.run(version, capture_output=True, text=True, check=True).stdout == "(3, 9)\n"
    shutil.copy(verifier.__file__, tmp_path / "verifier.py")
    whole = forged(honest.parts)
    edited_one = bytearray(whole)
    edited_one[5000] ^= 1
    sm3 = Signer(f"{ORIGIN}/sm3", honest.hospital.signer._private)
    lines = [f"sm3 {sm3.vkey}", f"follows {ORIGIN} 7 {'A' * 43}=", "heartbeat 60"]
    cases = [(whole, [], 0, "PASS"), (bytes(edited_one), [], 1, "FAIL"), (whole, lines[:1], 2, "INCOMPLETE")]
    cases += [(whole, lines[1:], 1, "FAIL"), (whole, ["reviewer nobody"], 3, "")]
    for number, (package, more, status, verdict) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "p.zip").write_bytes(package)
        policy = honest.hospital.policy(folder, *more)
        command = ["pypy3", "-I", str(tmp_path / "verifier.py"), str(folder / "p.zip"), "--policy", str(policy)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        assert done.stdout.startswith(verdict)
        assert "Traceback" not in done.stderr
