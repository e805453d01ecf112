"""C-FIND: what a peer says it has, believed only as far as it can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_bridge.catalogue import SeriesEntry, Window
from dicom_bridge.errors import BridgeError
from dicom_bridge.finding import find_catalogue, find_series, find_studies
from dicom_bridge.patience import Patience
from dicom_bridge.peers import Peer
from tests.simulators.pulling import OURS, QUICK, SERIES, STUDY, another_series, local, small
from tests.simulators.query_pacs import QueryPacs, serving

pytestmark = pytest.mark.slow  # each opens connections of its own

MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[QueryPacs, Peer]]:
    """One PACS for all tests here."""
    pacs = QueryPacs()
    with serving(pacs) as peer:
        yield pacs, peer


@pytest.fixture
def pacs(running: tuple[QueryPacs, Peer]) -> QueryPacs:
    """The PACS, well behaved, with one series."""
    running[0].__init__(small())  # type: ignore[misc]
    return running[0]


@pytest.fixture
def peer(running: tuple[QueryPacs, Peer]) -> Peer:
    """Where it listens."""
    return running[1]


def refused(peer: Peer, study: str = STUDY) -> str:
    """Return the code that a catalogue ends with."""
    with pytest.raises(BridgeError) as caught:
        find_catalogue(peer, study, OURS, Patience(QUICK))
    return caught.value.code


def test_series_and_instances_are_listed(pacs: QueryPacs, peer: Peer) -> None:
    """Modality, count, and the SOP class of each instance; hierarchical questions only, and no patient's name."""
    pacs.instances += another_series("ct", 2, "CT")
    found = find_catalogue(peer, STUDY, OURS, Patience(QUICK))
    assert {(one.modality, one.count, len(one.instances)) for one in found.values()} == {("MR", 4, 4), ("CT", 2, 2)}
    assert set(found[SERIES].instances.values()) == {MR}
    assert [one.QueryRetrieveLevel for one in pacs.asked] == ["SERIES", "IMAGE", "IMAGE"]
    assert all(one.StudyInstanceUID == STUDY and "PatientName" not in one for one in pacs.asked)
    assert all(one.SeriesInstanceUID in found for one in pacs.asked[1:])


def test_series_alone_cost_one_question(pacs: QueryPacs, peer: Peer) -> None:
    """For the standing query, which asks for every study of a day."""
    assert find_series(peer, STUDY, OURS, Patience(QUICK)) == {SERIES: SeriesEntry("MR", 4)}
    assert len(pacs.asked) == 1


def test_an_unknown_study_is_empty(pacs: QueryPacs, peer: Peer) -> None:
    """The peer answers, and has nothing."""
    assert find_catalogue(peer, "1.2.3", OURS, Patience(QUICK)) == {}


def test_no_count_is_none(pacs: QueryPacs, peer: Peer) -> None:
    """Then the list alone says what there is."""
    pacs.counts = lambda _uid, _count: None
    assert find_catalogue(peer, STUDY, OURS, Patience(QUICK))[SERIES].count is None


@pytest.mark.parametrize("uid", ["", "*", "1.2.*", "1.2\\1.3", "1..2"])
def test_a_wildcard_is_no_study(pacs: QueryPacs, peer: Peer, uid: str) -> None:
    """A question can never ask for more than one study."""
    with pytest.raises(ValueError, match="study"):
        find_catalogue(peer, uid, OURS, Patience(QUICK))
    assert pacs.asked == []


def answer(**values: object) -> Dataset:
    """Return an answer of these values."""
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    ("level", "extra", "code"),
    [
        ("SERIES", {"SeriesInstanceUID": "", "Modality": "MR"}, "PULL_ANSWER_INVALID"),
        ("SERIES", {"SeriesInstanceUID": "../../etc", "Modality": "MR"}, "PULL_ANSWER_INVALID"),
        ("SERIES", {"SeriesInstanceUID": "1.9", "StudyInstanceUID": "1.2.3"}, "PULL_WRONG_STUDY"),
        ("IMAGE", {"SOPInstanceUID": "1..2"}, "PULL_ANSWER_INVALID"),
        ("IMAGE", {"SOPInstanceUID": "1.9", "SeriesInstanceUID": "1.2.3"}, "PULL_WRONG_STUDY"),
    ],
)
def test_answers_that_cannot_be_right_are_refused(
    pacs: QueryPacs, peer: Peer, level: str, extra: dict[str, object], code: str
) -> None:
    """Half a list would be a wrong list: no UID, a path, or another study than was asked for."""
    pacs.extra_answers = lambda asked: iter([answer(**extra)] if asked == level else [])
    assert refused(peer) == code


def test_a_failure_status_is_said(pacs: QueryPacs, peer: Peer) -> None:
    """After good answers too."""
    pacs.find_status = 0xA700
    assert refused(peer) == "PEER_FAILURE_STATUS"


def test_endless_answers_end(pacs: QueryPacs, peer: Peer) -> None:
    """A peer that lists for ever is cut off."""

    def forever(level: str, asked: str, keyword: str) -> Iterator[Dataset]:
        for number in range(1000 if level == asked else 0):
            yield answer(**{keyword: f"1.{number}"})

    few = Patience(replace(QUICK, answers_max=50))
    for asked, keyword in (("SERIES", "SeriesInstanceUID"), ("IMAGE", "SOPInstanceUID")):
        pacs.extra_answers = partial(forever, asked=asked, keyword=keyword)
        with pytest.raises(BridgeError) as caught:
            find_catalogue(peer, STUDY, OURS, few)
        assert caught.value.code == "PULL_ENDLESS"


def test_values_that_are_none_raise_nothing(pacs: QueryPacs, peer: Peer) -> None:
    """Numbers that are words, codes that are no ASCII: an unknown count, not an exception from deep below."""
    made = answer(SeriesInstanceUID="1.9")
    for keyword, vr, value in (
        ("Modality", "CS", b"\xff\xfe\x00MR"),
        ("NumberOfSeriesRelatedInstances", "IS", b"many"),
    ):
        tag = Tag(keyword)
        made[tag] = RawDataElement(tag, vr, len(value), value, 0, True, True)
    pacs.extra_answers = lambda level: iter([made] if level == "SERIES" else [])
    found = find_series(peer, STUDY, OURS, Patience(QUICK))
    assert found["1.9"].count is None


def test_studies_of_a_window(pacs: QueryPacs, peer: Peer) -> None:
    """One question for each modality, by date; the answers are checked against the window again."""
    since, until = local("2026-04-01"), local("2026-04-01 12:00")
    (found,) = find_studies(peer, Window(since, until, frozenset({"CT", "MR"})), OURS, Patience(QUICK))
    assert (found.study_uid, found.modalities, found.instances) == (STUDY, {"MR"}, 4)
    assert found.at == local("2026-04-01 23:59:59")
    assert [(one.StudyDate, one.ModalitiesInStudy) for one in pacs.asked] == [
        ("20260331-20260402", "CT"),
        ("20260331-20260402", "MR"),
    ]
    later = Window(local("2026-04-02 01:00"), local("2026-04-02 02:00"))
    assert find_studies(peer, later, OURS, Patience(QUICK)) == ()


def test_two_modalities_are_read_as_two(pacs: QueryPacs, peer: Peer) -> None:
    """Modalities in Study (0008,0061) has many values; a study that two questions find is one study."""
    pacs.instances += another_series("sr", 1, "SR")
    window = Window(local("2026-04-01"), local("2026-04-01"), frozenset({"MR", "SR"}))
    (found,) = find_studies(peer, window, OURS, Patience(QUICK))
    assert found.modalities == {"MR", "SR"}
