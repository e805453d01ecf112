"""Key images that a peer does not take: SEG and SR are delivered all the same, and what was left out is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_bridge.commitment_messages import Report, Request
from dicom_bridge.commitment_scu import Heard
from dicom_bridge.delivery import LOSS_PAUSE_FIRST, PAUSE_MAX, Transport, store
from dicom_bridge.dispensable import dispensable, left_out
from dicom_bridge.ledger import HELD, Batch, Proof, State
from dicom_bridge.outbox import KEEP_TRYING, Outbox
from dicom_bridge.peers import Peer
from dicom_bridge.store_scu import SendResult
from tests.simulators import series
from tests.simulators.pacs import FakePacs

START = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
SILENT = Peer("pacs", "TESTPACS", "127.0.0.1", 9)
BOTH = Peer("pacs", "TESTPACS", "127.0.0.1", 9, counts=True, commitment=True)
PICTURE = str(SecondaryCaptureImageStorage)
KINDS = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.88.59")
"""Secondary Capture, presentation state, key object selection."""


class Paper:
    """A PACS on paper: answers to the sends, then what it is asked to commit and to find."""

    def __init__(self, *answers: tuple[Sequence[int | None], str | None]) -> None:
        self.answers = list(answers)
        self.sent: list[int] = []
        self.requests: list[Request] = []
        self.has: set[str] = set()
        self.lose: set[str] = set()

    def store(self, files: Sequence[Path], peer: Peer, calling_ae: str, *, go_on: Callable[[], bool]) -> SendResult:
        """As store_scu.send."""
        self.sent.append(len(files))
        statuses, error = self.answers.pop(0)
        assert len(statuses) == len(files)
        for path, status in zip(files, statuses, strict=True):
            if status == 0:
                self.has.add(str(dcmread(path, stop_before_pixels=True).SOPInstanceUID))
        hopeless = error == "PEER_NO_CONTEXT" or str(error).startswith("HTTP_4")
        return SendResult(tuple(statuses), error, hopeless)

    def ask(self, wanted: Request, peer: Peer, calling_ae: str, heard: Heard, wait: Callable[[], None]) -> int:
        """As commitment_scu.request."""
        self.requests.append(wanted)
        return 0

    def find(self, peer: Peer, wanted: Sequence[tuple[str, str]], calling_ae: str) -> frozenset[str]:
        """As query.find_held."""
        return frozenset(self.has - self.lose)


class House:
    """An outbox with one batch: two objects and a key image."""

    def __init__(self, root: Path, files: Sequence[Path], peer: Peer, paper: Paper | None) -> None:
        self.time, self.told = START, list[Batch]()
        real = Transport(store=store)
        transport = real if paper is None else Transport(paper.store, paper.ask, paper.find)
        self.outbox = Outbox(root, lambda: self.time, self.told.append, peers={"pacs": peer}, transport=transport)
        self.outbox.enqueue("call-1", "pacs", files)

    def run(self, after: timedelta = timedelta(0)) -> State:
        """Let time pass, and work off what is due."""
        self.time += after
        self.outbox.run_due("pacs")
        return self.batch.state

    @property
    def batch(self) -> Batch:
        """As the ledger has it."""
        found = self.outbox.batch("call-1")
        assert found is not None
        return found

    @property
    def without(self) -> list[str]:
        """The UIDs that the told batch was delivered without."""
        (batch,) = self.told
        return list(left_out(batch))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Two images, and a third that calls itself a Secondary Capture."""
    folder = tmp_path_factory.mktemp("results")

    def third(index: int, ds: object) -> None:
        if index == 2:
            ds.SOPClassUID = PICTURE  # type: ignore[attr-defined]

    paths = sorted(series.write_series(folder, 3, spoil=third, shape=(4, 4)))
    paths.sort(key=lambda path: str(dcmread(path).SOPClassUID) == PICTURE)
    assert [str(dcmread(path).SOPClassUID) == PICTURE for path in paths] == [False, False, True]
    return tuple(paths)


@pytest.fixture
def house_of(tmp_path: Path, files: tuple[Path, ...]) -> Iterator[Callable[..., House]]:
    """Makes the house."""
    made: list[House] = []

    def make(peer: Peer, paper: Paper | None = None, only: Sequence[Path] | None = None) -> House:
        made.append(House(tmp_path / "outbox", only or files, peer, paper))
        return made[-1]

    yield make
    for house in made:
        house.outbox.stop()


REFUSALS: dict[str, tuple[Sequence[int | None], str | None]] = {
    "not negotiated": ((0, 0, None), "PEER_NO_CONTEXT"),
    "class not supported": ((0, 0, 0x0122), None),
    "not understood": ((0, 0xB000, 0xC000), None),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_picture_does_not_keep_the_result_back(house_of, files, refusal) -> None:
    """SEG and SR are there: delivered at once, told once, and the picture is named as left out."""
    paper = Paper(REFUSALS[refusal])
    house = house_of(SILENT, paper)
    assert house.run() is State.DELIVERED
    assert house.without == [str(dcmread(files[2]).SOPInstanceUID)]
    assert paper.sent == [3]


def test_a_real_peer_without_the_class_gets_the_rest(house_of, files) -> None:
    """By C-STORE to a PACS that takes no Secondary Capture: it holds two, and the outbox is done."""
    with FakePacs() as pacs:
        house = house_of(pacs.peer())
        assert house.run() is State.DELIVERED
        assert len(pacs.stored) == 2
        assert house.without == [str(dcmread(files[2]).SOPInstanceUID)]
        assert pacs.complaints == []


def test_a_peer_that_takes_pictures_gets_them(house_of) -> None:
    """Nothing is left out without a refusal."""
    with FakePacs(classes=(PICTURE, "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2")) as pacs:
        house = house_of(pacs.peer())
        assert house.run() is State.DELIVERED
        assert len(pacs.stored) == 3
        assert house.without == []


@pytest.mark.parametrize(
    ("answer", "state", "code"),
    [
        (((0, None, None), "PEER_NO_CONTEXT"), State.DEAD, "PEER_NO_CONTEXT"),
        (((0, 0xC000, 0), None), State.DEAD, "STATUS_C000"),
        (((0, 0xC000, 0x0122), None), State.DEAD, "STATUS_C000"),
        (((0, 0xA700, 0x0122), None), State.PENDING, "STATUS_A700"),
        (((0, None, 0x0122), "PEER_NO_ANSWER"), State.PENDING, "PEER_NO_ANSWER"),
        (((0, 0, None), "PEER_NO_ANSWER"), State.PENDING, "PEER_NO_ANSWER"),
        (((0, 0, 0xA700), None), State.PENDING, "STATUS_A700"),
        (((0, 0, None), HELD), State.PENDING, HELD),
        (((None, None, None), "HTTP_415"), State.DEAD, "HTTP_415"),
    ],
)
def test_only_pictures_and_only_for_good(house_of, answer, state, code) -> None:
    """A result that is refused is dead as ever, whatever the picture's answer; what may work later is waited for."""
    house = house_of(SILENT, Paper(answer))
    assert house.run() is state
    assert house.batch.code == code
    assert house.told == []


def test_a_picture_that_is_put_off_for_days_ends_left_out(house_of) -> None:
    """Out of resources for the picture alone, as long as the outbox tries: then the result is delivered without it."""
    paper = Paper(((0, 0, 0xA700), None), *[((0xA700,), None)] * 2000)
    house = house_of(SILENT, paper)
    house.run()
    while house.time <= START + KEEP_TRYING:
        assert house.run(PAUSE_MAX) in (State.PENDING, State.DELIVERED)
    house.run(PAUSE_MAX)
    assert house.batch.state is State.DELIVERED
    assert len(house.without) == 1


def test_refused_heat_maps_do_not_keep_the_result_back(tmp_path, house_of, files) -> None:
    """They have the class of a segmentation, and their file's name tells them apart; alone they are no result."""
    heat = tmp_path / "heat.dcm"
    heat.write_bytes(files[2].read_bytes())
    ds = dcmread(heat)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    ds.save_as(heat)
    house = house_of(SILENT, Paper(((0, 0, 0xC000), None)), [*files[:2], heat])
    assert house.run() is State.DELIVERED
    assert left_out(house.told[0]) == {str(ds.SOPInstanceUID): "HEAT_MAP_REFUSED"}
    picture = replace(house.batch.outputs[2], uid="2.25.7", sop_class=PICTURE, path=Path("sc-001.dcm"))
    both = replace(house.batch, outputs=(*house.batch.outputs, picture))
    assert list(left_out(both).values()) == ["HEAT_MAP_REFUSED", "KEY_IMAGE_REFUSED"]


def test_a_segmentation_is_never_left_out(tmp_path, house_of, files) -> None:
    """The same object under the name of a segmentation: the result is dead without it."""
    seg = tmp_path / "seg.dcm"
    ds = dcmread(files[2])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    ds.save_as(seg)
    house = house_of(SILENT, Paper(((0, 0, 0xC000), None)), [*files[:2], seg])
    assert house.run() is State.DEAD


def test_every_kind_of_key_image_may_be_refused_and_none_is_a_result(house_of) -> None:
    """Beside a report each of the three is dispensable, and the report never is; alone they are not."""
    batch = house_of(SILENT, Paper()).batch
    report, picture = batch.outputs[0], batch.outputs[-1]
    kinds = [replace(picture, sop_class=one) for one in KINDS]
    whole = replace(batch, outputs=(report, *kinds))
    assert [dispensable(whole, one) for one in whole.outputs] == [False, True, True, True]
    alone = replace(batch, outputs=tuple(kinds))
    assert not any(dispensable(alone, one) for one in alone.outputs)


def test_pictures_alone_are_no_result(house_of, files) -> None:
    """A batch that holds nothing else is dead when it is refused: nothing of it has arrived."""
    house = house_of(SILENT, Paper(((0x0122,), None)), files[2:])
    assert not dispensable(house.batch, house.batch.outputs[0])
    assert house.run() is State.DEAD


def test_what_was_left_out_is_neither_committed_nor_looked_for(house_of, files) -> None:
    """Storage commitment and C-FIND are asked of what the peer took; that is enough for the proof."""
    paper = Paper(((0, 0, None), "PEER_NO_CONTEXT"))
    house = house_of(BOTH, paper)
    assert house.run() is State.ASKED
    (request,) = paper.requests
    taken = [str(dcmread(path).SOPInstanceUID) for path in files[:2]]
    assert [uid for _, uid in request.references] == taken
    house.outbox.report(Report(request.transaction_uid, frozenset(taken), {}), "TESTPACS")
    assert house.run() is State.DELIVERED
    assert (house.batch.proof, len(house.without)) == (Proof.COMMITMENT, 1)


def test_a_loss_is_still_a_loss(house_of, files) -> None:
    """What the peer took and does not find is sent again, with the picture once more; the picture decides nothing."""
    paper = Paper(((0, 0, 0x0122), None), ((0, 0x0122), None))
    house = house_of(Peer("pacs", "TESTPACS", "127.0.0.1", 9, counts=True), paper)
    paper.lose = {str(dcmread(files[0]).SOPInstanceUID)}
    assert house.run() is State.SEEKING
    while house.batch.state is State.SEEKING:
        house.run(timedelta(minutes=1))
    paper.lose = set()
    assert house.run(2 * LOSS_PAUSE_FIRST) is State.DELIVERED
    assert paper.sent == [3, 2]
    assert len(house.without) == 1


def test_a_crash_after_the_answers_ends_the_same(house_of, files) -> None:
    """Killed between the peer's answers and their judgement: the picture alone is offered again, and refused again."""
    paper = Paper(((None, None, None), "PEER_UNREACHABLE"), ((None,), "PEER_NO_CONTEXT"))
    house = house_of(SILENT, paper)
    house.run()
    house.outbox._ledger.answered(house.batch, [(output.uid, 0, True) for output in house.batch.outputs[:2]])
    assert house.run(PAUSE_MAX) is State.DELIVERED
    assert paper.sent == [3, 1]
    assert len(house.without) == 1
