"""Statements are read to the byte and believed from nobody of ours; a freeze may be killed anywhere and repeated."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import fsck
from audit.canonical import canonical, parse_canonical
from audit.checkpoint import Checkpoint
from audit.entry import Draft, Kind
from audit.errors import AuditCorrupt, AuditSealed
from audit.layout import CHECKPOINT, HEAD
from audit.log import SEAL_KEY
from audit.note import Signer
from audit.succession import (
    AUDIT,
    FROZEN,
    End,
    Generations,
    Hands,
    NothingUsable,
    Reason,
    Statement,
    StatementBad,
    StatementForged,
    StatementOwn,
    StatementUnknown,
    Unfinished,
    open_statement,
    read_statement,
    usable_head,
)
from tests.simulators.audit_log import ORIGIN, SIGNER, Died, body, draft, fill, open_log

OFFICER = Signer.generate("officer.example")
NEXT = Signer.generate(f"{ORIGIN}/2")
ROOT = "A" * 43 + "="
STATEMENT = Statement(
    End(ORIGIN, 7, ROOT), End(ORIGIN, 9, ROOT), Reason.BACKUP, f"{ORIGIN}/2", NEXT.vkey, "2026-11-23T16:07:12.123456Z"
)
NOTE = OFFICER.sign(STATEMENT.text)
OWN = (SIGNER.verifier, NEXT.verifier)


# ---- statements ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("witnessed", [None, STATEMENT.witnessed], ids=["nobody", "witnessed"])
def test_a_statement_comes_back_as_it_was_written(reason: Reason, witnessed: End | None) -> None:
    """Its text has the header and one line of canonical JSON, and parses to itself."""
    said = replace(STATEMENT, reason=reason, witnessed=witnessed)
    header, line, rest = said.text.split("\n")
    assert (header, rest) == ("zhiying.audit/restore/1", "")
    assert canonical(parse_canonical(line.encode())).decode() == line
    assert Statement.parse(said.text) == said


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 127))
def test_one_changed_byte_is_another_statement_or_none(at: int, value: int) -> None:
    """What parses re-formats to the same text, and is not what was signed."""
    data = bytearray(STATEMENT.text.encode())
    at %= len(data)
    changed = data[at] != value
    data[at] = value
    try:
        said = Statement.parse(data.decode())
    except StatementBad:
        assert changed
    else:
        assert said.text == data.decode()
        assert (said != STATEMENT) == changed


FAULTS: dict[str, Callable[[dict[str, object]], object]] = {
    "a field more": lambda v: v.update(comment="x"),
    "a field less": lambda v: v.pop("time"),
    "a reason of its own": lambda v: v.update(reason="BECAUSE"),
    "a naive time": lambda v: v.update(time="2026-11-23T16:07:12"),
    "no key": lambda v: v.update(key="x"),
    "a key that is a number": lambda v: v.update(key=1),
    "a root in hexadecimal": lambda v: v.update(predecessor={"origin": ORIGIN, "size": 1, "root": "ab" * 32}),
    "a size below 0": lambda v: v.update(predecessor={"origin": ORIGIN, "size": -1, "root": ROOT}),
    "a size that is true": lambda v: v.update(predecessor={"origin": ORIGIN, "size": True, "root": ROOT}),
    "no predecessor": lambda v: v.update(predecessor=None),
    "a successor of many words": lambda v: v.update(successor="测试"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_strict_statements(fault: Callable[[dict[str, object]], object]) -> None:
    """Each field has its type, and there are no others."""
    value = dict(parse_canonical(STATEMENT.text.split("\n")[1].encode()))  # type: ignore[arg-type]
    fault(value)  # type: ignore[arg-type]
    with pytest.raises(StatementBad):
        Statement.parse(f"zhiying.audit/restore/1\n{canonical(value).decode()}\n")


def test_a_statement_counts_by_a_trusted_key_alone() -> None:
    """Unknown, forged, our own, our own beside a trusted one, our own among the trusted: refused, each by its code."""
    trusted = [OFFICER.verifier]
    assert open_statement(NOTE, trusted, OWN) == STATEMENT
    stranger = Signer.generate("stranger.example")
    for note, keys, wanted in (
        (stranger.sign(STATEMENT.text), trusted, StatementUnknown),
        (NOTE, [], StatementUnknown),
        (Signer.generate("officer.example").sign(STATEMENT.text), trusted, StatementUnknown),
        (NOTE.replace('"size":7', '"size":8'), trusted, StatementForged),
        (SIGNER.sign(STATEMENT.text), trusted, StatementOwn),
        (NEXT.sign(STATEMENT.text), trusted, StatementOwn),
        (NOTE + SIGNER.sign(STATEMENT.text).rpartition("\n\n")[2], trusted, StatementOwn),
        (NOTE, [*trusted, SIGNER.verifier], StatementOwn),
        (OFFICER.sign("zhiying-approval/1\n{}\n"), trusted, StatementBad),
        ("no note", trusted, StatementBad),
    ):
        with pytest.raises(wanted):
            open_statement(note, keys, OWN)


def test_our_key_under_another_name_is_our_key() -> None:
    """Who renames the log's key and trusts it has trusted the log's key."""
    renamed = Signer("officer.two", SIGNER._private)
    with pytest.raises(StatementOwn):
        open_statement(renamed.sign(STATEMENT.text), [renamed.verifier], OWN)


# ---- the last usable head --------------------------------------------------------------------------------------------


def test_the_last_usable_head(tmp_path: Path) -> None:
    """The head; without it the newest of checkpoint and witnessed; of another log or key none; without any, refused."""
    root = tmp_path / "log"
    with open_log(root) as log:
        fill(log, range(3))
        early = log.head()
        fill(log, range(3, 5))
        head = log.head()
    more = Checkpoint.sign(SIGNER, ORIGIN, 99, bytes(32))
    # What witnesses saw beyond the head is no entry that anybody has.
    assert usable_head(root, ORIGIN, SIGNER.verifier, [early, more]) == End.of(head)
    (root / HEAD).write_bytes(b"\x00" * 100)
    assert usable_head(root, ORIGIN, SIGNER.verifier, [early]) == End.of(head)
    (root / CHECKPOINT).write_text(OFFICER.sign("x\n"), encoding="utf-8")
    assert usable_head(root, ORIGIN, SIGNER.verifier, [early]) == End.of(early)
    for origin, key in ((ORIGIN, OFFICER.verifier), ("other", SIGNER.verifier)):
        with pytest.raises(NothingUsable):
            usable_head(root, origin, key, [])


# ---- freezing --------------------------------------------------------------------------------------------------------


class Dying(Hands):
    """Hands that are cut off at one change, before or after it took effect."""

    def __init__(self, at: int, *, after: bool) -> None:
        self._at, self._after, self.count = at, after, 0

    @contextmanager
    def _step(self) -> Iterator[None]:
        here, self.count = self.count, self.count + 1
        if here == self._at and not self._after:
            raise Died
        yield
        if here == self._at:
            raise Died

    def create_same(self, path: Path, data: bytes) -> bool:
        """See Mover."""
        with self._step():
            return super().create_same(path, data)

    def make_dirs(self, path: Path) -> None:
        """See Mover."""
        with self._step():
            super().make_dirs(path)

    def move(self, source: Path, target: Path) -> None:
        """See Mover."""
        with self._step():
            super().move(source, target)

    def protect(self, folder: Path) -> None:
        """See Mover."""
        with self._step():
            super().protect(folder)


STEPS = 7
"""The folder, the note, the end, two moves, two protections."""


def site(folder: Path) -> Generations:
    """A log of five entries, and what witnesses said of it."""
    with open_log(folder / AUDIT) as log:
        fill(log, range(4))
    (folder / "witnessing").mkdir()
    (folder / "witnessing" / "witnessed").write_text("a note", encoding="utf-8")
    return Generations(folder, ORIGIN)


def sealed(folder: Path) -> End:
    """Append the SEAL, as the ceremony does."""
    with open_log(folder / AUDIT) as log:
        log.append(Draft(Kind.SEAL, SEAL_KEY, body(Kind.SEAL)))
        return End.of(log.head())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(STEPS))
def test_a_freeze_that_is_killed_is_repeated(tmp_path: Path, at: int, *, after: bool) -> None:
    """Killed at each change: until the folder has moved the log is told to end; repeated, all is where it belongs."""
    logs = site(tmp_path)
    with pytest.raises(Died):
        logs.freeze(1, NOTE, lambda: sealed(tmp_path), Dying(at, after=after))
    if logs.note(1) is not None and logs.number == 1:
        with pytest.raises(Unfinished):
            logs.refuse_ending()
    logs.freeze(1, NOTE, lambda: sealed(tmp_path), Hands())
    assert (logs.number, logs.origin(logs.number)) == (2, f"{ORIGIN}/2")
    logs.refuse_ending()
    frozen = tmp_path / FROZEN
    assert [path.name for path in tmp_path.iterdir()] == [FROZEN]
    assert sorted(path.name for path in frozen.iterdir()) == ["1", "1.end", "1.note", "1.witnessing"]
    assert (logs.note(1), logs.end(1).size) == (NOTE, 6)
    report = fsck.check(frozen / "1", SIGNER.verifier)
    assert (report.ok, report.size) == (True, 6)
    assert all(path.stat().st_mode & 0o222 == 0 for top in ("1", "1.witnessing") for path in (frozen / top).rglob("*"))


def test_the_steps_are_all_killed(tmp_path: Path) -> None:
    """The table above reaches every change."""
    hands = Dying(-1, after=False)
    site(tmp_path).freeze(1, NOTE, lambda: sealed(tmp_path), hands)
    assert hands.count == STEPS


def test_a_log_of_which_nothing_is_left(tmp_path: Path) -> None:
    """The disk lost the folder: it is counted all the same, by an empty one."""
    logs = site(tmp_path)
    shutil.rmtree(tmp_path / AUDIT)
    logs.freeze(1, NOTE, lambda: STATEMENT.predecessor, Hands())
    assert (logs.number, logs.end(1)) == (2, STATEMENT.predecessor)


def test_a_frozen_log_is_read_as_far_as_its_successor_proves_it(tmp_path: Path) -> None:
    """All entries up to its end, in order; not with another root or size, and not where a byte or a file is missing."""
    logs = site(tmp_path)
    with open_log(tmp_path / AUDIT) as log:
        for number in range(300):  # more than one bundle
            log.append(draft(1000 + number))
    end = sealed(tmp_path)
    with open_log(tmp_path / AUDIT) as log:
        entries = list(log.entries())
    logs.freeze(1, NOTE, lambda: end, Hands())

    assert logs.entries(1, end) == entries
    assert entries[-1].kind is Kind.SEAL
    for other in (replace(end, root=ROOT), replace(end, size=end.size - 1), replace(end, size=end.size + 1)):
        with pytest.raises(AuditCorrupt):
            logs.entries(1, other)
    first = tmp_path / FROZEN / "1" / "tile" / "entries" / "000"
    whole = first.read_bytes()
    first.chmod(0o640)
    for wrong in (whole[:-1], whole[:-40] + b"x" + whole[-39:]):
        first.write_bytes(wrong)
        with pytest.raises(AuditCorrupt):
            logs.entries(1, end)
    first.parent.chmod(0o750)
    first.unlink()
    with pytest.raises(AuditCorrupt):
        logs.entries(1, end)


def test_nothing_follows_a_seal(tmp_path: Path) -> None:
    """Whoever appends after it is refused, in the same commit, another process and for ever; the same SEAL is found."""
    root = tmp_path / AUDIT
    with open_log(root) as log, open_log(root, source="other") as other:
        log.append(draft(1))
        seal = log.append(Draft(Kind.SEAL, SEAL_KEY, body(Kind.SEAL)))
        for writer in (log, other):
            with pytest.raises(AuditSealed):
                writer.append(draft(2))
            assert writer.append(draft(1)).index == 1
            assert writer.append(Draft(Kind.SEAL, SEAL_KEY, body(Kind.SEAL))) == seal
    with open_log(root) as log:
        with pytest.raises(AuditSealed):
            log.append(draft(3))
        assert log.head().size == 3


def test_what_is_no_note_is_no_statement() -> None:
    """Read without belief, and strictly."""
    assert read_statement(NOTE) == STATEMENT
    for text in ("", STATEMENT.text, NOTE[:-1]):
        with pytest.raises(StatementBad):
            read_statement(text)
