"""What becomes of one instance of a transfer: held and acknowledged, or refused and counted."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dicom_bridge.errors import InboxUnavailable, PeerFailed
from dicom_bridge.inbox import Inbox, InboxLimits, Received
from dicom_bridge.keeping import WRONG_STUDY, Keeper
from dicom_bridge.patience import Patience, RetrieveFailed
from tests.simulators.pulling import STUDY, held, open_inbox
from tests.simulators.received import Clock, received
from tests.simulators.series import make_slice, part10

PEER = "TESTPACS"


@dataclass
class Desk:
    """An inbox, and a keeper that expects two instances."""

    root: Path
    inbox: Inbox
    patience: Patience
    keeper: Keeper


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A new one."""
    with open_inbox(tmp_path) as inbox:
        patience = Patience()
        yield Desk(tmp_path, inbox, patience, keeper(inbox, patience))


def keeper(inbox: Inbox, patience: Patience, expected: int = 2) -> Keeper:
    """A keeper for STUDY."""
    inbox.activity.opened("pull-1", PEER)
    return Keeper(
        inbox, STUDY, PEER, expected=expected, carrier="pull-1", patience=patience, instance_bytes_max=1 << 20
    )


def stored(one: Received) -> Any:
    """The event of a C-STORE."""
    request = SimpleNamespace(
        DataSet=io.BytesIO(one.dataset), AffectedSOPClassUID=one.sop_class, AffectedSOPInstanceUID=one.sop_uid
    )
    return SimpleNamespace(request=request, context=SimpleNamespace(transfer_syntax=one.transfer_syntax))


def test_an_instance_is_held_when_it_is_acknowledged(desk: Desk) -> None:
    """0x0000, from the peer's AE title, and assembly knows that more may come."""
    answer = desk.keeper.on_store(stored(received(0)))
    assert answer.Status == 0x0000
    (one,) = desk.inbox.instances(STUDY)
    assert one.sender == PEER
    assert desk.inbox.open_associations(STUDY) == 1
    assert desk.keeper.failed == {}


def test_another_study_is_not_taken(desk: Desk) -> None:
    """0xA900, a copy in quarantine, nothing of it in the spool, and the transfer ends."""
    answer = desk.keeper.on_store(stored(received(0, seed="another")))
    assert answer.Status == 0xA900
    assert desk.patience.verdict().code == "PULL_WRONG_STUDY"  # type: ignore[union-attr]
    assert [one.code for one in desk.inbox.quarantined()] == [WRONG_STUDY]
    assert desk.inbox.open_studies() == ()
    assert desk.keeper.on_store(stored(received(0))).Status == 0xA700
    assert held(desk.inbox) == set()


def test_a_garbled_instance_is_refused_alone(desk: Desk) -> None:
    """Its own status and code; the transfer goes on."""
    cut = replace(received(0), dataset=received(0).dataset[:-9])
    assert desk.keeper.on_store(stored(cut)).Status == 0xC000
    assert desk.keeper.failed == {"DATASET_GARBLED": 1}
    assert desk.patience.verdict() is None
    assert desk.keeper.on_store(stored(received(1))).Status == 0x0000
    assert [one.code for one in desk.inbox.quarantined()] == ["DATASET_GARBLED"]


def test_a_request_without_a_data_set_is_refused(desk: Desk) -> None:
    """As the listener does."""
    event = stored(received(0))
    event.request.DataSet = None
    assert desk.keeper.on_store(event).Status == 0xC000


def test_a_full_disk_ends_the_transfer(tmp_path: Path) -> None:
    """0xA700, so that the peer knows it was not stored; nothing more is asked for."""
    full = Inbox(tmp_path / "full", Clock(), limits=InboxLimits(free_bytes_min=1 << 60))
    patience = Patience()
    assert keeper(full, patience).on_store(stored(received(0))).Status == 0xA700
    assert patience.verdict().code == "SPOOL_FULL"  # type: ignore[union-attr]
    with pytest.raises(InboxUnavailable):
        keeper(full, Patience()).keep_file(iter([part10(make_slice(0))]))
    full.close()


def test_a_peer_that_never_stops_sending_is_cut_off(tmp_path: Path) -> None:
    """The same instance again and again is no progress, however valid it is."""
    with open_inbox(tmp_path) as inbox:
        patience = Patience()
        tired = keeper(inbox, patience, expected=-400)
        event = stored(received(0))
        for _ in range(200):
            assert tired.on_store(event).Status == 0x0000
        assert patience.verdict() is None
        assert tired.on_store(event).Status == 0xA900
        assert patience.verdict().code == "PULL_ENDLESS"  # type: ignore[union-attr]


def test_a_fault_of_our_own_is_counted(desk: Desk) -> None:
    """pynetdicom answers for us when the handler raises; here the count says that something was not kept."""
    event = stored(received(0))
    del event.context
    with pytest.raises(AttributeError):
        desk.keeper.on_store(event)
    assert desk.keeper.failed == {"STORE_FAULT": 1}


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Give it as a network does."""
    return iter([data[at : at + size] for at in range(0, len(data), size)])


@pytest.mark.parametrize("size", [7, 131, 1000, 1 << 20])
def test_a_file_is_held(desk: Desk, size: int) -> None:
    """A Part 10 file of this study, in whatever pieces it comes."""
    ds = make_slice(0)
    desk.keeper.keep_file(pieces(part10(ds), size))
    assert held(desk.inbox) == {ds.SOPInstanceUID}


def test_a_file_of_another_study_ends_the_transfer(desk: Desk) -> None:
    """Raised here, where there is nobody to answer."""
    with pytest.raises(RetrieveFailed) as caught:
        desk.keeper.keep_file(iter([part10(make_slice(0, seed="another"))]))
    assert caught.value.code == "PULL_WRONG_STUDY"


@pytest.mark.parametrize("spoil", [lambda _data: b"<html>", lambda data: data[:-5]], ids=["no DICOM", "cut off"])
def test_a_file_that_is_none_is_counted(desk: Desk, spoil: Any) -> None:
    """An error page instead of an image, or half of one: kept for a person to see, counted, and the rest goes on."""
    desk.keeper.keep_file(pieces(spoil(part10(make_slice(0))), 100))
    assert desk.keeper.failed == {"DATASET_GARBLED": 1}
    assert len(desk.inbox.quarantined()) == 1
    assert held(desk.inbox) == set()


def test_what_failed_elsewhere_is_added(desk: Desk) -> None:
    """Nothing failed is no entry."""
    desk.keeper.count_failed("0xA702", 3)
    desk.keeper.count_failed("0xA702")
    desk.keeper.count_failed("0xB000", 0)
    assert desk.keeper.failed == {"0xA702": 4}


def test_what_breaks_off_leaves_nothing(desk: Desk) -> None:
    """The connection ends in the middle of a file: its error is the error, and no half file stays."""

    def broken() -> Iterator[bytes]:
        yield part10(make_slice(0))[:600]
        raise PeerFailed("PEER_NO_ANSWER", "broke off")

    with pytest.raises(PeerFailed):
        desk.keeper.keep_file(broken())
    assert held(desk.inbox) == set()
    assert desk.keeper.failed == {}
    assert not list((desk.root / "spool" / "incoming").iterdir())


def test_a_file_that_is_too_large_is_refused_alone(tmp_path: Path) -> None:
    """Without reading it to its end."""
    tight = Inbox(tmp_path / "tight", Clock(), limits=InboxLimits(free_bytes_min=0, instance_bytes_max=5000))
    patience = Patience()
    tired = keeper(tight, patience)
    tired.keep_file(chain([part10(make_slice(0))], repeat(b"x" * 1000)))
    assert tired.failed == {"INSTANCE_TOO_LARGE": 1}
    assert patience.verdict() is None
    tight.close()


def test_an_empty_data_set_is_refused(desk: Desk) -> None:
    """Nothing is not an instance."""
    event = stored(received(0))
    event.request.DataSet = io.BytesIO()
    assert desk.keeper.on_store(event).Status == 0xC000
