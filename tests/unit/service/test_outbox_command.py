"""`zhiying outbox`: what did not get there is seen, and sent again with one command, beside a running service."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dicom_bridge.delivery import Transport
from dicom_bridge.ledger import Batch, State
from dicom_bridge.outbox import Outbox
from dicom_bridge.peers import Peer
from dicom_bridge.store_scu import SendResult
from service.commands.outbox import app
from tests.simulators import series

PACS = Peer("pacs", "TESTPACS", "127.0.0.1", 9)


class Desk:
    """A data folder with an outbox in it, whose PACS answers what `statuses` say, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.data, self.config = folder / "data", folder / "zhiying.toml"
        self.statuses: list[int] = []
        self.told: list[Batch] = []
        self.files = series.write_series(folder / "results", 1, shape=(4, 4))
        self.write_config()

    def write_config(self, name: str = "pacs") -> None:
        """With one peer of this name."""
        self.config.write_text(
            f'[data]\nfolder = "{self.data}"\n[[peers]]\nname = "{name}"\nae_title = "TESTPACS"\n'
            'host = "127.0.0.1"\nport = 104\n',
            encoding="utf-8",
        )

    def outbox(self) -> Outbox:
        """As the service opens it."""
        self.data.mkdir(exist_ok=True)
        transport = Transport(store=self._store)
        peers = {"pacs": PACS}
        # The machine's own clock: the command beside it has no other.
        return Outbox(
            self.data / "outbox", lambda: datetime.now(UTC), self.told.append, peers=peers, transport=transport
        )

    def _store(self, files: Any, _peer: Peer, _calling_ae: str, **_: Any) -> SendResult:
        return SendResult(tuple(self.statuses.pop(0) if self.statuses else 0 for _ in files), None)

    def run(self, *words: str) -> Result:
        """One command."""
        return CliRunner().invoke(app, [*words, "--config", str(self.config)], env={"COLUMNS": "200"})

    def json(self, *words: str) -> Any:
        """What a command that must succeed prints with --json."""
        result = self.run(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An empty installation."""
    return Desk(tmp_path)


@pytest.fixture
def filled(desk: Desk) -> Iterator[Outbox]:
    """A dead letter, one that waits and one that was delivered; the outbox stays open, as a running service's."""
    desk.statuses = [0, 0xC000, 0xA700]
    outbox = desk.outbox()
    for name in ("there", "dead", "waits"):
        outbox.enqueue(name, "pacs", desk.files)
        outbox.run_due("pacs")
    yield outbox
    outbox.stop()


def test_nothing_is_made_by_looking(desk: Desk) -> None:
    """An installation that never sent anything has an empty list, and no ledger afterwards."""
    assert desk.json("list") == []
    assert desk.run("list").stdout.strip() == "outbox: none"
    assert not (desk.data / "outbox").exists()


def test_what_is_not_delivered_is_listed_with_its_reason(desk: Desk, filled: Outbox) -> None:
    """On its way or given up: batch, peer, state, code and the status of each object; what is there is not listed."""
    listed = desk.json("list")
    assert [(item["batch"], item["state"], item["code"]) for item in listed] == [
        ("dead", "DEAD", "STATUS_C000"),
        ("waits", "PENDING", "STATUS_A700"),
    ]
    (output,) = listed[0]["outputs"]
    assert (output["status"], output["stored"]) == ("0xC000", False)
    assert output["digest"].startswith("sha256:")
    table = desk.run("list").stdout
    assert "STATUS_C000" in table
    assert "STATUS_A700" in table


def test_only_the_dead_can_be_asked_for(desk: Desk, filled: Outbox) -> None:
    """--dead is the list that somebody has to work off."""
    assert [item["batch"] for item in desk.json("list", "--dead")] == ["dead"]


def test_a_dead_letter_is_sent_again_beside_a_running_service(desk: Desk, filled: Outbox) -> None:
    """The command writes into the ledger; the service, which has it open, takes it up by itself."""
    filled.start()
    assert desk.json("resend", "dead") == {"batch": "dead", "peer": "pacs", "state": "PENDING"}
    ends = time.monotonic() + 30
    while filled.state("dead") is not State.DELIVERED:
        assert time.monotonic() < ends, "the service did not take it up"
        time.sleep(0.05)
    assert desk.json("list", "--dead") == []


def test_a_dead_letter_is_sent_again_by_the_next_start(desk: Desk, filled: Outbox) -> None:
    """Without a running service the wish is remembered."""
    filled.stop()
    assert desk.run("resend", "dead").exit_code == 0
    again = desk.outbox()
    again.run_due("pacs")
    assert again.state("dead") is State.DELIVERED
    again.stop()


@pytest.mark.parametrize(
    ("batch", "code"), [("unknown", "NOT_FOUND"), ("waits", "BATCH_NOT_DEAD"), ("there", "BATCH_NOT_DEAD")]
)
def test_what_cannot_be_sent_again_is_said_in_one_line(desk: Desk, filled: Outbox, batch: str, code: str) -> None:
    """A batch that is not there, on its way or delivered: exit status 1, a code, and nothing changed."""
    before = desk.json("list")
    result = desk.run("resend", batch)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error {code}: ")
    assert result.stderr.count("\n") == 1
    assert desk.json("list") == before


def test_nothing_is_sent_again_to_a_peer_that_is_not_named(desk: Desk, filled: Outbox) -> None:
    """The configuration decides where results may go; the answer says which name is missing."""
    desk.write_config("archive")
    result = desk.run("resend", "dead")
    assert result.exit_code == 1
    assert result.stderr.startswith("error COMMAND_REFUSED: the configuration names no peer 'pacs'")
    assert desk.json("list", "--dead")[0]["state"] == "DEAD"


def test_an_outbox_that_cannot_be_read_is_said(desk: Desk) -> None:
    """A damaged ledger is one line with a code, not a traceback."""
    (desk.data / "outbox").mkdir(parents=True)
    (desk.data / "outbox" / "outbox.sqlite3").write_bytes(b"no database, not at all" * 100)
    result = desk.run("list")
    assert (result.exit_code, result.stderr.split(":")[0]) == (1, "error LEDGER_UNAVAILABLE")


def test_the_ledger_reads_no_dicom() -> None:
    """A person who looks into the outbox does not wait for the DICOM libraries to load, as far as the ledger goes."""
    code = "import sys, dicom_bridge.ledger; print('pydicom' in sys.modules, 'pynetdicom' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["False", "False"]
