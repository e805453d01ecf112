"""The check after the start: a peer that refuses is a line in the log, one that is away delays nobody."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dicom_bridge.errors import PeerFailed
from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.peers import Peer
from dicom_bridge.profile import Need, needs
from service.config import load
from service.profile_check import ProfileCheck, profile_check
from service.telemetry import only_allowed
from tests.simulators.pacs import SEGMENTATION, FakePacs

PEER = Peer("pacs", "TESTPACS", "127.0.0.1", 9)
WANTED = needs(PEER, key_images=tuple(KeyImage))
ASKED_S = 10.0


class Asked:
    """A peer's answers: what it lacks, or a code; `done` once the last has been given."""

    def __init__(self, *answers: Sequence[Need] | str) -> None:
        self.answers = list(answers)
        self.done = threading.Event()

    def __call__(self, peer: Peer, wanted: Sequence[Need]) -> Sequence[Need]:
        """As `profile.refused`."""
        assert (peer, tuple(wanted)) == (PEER, WANTED)
        answer = self.answers.pop(0)
        if not self.answers:
            self.done.set()
        if isinstance(answer, str):
            raise PeerFailed(answer)
        return answer


def ended() -> bool:
    """Wait until no check is under way."""
    until = time.monotonic() + ASKED_S
    while time.monotonic() < until:
        if not any(thread.name == "profile-check" for thread in threading.enumerate()):
            return True
        threading.Event().wait(0.01)
    return False


def test_each_thing_that_is_refused_is_a_line_and_then_it_is_asked_no_more() -> None:
    """Peer, kind and code, in keys that the log lets through; a second look is the doctor's."""
    asked = Asked((WANTED[0], WANTED[2]))
    with capture_logs() as lines:
        check = ProfileCheck(PEER, WANTED, asked, pause_s=0.01)
        check.start()
        assert asked.done.wait(ASKED_S)
        assert ended()
    said = {"event": "peer_does_not_accept", "log_level": "warning", "peer": "pacs", "code": "PEER_NO_CONTEXT"}
    assert lines == [{**said, "kind": "SEG"}, {**said, "kind": "SC"}]
    assert only_allowed(None, "", {"event": "x", "peer": "p", "kind": "SC", "code": "C"}).keys() == {
        *("event", "peer", "kind", "code")
    }


def test_a_peer_that_is_away_is_asked_again() -> None:
    """Away twice, then there and content: two lines that say why, and no complaint."""
    asked = Asked("PEER_UNREACHABLE", "PEER_REJECTED", ())
    with capture_logs() as lines:
        ProfileCheck(PEER, WANTED, asked, pause_s=0.01).start()
        assert asked.done.wait(ASKED_S)
        assert ended()
    assert [(line["event"], line["code"]) for line in lines] == [
        ("peer_not_asked", "PEER_UNREACHABLE"),
        ("peer_not_asked", "PEER_REJECTED"),
    ]


def test_neither_start_nor_stop_waits_for_a_peer() -> None:
    """One that holds its answer back for ever holds nobody up."""
    hung, begun = threading.Event(), threading.Event()

    def ask(_peer: Peer, _wanted: Sequence[Need]) -> Sequence[Need]:
        begun.set()
        hung.wait()
        return ()

    check = ProfileCheck(PEER, WANTED, ask)
    check.start()
    assert begun.wait(ASKED_S)
    check.stop()
    assert not ended_now()
    hung.set()
    assert ended()


def ended_now() -> bool:
    """Whether no check is under way."""
    return not any(thread.name == "profile-check" for thread in threading.enumerate())


def test_without_a_peer_nobody_is_asked() -> None:
    """Results that go nowhere need nothing."""
    ProfileCheck(None, (), Asked()).start()
    ProfileCheck(PEER, (), Asked()).start()
    assert ended_now()


@pytest.mark.parametrize("to", ["pacs", None])
def test_the_configuration_says_whom_to_ask(tmp_path: Path, to: str | None) -> None:
    """The peer that results go to, and no other; a real one, that takes segmentations alone."""
    path = tmp_path / "zhiying.toml"
    with FakePacs(classes=(SEGMENTATION,)) as pacs, capture_logs() as lines:
        results = "" if to is None else f'[results]\nto = "{to}"\n'
        path.write_text(
            f'[[peers]]\nname = "pacs"\nae_title = "TESTPACS"\nhost = "127.0.0.1"\nport = {pacs.port}\n{results}',
            encoding="utf-8",
        )
        profile_check(load(path)).start()
        assert ended()
    wanted = [] if to is None else [("peer_does_not_accept", "SR")]
    assert [(line["event"], line["kind"]) for line in lines] == wanted
