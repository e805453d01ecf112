"""A study is fetched when everything that the peer has is held; anything less is said, with a code and a count."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_bridge.assembly import RESULT_MODALITIES
from dicom_bridge.inbox import Inbox, InboxLimits
from dicom_bridge.peers import Peer, Retrieve
from dicom_bridge.retrieve import Progress, Retrieved, retrieve
from tests.simulators.pulling import OURS, QUICK, STUDY, another_series, held, listening, open_inbox, small
from tests.simulators.query_pacs import GET, MOVE, QueryPacs, by, serving
from tests.simulators.received import Clock, received
from tests.simulators.series import make_slice

pytestmark = pytest.mark.slow  # each opens several associations, as a retrieval does

BOTH = pytest.mark.parametrize("way", [Retrieve.C_GET, Retrieve.C_MOVE], ids=str)


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """An empty spool."""
    with open_inbox(tmp_path) as made:
        yield made


def fetch(pacs: QueryPacs, inbox: Inbox, way: Retrieve = Retrieve.C_GET, **options: object) -> Retrieved:
    """Retrieve STUDY, with our listener running."""
    limits = options.pop("limits", QUICK)
    with listening(inbox) as port, serving(pacs) as peer:
        pacs.destinations = {OURS: ("127.0.0.1", port)}
        return retrieve(by(peer, way), STUDY, inbox, OURS, limits=limits, **options)  # type: ignore[arg-type]


# -- whole ------------------------------------------------------------------------------------------------------------


@BOTH
def test_a_study_is_fetched_whole(inbox: Inbox, way: Retrieve) -> None:
    """Every series, counted by the peer and by us; progress was told on the way."""
    pacs = QueryPacs([*small(4), *another_series("ct", 2, "CT")])
    told: list[Progress] = []
    result = fetch(pacs, inbox, way, progress=told.append)
    assert result == Retrieved(expected=6, stored=6, attempts=1)
    assert held(inbox) == {one.SOPInstanceUID for one in pacs.instances}
    assert told[-1] == Progress(6, 6, 1)


@BOTH
def test_what_is_here_is_not_fetched_again(inbox: Inbox, way: Retrieve) -> None:
    """The second time nothing is asked for but the catalogue."""
    pacs = QueryPacs(small(3))
    assert fetch(pacs, inbox, way).code is None
    assert fetch(pacs, inbox, way) == Retrieved(3, 3, attempts=1)
    assert len(pacs.transfers) == 1


@BOTH
def test_the_rest_of_a_study_is_fetched(inbox: Inbox, way: Retrieve) -> None:
    """After an interruption, or a push that stopped."""
    pacs = QueryPacs(small(4))
    inbox.store(received(0), "TESTPACS")
    assert fetch(pacs, inbox, way) == Retrieved(4, 4, attempts=1)
    assert [one.QueryRetrieveLevel for one in pacs.transfers] == ["IMAGE"]


def test_chosen_series_only(inbox: Inbox) -> None:
    """Results are left where they are; the question is then by series, not for the study."""
    pacs = QueryPacs([*small(2), *another_series("sr", 1, "SR")])
    result = fetch(pacs, inbox, wants=lambda _uid, entry: entry.modality not in RESULT_MODALITIES)
    assert result == Retrieved(2, 2, attempts=1)
    assert held(inbox) == {one.SOPInstanceUID for one in small(2)}
    assert [one.QueryRetrieveLevel for one in pacs.transfers] == ["SERIES"]


def test_nothing_chosen_is_nothing_missing(inbox: Inbox) -> None:
    """The study is there, and none of it is wanted."""
    pacs = QueryPacs(small(2))
    assert fetch(pacs, inbox, wants=lambda _uid, _entry: False) == Retrieved(0, 0, attempts=1)


def test_assembly_waits_while_it_comes(inbox: Inbox) -> None:
    """As for a modality that is still sending; and no longer."""
    seen: list[int] = []

    def sends(_number: int, asked: list[Dataset]) -> list[Dataset]:
        return asked

    pacs = QueryPacs(small(6))
    pacs.sends, pacs.pause_s = sends, 0.3
    fetch(pacs, inbox, progress=lambda at: seen.append(inbox.open_associations(STUDY)) if at.stored else None)
    assert max(seen[:-1]) >= 1
    assert inbox.open_associations(STUDY) == 0
    assert inbox.activity.total() == 0


# -- not whole, and then whole ----------------------------------------------------------------------------------------


@BOTH
def test_what_a_transfer_left_out_is_fetched_once_more(inbox: Inbox, way: Retrieve) -> None:
    """The peer says success and has sent half: nobody believes it, and the rest is asked for by name."""
    pacs = QueryPacs(small(4))
    pacs.sends = lambda number, asked: asked[:2] if number == 1 else asked
    assert fetch(pacs, inbox, way) == Retrieved(4, 4, attempts=2)
    assert [one.QueryRetrieveLevel for one in pacs.transfers] == ["STUDY", "IMAGE"]


def test_a_study_that_grows_meanwhile_is_fetched_to_its_new_end(inbox: Inbox) -> None:
    """The peer's count after the transfer is the one that counts."""
    pacs = QueryPacs(small(2))

    def sends(number: int, asked: list[Dataset]) -> list[Dataset]:
        if number == 1:
            pacs.instances.append(make_slice(7))
        return asked

    pacs.sends = sends
    assert fetch(pacs, inbox) == Retrieved(3, 3, attempts=2)


@BOTH
def test_a_peer_that_dies_in_the_middle_is_asked_again(inbox: Inbox, way: Retrieve) -> None:
    """What came is held, the rest comes the next time."""
    pacs = QueryPacs(small(4))
    pacs.dies_after = 2

    def sends(number: int, asked: list[Dataset]) -> list[Dataset]:
        pacs.dies_after = 2 if number == 1 else None
        return asked

    pacs.sends = sends
    assert fetch(pacs, inbox, way) == Retrieved(4, 4, attempts=2)


def test_images_that_come_after_the_answer_are_waited_for(inbox: Inbox) -> None:
    """Some PACS answer a C-MOVE at once and send later."""
    pacs = QueryPacs(small(2))
    late = threading.Timer(0.5, lambda: [inbox.store(received(index), "TESTPACS") for index in range(2)])

    def nothing_yet(_number: int, _asked: object) -> list[Any]:
        # From when it was asked for: on a busy machine the question itself takes longer than that.
        late.start()
        return []

    pacs.sends = nothing_yet
    result = fetch(pacs, inbox, Retrieve.C_MOVE, limits=replace(QUICK, settle_s=20))
    late.join()
    assert result == Retrieved(2, 2, attempts=1)
    assert len(pacs.transfers) == 1


# -- not whole --------------------------------------------------------------------------------------------------------


@BOTH
def test_a_partial_transfer_is_never_a_success(inbox: Inbox, way: Retrieve) -> None:
    """Status 0x0000 each time, and one instance never comes: PULL_INCOMPLETE after the last attempt, with counts."""
    pacs = QueryPacs(small(4))
    pacs.sends = lambda _number, asked: [one for one in asked if one.InstanceNumber != 3]
    result = fetch(pacs, inbox, way)
    assert (result.code, result.expected, result.stored, result.attempts) == ("PULL_INCOMPLETE", 4, 3, 3)
    assert len(pacs.transfers) == 3


def test_a_list_that_is_cut_short_does_not_hide_what_is_missing(inbox: Inbox) -> None:
    """The peer lists two of four, and counts four."""
    pacs = QueryPacs(small(4))
    pacs.lists = lambda inside: inside[:2]
    pacs.sends = lambda _number, asked: asked[:2]
    result = fetch(pacs, inbox)
    assert (result.code, result.expected, result.stored) == ("PULL_INCOMPLETE", 4, 2)
    pacs.sends = lambda _number, asked: asked
    assert fetch(pacs, inbox).code is None
    assert len(held(inbox)) == 4


def test_failures_are_counted_with_their_codes(inbox: Inbox) -> None:
    """Ours for what we refused, the peer's for what it could not send."""

    def spoil(_number: int, asked: list[Dataset]) -> list[Dataset]:
        for one in asked:
            if one.InstanceNumber == 2:
                one.SeriesInstanceUID = "no UID"
        return asked

    pacs = QueryPacs(small(3))
    listed = small(3)
    pacs.sends = lambda number, _asked: spoil(number, deepcopy(listed))
    pacs.final = 0xA702
    result = fetch(pacs, inbox)
    assert (result.code, result.stored) == ("PULL_INCOMPLETE", 2)
    assert result.failed["UID_INVALID"] == 1
    assert result.failed.keys() == {"UID_INVALID", "0xA702"}


def other_study(_number: int, asked: list[Dataset]) -> list[Dataset]:
    """What a broken PACS sends."""
    return [make_slice(index, seed="another") for index in range(len(asked))]


def test_another_study_sent_back_ends_it_at_once(inbox: Inbox) -> None:
    """Not one instance of it is in the spool, one copy is in quarantine, and the peer is not asked again."""
    pacs = QueryPacs(small(3))
    pacs.sends = other_study
    result = fetch(pacs, inbox)
    assert (result.code, result.stored, result.attempts) == ("PULL_WRONG_STUDY", 0, 1)
    assert inbox.open_studies() == ()
    assert [one.code for one in inbox.quarantined()] == ["WRONG_STUDY"]


def test_another_study_pushed_by_a_move_counts_for_nothing(inbox: Inbox) -> None:
    """It comes to the listener as any push does; the study that was asked for is still missing."""
    pacs = QueryPacs(small(3))
    pacs.sends = other_study
    result = fetch(pacs, inbox, Retrieve.C_MOVE)
    assert (result.code, result.expected, result.stored) == ("PULL_INCOMPLETE", 3, 0)


@pytest.mark.parametrize(
    ("spoil", "way", "code", "attempts"),
    [
        (lambda pacs: pacs.instances.clear(), Retrieve.C_GET, "PULL_NOT_FOUND", 1),
        (lambda pacs: setattr(pacs, "find_status", 0xA700), Retrieve.C_GET, "PEER_FAILURE_STATUS", 3),
        (lambda pacs: setattr(pacs, "final", 0xC000), Retrieve.C_GET, None, 1),
        (lambda pacs: setattr(pacs, "dies_after", 0), Retrieve.C_GET, "PEER_NO_ANSWER", 3),
    ],
    ids=["not there", "C-FIND fails", "a failure that is none", "dies each time"],
)
def test_each_end_has_its_code(
    inbox: Inbox, spoil: Callable[[QueryPacs], None], way: Retrieve, code: str | None, attempts: int
) -> None:
    """What another attempt could mend is tried again, what not is not; what is held decides, not the last status."""
    pacs = QueryPacs(small(2))
    spoil(pacs)
    result = fetch(pacs, inbox, way)
    assert (result.code, result.attempts) == (code, attempts)
    assert (result.stored == 2) is (code is None)


def test_an_unknown_destination_is_not_tried_again(inbox: Inbox) -> None:
    """The PACS must be told of us first."""
    with serving(QueryPacs(small(2))) as peer:
        result = retrieve(peer, STUDY, inbox, OURS, limits=QUICK)
    assert (result.code, result.attempts) == ("PULL_DESTINATION_UNKNOWN", 1)
    assert OURS in result.detail


@pytest.mark.parametrize(("way", "model"), [(Retrieve.C_GET, GET), (Retrieve.C_MOVE, MOVE)], ids=str)
def test_a_peer_without_the_service_is_not_tried_again(inbox: Inbox, way: Retrieve, model: str) -> None:
    """Configuration, not weather."""
    pacs = QueryPacs(small(2))
    with serving(pacs, models=["1.2.840.10008.5.1.4.1.2.2.1"]) as peer:
        result = retrieve(by(peer, way), STUDY, inbox, OURS, limits=QUICK)
    assert (result.code, result.attempts) == ("PEER_NO_CONTEXT", 1)
    assert model not in {name for proposed in pacs.proposed[:1] for name, _ in proposed}


def test_a_peer_that_is_away_is_tried_a_few_times(inbox: Inbox) -> None:
    """And then it is said that it is away."""
    with serving(QueryPacs()) as peer:
        pass
    result = retrieve(peer, STUDY, inbox, OURS, limits=QUICK)
    assert (result.code, result.attempts) == ("PEER_UNREACHABLE", 3)


def test_a_full_disk_ends_it(tmp_path: Path) -> None:
    """The peer is told 0xA700, and nothing more is asked for."""
    full = Inbox(tmp_path / "full", Clock(), limits=InboxLimits(free_bytes_min=1 << 60))
    with serving(QueryPacs(small(3))) as peer:
        result = retrieve(by(peer, Retrieve.C_GET), STUDY, full, OURS, limits=QUICK)
    assert (result.code, result.stored, result.attempts) == ("SPOOL_FULL", 0, 1)
    full.close()


@BOTH
def test_it_can_be_called_off(inbox: Inbox, way: Retrieve) -> None:
    """In the middle; what came stays."""
    stop = threading.Event()
    pacs = QueryPacs(small(8))
    pacs.pause_s = 0.4
    result = fetch(pacs, inbox, way, stop=stop, progress=lambda at: stop.set() if at.stored >= 2 else None)
    assert result.code == "PULL_CANCELLED"
    assert 2 <= result.stored < 8
    assert result.attempts == 1


def test_called_off_before_it_begins(inbox: Inbox) -> None:
    """Nobody is asked anything."""
    stop = threading.Event()
    stop.set()
    pacs = QueryPacs(small(1))
    assert fetch(pacs, inbox, stop=stop).code == "PULL_CANCELLED"
    assert pacs.asked == []


@pytest.mark.parametrize("uid", ["", "*", "1.2\\1.3", "../1"])
def test_a_wildcard_is_no_study(inbox: Inbox, uid: str) -> None:
    """A caller's mistake, before anything is opened."""
    with pytest.raises(ValueError, match="study"):
        retrieve(Peer("p", "P", "127.0.0.1", 104), uid, inbox, OURS)


def test_an_index_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """The spool's fault, not the peer's; never an exception."""
    with open_inbox(tmp_path) as inbox:
        pass
    with serving(QueryPacs(small(1))) as peer:
        result = retrieve(peer, STUDY, inbox, OURS, limits=QUICK)
    assert result.code == "SPOOL_FAILED"
