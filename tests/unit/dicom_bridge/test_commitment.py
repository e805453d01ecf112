"""Storage commitment, both ways: what we say that we hold we hold, and what a PACS says of our results is heard."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import N_ACTION

from dicom_bridge.calling import CallLimits
from dicom_bridge.commitment import KEEP_TRYING, REPORT_AFTER, CommitmentDesk, tell
from dicom_bridge.commitment_book import DUE_MAX, KEEP, BookUnavailable, CommitmentBook, Stand
from dicom_bridge.commitment_messages import (
    REFERENCES_MAX,
    MessageInvalid,
    Report,
    Request,
    read_report,
    read_request,
    write_report,
    write_request,
)
from dicom_bridge.delivery import PAUSE_MAX
from dicom_bridge.errors import InboxUnavailable, PeerFailed
from dicom_bridge.inbox import Inbox, InboxLimits
from dicom_bridge.ledger import Batch, Proof, State
from dicom_bridge.listener import Listener
from dicom_bridge.outbox import Outbox
from dicom_bridge.peers import Peer
from tests.simulators import series
from tests.simulators.committed_modality import CommittedModality, ask_on, said, wanted
from tests.simulators.pacs import FakePacs, Reporting
from tests.simulators.received import Clock, received
from tests.simulators.waiting import until

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
HELD = series.make_slice(0)
SECOND = timedelta(seconds=1)


def nothing_of_use() -> Dataset:
    """A data set without what it should have; an empty one would not be sent at all."""
    ds = Dataset()
    ds.RetrieveAETitle = "NOBODY"
    return ds


class House:
    """Listener, inbox and desk of one installation, on a clock of its own; the outbox where a test needs one."""

    def __init__(self, root: Path, clock: Clock, **peers: Peer) -> None:
        self.root, self.clock, self.peers = root, clock, peers
        self.inbox = Inbox(root / "spool", clock, limits=InboxLimits(free_bytes_min=0))
        self.reports: list[tuple[Report, str]] = []
        self.broken = False
        self.outbox: Outbox | None = None
        self._open()

    def _open(self) -> None:
        self.desk = CommitmentDesk(
            self.root / "commitment",
            self.clock,
            peers=self.peers,
            calling_ae="ZHIYING",
            held=self._held,
            reports=self._report,
        )
        self.listener = Listener("ZHIYING", "127.0.0.1", 0, self.inbox, extra=self.desk.extra())
        self.listener.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.listener.port

    def _held(self, uid: str) -> str | None:
        if self.broken:
            raise InboxUnavailable("SPOOL_FAILED")
        held = self.inbox._index.instance(uid)
        return None if held is None else held.sop_class

    def _report(self, report: Report, sender: str) -> int:
        self.reports.append((report, sender))
        return 0 if self.outbox is None else self.outbox.report(report, sender)

    def restart(self) -> None:
        """As after a crash: all that is in memory is gone."""
        self.listener.stop()
        self.desk.stop()
        self._open()

    def run(self, seconds: float = 0.5) -> int:
        """Let time pass and report what is due."""
        self.clock.tick(seconds)
        return self.desk.run_due()

    def stands(self) -> list[tuple[Stand, str | None]]:
        """How far each request is."""
        return [(asked.stand, asked.code) for asked in self.desk.requests()]

    def close(self) -> None:
        """End everything."""
        self.listener.stop()
        self.desk.stop()
        self.inbox.close()


@pytest.fixture
def modality() -> Iterator[CommittedModality]:
    """A modality that listens."""
    with CommittedModality() as made:
        yield made


@pytest.fixture
def house(tmp_path: Path, modality: CommittedModality) -> Iterator[House]:
    """A house that knows the modality and holds one instance of it."""
    made = House(tmp_path, Clock(), modality=modality.peer())
    made.inbox.store(received(ds=HELD), "TESTMODALITY")
    yield made
    made.close()


# ---- as SCP ----------------------------------------------------------------------------------------------------------


def test_what_we_hold_we_commit_to(house, modality) -> None:
    """Remembered before it is accepted, and reported a moment later on a new association, in the SCP's role."""
    assert modality.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID))) == 0x0000
    assert house.stands() == [(Stand.DUE, None)]
    assert house.run(0) == 0, "the answer goes first"
    assert house.run(REPORT_AFTER.total_seconds()) == 1
    (report,) = modality.reports
    assert said(report) == (1, [HELD.SOPInstanceUID], {})
    assert report[1].TransactionUID == "1.2.3"
    assert modality.roles == [(True, False)], "seen from the modality: it is the SCU"
    assert house.stands() == [(Stand.TOLD, None)]
    assert house.run(3600) == 0


def test_what_we_do_not_hold_fails_with_its_reason(house, modality) -> None:
    """Not held: 0x0112; held under another class: 0x0119; held: committed, in the same report of type 2."""
    other = series.make_slice(1)
    house.inbox.store(received(ds=other), "TESTMODALITY")
    asked = wanted("1.2.3", (MR, HELD.SOPInstanceUID), (MR, "1.9.9"), (CT, other.SOPInstanceUID))
    modality.ask(house.port, asked)
    house.run()
    assert said(modality.reports[0]) == (2, [HELD.SOPInstanceUID], {"1.9.9": 0x0112, other.SOPInstanceUID: 0x0119})


def test_an_inbox_that_cannot_look_commits_to_nothing(house, modality) -> None:
    """A broken disk is a processing failure (0x0110): the modality keeps its copy and may ask again."""
    house.broken = True
    modality.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID)))
    house.run()
    assert said(modality.reports[0]) == (2, [], {HELD.SOPInstanceUID: 0x0110})


def test_a_transaction_for_other_instances_is_a_duplicate(house, modality) -> None:
    """The first request keeps its verdict; the second gets 0x0131 for everything."""
    modality.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID)))
    modality.ask(house.port, wanted("1.2.3", (MR, "1.9.9")))
    house.run()
    assert [said(report) for report in modality.reports] == [
        (1, [HELD.SOPInstanceUID], {}),
        (2, [], {"1.9.9": 0x0131}),
    ]


def test_the_same_request_again_is_the_same_request(house, modality) -> None:
    """Its answer was lost, before or after the report: one row, told again."""
    for _ in range(2):
        assert modality.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID))) == 0x0000
    house.run()
    assert len(modality.reports) == 1
    modality.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID)))
    house.run()
    assert [said(report)[0] for report in modality.reports] == [1, 1]
    assert house.stands() == [(Stand.TOLD, None)]


def test_two_callers_may_use_one_transaction(house, modality) -> None:
    """A UID that another caller used is none of this one's business."""
    with CommittedModality("OTHERMODALITY") as other:
        house.desk._peers["OTHERMODALITY"] = other.peer()
        modality.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID)))
        other.ask(house.port, wanted("1.2.3", (MR, "1.9.9")))
        house.run()
        assert said(other.reports[0]) == (2, [], {"1.9.9": 0x0112})
    assert said(modality.reports[0])[0] == 1


def test_a_modality_that_is_down_is_told_for_days(house, modality) -> None:
    """Growing pauses, a restart in between, and then its report; its other requests wait with it."""
    modality.down()
    with CommittedModality() as caller:  # asks from another port than it listens on
        caller.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID)))
        caller.ask(house.port, wanted("1.2.4", (MR, "1.9.9")))
    assert house.run() == 1, "one try for both"
    assert house.stands() == [(Stand.DUE, "PEER_UNREACHABLE"), (Stand.DUE, None)]
    assert house.run(1) == 0
    house.restart()
    assert house.run(1) == 1
    assert house.run(3) == 0
    modality.up()
    assert house.run(1) == 2
    assert sorted(said(report)[0] for report in modality.reports) == [1, 2]
    assert {stand for stand, _ in house.stands()} == {Stand.TOLD}


def test_after_days_a_report_is_given_up(house, modality) -> None:
    """A modality that was taken away: dropped with a code, not tried for ever."""
    modality.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID)))
    modality.down()
    house.run()
    house.run((KEEP_TRYING + PAUSE_MAX).total_seconds())
    assert house.stands() == [(Stand.DROPPED, "TOO_OLD")]


def test_what_is_held_counts_when_it_is_reported(house, modality) -> None:
    """Not when it was asked: an instance that came a moment later is committed."""
    late = series.make_slice(2)
    modality.ask(house.port, wanted("1.2.3", (MR, late.SOPInstanceUID)))
    house.inbox.store(received(ds=late), "TESTMODALITY")
    house.run()
    assert said(modality.reports[0])[0] == 1


@pytest.mark.parametrize(
    ("status", "stand", "code"),
    [
        (0xB000, Stand.TOLD, None),
        (0x0110, Stand.DUE, "STATUS_0110"),
        (0x0213, Stand.DUE, "STATUS_0213"),
        (0x0112, Stand.DROPPED, "STATUS_0112"),
        (0x0211, Stand.DROPPED, "STATUS_0211"),
    ],
)
def test_what_the_modality_answers_decides(house, modality, status, stand, code) -> None:
    """Told, worth another try, or never: a report that is refused for good is not sent for days."""
    modality.answers = [status]
    modality.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID)))
    house.run()
    assert house.stands() == [(stand, code)]
    house.run(2)
    assert len(modality.reports) == (2 if stand is Stand.DUE else 1)


@pytest.mark.slow
def test_a_caller_that_nobody_named_is_told_where_it_asked(house) -> None:
    """On the same association while it is open; the association goes on afterwards."""
    with CommittedModality("STRANGER") as stranger, stranger.association(house.port) as association:
        for number in range(2):
            asked = wanted(f"1.2.{number}", (MR, HELD.SOPInstanceUID))
            assert ask_on(association, asked) == 0x0000
            assert house.run() == 1
            stranger.wait(number + 1)
        assert association.is_established
        assert stranger.roles == [], "nobody called it at an address that nobody configured"
    assert house.stands() == [(Stand.TOLD, None)] * 2


def test_a_caller_that_nobody_named_and_that_has_gone_cannot_be_told(house, tmp_path) -> None:
    """No address is known, and none is guessed: dropped, with a code, also after a restart."""
    with CommittedModality("STRANGER") as stranger:
        stranger.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID)))
        house.run()
        stranger.ask(house.port, wanted("1.2.4", (MR, HELD.SOPInstanceUID)))
        house.restart()
        house.run()
        assert stranger.reports == []
    assert house.stands() == [(Stand.DROPPED, "CALLER_UNKNOWN")] * 2
    assert house.desk._open == {}


@pytest.mark.parametrize(
    ("asked", "action", "instance", "status"),
    [
        (wanted("1.2.3", (MR, "1.9")), 2, "1.2.840.10008.1.20.1.1", 0x0123),
        (wanted("1.2.3", (MR, "1.9")), 1, "1.2.3.4", 0x0112),
        (wanted("", (MR, "1.9")), 1, "1.2.840.10008.1.20.1.1", 0x0115),
        (wanted("../../etc", (MR, "1.9")), 1, "1.2.840.10008.1.20.1.1", 0x0115),
        (wanted("1.2.3"), 1, "1.2.840.10008.1.20.1.1", 0x0115),
        (wanted("1.2.3", (MR, "")), 1, "1.2.840.10008.1.20.1.1", 0x0115),
        (wanted("1.2.3", (MR, "1.2*")), 1, "1.2.840.10008.1.20.1.1", 0x0115),
        (nothing_of_use(), 1, "1.2.840.10008.1.20.1.1", 0x0115),
    ],
)
def test_a_request_that_says_nothing_is_refused(house, modality, asked, action, instance, status) -> None:
    """Each with its status, and none is remembered."""
    assert modality.ask(house.port, asked, action=action, instance=instance) == status
    assert house.stands() == []


def test_rubbish_instead_of_a_request_harms_nobody(house, modality) -> None:
    """Bytes that are no data set: a failure status, and the association and the desk go on."""
    with modality.association(house.port) as association:
        request = N_ACTION()
        request.MessageID = 1
        request.RequestedSOPClassUID = "1.2.840.10008.1.20.1"
        request.RequestedSOPInstanceUID = "1.2.840.10008.1.20.1.1"
        request.ActionTypeID = 1
        request.ActionInformation = io.BytesIO(b"\xff\xfe no data set at all \x00" * 9)
        association._reactor_checkpoint.clear()
        until(lambda: association._is_paused)
        time.sleep(0.01)
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert answer.Status in (0x0110, 0x0115)
        assert ask_on(association, wanted("1.2.3", (MR, HELD.SOPInstanceUID))) == 0x0000
    assert len(house.stands()) == 1


def test_what_cannot_be_remembered_is_not_accepted(house, modality) -> None:
    """The book is closed, as with a full disk: 0x0213, and the modality asks again later."""
    house.desk._book.close()
    assert modality.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID))) == 0x0213


@pytest.mark.slow
def test_the_thread_reports_by_itself(tmp_path, modality) -> None:
    """Started, the desk needs nobody; stopped, it is not healthy."""
    house = House(tmp_path, Clock(), modality=modality.peer())
    try:
        assert not house.desk.healthy()
        house.desk.start()
        assert house.desk.healthy()
        modality.ask(house.port, wanted("1.2.3", (MR, "1.9.9")))
        house.clock.tick(1)
        modality.wait(1)
        until(lambda: house.stands() == [(Stand.TOLD, None)])
        house.desk.stop()
        assert not house.desk.healthy()
    finally:
        house.close()


_CHILD = textwrap.dedent(
    """
    import os, signal, sys, threading
    from datetime import UTC, datetime
    from pathlib import Path
    from dicom_bridge.commitment import CommitmentDesk
    from dicom_bridge.inbox import Inbox
    from dicom_bridge.listener import Listener

    root = Path(sys.argv[1])
    now = lambda: datetime(2026, 4, 1, 8, tzinfo=UTC)
    inbox = Inbox(root / "spool", now)
    desk = CommitmentDesk(
        root / "commitment", now, peers={}, calling_ae="ZHIYING", held=lambda uid: None, reports=lambda *_: 0
    )
    listener = Listener("ZHIYING", "127.0.0.1", 0, inbox, extra=desk.extra())
    listener.start()
    print(listener.port, flush=True)
    threading.Event().wait()
    """
)


@pytest.mark.slow
def test_kill_9_after_the_answer_forgets_no_request(tmp_path, modality) -> None:
    """The moment the modality has 0x0000 the request survives: the next start reports on it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", _CHILD, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        assert modality.ask(port, wanted("1.2.3", (MR, "1.9.9"))) == 0x0000
        child.send_signal(signal.SIGKILL)
    house = House(tmp_path, Clock(), modality=modality.peer())
    try:
        assert house.run() == 1
        assert said(modality.reports[0]) == (2, [], {"1.9.9": 0x0112})
    finally:
        house.close()


# ---- the book --------------------------------------------------------------------------------------------------------


def test_a_flood_of_requests_is_bounded(tmp_path) -> None:
    """The ten-thousandth that waits is refused; what is over makes room, and is forgotten after a month."""
    clock = Clock()
    book = CommitmentBook(tmp_path / "book.sqlite3")
    with book._transaction() as db:
        db.executemany(
            "INSERT INTO request (caller, transaction_uid, digest, duplicate, state, received_at, next_at)"
            " VALUES ('A', ?, 'd', 0, 'DUE', ?, ?)",
            [(f"1.{n}", clock().isoformat(), clock().isoformat()) for n in range(DUE_MAX)],
        )
    with pytest.raises(BookUnavailable, match="COMMITMENT_BOOK_FULL"):
        book.add("A", Request("1.2.3", ((MR, "1.9"),)), clock(), clock())
    with book._transaction() as db:
        db.execute("UPDATE request SET state = 'TOLD'")
    book.add("A", Request("1.2.3", ((MR, "1.9"),)), clock(), clock())
    clock.tick((KEEP + SECOND).total_seconds())
    book.add("A", Request("1.2.4", ((MR, "1.9"),)), clock(), clock())
    assert [asked.request.transaction_uid for asked in book.all()] == ["1.2.3", "1.2.4"]
    book.close()
    with pytest.raises(BookUnavailable, match="closed"):
        book.all()


def test_a_clock_that_was_set_back_holds_up_no_report(house, modality) -> None:
    """An appointment years ahead was made by a wrong clock: it is due."""
    modality.ask(house.port, wanted("1.2.3", (MR, HELD.SOPInstanceUID)))
    assert house.run(-timedelta(days=4000).total_seconds()) == 1
    assert len(modality.reports) == 1


def test_a_damaged_book_is_said(tmp_path) -> None:
    """Not a traceback: a coded error that names no path."""
    (tmp_path / "book.sqlite3").write_bytes(b"no database, not at all" * 100)
    with pytest.raises(BookUnavailable, match="COMMITMENT_BOOK_UNAVAILABLE") as caught:
        CommitmentBook(tmp_path / "book.sqlite3")
    assert str(tmp_path) not in str(caught.value)


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_what_is_written_reads_back() -> None:
    """Requests and reports survive their own encoding; the simulators check it against the standard's words."""
    request = Request("1.2.3", ((MR, "1.9.1"), (CT, "1.9.2")))
    assert read_request(write_request(request)) == request
    assert write_report(request, {})[0] == 1
    event_type, information = write_report(request, {(CT, "1.9.2"): 0x0112})
    assert event_type == 2
    assert read_report(information) == Report("1.2.3", frozenset({"1.9.1"}), {"1.9.2": 0x0112})


def test_a_failure_without_a_reason_is_a_failure() -> None:
    """Some PACS leave the reason out: processing failure."""
    information = wanted("1.2.3")
    information.FailedSOPSequence = wanted("1", (MR, "1.9")).ReferencedSOPSequence
    assert read_report(information).failed == {"1.9": 0x0110}


def test_a_request_beyond_all_bounds_is_refused() -> None:
    """More instances than any study has: resource limitation, before memory is spent on it."""
    information = wanted("1.2.3", (MR, "1.9"))
    information.ReferencedSOPSequence = list(information.ReferencedSOPSequence) * (REFERENCES_MAX + 1)
    with pytest.raises(MessageInvalid) as caught:
        read_request(information)
    assert caught.value.status == 0x0213


@pytest.mark.parametrize("bad", [Dataset(), wanted("x", (MR, "1.9")), wanted("1.2.3", (MR, "not a UID"))])
def test_a_report_that_says_nothing_is_refused(bad) -> None:
    """Invalid argument, nothing heard."""
    with pytest.raises(MessageInvalid) as caught:
        read_report(bad)
    assert caught.value.status == 0x0115


# ---- as SCU, over the network ----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two results."""
    return sorted(series.write_series(tmp_path / "results", 2, shape=(4, 4)))


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    """A PACS whose complaints fail the test."""
    with FakePacs() as fake:
        yield fake
    assert fake.complaints == []


class Sending(House):
    """A house with an outbox whose reports come through the desk."""

    def __init__(self, root: Path, clock: Clock, pacs: FakePacs, **abilities: Any) -> None:
        self.told: list[Batch] = []
        peer = pacs.peer(**abilities)
        super().__init__(root, clock, pacs=peer)
        self.outbox = Outbox(root / "outbox", clock, self.told.append, peers={"pacs": peer})
        pacs.reports_to = (self.port, "ZHIYING")

    def close(self) -> None:
        """End everything."""
        super().close()
        if self.outbox is not None:
            self.outbox.stop()


@pytest.fixture
def sending_to(tmp_path: Path, pacs: FakePacs) -> Iterator[Callable[..., Sending]]:
    """Makes the house for a PACS with these abilities."""
    made: list[Sending] = []

    def make(**abilities: Any) -> Sending:
        made.append(Sending(tmp_path / "house", Clock(), pacs, **abilities))
        return made[-1]

    yield make
    for house in made:
        house.close()


@pytest.mark.slow
def test_a_report_on_the_same_association_ends_the_wait(sending_to, pacs, files) -> None:
    """The PACS reports before the association is released: committed, confirmed and told in one go."""
    pacs.reporting = Reporting.SAME
    house = sending_to(commitment=True, counts=True)
    house.outbox.enqueue("call-1", "pacs", files)
    house.outbox.run_due("pacs")
    assert house.outbox.batch("call-1").state is State.DELIVERED
    assert [batch.proof for batch in house.told] == [Proof.COMMITMENT]
    assert (pacs.report_answers, len(pacs.requests), len(pacs.queries)) == ([0], 1, 1)


@pytest.mark.slow
def test_a_report_on_a_new_association_comes_to_our_port(sending_to, pacs, files) -> None:
    """The usual case: the PACS calls us, in the SCP's role, and the sender goes on at once."""
    pacs.reporting = Reporting.NEW
    house = sending_to(commitment=True, counts=True)
    house.outbox.start()
    house.outbox.enqueue("call-1", "pacs", files)
    until(lambda: house.told)
    assert [batch.proof for batch in house.told] == [Proof.COMMITMENT]
    assert pacs.report_answers == [0]


@pytest.mark.slow
def test_a_report_that_comes_hours_later_counts(sending_to, pacs, files) -> None:
    """Nobody waits with an open association: the second request is not even held open for it."""
    house = sending_to(commitment=True)
    house.outbox.enqueue("call-1", "pacs", files[:1])
    house.outbox.enqueue("call-2", "pacs", files[1:])
    house.outbox.run_due("pacs")
    assert house.outbox._elsewhere == {"pacs"}
    house.clock.tick(5 * 3600)
    assert [pacs.report(asked) for asked in pacs.requests] == [0, 0]
    house.outbox.run_due("pacs")
    assert [(batch.id, batch.proof) for batch in house.told] == [
        ("call-1", Proof.COMMITMENT),
        ("call-2", Proof.COMMITMENT),
    ]


@pytest.mark.slow
def test_a_commitment_that_fails_is_sent_again(sending_to, pacs, files) -> None:
    """The PACS has lost one object and says so: that one goes out again, then all is committed."""
    pacs.reporting = Reporting.SAME
    house = sending_to(commitment=True, counts=True)
    house.outbox.enqueue("call-1", "pacs", files)
    lost = house.outbox.batch("call-1").outputs[1].uid
    pacs.reasons = {lost: 0x0110}
    house.outbox.run_due("pacs")
    assert house.outbox.batch("call-1").code == "COMMITMENT_0110"
    pacs.reasons = {}
    house.clock.tick(60)
    house.outbox.run_due("pacs")
    assert [batch.proof for batch in house.told] == [Proof.COMMITMENT]
    assert pacs.received[2:] == [lost]


@pytest.mark.slow
def test_an_answer_that_was_lost_after_the_store_makes_no_second_object(sending_to, pacs, files) -> None:
    """Failed but persisted: the PACS has stored and the association breaks; sent again it is the same object."""

    def break_off() -> None:
        pacs.before_answer = lambda: None
        assert pacs._server is not None
        threads = pacs._server.active_associations

        def soon() -> None:
            until(lambda: pacs.received)
            for association in threads:
                association.abort()

        threading.Thread(target=soon, daemon=True).start()

    house = sending_to(counts=True)
    house.outbox.enqueue("call-1", "pacs", files[:1])
    pacs.before_answer = break_off
    for _ in range(3):
        house.outbox.run_due("pacs")
        house.clock.tick(10)
    assert [batch.proof for batch in house.told] == [Proof.FOUND]
    assert len(pacs.stored) == 1


def test_a_report_from_somebody_else_is_answered_and_ignored(sending_to, pacs, files) -> None:
    """Whoever knows a transaction UID is not therefore the PACS."""
    house = sending_to(commitment=True)
    house.outbox._elsewhere.add("pacs")
    house.outbox.enqueue("call-1", "pacs", files)
    house.outbox.run_due("pacs")
    (asked,) = pacs.requests
    assert pacs.report(asked, ae_title="SOMEBODY") == 0
    assert house.outbox.batch("call-1").state is State.ASKED
    assert pacs.report(wanted("1.2.3", (MR, "1.9.9"))) == 0, "unknown transaction"
    assert pacs.report(asked) == 0
    assert pacs.report(asked) == 0, "repeated"
    house.outbox.run_due("pacs")
    assert [batch.proof for batch in house.told] == [Proof.COMMITMENT]


def test_a_report_that_cannot_be_kept_is_not_acknowledged(sending_to, pacs, files) -> None:
    """The ledger's disk is full: 0x0213, so that the PACS reports again."""
    house = sending_to(commitment=True)
    house.outbox._elsewhere.add("pacs")
    house.outbox.enqueue("call-1", "pacs", files)
    house.outbox.run_due("pacs")
    house.outbox._ledger.close()
    assert pacs.report(pacs.requests[0]) == 0x0213


def test_an_event_that_is_none_is_said(house) -> None:
    """Event types are 1 and 2; a report without a transaction is an invalid argument."""
    with FakePacs() as pacs:
        pacs.reports_to = (house.port, "ZHIYING")
        event: list[Any] = [nothing_of_use(), 3]
        pacs.verdict = lambda _asked: (event[0], event[1])  # type: ignore[method-assign]
        assert pacs.report(wanted("1.2.3")) == 0x0113
        event[1] = 1
        assert pacs.report(wanted("1.2.3")) == 0x0115
    assert house.reports == []


@pytest.mark.slow
def test_a_pacs_that_stops_in_the_middle_of_a_word_costs_bounded_time(modality) -> None:
    """A peer that sends half a PDU and no more is left after the time that an operation may take."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def half() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"\x02\x00\x00\x00\x10\x00half a PDU")
                connection.recv(1)

        threading.Thread(target=half, daemon=True).start()
        peer = Peer("half", "HALF", "127.0.0.1", server.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(PeerFailed):
            tell(peer, "ZHIYING", 1, wanted("1.2.3", (MR, "1.9")), CallLimits(connect_s=2, acse_s=2, dimse_s=1))
        assert time.monotonic() - began < 30
