"""Stamps that are kept: durable, once each, never exchanged; and which of them a package takes."""

import errno
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from audit import durable
from audit.checkpoint import Checkpoint
from audit.errors import AuditCorrupt
from audit.export import STAMPS_MAX, Evidence
from audit.note import Signer
from service.errors import CommandRefused, NothingSuch
from service.stamps import ASKED_MAX, Held, Stamps, choose, text_of, with_stamps
from service.timestamping import Stamp, TimestampRefused, query, read
from tests.simulators.audit_log import SIGNER
from tests.simulators.audit_package import WitnessKey
from tests.simulators.tsa import LocalAuthority
from tests.simulators.witnessed_log import ORIGIN, head, leaves

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class StumblingDisk:
    """The real disk, but its call number `at` fails, before or after it took effect."""

    def __init__(self, at: int, *, after: bool) -> None:
        self._at, self._after, self.calls = at, after, 0

    def create_same(self, path: Path, data: bytes) -> bool:
        """See Disk."""
        return self._do(lambda: durable.create_same(path, data))

    def replace(self, path: Path, data: bytes) -> None:
        """See Disk."""
        self._do(lambda: bool(durable.replace(path, data)))

    def discard(self, path: Path) -> None:
        """See Disk."""
        self._do(lambda: bool(durable.discard(path)))

    def make_dirs(self, path: Path) -> None:
        """See Disk."""
        self._do(lambda: bool(durable.make_dirs(path)))

    def _do(self, act: object) -> bool:
        assert callable(act)
        self.calls += 1
        fails = self.calls == self._at
        done = False if fails and not self._after else bool(act())
        if fails:
            raise OSError(errno.EIO, "injected")
        return done


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    """One for all tests: it keeps nothing but its serial number."""
    return LocalAuthority(tmp_path_factory.mktemp("tsa") / "a")


@pytest.fixture
def stamps(tmp_path: Path) -> Stamps:
    """An empty folder."""
    return Stamps(tmp_path / "stamps", SIGNER.verifier, ORIGIN)


def stamped(authority: LocalAuthority, checkpoint: Checkpoint) -> Stamp:
    """A real stamp."""
    return read(authority.answer(query(text_of(checkpoint)).der)).stamp


def tree(folder: Path) -> dict[str, bytes]:
    """All files but the lock."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name != "lock"}


def test_what_was_kept_is_found_in_order(tmp_path: Path, stamps: Stamps, authority: LocalAuthority) -> None:
    """Under the names that the folder promises, and again by another process; the same response twice is one."""
    assert (stamps.newest(), list(stamps.all()), stamps.asked()) == (None, [], [])
    seven, nine = head(leaves(7)), head(leaves(9))
    given = [Held(nine, stamped(authority, nine)), *(Held(seven, stamped(authority, seven)) for _ in range(2))]
    for one in given:
        assert stamps.keep(one.checkpoint, one.stamp)
    assert not stamps.keep(seven, given[1].stamp)
    assert list(Stamps(tmp_path / "stamps", SIGNER.verifier, ORIGIN).all()) == [given[1], given[2], given[0]]
    assert stamps.newest() == given[0]
    assert tree(tmp_path / "stamps") == {
        "0000000000007/note": seven.note.encode(),
        "0000000000007/00.tsr": given[1].stamp.response,
        "0000000000007/01.tsr": given[2].stamp.response,
        "0000000000009/note": nine.note.encode(),
        "0000000000009/00.tsr": given[0].stamp.response,
    }


def test_a_note_only_ever_gains_cosignatures(stamps: Stamps, authority: LocalAuthority) -> None:
    """A later note of the same checkpoint with more lines takes the place; with fewer or others it does not."""
    plain = head(leaves(5))
    one, other = WitnessKey("w1.example"), WitnessKey("w2.example")
    cosigned = one.cosign(plain.note, NOON)
    both = other.cosign(cosigned, NOON)
    stamp = stamped(authority, plain)
    for note, wanted in (
        (plain.note, plain.note),
        (cosigned, cosigned),
        (plain.note, cosigned),
        (other.cosign(plain.note, NOON), cosigned),
        (both, both),
        (cosigned, both),
    ):
        stamps.keep(Checkpoint.unverified(note), stamp)
        assert [held.checkpoint.note for held in stamps.all()] == [wanted]


def test_a_second_history_is_told_and_changes_nothing(
    tmp_path: Path, stamps: Stamps, authority: LocalAuthority
) -> None:
    """Two checkpoints of one size in our name: evidence that is kept as it is."""
    ours, forked = head(leaves(5)), head(leaves(5, forked_at=2))
    stamps.keep(ours, stamped(authority, ours))
    before = tree(tmp_path / "stamps")
    with pytest.raises(AuditCorrupt, match="differ"):
        stamps.keep(forked, stamped(authority, forked))
    assert tree(tmp_path / "stamps") == before
    held = list(stamps.all())
    with pytest.raises(AuditCorrupt, match="differ"):
        with_stamps(Evidence(checkpoint=forked.note), forked, held, None, None)


@pytest.mark.parametrize("name", ["note", "00.tsr", "other note", "other stamp", "other key", "other log"])
def test_what_somebody_put_there_is_told(tmp_path: Path, stamps: Stamps, authority: LocalAuthority, name: str) -> None:
    """Damaged files, and whole ones of another checkpoint, key or log, are named; none is used."""
    ours, other = head(leaves(5)), head(leaves(6))
    stamps.keep(ours, stamped(authority, ours))
    place = tmp_path / "stamps" / "0000000000005"
    path, data = {
        "note": (place / "note", b"x"),
        "00.tsr": (place / "00.tsr", b"x"),
        "other note": (place / "note", other.note.encode()),
        "other stamp": (place / "00.tsr", stamped(authority, other).response),
        "other key": (place / "note", head(leaves(5), Signer.generate(SIGNER.verifier.name)).note.encode()),
        "other log": (place / "note", head(leaves(5), origin="another.example/audit").note.encode()),
    }[name]
    path.write_bytes(data)
    with pytest.raises(AuditCorrupt) as told:
        list(stamps.all())
    # A note of another checkpoint of the same size would be told by the stamp that does not fit it.
    assert path.name in str(told.value) or name == "other note"


def test_a_disk_that_fails_anywhere_loses_nothing_that_was_kept(tmp_path: Path, authority: LocalAuthority) -> None:
    """At each call, before and after: what can be read stays whole, and trying again keeps it once."""
    first, second = head(leaves(5)), head(leaves(8))
    one, two, three = (stamped(authority, each) for each in (first, second, second))
    runs = 0
    for after in (False, True):
        for at in range(1, 40):
            folder = tmp_path / f"{after}{at}"
            Stamps(folder, SIGNER.verifier, ORIGIN).keep(first, one)
            disk = StumblingDisk(at, after=after)
            stumbling = Stamps(folder, SIGNER.verifier, ORIGIN, disk)
            kept = [Held(first, one)]
            for stamp in (two, three):
                try:
                    stumbling.keep(second, stamp)
                except OSError:
                    seen = list(stumbling.all())
                    assert seen[: len(kept)] == kept
                    stumbling.keep(second, stamp)
                kept.append(Held(second, stamp))
                assert list(stumbling.all()) == kept
            runs += 1
            if disk.calls < at:
                break
    assert runs > 12


def test_there_is_an_end(stamps: Stamps, authority: LocalAuthority, tmp_path: Path) -> None:
    """A package names a checkpoint's stamps by two digits."""
    ours = head(leaves(5))
    stamps.keep(ours, stamped(authority, ours))
    place = tmp_path / "stamps" / "0000000000005"
    (place / f"{STAMPS_MAX - 1:02d}.tsr").write_bytes((place / "00.tsr").read_bytes())
    with pytest.raises(CommandRefused):
        stamps.keep(ours, stamped(authority, ours))


def test_an_answer_finds_its_query(stamps: Stamps, authority: LocalAuthority) -> None:
    """By what it is over, and among several over the same by the nonce; when it was kept, that is said instead."""
    five, six = head(leaves(5)), head(leaves(6))
    queries = [(each, query(text_of(each))) for each in (five, six, five)]
    for checkpoint, made in queries:
        stamps.ask(checkpoint, made)
    assert len(stamps.asked()) == 3
    for checkpoint, made in queries:
        response = authority.answer(made.der)
        about = stamps.asked_about(response)
        assert not isinstance(about, Held)
        assert (about.checkpoint, about.nonce) == (checkpoint, made.nonce)
        stamps.keep(about.checkpoint, read(response).stamp)
        stamps.answered(about)
        again = stamps.asked_about(response)
        assert isinstance(again, Held)
        assert again.stamp.response == response
    assert stamps.asked() == []
    with pytest.raises(NothingSuch):
        stamps.asked_about(authority.answer(query(b"something else").der))
    with pytest.raises(TimestampRefused):
        stamps.asked_about(b"nothing")


def test_only_so_many_queries_wait(tmp_path: Path, stamps: Stamps) -> None:
    """A courier who never comes back fills no disk; the newest checkpoints' queries stay."""
    for size in range(1, ASKED_MAX + 4):
        checkpoint = head(leaves(size))
        stamps.ask(checkpoint, query(text_of(checkpoint)))
    assert [one.checkpoint.size for one in stamps.asked()] == list(range(4, ASKED_MAX + 4))
    place = next((tmp_path / "stamps" / "asked").iterdir())
    for bad in (b"{", b"[]", b'{"nonce": 1, "note": "x"}', b'{"nonce": "1", "note": "x"}'):
        place.write_bytes(bad)
        with pytest.raises(AuditCorrupt, match=place.name):
            stamps.asked()


def hourly(count: int) -> list[Held]:
    """Stamps that nobody looks into, one each hour from NOON on, over ever larger checkpoints."""
    return [
        Held(Checkpoint(ORIGIN, n + 1, bytes(32), f"{n}"), Stamp(NOON + timedelta(hours=n), b"%d" % n))
        for n in range(count)
    ]


def periods() -> Iterator[tuple[int | None, int | None, list[int]]]:
    """Hours of begin and end, and which of ten stamps are taken."""
    yield None, None, list(range(10))
    yield 3, 6, [2, 3, 4, 5, 6, 9]
    yield None, 2, [0, 1, 2, 9]
    yield 8, None, [7, 8, 9]
    yield 20, 30, [9]
    yield -9, -8, [0, 9]
    yield 3, 3, [2, 3, 9]
    yield 0, 9, list(range(10))


@pytest.mark.parametrize(("begin", "end", "wanted"), list(periods()))
def test_a_package_takes_what_encloses_its_period(begin: int | None, end: int | None, wanted: list[int]) -> None:
    """All of the period, the last before, the first after, the newest; each once, whatever order they come in."""
    all_of_them = hourly(10)

    def at(hour: int | None) -> datetime | None:
        return None if hour is None else NOON + timedelta(hours=hour)

    chosen = choose(all_of_them[::-1], at(begin), at(end))
    assert [all_of_them.index(one) for one in chosen] == wanted


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 20, 999])
def test_too_many_are_thinned_evenly(count: int) -> None:
    """The first and the last stay, none is there twice, and no gap is larger than twice the mean."""
    chosen = [one.checkpoint.size for one in choose(hourly(count), None, None, most=10)]
    assert len(chosen) == len(set(chosen)) == min(count, 10)
    assert (chosen[0], chosen[-1]) == (1, count)
    assert max((b - a for a, b in pairwise(chosen)), default=0) <= max(2 * count / 9, 1)


def test_evidence_names_each_checkpoint_once_and_none_beyond_the_head(authority: LocalAuthority) -> None:
    """What stands there already stays; stamps of larger trees stay at home."""
    checkpoints = {size: head(leaves(size)) for size in (2, 3, 5, 8)}
    held = [Held(each, stamped(authority, each)) for each in checkpoints.values()]
    witnessed = WitnessKey("w.example").cosign(checkpoints[3].note, NOON)
    made = with_stamps(Evidence(checkpoints[5].note, (witnessed,)), checkpoints[5], held, None, None)
    assert made.checkpoint == checkpoints[5].note
    assert made.older == (witnessed, checkpoints[2].note)
    assert sorted(made.stamps) == sorted((one.checkpoint.size, one.stamp.response) for one in held[:3])
