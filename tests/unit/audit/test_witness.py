"""A witness: the whole table of add-checkpoint, races, crashes, lost states; what it holds only ever grows."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import merkle
from audit.checkpoint import Checkpoint
from audit.cosignature import cosignatures, parse_lines
from audit.errors import AuditUnavailable, ContentDiffers
from audit.lock import DirectoryLock
from audit.note import Note, Signer, Verifier, parse_note
from audit.submission import Submission
from audit.witness import (
    LOCK,
    LOG,
    LOGS,
    SIZE_TYPE,
    STATE,
    KnownLog,
    SubmissionRefused,
    Witness,
    WitnessStateLost,
    origin_hash,
)
from tests.simulators.audit_log import SIGNER, Died, FaultyDisk
from tests.simulators.witnessed_log import NOON_S, ORIGIN, Now, body, head, knowing_witness, leaves, witness_in

STRANGER = Signer.generate("stranger.example/log")
IMPOSTOR = Signer.generate(SIGNER.name)
HELD = 5
"""What the witness of the table has cosigned."""


@contextmanager
def fresh() -> Iterator[Path]:
    """A folder for one example of a property."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def state_of(folder: Path) -> bytes:
    """What the witness holds of our log."""
    return (folder / LOGS / origin_hash(ORIGIN) / STATE).read_bytes()


def at_five(folder: Path) -> Witness:
    """A witness that has cosigned 5 entries."""
    witness = knowing_witness(folder)
    assert witness.answer(body(0, leaves(HELD))).status == 200
    return witness


def unsigned() -> bytes:
    """Signed by a stranger alone."""
    return body(5, leaves(8), STRANGER)


def forged() -> bytes:
    """A false signature in the log's name and key id, beside nothing."""
    good = head(leaves(8))
    line = parse_note(head(leaves(7)).note).signatures
    note = Note(parse_note(good.note).text, line).format()
    return Submission(5, merkle.consistency_proof(5, leaves(8)), Checkpoint.unverified(note)).format()


def spliced(old: int, proof_from: int, size: int) -> bytes:
    """The line `old` of one request with the proof of another."""
    return Submission(old, merkle.consistency_proof(proof_from, leaves(size)), head(leaves(size))).format()


def empty_with_a_root() -> bytes:
    """A checkpoint of size 0 whose root is not the empty tree's."""
    return Submission(0, (), Checkpoint.sign(SIGNER, ORIGIN, 0, b"\1" * 32)).format()


FIRST: list[tuple[str, Callable[[], bytes], int, bytes | None]] = [
    # what is asked of a witness that knows the log and has cosigned nothing, status, body if prescribed
    ("first use", lambda: body(0, leaves(5)), 200, None),
    ("an empty log", lambda: body(0, []), 200, None),
    ("an empty log with a root", empty_with_a_root, 422, None),
    ("a proof from nothing", lambda: spliced(0, 3, 5), 422, None),
    ("from a size that nobody cosigned", lambda: body(3, leaves(5)), 409, b"0\n"),
]
TABLE: list[tuple[str, Callable[[], bytes], int, bytes | None]] = [
    # what is asked of a witness that has cosigned 5 entries, status, body if prescribed
    ("growth", lambda: body(5, leaves(9)), 200, None),
    ("the same again", lambda: body(5, leaves(5)), 200, None),
    ("unknown origin", lambda: body(5, leaves(9), origin="other.example/audit"), 404, None),
    ("unknown origin, unknown key", lambda: body(0, leaves(9), STRANGER, "other.example/audit"), 404, None),
    ("no trusted signature", unsigned, 403, None),
    ("another key of the same name", lambda: body(5, leaves(9), IMPOSTOR), 403, None),
    ("a false signature of the trusted key", forged, 403, None),
    ("old above new", lambda: body(5, leaves(4)), 400, None),
    ("old above new, and not ours", lambda: body(9, leaves(4)), 400, None),
    ("old below ours", lambda: body(3, leaves(9)), 409, b"5\n"),
    ("old above ours", lambda: body(6, leaves(9)), 409, b"5\n"),
    ("as if never seen", lambda: body(0, leaves(9)), 409, b"5\n"),
    ("rollback", lambda: body(3, leaves(4)), 409, b"5\n"),
    ("rollback to nothing", lambda: body(0, []), 409, b"5\n"),
    ("same size, other root", lambda: body(5, leaves(5, forked_at=4)), 409, b"5\n"),
    ("same size, with a proof", lambda: spliced(5, 3, 5), 422, None),
    ("a fork below", lambda: body(5, leaves(9, forked_at=2)), 422, None),
    ("a fork of the last entry", lambda: body(5, leaves(9, forked_at=4)), 422, None),
    ("the proof of another growth", lambda: spliced(5, 4, 9), 422, None),
    ("no proof", lambda: Submission(5, (), head(leaves(9))).format(), 422, None),
]
_GOOD = body(5, leaves(9))
MALFORMED: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("not text", b"\xff" + _GOOD),
    ("no old line", _GOOD.split(b"\n", 1)[1]),
    ("old with a zero before", _GOOD.replace(b"old 5", b"old 05")),
    ("old with a sign", _GOOD.replace(b"old 5", b"old +5")),
    ("old of other digits", _GOOD.replace(b"old 5", "old ５".encode())),
    ("old too large", _GOOD.replace(b"old 5", b"old " + b"9" * 30)),
    ("capital", _GOOD.replace(b"old 5", b"Old 5")),
    ("two spaces", _GOOD.replace(b"old 5", b"old  5")),
    ("carriage returns", _GOOD.replace(b"\n", b"\r\n")),
    ("a proof line of another length", _GOOD.replace(b"old 5\n", b"old 5\nAAAA\n")),
    ("a proof line that is not base64", _GOOD.replace(b"old 5\n", b"old 5\n" + b"*" * 44 + b"\n")),
    ("loose base64", _GOOD.replace(b"old 5\n", b"old 5\n" + b"A" * 42 + b"B=\n")),
    (
        "64 proof lines",
        b"old 5\n" + b"A" * 43 + b"=\n" * 1 + (b"A" * 43 + b"=\n") * 63 + b"\n" + head(leaves(9)).note.encode(),
    ),
    ("no empty line", _GOOD.replace(b"\n\n", b"\n")),
    ("no signature", _GOOD.rpartition(b"\n\n")[0] + b"\n\n"),
    ("an extension line", _GOOD.replace(b"\n9\n", b"\n9\nextension\n")),
    ("cut", _GOOD[:-1]),
    ("more behind", _GOOD + b"x"),
    ("too long", _GOOD + b"x" * 70_000),
]


@pytest.mark.parametrize(("what", "ask", "status", "said"), FIRST, ids=[row[0] for row in FIRST])
def test_a_log_that_was_never_cosigned(
    tmp_path: Path, what: str, ask: Callable[[], bytes], status: int, said: bytes | None
) -> None:
    """First use: from size 0, without a proof; a refusal leaves the state as add-log wrote it."""
    witness = knowing_witness(tmp_path)
    before = state_of(tmp_path)
    answer = witness.answer(ask())
    assert answer.status == status
    assert said is None or (answer.body, answer.content_type) == (said, SIZE_TYPE)
    assert (state_of(tmp_path) == before) == (status != 200)


@pytest.mark.parametrize(("what", "ask", "status", "said"), TABLE, ids=[row[0] for row in TABLE])
def test_the_table_of_the_standard(
    tmp_path: Path, what: str, ask: Callable[[], bytes], status: int, said: bytes | None
) -> None:
    """Every answer; whatever is refused leaves what was held, and honest growth goes on after it."""
    witness = at_five(tmp_path)
    before = state_of(tmp_path)
    answer = witness.answer(ask())
    assert answer.status == status
    assert said is None or (answer.body, answer.content_type) == (said, SIZE_TYPE)
    if status != 200:
        assert state_of(tmp_path) == before
        assert answer.code is not None
        assert witness.answer(body(5, leaves(9))).status == 200


@pytest.mark.parametrize(("what", "sent"), MALFORMED, ids=[row[0] for row in MALFORMED])
def test_malformed_requests(tmp_path: Path, what: str, sent: bytes) -> None:
    """What is not the standard's bytes is 400, and changes nothing."""
    witness = at_five(tmp_path)
    before = state_of(tmp_path)
    assert witness.answer(sent).status == 400
    assert state_of(tmp_path) == before


@given(sent=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@settings(max_examples=60, deadline=None)
def test_no_bytes_crash_it(sent: bytes) -> None:
    """Whatever comes is answered."""
    with fresh() as folder:
        assert knowing_witness(folder).answer(sent).status == 400


def test_requests_of_another_implementation(tmp_path: Path) -> None:
    """litewitness's own test: 1, then 5, and 3 is refused; checkpoints and proofs are Sigsum's."""
    origin = "sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562"
    key = bytes.fromhex("ffdc2d4d98e4124d3feaf788c0c2f9abfd796083d1f0495437f302ec79cf100f")
    one, three, five = (
        f"{ask}\n{origin}\n{rest}\n\n— {origin} {line}\n".encode()
        for ask, rest, line in (
            (
                "old 0\n",
                "1\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
                "UgIom7fPZTqpxWWhyjWduBvTvGVqsokMbqTArsQilegKoFBJQjUFAmQ0+YeSPM3wfUQMFSzVnnNuWRTYrajXpNUbIQY=",
            ),
            (
                "old 1\nKgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nKgIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
                "3\nRcCI1Nk56ZcSmIEfIn0SleqtV7uvrlXNccFx595Iwl0=",
                "UgIom2VbtIcdFbwFAy1n7s6IkAxIY6J/GQOTuZF2ORV39d75cbAj2aQYwyJre36kezNobZs4SUUdrcawfAB8WVrx6go=",
            ),
            (
                (
                    "old 1\nKgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
                    "+fUDV+k970B4I3uKrqJM4aP1lloPZP8mvr2Z4wRw2LI=\n"
                    "KgQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
                ),
                "5\nQrtXrQZCCvpIgsSmOsah7HdICzMLLyDfxToMql9WTjY=",
                "UgIomw/EOJmWi0i1FQsOj+etB7F8IccFam/jgd6wzRns4QPVmyEZtdvl1U2KEmLOZ/ASRcWJi0tW90dJWAShei7sDww=",
            ),
        )
    )
    witness = witness_in(tmp_path)
    witness.add_log(origin, Verifier(origin, key))
    assert [witness.answer(each).status for each in (one, five)] == [200, 200]
    late = witness.answer(three)
    assert (late.status, late.body) == (409, b"5\n")
    (_, held), *_ = witness.logs()
    assert held is not None
    assert held.checkpoint.root.hex() == "42bb57ad06420afa4882c4a63ac6a1ec77480b330b2f20dfc53a0caa5f564e36"


def test_the_answer_is_a_cosignature_of_the_checkpoint(tmp_path: Path) -> None:
    """Verified by the witness's public key, over exactly the text that was sent, as of the witness's clock."""
    witness = knowing_witness(tmp_path)
    lines = parse_lines(witness.answer(body(0, leaves(5))).body.decode())
    (_, held), *_ = witness.logs()
    assert held is not None
    verifier = held.cosigned.verifier
    assert verifier.vkey == witness.vkey
    (found,) = cosignatures(Note(parse_note(head(leaves(5)).note).text, lines), (verifier,))
    assert found.time_s == NOON_S


def test_other_signatures_are_neither_needed_nor_kept(tmp_path: Path) -> None:
    """A checkpoint may carry strangers' lines; what is held and served has the log's and the witness's only."""
    witness = knowing_witness(tmp_path)
    good = head(leaves(5))
    stranger = parse_note(head(leaves(5), STRANGER).note).signatures
    note = parse_note(good.note)
    mixed = Note(note.text, (*stranger, *note.signatures, *note.signatures)).format()
    assert witness.answer(Submission(0, (), Checkpoint.unverified(mixed)).format()).status == 200
    served = witness.latest(origin_hash(ORIGIN))
    assert served is not None
    assert [s.name for s in parse_note(served).signatures] == [SIGNER.name, "w1.example"]


def test_asked_again_it_answers_the_same(tmp_path: Path) -> None:
    """Same size, same root: the same line, whenever it is asked, and no new write."""
    now = Now()
    witness = knowing_witness(tmp_path, now=now)
    first = witness.answer(body(0, leaves(5)))
    now.at += 1000
    before = state_of(tmp_path)
    assert witness.answer(body(5, leaves(5))) == first
    assert state_of(tmp_path) == before


@pytest.mark.parametrize("at", range(2))
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dies", [False, True])
def test_killed_or_failing_between_checking_and_answering(tmp_path: Path, at: int, after: bool, dies: bool) -> None:
    """Kept or not, never half: a later witness on the same disk goes on, and gives one line for one size, always."""
    at_five(tmp_path)
    witness = witness_in(tmp_path, disk=FaultyDisk(tmp_path, at=at, after=after, dies=dies))
    said: list[str] = []
    for ask in (body(5, leaves(9)), body(9, leaves(12))):
        try:
            said.append(witness.cosign(ask))
        except (Died, OSError):
            break
    (_, held), *_ = witness_in(tmp_path).logs()
    assert held is not None
    size = held.checkpoint.size
    assert size == (5, 9, 12)[at + after]
    again = witness_in(tmp_path).answer(body(size, leaves(size)))
    assert again.status == 200
    # What was said is what is held, or what is held is one step further than anybody was told.
    assert len(said) == at
    assert witness_in(tmp_path).answer(body(size, leaves(size))) == again


def test_two_at_once_one_wins(tmp_path: Path) -> None:
    """Sixteen threads, half by a witness of its own as another process would be: one growth each round, no rollback."""
    mine, other = at_five(tmp_path), witness_in(tmp_path)
    size = HELD
    for _ in range(4):
        start = threading.Barrier(16)
        answers: list[tuple[int, int]] = []

        def ask(
            number: int, start: threading.Barrier = start, size: int = size, answers: list[tuple[int, int]] = answers
        ) -> None:
            asked = body(size, leaves(size + 1 + number))
            start.wait()
            answers.append(((mine, other)[number % 2].answer(asked).status, size + 1 + number))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won = [asked for status, asked in answers if status == 200]
        assert sorted(status for status, _ in answers) == [200, *[409] * 15]
        (_, held), *_ = mine.logs()
        assert held is not None
        assert [held.checkpoint.size] == won
        size = held.checkpoint.size


def test_another_process_that_hangs_is_not_waited_for_without_end(tmp_path: Path) -> None:
    """The state is locked elsewhere: an error that says try later, and nothing changes."""
    witness = at_five(tmp_path)
    before = state_of(tmp_path)
    lock = DirectoryLock(tmp_path / LOGS / origin_hash(ORIGIN) / LOCK)
    with lock.held(), pytest.raises(AuditUnavailable):
        witness.answer(body(5, leaves(9)))
    lock.close()
    assert state_of(tmp_path) == before


def _lose(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n5\n", b"\n4\n"))


def _binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


def _another_witness(path: Path) -> None:
    with fresh() as folder:
        knowing_witness(folder, "w9.example").answer(body(0, leaves(3)))
        path.write_bytes(state_of(folder))


def _only_the_log(path: Path) -> None:
    path.write_bytes(head(leaves(3)).note.encode())


def _nothing_of_another(path: Path) -> None:
    path.write_bytes(b"nothing of other.example/audit yet\n")


@pytest.mark.parametrize(
    "harm", [_lose, _empty, _cut, _flip, _binary, _another_witness, _only_the_log, _nothing_of_another]
)
@pytest.mark.parametrize("ask", [lambda: body(5, leaves(9)), lambda: body(0, leaves(9)), lambda: body(0, [])])
def test_a_lost_state_is_a_refusal_for_a_known_log(
    tmp_path: Path, harm: Callable[[Path], None], ask: Callable[[], bytes]
) -> None:
    """Missing or damaged: never 'start again', also not as a first use; neither add-log nor a restart helps."""
    witness = at_five(tmp_path)
    harm(tmp_path / LOGS / origin_hash(ORIGIN) / STATE)
    for one in (witness, witness_in(tmp_path)):
        answer = one.answer(ask())
        assert (answer.status, answer.code) == (500, "WITNESS_STATE_LOST")
        with pytest.raises(WitnessStateLost):
            one.logs()
        with pytest.raises(WitnessStateLost):
            one.latest(origin_hash(ORIGIN))
        with pytest.raises((WitnessStateLost, ContentDiffers)):
            one.add_log(ORIGIN, SIGNER.verifier)


@pytest.mark.parametrize("text", [b"", b"\xff", b"origin hospital.example/audit\n", b"origin x\nlog y\n"])
def test_a_damaged_list_of_keys_is_a_refusal(tmp_path: Path, text: bytes) -> None:
    """Whose keys are trusted is as much state as what was cosigned."""
    witness = at_five(tmp_path)
    (tmp_path / LOGS / origin_hash(ORIGIN) / LOG).write_bytes(text)
    assert witness.answer(body(5, leaves(9))).code == "WITNESS_STATE_LOST"


def test_a_list_of_keys_in_anothers_place_is_a_refusal(tmp_path: Path) -> None:
    """A folder that was renamed does not make another log known."""
    witness = at_five(tmp_path)
    shutil.copytree(tmp_path / LOGS / origin_hash(ORIGIN), tmp_path / LOGS / origin_hash("other.example"))
    assert witness.answer(body(0, leaves(3), origin="other.example")).code == "WITNESS_STATE_LOST"


def test_all_of_it_lost_knows_nobody(tmp_path: Path) -> None:
    """Without its folder a witness refuses everybody."""
    witness = at_five(tmp_path)
    shutil.rmtree(tmp_path / LOGS)
    assert witness.answer(body(0, leaves(9))).status == 404
    assert witness.logs() == ()


def test_making_a_log_known(tmp_path: Path) -> None:
    """Once; again while nothing is cosigned; never with other keys, and never after: to forget is not a repair."""
    witness = knowing_witness(tmp_path)
    witness.add_log(ORIGIN, SIGNER.verifier)
    with pytest.raises(ContentDiffers):
        witness.add_log(ORIGIN, STRANGER.verifier)
    assert witness.answer(body(0, leaves(5))).status == 200
    with pytest.raises(ContentDiffers):
        witness.add_log(ORIGIN, SIGNER.verifier)
    assert witness.answer(body(5, leaves(9))).status == 200
    for origin in ("", "two\nlines"):
        with pytest.raises(SubmissionRefused):
            witness.add_log(origin, SIGNER.verifier)


def test_a_crash_while_a_log_becomes_known_can_be_repeated(tmp_path: Path) -> None:
    """Killed at any write: the log is known with a whole state, or not known; adding it again makes it so."""
    for at in range(3):
        for after in (False, True):
            folder = tmp_path / f"{at}{after}"
            witness = witness_in(folder, disk=FaultyDisk(folder, at=at, after=after, dies=True))
            with pytest.raises(Died):
                witness.add_log(ORIGIN, SIGNER.verifier)
            again = witness_in(folder)
            assert again.answer(body(0, leaves(3))).status == (200 if (at, after) == (2, True) else 404)
            if not (at == 2 and after):
                again.add_log(ORIGIN, SIGNER.verifier)
                assert again.answer(body(0, leaves(3))).status == 200


def test_one_log_may_have_several_keys_and_logs_are_apart(tmp_path: Path) -> None:
    """Any of a log's keys signs it; one log's growth says nothing of another's."""
    witness = witness_in(tmp_path)
    witness.add_log(ORIGIN, SIGNER.verifier, STRANGER.verifier)
    witness.add_log("other.example", STRANGER.verifier)
    assert witness.answer(body(0, leaves(5), STRANGER)).status == 200
    assert witness.answer(body(5, leaves(6))).status == 200
    assert witness.answer(body(0, leaves(3), STRANGER, "other.example")).status == 200
    sizes = {known.origin: held.checkpoint.size for known, held in witness.logs() if held is not None}
    assert sizes == {ORIGIN: 6, "other.example": 3}
    known = KnownLog(ORIGIN, (SIGNER.verifier, STRANGER.verifier))
    assert KnownLog.parse(known.format()) == known


def test_a_clock_that_runs_back_signs_nothing(tmp_path: Path) -> None:
    """A later tree with an earlier time would be a false statement; when the clock is right again, it goes on."""
    now = Now()
    witness = knowing_witness(tmp_path, now=now)
    assert witness.answer(body(0, leaves(5))).status == 200
    now.at -= 1
    answer = witness.answer(body(5, leaves(9)))
    assert (answer.status, answer.code) == (503, "WITNESS_CLOCK_BEHIND")
    now.at += 1
    assert witness.answer(body(5, leaves(9))).status == 200


def test_split_view_is_seen_by_one_witness(tmp_path: Path) -> None:
    """Two histories in one name: the witness cosigns the one that came first, at every size."""
    witness = at_five(tmp_path)
    for size in range(5, 12):
        assert witness.answer(body(5, leaves(size, forked_at=3))).status in {409, 422}
    assert witness.answer(body(5, leaves(12))).status == 200


@given(steps=st.lists(st.integers(1, 60), min_size=1, max_size=6), data=st.data())
@settings(max_examples=25, deadline=None)
def test_honest_growth_is_always_cosigned_and_a_changed_proof_never(steps: list[int], data: st.DataObject) -> None:
    """A chain of growing checkpoints of any sizes; before each, its request with one mutation in the proof."""
    with fresh() as folder:
        witness, size = knowing_witness(folder), 0
        for step in steps:
            good = Submission.parse(body(size, leaves(size + step)))
            proof = list(good.proof)
            kind = data.draw(st.sampled_from(["flip", "drop", "add", "swap"]))
            at = data.draw(st.integers(0, max(0, len(proof) - 1)))
            if kind == "add" or not proof:
                proof.insert(at, bytes(32))
            elif kind == "flip":
                proof[at] = bytes([proof[at][0] ^ 1]) + proof[at][1:]
            elif kind == "drop":
                del proof[at]
            else:
                proof[at], proof[0] = proof[0], proof[at]
            if tuple(proof) != good.proof:
                changed = Submission(size, tuple(proof), good.checkpoint).format()
                assert witness.answer(changed).status == 422
            assert witness.answer(good.format()).status == 200
            size += step


@given(old=st.integers(0, 40), more=st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_what_parses_formats_to_the_same_bytes(old: int, more: int) -> None:
    """A request is one sequence of bytes."""
    sent = body(old, leaves(old + more))
    assert Submission.parse(sent).format() == sent


def test_latest_serves_what_was_cosigned_and_nothing_else(tmp_path: Path) -> None:
    """None before the first, for unknown logs, and for what is no hash of an origin."""
    witness = knowing_witness(tmp_path)
    assert witness.latest(origin_hash(ORIGIN)) is None
    witness.answer(body(0, leaves(5)))
    note = witness.latest(origin_hash(ORIGIN))
    assert note is not None
    assert Checkpoint.open(note, (SIGNER.verifier,)).size == 5
    for other in (origin_hash("x"), "..", "../logs", ORIGIN, "", origin_hash(ORIGIN).upper()):
        assert witness.latest(other) is None
