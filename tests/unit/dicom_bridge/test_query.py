"""Questions to a peer: answered, or a coded failure in bounded time; never a wrong count."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_bridge.assembly import SeriesCount
from dicom_bridge.errors import PeerFailed
from dicom_bridge.peers import Peer
from dicom_bridge.query import QueryLimits, echo, find_held, find_instances, find_series, series_counts

LIMITS = QueryLimits(connect_s=10, acse_s=10, dimse_s=10)
STUDY = "1.2.3.4"


def series(uid: str = "1.2.3.4.1", modality: str = "MR", count: object = 190) -> Dataset:
    """Return one C-FIND answer."""
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID, ds.SeriesInstanceUID = "SERIES", STUDY, uid
    ds.Modality = modality
    if count is not None:
        ds.add_new("NumberOfSeriesRelatedInstances", "IS", count)
    return ds


class Pacs:
    """A PACS that answers as told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.final = 0x0000
        self.delay_s = 0.0
        self.asked: list[Dataset] = []

    def find(self, event: Any) -> Iterator[Any]:
        """Answer C-FIND."""
        self.asked.append(event.identifier)
        time.sleep(self.delay_s)
        for answer in self.answers:
            yield 0xFF00, answer
        if self.final != 0x0000:
            yield self.final, None


@contextmanager
def serving(pacs: Pacs, contexts: tuple[Any, ...], called: str = "TESTPACS") -> Iterator[Peer]:
    """Run a PACS on loopback."""
    entity = AE(ae_title=called)
    entity.require_called_aet = True
    for context in contexts:
        entity.add_supported_context(context)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, pacs.find)])
    try:
        yield Peer("pacs", "TESTPACS", "127.0.0.1", server.server_address[1], counts=True)
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Pacs, Peer]]:
    """One PACS for most tests."""
    pacs = Pacs()
    with serving(pacs, (Verification, StudyRootQueryRetrieveInformationModelFind)) as peer:
        yield pacs, peer


@pytest.fixture
def pacs(running: tuple[Pacs, Peer]) -> Pacs:
    """The PACS, with nothing told."""
    running[0].__init__()  # type: ignore[misc]
    return running[0]


@pytest.fixture
def peer(running: tuple[Pacs, Peer]) -> Peer:
    """Where it listens."""
    return running[1]


def test_echo_returns_when_the_peer_is_there(peer: Peer) -> None:
    """C-ECHO with success: no exception."""
    echo(peer, "ZHIYING", LIMITS)


def test_series_are_counted(pacs: Pacs, peer: Peer) -> None:
    """Modality and number of each series, from one query for exactly this study at SERIES level."""
    pacs.answers = [series(), series("1.2.3.4.2", "SR", 1)]
    expected = {"1.2.3.4.1": SeriesCount("MR", 190), "1.2.3.4.2": SeriesCount("SR", 1)}
    assert series_counts(peer, STUDY, "ZHIYING", LIMITS) == expected
    (question,) = pacs.asked
    assert (question.QueryRetrieveLevel, question.StudyInstanceUID) == ("SERIES", STUDY)
    assert "NumberOfSeriesRelatedInstances" in question
    assert "PatientName" not in question


def test_a_study_that_the_peer_does_not_have_is_empty(pacs: Pacs, peer: Peer) -> None:
    """No answers: it has nothing, which is not the same as not telling."""
    assert series_counts(peer, STUDY, "ZHIYING", LIMITS) == {}


@pytest.mark.parametrize(
    "bad", [series(count=None), series(count=""), series(uid=""), series(uid="1.2.3..4"), series(count="-1")]
)
def test_an_answer_without_a_count_is_no_answer(pacs: Pacs, peer: Peer, bad: Dataset) -> None:
    """A peer that leaves the count out, or sends rubbish, does not tell; half a list would be a wrong count."""
    pacs.answers = [series(), bad]
    assert series_counts(peer, STUDY, "ZHIYING", LIMITS) is None
    assert find_series(peer, STUDY, "ZHIYING", LIMITS) is None


def test_a_failure_status_is_said_with_its_code(pacs: Pacs, peer: Peer) -> None:
    """After good answers too: what came before a failure is not a count."""
    pacs.answers, pacs.final = [series()], 0xA700
    with pytest.raises(PeerFailed, match="0xA700") as caught:
        find_series(peer, STUDY, "ZHIYING", LIMITS)
    assert caught.value.code == "PEER_FAILURE_STATUS"
    assert series_counts(peer, STUDY, "ZHIYING", LIMITS) is None


def test_a_slow_peer_costs_bounded_time(pacs: Pacs, peer: Peer) -> None:
    """No answer in time: PEER_NO_ANSWER, not a hanging service."""
    pacs.delay_s = 1.5
    begin = time.monotonic()
    with pytest.raises(PeerFailed) as caught:
        find_series(peer, STUDY, "ZHIYING", QueryLimits(connect_s=1, acse_s=1, dimse_s=0.3))
    assert caught.value.code == "PEER_NO_ANSWER"
    assert time.monotonic() - begin < 5


def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_peer_that_is_down_is_unreachable() -> None:
    """Nobody listens: PEER_UNREACHABLE, and no descriptor is left behind (warnings are errors here)."""
    peer = Peer("pacs", "TESTPACS", "127.0.0.1", closed_port())
    with pytest.raises(PeerFailed) as caught:
        echo(peer, "ZHIYING", LIMITS)
    assert caught.value.code == "PEER_UNREACHABLE"
    assert series_counts(peer, STUDY, "ZHIYING", LIMITS) is None


def test_a_peer_of_another_title_rejects_us(peer: Peer) -> None:
    """A wrong AE title in the configuration is told apart from a dead network."""
    wrong = Peer("pacs", "OTHER", peer.host, peer.port)
    with pytest.raises(PeerFailed) as caught:
        echo(wrong, "ZHIYING", LIMITS)
    assert caught.value.code == "PEER_REJECTED"


def test_a_peer_without_the_service_is_said() -> None:
    """No C-FIND offered: not unreachable."""
    with serving(Pacs(), (Verification,)) as peer:
        with pytest.raises(PeerFailed) as caught:
            find_series(peer, STUDY, "ZHIYING", LIMITS)
        assert caught.value.code == "PEER_NO_CONTEXT"


@pytest.mark.parametrize("uid", ["", "*", "1.2.*", "1.2\\1.3", "1.2?"])
def test_a_wildcard_is_no_study(peer: Peer, pacs: Pacs, uid: str) -> None:
    """A query can never ask for more than one study."""
    with pytest.raises(ValueError, match="study"):
        series_counts(peer, uid, "ZHIYING", LIMITS)
    assert pacs.asked == []


# ---- at IMAGE level --------------------------------------------------------------------------------------------------

SERIES = "1.2.3.4.1"


def image(uid: str, of: str = SERIES) -> Dataset:
    """Return one C-FIND answer at IMAGE level."""
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID, ds.SeriesInstanceUID = "IMAGE", STUDY, of
    ds.SOPInstanceUID = uid
    return ds


def test_the_instances_of_a_series_are_listed(pacs: Pacs, peer: Peer) -> None:
    """One query for exactly this series, with the unique keys of the levels above; no patient is asked for."""
    pacs.answers = [image("1.9.1"), image("1.9.2"), image("1.9.1")]
    assert find_instances(peer, STUDY, SERIES, "ZHIYING", LIMITS) == {"1.9.1", "1.9.2"}
    (question,) = pacs.asked
    assert (question.QueryRetrieveLevel, question.StudyInstanceUID, question.SeriesInstanceUID) == (
        "IMAGE",
        STUDY,
        SERIES,
    )
    assert question.SOPInstanceUID in ("", None)
    assert "PatientName" not in question
    assert "PatientID" not in question


def test_several_series_are_several_questions_in_one_association(pacs: Pacs, peer: Peer) -> None:
    """SR and SEG of a result are in two series: both are looked for, and what either has counts."""
    pacs.answers = [image("1.9.1"), image("1.9.2", "1.2.3.4.2")]
    found = find_held(peer, [(STUDY, SERIES), (STUDY, "1.2.3.4.2")], "ZHIYING", LIMITS)
    assert found == {"1.9.1", "1.9.2"}
    assert [question.SeriesInstanceUID for question in pacs.asked] == [SERIES, "1.2.3.4.2"]


def test_an_answer_for_another_series_proves_nothing(pacs: Pacs, peer: Peer) -> None:
    """A peer that ignores the key lists whatever it has; only answers for what was asked count."""
    pacs.answers = [image("1.9.1", of="1.7.7"), image(""), image("not a UID"), image("1.9.2", of="")]
    assert find_instances(peer, STUDY, SERIES, "ZHIYING", LIMITS) == {"1.9.2"}


def test_a_query_that_fails_at_its_end_found_nothing(pacs: Pacs, peer: Peer) -> None:
    """Half a list would make a resend of what is there."""
    pacs.answers, pacs.final = [image("1.9.1")], 0xC000
    with pytest.raises(PeerFailed, match="0xC000"):
        find_instances(peer, STUDY, SERIES, "ZHIYING", LIMITS)


@pytest.mark.parametrize("uid", ["", "*", "1.2.*", "1.2\\1.3", "1.2?"])
def test_a_wildcard_is_no_series(peer: Peer, pacs: Pacs, uid: str) -> None:
    """A query can never ask for more than the series of our results."""
    with pytest.raises(ValueError, match="series"):
        find_instances(peer, STUDY, uid, "ZHIYING", LIMITS)
    with pytest.raises(ValueError, match="study"):
        find_instances(peer, uid, SERIES, "ZHIYING", LIMITS)
    assert pacs.asked == []
