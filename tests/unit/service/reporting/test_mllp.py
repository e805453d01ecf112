"""MLLP: what each behaviour of a receiver means for a message, and that nothing of it is believed too easily."""

import socket
import threading
from pathlib import Path

import pytest

from service.reporting.answer import Answer, Fate
from service.reporting.mllp import Mllp, MllpClient
from tests.simulators import mllp
from tests.simulators.certificates import Authority
from tests.simulators.mllp import LOOPBACK, Ris

MESSAGE = b"MSH|^~\\&|A|B|C|D|20261129120000||ORU^R01^ORU_R01|ID-1|P|2.5.1\rPID|1||TEST-0001\r"


def told(ris: Ris, answer_s: float = 5.0) -> Answer:
    """One message, told once."""
    return MllpClient(Mllp(LOOPBACK, ris.port, answer_s)).tell(MESSAGE, "ID-1")


MEANS = {
    mllp.ACCEPT: (Fate.DELIVERED, "AA"),
    mllp.COMMIT: (Fate.DELIVERED, "CA"),
    mllp.ERROR: (Fate.REFUSED, "HL7_AE"),
    mllp.REJECT: (Fate.REFUSED, "HL7_AR"),
    "CE": (Fate.REFUSED, "HL7_CE"),
    "CR": (Fate.REFUSED, "HL7_CR"),
    "XX": (Fate.LATER, "HL7_ANSWER_INVALID"),
    mllp.OTHER: (Fate.LATER, "HL7_ANSWER_TO_ANOTHER"),
    mllp.GARBAGE: (Fate.LATER, "HL7_ANSWER_INVALID"),
    mllp.UNFRAMED: (Fate.LATER, "HL7_ANSWER_INVALID"),
    mllp.FLOOD: (Fate.LATER, "HL7_ANSWER_INVALID"),
    mllp.HALF: (Fate.LATER, "HL7_UNREACHABLE"),
    mllp.CLOSE: (Fate.LATER, "HL7_UNREACHABLE"),
    mllp.RESET: (Fate.LATER, "HL7_UNREACHABLE"),
}


@pytest.mark.parametrize("does", MEANS)
def test_what_a_receiver_does_is_what_it_means(does: str) -> None:
    """Only an acknowledgment of this very message settles it; after anything else nobody knows."""
    with Ris(does) as ris:
        assert told(ris) == Answer(*MEANS[does])
        assert ris.messages == [MESSAGE]
        assert ris.complaints == []


def test_a_receiver_that_says_nothing_is_waited_for_only_so_long() -> None:
    """Connected, read, and silent: the time for the answer ends it."""
    with Ris(mllp.HANG) as ris:
        assert told(ris, answer_s=0.2) == Answer(Fate.LATER, "HL7_NO_ANSWER")


def test_nobody_listens() -> None:
    """A refused connection is tried again later."""
    with Ris() as ris:
        pass
    assert told(ris) == Answer(Fate.LATER, "HL7_UNREACHABLE")


def test_why_it_refuses_is_told_by_its_code_alone() -> None:
    """ERR-3 is a number of HL7's table; the words beside it may quote the message."""
    with Ris(mllp.ERROR, mllp.ERROR) as ris:
        ris.error = "103"
        assert told(ris) == Answer(Fate.REFUSED, "HL7_AE_103")
        ris.error = "TEST^Phantom"
        assert told(ris) == Answer(Fate.REFUSED, "HL7_AE")


@pytest.mark.parametrize("answer", [b"", b"MSH", b"MSA|AA|ID-1", b"MSH|^~\\&\rMSA", b"MSH|^~\\&\rMSA|AA", b"\r\r"])
def test_an_answer_that_is_no_acknowledgment(answer: bytes) -> None:
    """Cut short anywhere, it says nothing."""
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.recv(4096)
                link.sendall(mllp.START + answer + mllp.END)

        thread = threading.Thread(target=serve)
        thread.start()
        said = MllpClient(Mllp(LOOPBACK, server.getsockname()[1], 5)).tell(MESSAGE, "ID-1")
        thread.join()
    assert said.fate is Fate.LATER


def test_another_separator_is_the_receivers_right() -> None:
    """MSH-1 says what separates fields, in answers too."""
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.recv(4096)
                link.sendall(mllp.START + b"MSH#^~\\&#R\rMSA#AA#ID-1\r" + mllp.END)

        thread = threading.Thread(target=serve)
        thread.start()
        said = MllpClient(Mllp(LOOPBACK, server.getsockname()[1], 5)).tell(MESSAGE, "ID-1")
        thread.join()
    assert said == Answer(Fate.DELIVERED, "AA")


def test_stop_ends_what_hangs_and_tells_nothing_more() -> None:
    """A service that stops does not wait for a receiver that is silent."""
    with Ris(mllp.HANG) as ris:
        client = MllpClient(Mllp(LOOPBACK, ris.port, 60))
        ris.before_answer = lambda _: client.abort()
        assert client.tell(MESSAGE, "ID-1").fate is Fate.LATER
        assert client.tell(MESSAGE, "ID-1").fate is Fate.LATER
        assert len(ris.messages) == 1


def test_mutual_tls(tmp_path: Path) -> None:
    """Both show a certificate of the site's authority; to whoever has another nothing is told."""
    papers, stranger = Authority(tmp_path / "papers"), Authority(tmp_path / "others")
    ours, theirs = papers.issue("zhiying"), papers.issue("ris")
    with Ris(files=theirs) as ris:
        assert MllpClient(Mllp(LOOPBACK, ris.port, 5, ours)).tell(MESSAGE, "ID-1") == Answer(Fate.DELIVERED, "AA")
        wrong = MllpClient(Mllp(LOOPBACK, ris.port, 5, stranger.issue("zhiying"))).tell(MESSAGE, "ID-1")
        pinned = MllpClient(Mllp(LOOPBACK, ris.port, 5, ours, "0" * 64)).tell(MESSAGE, "ID-1")
        assert (wrong.code, pinned.code) == ("HL7_CERTIFICATE_REFUSED", "HL7_CERTIFICATE_REFUSED")
        assert ris.messages == [MESSAGE]
    with Ris() as plain:
        assert MllpClient(Mllp(LOOPBACK, plain.port, 5, ours)).tell(MESSAGE, "ID-1").fate is Fate.LATER
        assert plain.messages == []
