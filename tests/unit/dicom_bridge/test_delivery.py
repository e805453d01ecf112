"""The whole table of states in `ledger`, line by line, and any order of answers, failures and restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_bridge.commitment_messages import Report, Request
from dicom_bridge.commitment_scu import Heard
from dicom_bridge.delivery import FIND_PATIENCE, LOSS_PAUSE_FIRST, LOSSES_MAX, PAUSE_MAX, Transport
from dicom_bridge.errors import PeerFailed
from dicom_bridge.ledger import HELD, Batch, Proof, State
from dicom_bridge.outbox import COMMITMENT_WAIT, KEEP_TRYING, Outbox
from dicom_bridge.parcel import head_of
from dicom_bridge.peers import Peer
from dicom_bridge.store_scu import SendResult
from tests.simulators import series

START = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
SILENT = Peer("pacs", "TESTPACS", "127.0.0.1", 9)
COUNTING = Peer("pacs", "TESTPACS", "127.0.0.1", 9, counts=True)
COMMITTING = Peer("pacs", "TESTPACS", "127.0.0.1", 9, commitment=True)
BOTH = Peer("pacs", "TESTPACS", "127.0.0.1", 9, counts=True, commitment=True)
SECOND = timedelta(seconds=1)


class PaperPacs:
    """A PACS without a network, that polices what it is asked; its moods are attributes.

    keeps: it stores what it acknowledges. answers: statuses of the next files, or an error code for a whole send.
    asks: statuses or error codes of the next requests for commitment. prompt: it reports on the same association.
    finds: what C-FIND gives: all that it has (True), nothing (False), or an error code. down: nobody is there.
    """

    def __init__(self) -> None:
        self.has: set[str] = set()
        self.received: list[str] = []
        self.requests: list[Request] = []
        self.keeps, self.prompt, self.down = True, False, False
        self.answers: list[int | str] = []
        self.asks: list[int | str] = []
        self.finds: bool | str = True
        self.questions = 0
        self.reasons: dict[str, int] = {}

    def store(self, files: Sequence[Path], peer: Peer, calling_ae: str, *, go_on: Callable[[], bool]) -> SendResult:
        """As store_scu.send."""
        assert files, "an association for nothing"
        if self.down:
            return SendResult((None,) * len(files), "PEER_UNREACHABLE")
        statuses: list[int] = []
        for path in files:
            if not go_on():
                return SendResult((*statuses, *[None] * (len(files) - len(statuses))), HELD)
            answer = self.answers.pop(0) if self.answers else 0
            if isinstance(answer, str):
                return SendResult((*statuses, *[None] * (len(files) - len(statuses))), answer)
            head = head_of(path)
            assert head is not None
            self.received.append(head.sop_uid)
            if answer == 0 and self.keeps:
                self.has.add(head.sop_uid)
            statuses.append(answer)
        return SendResult(tuple(statuses), None)

    def ask(self, wanted: Request, peer: Peer, calling_ae: str, heard: Heard, wait: Callable[[], None]) -> int:
        """As commitment_scu.request."""
        if self.down:
            raise PeerFailed("PEER_UNREACHABLE")
        for earlier in self.requests:
            assert earlier == wanted or earlier.transaction_uid != wanted.transaction_uid, "a transaction used twice"
        answer = self.asks.pop(0) if self.asks else 0
        if isinstance(answer, str):
            raise PeerFailed(answer)
        if answer == 0:
            self.requests.append(wanted)
            if self.prompt:
                assert heard(self.verdict()) == 0
        return answer

    def find(self, peer: Peer, wanted: Sequence[tuple[str, str]], calling_ae: str) -> frozenset[str]:
        """As query.find_held."""
        assert wanted
        assert all(study and one for study, one in wanted)
        self.questions += 1
        if self.down:
            raise PeerFailed("PEER_UNREACHABLE")
        if isinstance(self.finds, str):
            raise PeerFailed(self.finds)
        return frozenset(self.has) if self.finds else frozenset()

    def verdict(self, request: Request | None = None) -> Report:
        """What it would report on a request, by default the latest."""
        asked = request or self.requests[-1]
        uids = [uid for _, uid in asked.references]
        failed = {uid: self.reasons.get(uid, 0x0112) for uid in uids if uid not in self.has or uid in self.reasons}
        return Report(asked.transaction_uid, frozenset(uids) - set(failed), failed)


class House:
    """An outbox that can be restarted, its clock, and what it told."""

    def __init__(self, root: Path, pacs: PaperPacs, files: Sequence[Path], peer: Peer) -> None:
        self.root, self.pacs, self.files = root, pacs, files
        self.time = START
        self.told: list[Batch] = []
        self.callback_failures = 0
        self.outbox = self._open(peer)
        self.outbox.enqueue("call-1", "pacs", files)
        self.uids = [output.uid for output in self.batch.outputs]

    def _open(self, *peers: Peer) -> Outbox:
        return Outbox(
            self.root,
            lambda: self.time,
            self._delivered,
            peers={peer.name: peer for peer in peers},
            transport=Transport(self.pacs.store, self.pacs.ask, self.pacs.find),
        )

    def _delivered(self, batch: Batch) -> None:
        self.told.append(batch)
        if self.callback_failures:
            self.callback_failures -= 1
            raise OSError(28, "no space left on device")

    def restart(self, *peers: Peer) -> None:
        """As after a crash, with this configuration."""
        self.outbox.stop()
        self.outbox = self._open(*peers)

    def run(self, after: timedelta = timedelta(0)) -> State:
        """Let time pass, work off what is due, and say where the batch stands."""
        self.time += after
        self.outbox.run_due("pacs")
        return self.batch.state

    def report(self, report: Report | None = None, sender: str = "TESTPACS") -> State:
        """A report comes in, on an association of its own."""
        assert self.outbox.report(report or self.pacs.verdict(), sender) == 0
        return self.batch.state

    @property
    def batch(self) -> Batch:
        """As the ledger has it."""
        found = self.outbox.batch("call-1")
        assert found is not None
        return found

    @property
    def end(self) -> tuple[State, Proof | None, str | None]:
        """State, proof and code."""
        return self.batch.state, self.batch.proof, self.batch.code


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Two objects of two series of a study."""
    folder = tmp_path_factory.mktemp("results")

    def apart(index: int, ds: object) -> None:
        ds.SeriesInstanceUID = f"1.2.3.{index + 1}"  # type: ignore[attr-defined]

    return tuple(sorted(series.write_series(folder, 2, spoil=apart, shape=(4, 4))))


@pytest.fixture
def pacs() -> PaperPacs:
    """A PACS in a good mood."""
    return PaperPacs()


@pytest.fixture
def house_of(tmp_path: Path, pacs: PaperPacs, files: tuple[Path, ...]) -> Iterator[Callable[[Peer], House]]:
    """Makes the house for a peer."""
    made: list[House] = []

    def make(peer: Peer) -> House:
        made.append(House(tmp_path / "outbox", pacs, files, peer))
        return made[-1]

    yield make
    for house in made:
        house.outbox.stop()


# ---- PENDING ---------------------------------------------------------------------------------------------------------


def test_a_peer_that_does_neither_is_believed(house_of, pacs) -> None:
    """No storage commitment, no C-FIND: its answers are all that there is, and the proof says so."""
    house = house_of(SILENT)
    assert house.run() is State.DELIVERED
    assert house.end == (State.DELIVERED, Proof.ANSWERED, None)
    assert (pacs.questions, pacs.requests) == (0, [])


def test_nothing_is_confirmed_before_everything_is_stored(house_of, pacs) -> None:
    """With one file out of resources nobody is asked for anything yet."""
    pacs.answers = [0, 0xA700]
    house = house_of(BOTH)
    assert house.run() is State.PENDING
    assert (pacs.questions, pacs.requests) == (0, [])
    house.run(2 * SECOND)
    assert house.batch.state is State.ASKED


def test_the_class_that_only_warned_counts_as_stored(house_of, pacs) -> None:
    """General warnings (PS3.7 annex C.4) and codes of Axxx that nobody defined are read as `status.fate` reads them."""
    pacs.answers = [0x0107, 0xA800]
    house = house_of(SILENT)
    assert house.run() is State.PENDING
    assert house.batch.code == "STATUS_A800"
    assert house.run(2 * SECOND) is State.DELIVERED
    assert len(pacs.received) == 3


# ---- STORED ----------------------------------------------------------------------------------------------------------


def test_each_object_is_asked_for_by_class_and_instance(house_of, pacs, files) -> None:
    """One N-ACTION for the whole batch, with a transaction UID of our own making."""
    house = house_of(COMMITTING)
    assert house.run() is State.ASKED
    (request,) = pacs.requests
    heads = [head_of(path) for path in files]
    assert list(request.references) == [(head.sop_class, head.sop_uid) for head in heads]
    assert request.transaction_uid == house.batch.transaction_uid
    assert request.transaction_uid.startswith("2.25.")


@pytest.mark.parametrize("trouble", ["PEER_UNREACHABLE", "PEER_REJECTED", "PEER_NO_CONTEXT", "PEER_NO_ANSWER", 0x0213])
def test_a_request_that_is_not_accepted_is_repeated_under_the_same_transaction(house_of, pacs, trouble) -> None:
    """The PACS may know it from the first time: after a crash, a lost answer or a refusal it is the same request."""
    pacs.asks = [trouble, trouble]
    house = house_of(COMMITTING)
    assert house.run() is State.STORED
    first = house.batch.transaction_uid
    assert house.batch.code == (trouble if isinstance(trouble, str) else "STATUS_0213")
    house.restart(COMMITTING)
    assert house.run(2 * SECOND) is State.STORED
    assert house.run(4 * SECOND) is State.ASKED
    assert pacs.requests[0].transaction_uid == first
    assert len(pacs.received) == 2, "nothing is sent again"


@pytest.mark.parametrize("status", [0x0131, 0x0210, 0xB000])
def test_a_transaction_that_the_peer_knows_already_was_accepted(house_of, pacs, status) -> None:
    """Killed between the N-ACTION and its note: the PACS says "duplicate", which means that it has the request."""
    pacs.asks = [status]
    house = house_of(COMMITTING)
    assert house.run() is State.ASKED


def test_a_report_that_overtakes_the_answer_counts(house_of, pacs) -> None:
    """On the same association it may come before our own note that the request was accepted: no state is undone."""
    pacs.prompt = True
    house = house_of(COMMITTING)
    assert house.run() is State.DELIVERED
    assert house.end == (State.DELIVERED, Proof.COMMITMENT, None)


def test_a_peer_that_never_accepts_a_request_is_asked_what_it_has(house_of, pacs) -> None:
    """It was configured as a storage commitment SCP and refuses for a day: C-FIND decides."""
    pacs.asks = [0x0124] * 200
    house = house_of(COMMITTING)
    house.run()
    while house.time < START + COMMITMENT_WAIT:
        assert house.run(PAUSE_MAX) in (State.STORED, State.DELIVERED)
    house.run(PAUSE_MAX)
    assert house.end == (State.DELIVERED, Proof.FOUND, None)


# ---- ASKED -----------------------------------------------------------------------------------------------------------


def test_committed_and_found_is_delivered_with_the_commitment(house_of, pacs) -> None:
    """The report first, then C-FIND to confirm it, then the caller."""
    house = house_of(BOTH)
    assert house.run() is State.ASKED
    assert pacs.questions == 0
    assert house.report() is State.SEEKING
    assert house.told == []
    assert house.run() is State.DELIVERED
    assert (house.batch.proof, pacs.questions) == (Proof.COMMITMENT, 1)


def test_committed_by_a_peer_that_answers_no_queries_is_delivered_at_once(house_of, pacs) -> None:
    """Without `counts` there is nothing to confirm it with."""
    house = house_of(COMMITTING)
    house.run()
    assert house.report() is State.SENT
    assert house.run() is State.DELIVERED
    assert (house.batch.proof, pacs.questions) == (Proof.COMMITMENT, 0)


def test_what_is_asked_for_waits_without_spinning(house_of, pacs) -> None:
    """Before a day is over nothing is done for it, not even when somebody says wake."""
    house = house_of(BOTH)
    house.run()
    for _ in range(10):
        house.outbox.wake()
        house.time += timedelta(hours=2)
        assert house.outbox.run_due("pacs") == 0
    assert house.batch.state is State.ASKED


def test_what_failed_is_sent_again_and_asked_for_anew(house_of, pacs) -> None:
    """Only the failed object goes out again; the new request names all, under another transaction UID."""
    house = house_of(COMMITTING)
    house.run()
    pacs.has.discard(house.uids[1])
    assert house.report() is State.PENDING
    assert (house.batch.code, house.batch.losses) == ("COMMITMENT_0112", 1)
    assert house.run() is State.PENDING, "not at once: whatever is wrong over there is still wrong"
    assert house.run(LOSS_PAUSE_FIRST) is State.ASKED
    assert pacs.received == [*house.uids, house.uids[1]]
    first, second = pacs.requests
    assert (first.references, first.transaction_uid != second.transaction_uid) == (second.references, True)
    house.report()
    assert house.run() is State.DELIVERED


def test_a_class_that_the_peer_does_not_commit_to_is_looked_for(house_of, pacs) -> None:
    """Failure reason 0x0122 says nothing of the object: C-FIND decides, nothing is sent again."""
    house = house_of(BOTH)
    house.run()
    pacs.reasons = {house.uids[0]: 0x0122}
    assert house.report() is State.SEEKING
    assert house.run() is State.DELIVERED
    assert (house.batch.proof, len(pacs.received)) == (Proof.FOUND, 2)


def test_what_a_report_does_not_mention_is_not_committed(house_of, pacs) -> None:
    """A report of success that leaves one out proves nothing for it."""
    house = house_of(BOTH)
    house.run()
    half = Report(pacs.requests[0].transaction_uid, frozenset(house.uids[:1]), {})
    assert house.report(half) is State.SEEKING
    assert house.run() is State.DELIVERED
    assert house.batch.proof is Proof.FOUND


def test_one_that_is_listed_as_both_failed_and_committed_has_failed(house_of, pacs) -> None:
    """The worse of two contradicting statements counts."""
    house = house_of(COMMITTING)
    house.run()
    both = Report(pacs.requests[0].transaction_uid, frozenset(house.uids), {house.uids[0]: 0x0110})
    assert house.report(both) is State.PENDING
    assert house.batch.code == "COMMITMENT_0110"


@pytest.mark.parametrize("peer", [COMMITTING, BOTH])
def test_without_a_report_the_peer_is_asked_what_it_has(house_of, pacs, peer) -> None:
    """After a day: found means delivered, with a proof that says how it was found out."""
    house = house_of(peer)
    house.run()
    assert house.run(COMMITMENT_WAIT - SECOND) is State.ASKED
    house.restart(peer)
    assert house.run(SECOND) is State.DELIVERED
    assert house.batch.proof is Proof.FOUND


def test_a_late_report_changes_nothing_that_was_told(house_of, pacs) -> None:
    """Delivered as FOUND stays so: the log has one proof, not two."""
    house = house_of(BOTH)
    house.run()
    house.run(COMMITMENT_WAIT)
    assert house.report() is State.DELIVERED
    house.run(timedelta(days=1))
    assert [batch.proof for batch in house.told] == [Proof.FOUND]


def test_reports_that_nobody_asked_for_are_answered_and_ignored(house_of, pacs) -> None:
    """An unknown transaction, another sender, one of an earlier round, the same twice: success, and no change."""
    house = house_of(COMMITTING)
    house.run()
    lost = Report(pacs.requests[0].transaction_uid, frozenset(), dict.fromkeys(house.uids, 0x0112))
    assert house.report(Report("1.2.3", frozenset(house.uids), {})) is State.ASKED
    assert house.report(lost, sender="SOMEBODY") is State.ASKED
    assert house.report(lost) is State.PENDING
    assert house.batch.losses == 1
    assert house.report(lost) is State.PENDING
    assert house.batch.losses == 1, "repeated"
    assert house.run(LOSS_PAUSE_FIRST) is State.ASKED
    assert house.report(lost) is State.ASKED, "of the round before"
    house.report()
    house.run()
    assert [batch.proof for batch in house.told] == [Proof.COMMITMENT]


# ---- SEEKING ---------------------------------------------------------------------------------------------------------


def test_a_peer_that_answers_queries_confirms_by_them(house_of, pacs) -> None:
    """Without storage commitment, C-FIND is the proof."""
    house = house_of(COUNTING)
    assert house.run() is State.DELIVERED
    assert (house.batch.proof, pacs.questions, pacs.requests) == (Proof.FOUND, 1, [])


def test_an_index_that_lags_is_given_time(house_of, pacs) -> None:
    """Not found within the first minutes is asked again, ever more rarely, and nothing is sent again."""
    pacs.finds = False
    house = house_of(COUNTING)
    assert house.run() is State.SEEKING
    assert house.batch.code == "NOT_FOUND_YET"
    for seconds in (2, 4, 8, 16):
        assert house.run(seconds * SECOND) is State.SEEKING
    assert pacs.questions == 5
    pacs.finds = True
    assert house.run(32 * SECOND) is State.DELIVERED
    assert (house.batch.proof, len(pacs.received)) == (Proof.FOUND, 2)


@pytest.mark.parametrize("peer", [COUNTING, BOTH])
def test_a_pacs_that_accepts_and_forgets_is_noticed_and_given_up(house_of, pacs, peer) -> None:
    """Sent again after growing pauses, a few times; then a dead letter with a code, and nobody was told "delivered"."""
    pacs.keeps, gaps, last = False, [], START
    house = house_of(peer)
    while house.run() not in (State.DEAD, State.DELIVERED):
        if pacs.requests and house.batch.state is State.ASKED:
            house.report()
        before = len(pacs.received)
        house.run(SECOND * 10)
        if len(pacs.received) > before:
            gaps.append(house.time - last)
            last = house.time
        assert house.time < START + timedelta(days=1)
    assert house.end == (State.DEAD, None, "COMMITMENT_0112" if peer is BOTH else "PEER_FORGETS")
    assert house.told == []
    assert len(pacs.received) == 2 * (LOSSES_MAX + 1)
    assert gaps == sorted(gaps)
    pacs.keeps = True
    house.outbox.resend("call-1")
    house.run()
    if peer is BOTH:
        house.report()
        house.run()
    assert house.batch.state is State.DELIVERED


def test_committed_and_then_not_found_is_sent_again(house_of, pacs) -> None:
    """A commitment that C-FIND contradicts is none: what is not there goes out again."""
    house = house_of(BOTH)
    house.run()
    report = pacs.verdict()
    pacs.has.discard(house.uids[0])
    assert house.report(report) is State.SEEKING
    assert house.run() is State.SEEKING
    assert house.run(FIND_PATIENCE) is State.PENDING
    assert house.batch.code == "PEER_FORGETS"
    assert house.run(LOSS_PAUSE_FIRST) is State.ASKED
    assert pacs.received == [*house.uids, house.uids[0]]
    assert house.run(COMMITMENT_WAIT) is State.DELIVERED
    assert house.batch.proof is Proof.FOUND, "the commitment of the round before is worth nothing"


@pytest.mark.parametrize("trouble", ["PEER_NO_CONTEXT", "PEER_FAILURE_STATUS"])
@pytest.mark.parametrize(("peer", "proof"), [(COUNTING, Proof.ANSWERED), (BOTH, Proof.COMMITMENT)])
def test_a_peer_that_does_not_tell_is_taken_at_its_word(house_of, pacs, trouble, peer, proof) -> None:
    """C-FIND at IMAGE level refused for minutes: the commitment, or the answers, are all that there is."""
    pacs.finds, pacs.prompt = trouble, True
    house = house_of(peer)
    assert house.run() is State.SEEKING
    assert house.batch.code == trouble
    assert house.run(FIND_PATIENCE) is State.DELIVERED
    assert house.batch.proof is proof


def test_a_peer_that_goes_away_after_its_commitment_has_committed(house_of, pacs) -> None:
    """Nobody answers C-FIND any more: after some minutes the commitment stands by itself."""
    pacs.finds, pacs.prompt = "PEER_UNREACHABLE", True
    house = house_of(BOTH)
    assert house.run() is State.SEEKING
    assert house.run(FIND_PATIENCE) is State.DELIVERED
    assert house.batch.proof is Proof.COMMITMENT


def test_a_peer_that_goes_away_before_it_confirmed_anything_is_waited_for(house_of, pacs) -> None:
    """Its answers alone are not taken for the confirmation that it can give: days of waiting, then a dead letter."""
    pacs.finds = "PEER_UNREACHABLE"
    house = house_of(COUNTING)
    house.run()
    while house.time <= START + KEEP_TRYING:
        assert house.batch.state is State.SEEKING
        house.run(PAUSE_MAX)
    assert house.end == (State.DEAD, None, "TOO_OLD")
    assert house.told == []
    assert pacs.questions < 7 * 24 * 4 + 20, "about one question in a quarter of an hour"


def test_neither_commitment_nor_find_ends_as_a_dead_letter(house_of, pacs) -> None:
    """Configured to commit, it never does and tells nothing either: sent again a few times, then a person must look."""
    pacs.finds = "PEER_NO_CONTEXT"
    house = house_of(COMMITTING)
    while house.run(timedelta(hours=1)) is not State.DEAD:
        assert house.time < START + 2 * KEEP_TRYING
    assert house.batch.code in ("COMMITMENT_MISSING", "TOO_OLD")
    assert (house.told, len(pacs.requests)) == ([], house.batch.losses + 1)
    transactions = {request.transaction_uid for request in pacs.requests}
    assert len(transactions) == len(pacs.requests)


def test_a_report_while_it_is_looked_for_counts(house_of, pacs) -> None:
    """The report comes after a day, while C-FIND still waits: whole is a commitment, failed is a resend."""
    pacs.finds = False
    house = house_of(BOTH)
    house.run()
    assert house.run(COMMITMENT_WAIT) is State.SEEKING
    assert house.report() is State.SEEKING
    assert house.batch.committed
    pacs.finds = True
    assert house.run(10 * SECOND) is State.DELIVERED
    assert house.batch.proof is Proof.COMMITMENT


def test_a_bad_report_while_it_is_looked_for_is_a_loss(house_of, pacs) -> None:
    """What the PACS says it has not is sent again, whatever its index says."""
    pacs.finds = "PEER_NO_ANSWER"
    house = house_of(BOTH)
    house.run()
    house.run(COMMITMENT_WAIT)
    pacs.has.clear()
    assert house.report() is State.PENDING
    assert house.batch.losses == 1


# ---- the configuration, the clock and the caller ---------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["STORED", "ASKED", "SEEKING"])
def test_a_peer_that_is_not_named_any_more_proves_nothing(house_of, pacs, stage) -> None:
    """Taken out of the configuration before it was delivered: a dead letter, and nobody is called."""
    pacs.asks, pacs.finds = ([0x0213] if stage == "STORED" else []), False
    house = house_of(COUNTING if stage == "SEEKING" else COMMITTING)
    assert house.run() is State(stage)
    house.restart()
    if stage == "ASKED":
        assert house.report() is State.ASKED, "nor does anybody's report count"
    asked = pacs.questions
    house.run(COMMITMENT_WAIT)
    assert house.end == (State.DEAD, None, "PEER_NOT_NAMED")
    assert pacs.questions == asked


@pytest.mark.parametrize(
    ("before", "asks", "wait"),
    [(COMMITTING, [0x0213], PAUSE_MAX), (BOTH, [], COMMITMENT_WAIT)],
    ids=["STORED", "ASKED"],
)
def test_abilities_that_are_taken_away_are_not_waited_for(house_of, pacs, before, asks, wait) -> None:
    """Somebody found out that the PACS does not commit after all, and says so in the configuration."""
    pacs.asks = asks
    house = house_of(before)
    house.run()
    house.restart(SILENT)
    assert house.run(wait) is State.DELIVERED
    assert house.batch.proof is Proof.ANSWERED


def test_a_clock_that_was_set_back_ends_no_wait_for_ever(house_of, pacs) -> None:
    """Asked for by a clock years ahead: it is looked for now, not in ten years."""
    house = house_of(BOTH)
    assert house.run() is State.ASKED
    assert house.run(timedelta(days=-4000)) is State.DELIVERED


def test_patience_that_began_in_the_future_is_over(house_of, pacs) -> None:
    """Not found since a wrong clock's tomorrow: sent again today."""
    pacs.finds = False
    house = house_of(COUNTING)
    assert house.run() is State.SEEKING
    assert house.run(timedelta(days=-4000)) is State.PENDING
    assert house.batch.code == "PEER_FORGETS"


@pytest.mark.parametrize("stage", ["STORED", "ASKED", "SEEKING"])
def test_a_clock_that_was_set_back_a_little_is_no_reason(house_of, pacs, stage) -> None:
    """A second of drift put right ends no wait: neither for a report, nor for an index that lags."""
    pacs.asks, pacs.finds = ([0x0213] * 2 if stage == "STORED" else []), False
    house = house_of(COUNTING if stage == "SEEKING" else BOTH)
    assert house.run() is State(stage)
    house.time -= SECOND
    house.outbox.wake()
    assert house.run() is State(stage)


def test_the_callback_sees_the_same_proof_each_time(house_of, pacs) -> None:
    """It failed, the service restarted, a report came meanwhile: the second call says what the first said."""
    house = house_of(BOTH)
    house.callback_failures = 1
    house.run()
    assert house.run(COMMITMENT_WAIT) is State.SENT
    house.restart(BOTH)
    assert house.report() is State.SENT
    assert house.run(timedelta(minutes=1)) is State.DELIVERED
    assert [batch.proof for batch in house.told] == [Proof.FOUND, Proof.FOUND]


def test_resent_from_the_dead_is_a_new_life(house_of, pacs) -> None:
    """Its age, its losses and its transaction begin anew; reports on the former life change nothing."""
    house = house_of(COMMITTING)
    pacs.keeps = False
    house.run()
    for losses in range(LOSSES_MAX + 1):
        assert house.batch.losses == losses
        last = pacs.verdict()
        house.report(last)
        house.run(PAUSE_MAX)
    assert house.batch.state is State.DEAD
    pacs.keeps = True
    house.outbox.resend("call-1")
    assert (house.batch.losses, house.batch.created_at) == (0, house.time)
    assert house.run() is State.ASKED
    assert house.report(last) is State.ASKED
    house.report()
    assert house.run() is State.DELIVERED
    assert len({request.transaction_uid for request in pacs.requests}) == LOSSES_MAX + 2


@pytest.mark.parametrize(
    ("from_state", "proof"),
    [("PENDING", Proof.COMMITMENT), ("STORED", Proof.FOUND), ("ASKED", Proof.FOUND), ("SEEKING", Proof.COMMITMENT)],
)
def test_a_weekend_without_a_pacs_ends_in_one_delivery(house_of, pacs, from_state, proof) -> None:
    """Gone from Friday evening to Monday morning, wherever the batch stood, with a restart each day: one delivery."""
    pacs.down = from_state == "PENDING"
    pacs.asks, pacs.finds = ([0x0213] if from_state == "STORED" else []), from_state != "SEEKING"
    house = house_of(BOTH)
    assert house.run() is (State.PENDING if from_state == "PENDING" else State(from_state.replace("SEEKING", "ASKED")))
    if from_state == "SEEKING":
        assert house.report() is State.SEEKING
        house.run()
    pacs.down, pacs.finds = True, True
    while house.time < START + timedelta(hours=62):
        house.run(timedelta(minutes=10))
        if house.time.hour == 6:
            house.restart(BOTH)
    assert len(house.told) == (1 if from_state == "SEEKING" else 0), "only what was committed needs no PACS any more"
    pacs.down = False
    house.run(PAUSE_MAX)
    if house.batch.state is State.ASKED:
        house.report()
        house.run()
    assert (house.batch.state, house.batch.proof, len(house.told)) == (State.DELIVERED, proof, 1)
    assert pacs.received == house.uids, "each object once"


def test_a_former_life_proves_nothing(house_of, pacs) -> None:
    """Resent to a PACS that no longer commits: a report on what it had then is not a commitment of what it has now."""
    pacs.keeps = False
    house = house_of(BOTH)
    for _ in range(LOSSES_MAX + 1):
        house.run()
        last = pacs.requests[-1]
        house.report()
        house.time += PAUSE_MAX
    assert house.batch.state is State.DEAD
    pacs.keeps, pacs.finds = True, False
    house.restart(COUNTING)
    house.outbox.resend("call-1")
    assert house.run() is State.SEEKING
    house.report(Report(last.transaction_uid, frozenset(house.uids), {}))
    assert not house.batch.committed


# ---- any order of events ---------------------------------------------------------------------------------------------

EVENTS = st.one_of(
    st.sampled_from(
        [
            *("restart", "report", "old report", "strange report", "forget", "index gone", "index back"),
            *("find broken", "find refused", "find works", "callback fails", "keeps nothing", "keeps", "resend"),
        ]
    ),
    st.tuples(
        st.just("store"),
        st.lists(st.sampled_from([0, 0xB000, 0xA700, 0xC000, "PEER_UNREACHABLE", "PEER_NO_ANSWER"]), max_size=2),
    ),
    st.tuples(st.just("ask"), st.sampled_from([0x0213, 0x0131, "PEER_NO_CONTEXT", "PEER_UNREACHABLE"])),
    st.tuples(st.just("wait"), st.sampled_from([2, 60, 900, 86_400])),
)


def happen(house: House, peer: Peer, event: object) -> None:
    """Let one thing happen."""
    pacs = house.pacs
    if isinstance(event, tuple):
        kind, value = event
        if kind == "store":
            pacs.answers = list(value)
        elif kind == "ask":
            pacs.asks = [value]
        else:
            house.run(timedelta(seconds=value))
    elif event == "restart":
        house.restart(peer)
    elif event in ("report", "old report") and pacs.requests:
        house.report(pacs.verdict(pacs.requests[0 if event == "old report" else -1]))
    elif event == "strange report":
        house.report(Report("1.2.3", frozenset(house.uids), {}), sender="SOMEBODY")
    elif event == "forget":
        pacs.has.clear()
    elif event in ("keeps", "keeps nothing"):
        pacs.keeps = event == "keeps"
    elif event == "callback fails":
        house.callback_failures = 1
    elif event == "resend" and house.batch.state is State.DEAD:
        house.outbox.resend("call-1")
    moods = {"index gone": False, "index back": True, "find works": True}
    moods |= {"find broken": "PEER_UNREACHABLE", "find refused": "PEER_NO_CONTEXT"}
    if isinstance(event, str):
        pacs.finds = moods.get(event, pacs.finds)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, max_size=25), peer=st.sampled_from([SILENT, COUNTING, COMMITTING, BOTH]))
def test_whatever_happens_it_ends_delivered_or_dead(tmp_path_factory, files, events, peer) -> None:
    """Any order of answers, losses, reports, restarts and failures ends DELIVERED with one proof, or DEAD with a code.

    Never told before it is proven, never with two proofs; what was told as found or committed was there when asked.
    """
    house = House(tmp_path_factory.mktemp("any"), PaperPacs(), files, peer)
    try:
        for event in events:
            happen(house, peer, event)
            house.run()
        # From here on nothing new happens; the PACS stays in the mood that it is in.
        end = house.time + 3 * KEEP_TRYING
        while house.batch.state not in (State.DELIVERED, State.DEAD) and house.time < end:
            house.run(timedelta(hours=1))
        state, proof, code = house.end
        assert state in (State.DELIVERED, State.DEAD)
        assert len({batch.proof for batch in house.told}) <= 1
        if state is State.DELIVERED:
            assert (proof, code) == (house.told[-1].proof, None)
            assert set(house.uids) <= set(house.pacs.received)
            assert proof is not Proof.COMMITMENT or peer.commitment
        else:
            assert (house.told, proof) == ([], None)
            assert code is not None
        assert len(house.pacs.requests) <= 200
    finally:
        house.outbox.stop()
