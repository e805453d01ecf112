"""C-MOVE and C-GET: what is proposed and asked for, and what of the peer's answers is believed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_bridge.calling import CONTEXTS_MAX
from dicom_bridge.catalogue import Catalogue, Part, Wanted, missing
from dicom_bridge.errors import BridgeError
from dicom_bridge.finding import find_catalogue
from dicom_bridge.inbox import Inbox
from dicom_bridge.keeping import Keeper
from dicom_bridge.offers import STORAGE_CLASSES, TRANSFER_SYNTAXES
from dicom_bridge.patience import Patience
from dicom_bridge.peers import Peer
from dicom_bridge.transfer import classes_of, get, move, storage_contexts
from tests.simulators.pulling import OURS, QUICK, SERIES, STUDY, another_series, held, listening, open_inbox, small
from tests.simulators.query_pacs import FIND, GET, QueryPacs, serving

pytestmark = pytest.mark.slow  # each opens connections of its own

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
PLAIN = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """An empty spool."""
    with open_inbox(tmp_path) as made:
        yield made


def keeper(inbox: Inbox, patience: Patience, bytes_max: int = 1 << 24) -> Keeper:
    """For a handful of instances."""
    return Keeper(
        inbox, STUDY, "QUERYPACS", expected=8, carrier="pull-1", patience=patience, instance_bytes_max=bytes_max
    )


def everything(peer: Peer) -> Catalogue:
    """What the peer lists."""
    return find_catalogue(peer, STUDY, OURS, Patience(QUICK))


def wanted_of(peer: Peer, here: dict[str, frozenset[str]] | None = None) -> Wanted:
    """What is missing, with `here` held."""
    return missing(STUDY, everything(peer), here or {})


# -- contexts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 5, 20, 63, 64, 127, 170])
def test_there_are_never_too_many_contexts(number: int) -> None:
    """128 with the one for C-GET itself (PS3.8 section 9.3.2.2); every class that fits has all syntaxes."""
    classes = list(STORAGE_CLASSES[:number])
    contexts = storage_contexts(classes)
    assert len(contexts) <= CONTEXTS_MAX - 1
    by_class: dict[str, set[str]] = {}
    for name, syntaxes in contexts:
        by_class.setdefault(name, set()).update(syntaxes)
    assert len(by_class) == min(number, CONTEXTS_MAX - 1)
    assert all(syntaxes == set(TRANSFER_SYNTAXES) for syntaxes in by_class.values())


def test_a_few_classes_have_a_context_for_each_coded_syntax() -> None:
    """One context of several syntaxes would let the peer pick one that its file is not in."""
    contexts = storage_contexts([MR])
    assert set(contexts[0][1]) == PLAIN & set(TRANSFER_SYNTAXES)
    assert all(len(syntaxes) == 1 for _, syntaxes in contexts[1:])


def part(modality: str, *classes: str) -> Part:
    """A series."""
    return Part(modality, frozenset(classes), (), whole=True)


def test_classes_are_what_the_peer_names_or_the_modality_makes() -> None:
    """Private and unknown ones are not proposed: the listener does not take them either."""
    assert classes_of(part("CT", MR, "1.2.3.4")) == (MR,)
    assert CT in classes_of(part("CT"))
    assert MR not in classes_of(part("CT"))
    assert {CT, MR} <= set(classes_of(part("")))
    assert set(classes_of(part(""))) <= set(STORAGE_CLASSES)


# -- C-GET ------------------------------------------------------------------------------------------------------------


def test_get_takes_the_whole_study_in_one_question(inbox: Inbox) -> None:
    """At STUDY level, with contexts for what the study has and for nothing else."""
    pacs = QueryPacs([*small(3), *another_series("ct", 2, "CT")])
    with serving(pacs) as peer:
        wanted, patience = wanted_of(peer), Patience(QUICK)
        get(peer, wanted, OURS, keeper(inbox, patience), patience, careful=False)
    assert len(held(inbox)) == 5
    assert [one.QueryRetrieveLevel for one in pacs.transfers] == ["STUDY"]
    assert {name for name, _ in pacs.proposed[-1]} == {GET, MR, CT}


def test_get_takes_only_what_is_missing(inbox: Inbox) -> None:
    """Of a series that is partly here, the rest by name at IMAGE level."""
    pacs = QueryPacs(small(4))
    names = [one.SOPInstanceUID for one in pacs.instances]
    with serving(pacs) as peer:
        wanted, patience = wanted_of(peer, {SERIES: frozenset(names[:2])}), Patience(QUICK)
        get(peer, wanted, OURS, keeper(inbox, patience), patience, careful=False)
    assert held(inbox) == set(names[2:])
    assert [one.QueryRetrieveLevel for one in pacs.transfers] == ["IMAGE"]


def test_get_with_care_goes_series_by_series(inbox: Inbox) -> None:
    """An association for each, with the contexts of that series alone."""
    pacs = QueryPacs([*small(2), *another_series("ct", 2, "CT")])
    with serving(pacs) as peer:
        wanted, patience = wanted_of(peer), Patience(QUICK)
        get(peer, wanted, OURS, keeper(inbox, patience), patience, careful=True)
    assert len(held(inbox)) == 4
    assert [one.QueryRetrieveLevel for one in pacs.transfers] == ["SERIES", "SERIES"]
    assert [{name for name, _ in one} - {GET} for one in pacs.proposed[-2:]] == [{MR}, {CT}]


def test_many_names_are_asked_for_in_several_questions(inbox: Inbox) -> None:
    """A hundred in each: some peers have a fixed buffer for the list."""
    pacs = QueryPacs(small(1))
    names = tuple(f"1.2.3.{number}" for number in range(250))
    with serving(pacs) as peer:
        patience = Patience(QUICK)
        wanted = Wanted(STUDY, {SERIES: Part("MR", frozenset({MR}), names, whole=False)}, whole=False)
        get(peer, wanted, OURS, keeper(inbox, patience), patience, careful=False)
    asked = [list(one.SOPInstanceUID) for one in pacs.transfers]
    assert [len(one) for one in asked] == [100, 100, 50]
    assert tuple(name for one in asked for name in one) == names


@pytest.mark.parametrize("options", [{"models": (FIND,)}, {"roles": False}], ids=["no C-GET", "no role"])
def test_a_peer_without_the_service_or_the_role_is_said(inbox: Inbox, options: dict[str, object]) -> None:
    """Without the SCP's role nothing could ever arrive."""
    with serving(QueryPacs(small(1)), **options) as peer:  # type: ignore[arg-type]
        wanted, patience = wanted_of(peer), Patience(QUICK)
        with pytest.raises(BridgeError) as caught:
            get(peer, wanted, OURS, keeper(inbox, patience), patience, careful=False)
    assert caught.value.code == "PEER_NO_CONTEXT"


def test_a_status_other_than_success_is_counted(inbox: Inbox) -> None:
    """Not raised: other series may still come, and in the end only what is held counts."""
    pacs = QueryPacs(small(2))
    pacs.final = 0xA702
    with serving(pacs) as peer:
        wanted, patience = wanted_of(peer), Patience(QUICK)
        counted = keeper(inbox, patience)
        get(peer, wanted, OURS, counted, patience, careful=False)
    assert list(counted.failed) == ["0xA702"]


def test_a_peer_that_dies_in_the_middle_is_no_answer(inbox: Inbox) -> None:
    """What came before is held."""
    pacs = QueryPacs(small(4))
    pacs.dies_after = 2
    with serving(pacs) as peer:
        wanted, patience = wanted_of(peer), Patience(QUICK)
        with pytest.raises(BridgeError) as caught:
            get(peer, wanted, OURS, keeper(inbox, patience), patience, careful=False)
    assert caught.value.code == "PEER_NO_ANSWER"
    assert len(held(inbox)) == 2


def test_an_instance_that_is_too_large_is_cut_off_on_its_way(inbox: Inbox) -> None:
    """pynetdicom would gather it in memory, however large."""
    pacs = QueryPacs(small(1, shape=(512, 512)))
    with serving(pacs) as peer:
        wanted, patience = wanted_of(peer), Patience(QUICK)
        with pytest.raises(BridgeError) as caught:
            get(peer, wanted, OURS, keeper(inbox, patience, 200_000), patience, careful=False)
    assert caught.value.code == "INSTANCE_TOO_LARGE"
    assert held(inbox) == set()


def test_answers_without_images_are_no_progress(inbox: Inbox) -> None:
    """Sub-operations that never end: the peer says "pending" for ever, and is given up as one that is silent is."""
    pacs = QueryPacs(small(1))
    pacs.sends = lambda _number, _asked: []
    pacs.pendings, pacs.pause_s = 10_000, 0.05
    with serving(pacs) as peer:
        wanted, patience = wanted_of(peer), Patience(QUICK)
        with pytest.raises(BridgeError) as caught:
            get(peer, wanted, OURS, keeper(inbox, patience), patience, careful=False)
    assert caught.value.code == "PULL_STALLED"


def test_a_flood_of_answers_without_images_ends(inbox: Inbox) -> None:
    """Thousands of them in no time."""
    pacs = QueryPacs(small(1))
    pacs.pendings = 10_000
    with serving(pacs) as peer:
        # Of a peer that is pynetdicom as well, on a machine that may be busy: no time but the flood may end it.
        wanted, patience = wanted_of(peer), Patience(replace(QUICK, stall_s=120, whole_s=300))
        with pytest.raises(BridgeError) as caught:
            get(peer, wanted, OURS, keeper(inbox, patience), patience, careful=False)
    assert caught.value.code == "PULL_ENDLESS"


# -- C-MOVE -----------------------------------------------------------------------------------------------------------


def test_move_brings_it_to_our_listener(inbox: Inbox) -> None:
    """From the PACS's own association, to the AE title that we gave."""
    pacs = QueryPacs(small(3))
    with listening(inbox) as port, serving(pacs) as peer:
        pacs.destinations = {OURS: ("127.0.0.1", port)}
        wanted, patience = wanted_of(peer), Patience(QUICK)
        counted = keeper(inbox, patience)
        move(peer, wanted, OURS, counted, patience, careful=False)
    assert (len(held(inbox)), counted.failed) == (3, {})


def test_an_unknown_destination_is_said(inbox: Inbox) -> None:
    """The most frequent mistake of all: the PACS does not know us."""
    with serving(QueryPacs(small(1))) as peer:
        wanted, patience = wanted_of(peer), Patience(QUICK)
        with pytest.raises(BridgeError, match=OURS) as caught:
            move(peer, wanted, OURS, keeper(inbox, patience), patience, careful=False)
    assert caught.value.code == "PULL_DESTINATION_UNKNOWN"


def test_what_we_refuse_is_a_failed_suboperation(inbox: Inbox) -> None:
    """The peer counts what our listener did not take."""

    def cut(_number: int, asked: list[Dataset]) -> list[Dataset]:
        for one in asked[:1]:
            one.StudyInstanceUID = "not a UID"
        return asked

    pacs = QueryPacs(small(3))
    pacs.sends = cut
    with listening(inbox) as port, serving(pacs) as peer:
        pacs.destinations = {OURS: ("127.0.0.1", port)}
        wanted, patience = wanted_of(peer), Patience(QUICK)
        counted = keeper(inbox, patience)
        move(peer, wanted, OURS, counted, patience, careful=True)
    assert sum(counted.failed.values()) == 1
    assert len(held(inbox)) == 2


def test_a_move_that_is_called_off_ends(inbox: Inbox) -> None:
    """While the peer is sending."""
    stop = threading.Event()
    pacs = QueryPacs(small(4))
    pacs.pause_s = 60

    def sends(_number: int, asked: list[Dataset]) -> list[Dataset]:
        stop.set()
        pacs.pause_s = 0.2
        return asked

    pacs.sends = sends
    with listening(inbox) as port, serving(pacs) as peer:
        pacs.destinations = {OURS: ("127.0.0.1", port)}
        wanted, patience = wanted_of(peer), Patience(QUICK, stop)
        with pytest.raises(BridgeError) as caught:
            move(peer, wanted, OURS, keeper(inbox, patience), patience, careful=False)
    assert caught.value.code == "PULL_CANCELLED"
