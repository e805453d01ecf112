"""Telling: nothing is lost, nothing is told that was not released, and each end is in the log once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from audit.log import AuditLog
from dicom_bridge.delivery import Leave
from dicom_bridge.reported import Reported
from service.errors import CommandRefused, NothingSuch
from service.reporting.answer import Answer, Fate
from service.reporting.book import BOOK_FILE, KEPT, Book, State
from service.reporting.items import Key
from service.reporting.receivers import refuse_nameless
from service.reporting.telling import PAUSE_MAX_S, Desk, ReportMetrics, Row, Teller
from tests.simulators.audit_log import DIGEST, SIGNER, body
from tests.simulators.reports import changed, data_of

TAKEN = Answer(Fate.DELIVERED, "AA")
REFUSED = Answer(Fate.REFUSED, "HL7_AE")
SILENT = Answer(Fate.LATER, "HL7_NO_ANSWER")
CALLS = ["a" * 32, "b" * 32, "c" * 32]


@dataclass
class Ear:
    """A receiver that answers as it is told to, then takes everything."""

    name: str = "ris"
    form: str = "HL7_ORU_R01"
    keep_trying: timedelta = timedelta(days=7)
    answers: list[Answer | Exception] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    gone: list[Sequence[Key]] = field(default_factory=list)
    aborted: bool = False

    def message(self, report: Reported, row: Row, gone: Sequence[Key]) -> bytes:
        """A message that names all that it depends on."""
        refuse_nameless(report)
        self.gone.append(gone)
        return f"{report.sop_uid} {row.call} {row.round} {row.released_at} {len(gone)}{' W' * row.withdrawn}".encode()

    def tell(self, content: bytes, row: Row) -> Answer:
        """The next answer."""
        assert row.content == content
        self.heard.append(content)
        answer = self.answers.pop(0) if self.answers else TAKEN
        if isinstance(answer, Exception):
            raise answer
        return answer

    def abort(self) -> None:
        """Remember it."""
        self.aborted = True


class House:
    """A log, results on disk, a book, and one receiver; time moves when it is told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.time = datetime(2026, 11, 23, 16, 7, 12, tzinfo=UTC)
        self.clock_s = 0.0
        self.leave = Leave.GO
        self.log = AuditLog.open(
            root / "audit",
            origin="test-site.zhiying/audit",
            source="test-site",
            signer=SIGNER,
            now=self.now,
            software="x",
        )
        self.ear = Ear()
        self.registry = CollectorRegistry()
        self.metrics = ReportMetrics(self.registry)
        self.book = Book(root / "reports")
        self.writer: Any = self.log
        self.teller = self.start()

    def now(self) -> datetime:
        """Of the test."""
        return self.time

    def start(self) -> Teller:
        """A service that starts, on what a former one has left."""
        desk = Desk(
            *(self.book, self.log, self.writer, self.file_of, lambda _: self.leave, self.now),
            metrics=self.metrics,
        )
        self.teller = Teller(self.ear, desk, lambda: self.clock_s)
        return self.teller

    def later(self, **by: float) -> None:
        """Time passes, and a round comes."""
        self.time += timedelta(**by)
        self.clock_s += timedelta(**by).total_seconds()
        self.teller()

    def file_of(self, call: str) -> Path:
        """Where results lie."""
        return self.root / "results" / call / "sr.dcm"

    def write(self, call: str, data: bytes) -> dict[str, str]:
        """Keep a report; what an entry says of it."""
        from dicom_bridge.reported import read_reported

        path = self.file_of(call)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        uid = read_reported(data).sop_uid
        return {"uid": uid, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}

    def release(self, call: str = CALLS[0], data: bytes | None = None, **wrong: str) -> None:
        """The PACS has it, and the log says so."""
        data = data_of("segments", "findings") if data is None else data
        outputs = [{"uid": "2.25.7", "digest": DIGEST}, self.write(call, data) | wrong]
        said = {"outputs": outputs, "peer": "pacs", "attempts": 1, "proof": "FOUND"}
        self.log.append(Draft(Kind.RELEASED, f"released:{call}", said, call=call))

    def withdraw(self, call: str = CALLS[0]) -> None:
        """A person says that it counts no more."""
        self.log.append(Draft(Kind.WITHDRAWN, f"withdrawn:{call}", body(Kind.WITHDRAWN), call))

    def told(self) -> list[tuple[str, str, str]]:
        """Call, what was told, and what came of it, of each entry."""
        return [(str(one.call), str(one.body["told"]), str(one.body["outcome"])) for one in self.notified()]

    def taken_back(self) -> list[bool]:
        """Of each message that was heard, whether it takes the result back."""
        return [one.endswith(b" W") for one in self.ear.heard]

    def notified(self) -> list[Entry]:
        """What the log says of the telling."""
        return [entry for entry in self.log.entries() if entry.kind is Kind.NOTIFIED]

    def states(self) -> dict[str, tuple[State, str | None]]:
        """Of the book, by call."""
        return {row.call: (row.state, row.code) for row in self.book.listed(*State)}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """One of its own."""
    made = House(tmp_path)
    yield made
    made.book.close()
    made.log.close()


def test_what_is_released_is_told_once(house: House) -> None:
    """One message, one entry with the digest of its very bytes, and nothing more in any later round."""
    house.release()
    house.teller()
    house.later(hours=1)
    (message,), (entry,) = house.ear.heard, house.notified()
    assert entry.call == CALLS[0]
    assert dict(entry.body) == {
        "peer": "ris",
        "form": "HL7_ORU_R01",
        "told": "RESULT",
        "digest": f"sha256:{hashlib.sha256(message).hexdigest()}",
        "outcome": "DELIVERED",
        "proof": "AA",
        "attempts": 1,
    }
    assert house.states() == {CALLS[0]: (State.DELIVERED, "AA")}
    assert house.registry.get_sample_value("zhiying_reports_waiting", {"receiver": "ris"}) == 0
    told = {"receiver": "ris", "outcome": "DELIVERED"}
    assert house.registry.get_sample_value("zhiying_reports_total", told) == 1


def test_what_was_released_before_the_receiver_was_named_is_not_told(tmp_path: Path) -> None:
    """A site that names a RIS does not flood it with last year."""
    house = House(tmp_path)
    house.book.tidy([], house.now())  # nobody is named any more
    house.release(CALLS[0])
    house.start()
    house.release(CALLS[1], changed(data_of("segments", "findings"), SOPInstanceUID="2.25.8"))
    house.teller()
    assert list(house.states()) == [CALLS[1]]


def test_other_entries_are_not_told(house: House) -> None:
    """A result, a refusal and a failure without a release stay here."""
    for kind in (Kind.CALL_INTENT, Kind.CALL_RESULT, Kind.DENIED, Kind.FAILED):
        house.log.append(Draft(kind, f"{kind.lower()}:1", body(kind), call=CALLS[0]))
    house.later(minutes=1)
    assert house.ear.heard == []
    assert house.states() == {}


def test_told_in_vain_it_is_told_again_ever_more_rarely(house: House) -> None:
    """The same bytes each time; pauses double up to a quarter of an hour; nothing in the log until it is taken."""
    house.ear.answers = [SILENT] * 12
    house.release()
    house.teller()
    tries = []
    for _ in range(4 * 3600 // 2):
        before = len(house.ear.heard)
        house.later(seconds=2)
        if len(house.ear.heard) > before:
            tries.append(house.clock_s)
        if len(house.ear.heard) == 12:
            assert house.notified() == []
            assert house.states() == {CALLS[0]: (State.WAITING, "HL7_NO_ANSWER")}
    pauses = [later - sooner for sooner, later in itertools.pairwise(tries)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 10
    assert max(pauses) <= PAUSE_MAX_S + 2
    assert len(set(house.ear.heard)) == 1
    assert len(house.ear.heard) == 13
    assert [entry.body["attempts"] for entry in house.notified()] == [13]


def test_refused_it_is_a_dead_letter_that_a_person_can_have_told_again(house: House) -> None:
    """Not tried again by itself; in the log with its code; told anew by another message."""
    house.ear.answers = [REFUSED]
    house.release()
    house.teller()
    house.later(days=3)
    assert len(house.ear.heard) == 1
    assert house.states() == {CALLS[0]: (State.DEAD, "HL7_AE")}
    assert house.registry.get_sample_value("zhiying_reports_dead", {"receiver": "ris"}) == 1
    assert [(one.body["outcome"], one.body["proof"]) for one in house.notified()] == [("REFUSED", "HL7_AE")]

    house.book.revive("ris", CALLS[0], house.now())
    house.later(seconds=1)

    assert len(set(house.ear.heard)) == 2
    assert house.states() == {CALLS[0]: (State.DELIVERED, "AA")}
    assert [one.body["outcome"] for one in house.notified()] == ["REFUSED", "DELIVERED"]


def test_refused_twice_it_is_in_the_log_twice(house: House) -> None:
    """Each round that a person began has its end."""
    house.ear.answers = [REFUSED, REFUSED]
    house.release()
    house.teller()
    house.book.revive("ris", CALLS[0], house.now())
    house.later(seconds=1)
    assert [one.body["outcome"] for one in house.notified()] == ["REFUSED", "REFUSED"]


def test_told_in_vain_for_too_long_it_is_given_up(house: House) -> None:
    """After the days that the site names it is a dead letter, with the code of its last try."""
    house.ear.answers = [SILENT] * 10_000
    house.release()
    house.teller()
    for _ in range(8 * 24 * 2):
        house.later(minutes=30)
    assert house.states() == {CALLS[0]: (State.DEAD, "HL7_NO_ANSWER")}
    (entry,) = house.notified()
    assert (entry.body["outcome"], entry.body["proof"]) == ("GIVEN_UP", "HL7_NO_ANSWER")
    assert 7 * 24 * 2 < len(house.ear.heard) < 8 * 24 * 2


def test_one_on_which_the_receiver_breaks_does_not_hold_up_the_others(house: House) -> None:
    """What was tried least comes first."""
    house.release(CALLS[0])
    house.ear.answers = [SILENT]
    house.teller()
    other = changed(data_of("segments", "no findings"), StudyInstanceUID="2.25.99", SOPInstanceUID="2.25.98")
    house.release(CALLS[1], other)
    house.later(seconds=3)
    assert house.states() == {CALLS[0]: (State.DELIVERED, "AA"), CALLS[1]: (State.DELIVERED, "AA")}
    assert [content.split()[1] for content in house.ear.heard] == [
        one.encode() for one in (CALLS[0], CALLS[1], CALLS[0])
    ]


def test_a_newer_result_overtakes_one_that_still_waits(house: House) -> None:
    """Of one study and model only the newest is told, or the older would overwrite it; it takes back what it lacks."""
    house.ear.answers = [SILENT]
    house.release(CALLS[0], data_of("detections", "findings"))
    house.teller()
    newer = changed(data_of("detections", "partly failed"), SOPInstanceUID="2.25.55")
    house.release(CALLS[1], newer)
    house.later(hours=1)
    house.later(hours=1)
    assert house.states() == {CALLS[0]: (State.OVERTAKEN, "HL7_NO_ANSWER"), CALLS[1]: (State.DELIVERED, "AA")}
    assert [content.split()[1] for content in house.ear.heard] == [CALLS[0].encode(), CALLS[1].encode()]
    # Nobody knows whether the first was taken: what it said and the second does not is taken back.
    assert house.ear.gone[0] == []
    assert {key[2] for key in house.ear.gone[1]} >= {"G2", "G3", "G3.1"}


def test_one_that_was_never_told_is_not_taken_back(house: House) -> None:
    """What nobody can have seen needs no deletion."""
    house.leave = Leave.HOLD
    house.release(CALLS[0], data_of("detections", "findings"))
    house.teller()
    house.leave = Leave.GO
    house.release(CALLS[1], changed(data_of("detections", "partly failed"), SOPInstanceUID="2.25.55"))
    house.later(hours=1)
    assert house.ear.gone == [[]]
    assert house.states()[CALLS[0]][0] is State.OVERTAKEN


def test_a_stop_holds_what_waits(house: House) -> None:
    """What may not leave waits, is nobody's failure, and does not grow old by it."""
    house.leave = Leave.HOLD
    house.release()
    house.teller()
    for _ in range(20):
        house.later(days=1)
    assert house.ear.heard == []
    assert house.states() == {CALLS[0]: (State.WAITING, "HELD")}
    house.leave, house.ear.answers = Leave.GO, [SILENT]
    house.later(days=1)
    assert house.states() == {CALLS[0]: (State.WAITING, "HL7_NO_ANSWER")}
    house.later(days=1)
    assert house.states()[CALLS[0]][0] is State.DELIVERED


def test_what_is_withheld_is_for_a_person(house: House) -> None:
    """Of a model that did harm nothing is told by itself; a person may."""
    house.leave = Leave.WITHHOLD
    house.release()
    house.later(days=1)
    assert house.states() == {CALLS[0]: (State.DEAD, "WITHHELD")}
    assert house.notified() == []
    house.leave = Leave.GO
    house.later(days=1)
    assert house.ear.heard == []
    house.book.revive("ris", CALLS[0], house.now())
    house.later(seconds=1)
    assert house.states()[CALLS[0]][0] is State.DELIVERED


WRONG: dict[str, tuple[str, Any]] = {
    "another file than was released": ("REPORT_UNTELLABLE", lambda house: house.release(digest=DIGEST)),
    "another object than was released": ("REPORT_UNTELLABLE", lambda house: house.release(uid="2.25.9")),
    "no file": ("REPORT_FILE_UNREADABLE", lambda house: (house.release(), house.file_of(CALLS[0]).unlink())),
    "no report": ("NOT_A_REPORT", lambda house: (house.release(), house.file_of(CALLS[0]).write_bytes(b"x"))),
    "no patient": (
        "REPORT_UNTELLABLE",
        lambda house: house.release(data=changed(data_of("segments", "findings"), PatientID="")),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_told_is_a_dead_letter_and_no_message(house: House, case: str) -> None:
    """Never silence, and never a guess."""
    code, spoil = WRONG[case]
    spoil(house)
    house.teller()
    house.later(days=1)
    assert house.ear.heard == []
    assert house.states() == {CALLS[0]: (State.DEAD, code)}


class Dies(Exception):
    """The power goes."""


def test_killed_while_telling(house: House) -> None:
    """At the next start the same bytes are told again: the receiver knows them by their control id."""
    house.ear.answers = [Dies()]
    house.release()
    with pytest.raises(Dies):
        house.teller()
    house.start()
    house.later(seconds=1)
    assert len(house.ear.heard) == 2
    assert house.ear.heard[0] == house.ear.heard[1]
    assert [one.body["attempts"] for one in house.notified()] == [2]


def test_killed_before_the_log_has_it(house: House) -> None:
    """It was taken, and that is known: it is not told again, only logged."""
    house.writer = Broken()
    house.start()
    house.release()
    with pytest.raises(AuditUnavailable):
        house.teller()
    assert house.states() == {CALLS[0]: (State.SETTLED, "AA")}
    house.writer = house.log
    house.start()
    house.later(seconds=1)
    assert len(house.ear.heard) == 1
    assert len(house.notified()) == 1
    assert house.states() == {CALLS[0]: (State.DELIVERED, "AA")}


class Broken:
    """A log that takes nothing now."""

    def append(self, *_: object) -> Entry:
        """Refuse."""
        raise AuditUnavailable("disk full")


def test_an_old_copy_of_the_book_tells_nothing_again(house: House) -> None:
    """Taken from a backup, it does not know what the log knows."""
    house.ear.answers = [SILENT]
    house.release()
    house.teller()
    old = (house.root / "reports" / BOOK_FILE, *house.root.glob("reports/*-wal"))
    kept = {path: path.read_bytes() for path in old}
    house.later(seconds=5)
    assert len(house.notified()) == 1
    house.book.close()
    for path, content in kept.items():
        path.write_bytes(content)
    for path in house.root.glob("reports/*-shm"):
        path.unlink()
    house.book = Book(house.root / "reports")
    house.start()
    house.later(hours=1)
    assert len(house.ear.heard) == 2
    assert len(house.notified()) == 1
    assert house.states()[CALLS[0]][0] is State.DELIVERED


def test_refused_before_the_book_was_taken_from_a_backup(house: House) -> None:
    """The log has the end already, after other attempts: it stands, and holds up nothing."""
    house.ear.answers = [REFUSED, REFUSED]
    house.release()
    house.teller()
    (row,) = house.book.listed(State.DEAD)
    house.book._change(row, State.WAITING, attempts=7)
    house.later(seconds=5)
    assert [one.body["attempts"] for one in house.notified()] == [1]
    assert house.states() == {CALLS[0]: (State.DEAD, "HL7_AE")}


@pytest.mark.parametrize("state", [State.WAITING, State.SETTLED])
def test_what_this_log_did_not_release_is_not_told(house: House, state: State) -> None:
    """After a succession: the log could not say that it was told, and its verifier would not believe it."""
    house.release()
    row = Row("ris", CALLS[1], 1, "AI1", house.now(), state, house.now(), outcome="DELIVERED", digest=DIGEST)
    house.book.add(row, house.book.mark("ris") or "")
    house.later(seconds=1)
    assert house.states()[CALLS[1]] == (State.DEAD, "RELEASE_NOT_LOGGED")
    assert [one.call for one in house.notified()] == [CALLS[0]]
    assert len(house.ear.heard) == 1


def test_a_log_that_is_another_is_read_from_its_beginning(house: House) -> None:
    """After a restore: what the book knows is not told again, what it does not know is, unless it is too old."""
    house.release(CALLS[0])
    house.teller()
    house.book.move("ris", "2 " + "0" * 64)  # what it read last is not there
    house.time += timedelta(days=8)
    other = changed(data_of("segments", "findings"), StudyInstanceUID="2.25.99", SOPInstanceUID="2.25.98")
    house.release(CALLS[1], other)
    house.start()
    house.later(seconds=1)
    assert [content.split()[1] for content in house.ear.heard] == [CALLS[0].encode(), CALLS[1].encode()]
    house.book.move("ris", "2 " + "0" * 64)
    house.time += timedelta(days=8)
    house.release(CALLS[2], changed(other, StudyInstanceUID="2.25.97", SOPInstanceUID="2.25.96"))
    house.time += timedelta(days=8)
    house.start()
    house.later(seconds=1)
    assert CALLS[2] not in house.states()


def test_stop_is_no_failure(house: House) -> None:
    """What was under way when the service was stopped waits as before, without a pause."""
    house.release()
    house.ear.answers = [SILENT]
    original = house.ear.tell

    def tell(content: bytes, row: Row) -> Answer:
        house.teller.stop()
        return original(content, row)

    house.ear.tell = tell  # type: ignore[method-assign]
    house.teller()
    assert house.ear.aborted
    assert house.states() == {CALLS[0]: (State.WAITING, None)}
    house.teller()
    assert len(house.ear.heard) == 1
    house.ear.tell = original  # type: ignore[method-assign]
    house.start()()
    assert house.states()[CALLS[0]][0] is State.DELIVERED


def test_a_receiver_that_is_named_no_more_is_told_nothing(house: House) -> None:
    """What waits for it is dead, and seen; named again, it hears of what is new."""
    house.ear.answers = [SILENT]
    house.release(CALLS[0])
    house.teller()
    house.book.tidy(["other"], house.now())
    assert house.states() == {CALLS[0]: (State.DEAD, "RECEIVER_NOT_NAMED")}
    house.start()
    house.later(hours=1)
    assert len(house.ear.heard) == 1


def test_nothing_of_a_patient_stays_when_it_is_told(house: House) -> None:
    """The message is kept until it is taken, and no longer."""
    house.ear.answers = [SILENT]
    house.release()
    house.teller()
    (row,) = house.book.listed(State.WAITING)
    assert row.content is not None
    house.later(hours=1)
    (row,) = house.book.listed(State.DELIVERED)
    assert row.content is None
    assert row.digest is not None


def test_what_is_long_told_is_forgotten(house: House) -> None:
    """Not what is dead: that is for a person."""
    house.ear.answers = [TAKEN, REFUSED]
    house.release(CALLS[0])
    other = changed(data_of("segments", "findings"), StudyInstanceUID="2.25.99", SOPInstanceUID="2.25.98")
    house.release(CALLS[1], other)
    house.teller()
    house.book.tidy(["ris"], house.now() + KEPT)
    assert set(house.states()) == set(CALLS[:2])
    house.book.tidy(["ris"], house.now() + KEPT + timedelta(seconds=1))
    assert set(house.states()) == {CALLS[1]}


def test_only_what_is_dead_can_be_told_again(house: House) -> None:
    """Whatever else is asked for is refused in words."""
    house.release()
    house.teller()
    with pytest.raises(CommandRefused):
        house.book.revive("ris", CALLS[0], house.now())
    with pytest.raises(NothingSuch):
        house.book.revive("ris", CALLS[1], house.now())
    with pytest.raises(NothingSuch):
        house.book.revive("other", CALLS[0], house.now())


# ---- what counts no more ---------------------------------------------------------------------------------------------

RESULT, BACK = (CALLS[0], "RESULT", "DELIVERED"), (CALLS[0], "WITHDRAWAL", "DELIVERED")


def test_who_was_told_hears_that_it_counts_no_more(house: House) -> None:
    """Once, by a message of its own; after a restart not again."""
    house.release()
    house.teller()
    house.withdraw()
    house.teller()
    assert house.taken_back() == [False, True]
    assert house.told() == [RESULT, BACK]
    assert len({one.body["digest"] for one in house.notified()}) == 2
    # A round of its own: a receiver that knew the control id would take it for the first message, and forget it.
    assert [one.split()[2] for one in house.ear.heard] == [b"0", b"1"]
    house.start()
    house.later(hours=1)
    assert (house.states()[CALLS[0]][0], len(house.ear.heard)) == (State.DELIVERED, 2)


@pytest.mark.parametrize("answer", [SILENT, REFUSED, AuditUnavailable("away")], ids=["silent", "refused", "cut off"])
def test_who_may_have_been_told_hears_it_as_well(house: House, answer: Answer | Exception) -> None:
    """Whatever came of the first message: the receiver may have it."""
    house.ear.answers = [answer]
    house.release()
    if isinstance(answer, Exception):
        with pytest.raises(AuditUnavailable):
            house.teller()
    else:
        house.teller()
    house.withdraw()
    house.later(hours=1)
    assert house.taken_back() == [False, True]
    assert house.told()[-1] == BACK


def test_what_nobody_was_told_is_not_taken_back(house: House) -> None:
    """It waited while its model was stopped: nothing is told of it any more."""
    house.leave = Leave.HOLD
    house.release()
    house.teller()
    house.withdraw()
    house.leave = Leave.GO
    house.later(hours=1)
    assert house.ear.heard == []
    assert house.states() == {CALLS[0]: (State.OVERTAKEN, None)}


def test_an_older_one_that_was_told_goes_with_the_newer_one(house: House) -> None:
    """The newer one was never told, and stood in the older one's place: nothing may stay at the receiver."""
    house.release(CALLS[0])
    house.teller()
    house.leave = Leave.HOLD
    house.release(CALLS[1])
    house.teller()
    house.withdraw(CALLS[0])
    house.withdraw(CALLS[1])
    house.later(hours=1)
    assert house.taken_back() == [False, True]
    assert house.told() == [RESULT, (CALLS[1], "WITHDRAWAL", "DELIVERED")]


def test_released_and_withdrawn_at_once(house: House) -> None:
    """Both are read in one round, before anything is told."""
    house.release()
    house.withdraw()
    house.later(hours=1)
    assert (house.ear.heard, house.told()) == ([], [])


@pytest.mark.parametrize("leave", list(Leave))
def test_a_stop_keeps_nothing_from_being_taken_back(house: House, leave: Leave) -> None:
    """A stop keeps results in; that one counts no more is none."""
    house.release()
    house.teller()
    house.leave = leave
    house.withdraw()
    house.teller()
    assert house.told() == [RESULT, BACK]


def test_what_a_newer_one_replaced_is_not_taken_back(house: House) -> None:
    """Both go by one name at the receiver: to take the old one back would take the new one."""
    house.release(CALLS[0])
    house.teller()
    house.release(CALLS[1])
    house.teller()
    house.withdraw(CALLS[0])
    house.later(hours=1)
    assert house.taken_back() == [False, False]
    house.withdraw(CALLS[1])
    house.later(hours=1)
    assert house.taken_back() == [False, False, True]


def test_a_newer_one_comes_after_a_withdrawal(house: House) -> None:
    """It is told; and where the withdrawal still waits, in its place."""
    house.release(CALLS[0])
    house.teller()
    house.ear.answers = [SILENT]
    house.withdraw(CALLS[0])
    house.teller()
    house.release(CALLS[1])
    house.later(hours=1)
    assert house.taken_back() == [False, True, False]
    assert {call: state for call, (state, _) in house.states().items()} == {
        CALLS[0]: State.OVERTAKEN,
        CALLS[1]: State.DELIVERED,
    }


def test_a_withdrawal_that_is_refused_is_a_dead_letter(house: House) -> None:
    """It says so in the log, and a person has it told again."""
    house.ear.answers = [TAKEN, REFUSED]
    house.release()
    house.teller()
    house.withdraw()
    house.teller()
    assert house.states() == {CALLS[0]: (State.DEAD, "HL7_AE")}
    house.book.revive("ris", CALLS[0], house.now())
    house.later(hours=1)
    assert house.told() == [RESULT, (CALLS[0], "WITHDRAWAL", "REFUSED"), BACK]
    assert house.taken_back() == [False, True, True]


def test_what_the_book_has_forgotten_the_log_knows(house: House) -> None:
    """A result of last year is taken back as well."""
    house.release()
    house.teller()
    house.book.tidy(["ris"], house.now() + 2 * KEPT)
    assert house.states() == {}
    house.withdraw()
    house.later(days=400)
    assert house.told() == [RESULT, BACK]


def test_who_was_named_later_was_told_nothing(house: House) -> None:
    """And has nothing to take back."""
    house.release()
    house.ear.name = "other"
    house.start()
    house.withdraw()
    house.later(hours=1)
    assert (house.ear.heard, house.states()) == ([], {})


def test_what_the_log_has_not_heard_yet_comes_first(house: House) -> None:
    """The first message was taken, and the log was away: its entry stands before that of the withdrawal."""

    class Away:
        def append(self, _: Draft) -> Entry:
            raise AuditUnavailable("away")

    house.writer = Away()
    house.start()
    house.release()
    with pytest.raises(AuditUnavailable):
        house.teller()
    assert house.states()[CALLS[0]][0] is State.SETTLED
    house.withdraw()
    house.writer = house.log
    house.start()()
    house.later(hours=1)
    assert house.told() == [RESULT, BACK]
