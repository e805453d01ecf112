"""`zhiying spool reconcile`: exit status 0 only if every acknowledged image is accounted for; each gap has a name."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from typer.testing import CliRunner, Result

from dicom_bridge.errors import InboxUnavailable
from dicom_bridge.inbox import Inbox
from service import wire
from service.cli import app
from service.store import Run, State, Store, connect
from tests.simulators import series
from tests.simulators.failing_disk import FailingDisk

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
STUDY = str(series.make_slice(0).StudyInstanceUID)
UIDS = [str(series.make_slice(index).SOPInstanceUID) for index in range(4)]


class Desk:
    """A data folder with a spool of one study, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.data, self.config = folder / "data", folder / "zhiying.toml"
        self.config.write_text(f'[data]\nfolder = "{self.data}"\nfree_bytes_min = 0\n', encoding="utf-8")
        self.list = folder / "acknowledged.txt"

    def receive(self) -> Inbox:
        """Take four slices, as the listener does; the inbox stays open, as a running service's."""
        spool = wire.spool(wire.settings(self.config))
        spool.mkdir(parents=True, exist_ok=True)
        inbox = Inbox(spool, lambda: NOW)
        for path in series.write_series(self.data.parent / "sent", 4):
            inbox.store_file(path.read_bytes(), "MODALITY")
        inbox._index.flush()
        return inbox

    def hand_on(self, inbox: Inbox, state: State | None) -> None:
        """A run has seen the study, and has come to this state; None: nobody remembers the run."""
        digest = inbox.input_digest(STUDY)
        (study,) = inbox.open_studies()
        inbox.mark_assembled(STUDY, study.touches, digest)
        store = Store(connect(wire.database_url(wire.settings(self.config), "runs")))
        if state is not None:
            store.add(Run("r1", STUDY, digest, 1, state, "QUIET_TIMER", NOW, NOW))
        store.close()

    def file_of(self, uid: str) -> Path:
        """Where an instance lies."""
        return self.data / "spool" / "studies" / STUDY / f"{uid}.dcm"

    def run(self, *words: str) -> Result:
        """One command."""
        command = ["spool", "reconcile", *words, "--config", str(self.config)]
        return CliRunner().invoke(app, command, env={"COLUMNS": "300"})

    def json(self, *words: str, status: int = 0) -> Any:
        """What it prints with --json; its exit status must be this."""
        result = self.run(*words, "--json")
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)

    def told(self, *uids: str) -> tuple[str, str]:
        """The words that name a list of what a sender was told."""
        self.list.write_text("".join(f"{uid}\n" for uid in uids), encoding="ascii")
        return "--acknowledged", str(self.list)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An installation that has received nothing."""
    return Desk(tmp_path)


@pytest.fixture
def inbox(desk: Desk) -> Iterator[Inbox]:
    """Its inbox, with four slices of one study."""
    made = desk.receive()
    yield made
    made.close()


def _problems(report: Any) -> list[tuple[str, str]]:
    return [(finding["problem"], finding["sop_uid"]) for finding in report["findings"]]


def test_without_a_spool_it_says_so_and_makes_none(desk: Desk) -> None:
    """A wrong configuration must not look like a spool from which everything is gone."""
    result = desk.run()
    assert result.exit_code == 1
    assert result.stderr.startswith("error NOT_FOUND: there is no spool in ")
    assert result.stderr.count("\n") == 1
    assert not desk.data.exists()


def test_what_arrives_is_counted_and_nothing_is_missing(desk: Desk, inbox: Inbox) -> None:
    """Beside a service that runs: four images whose study waits to be complete; exit status 0."""
    assert desk.json(*desk.told(*UIDS)) == {"ok": True, "fates": {"ARRIVING": 4, "QUARANTINED": 0}, "findings": []}
    table = desk.run()
    assert table.exit_code == 0
    assert "ARRIVING" in table.stdout


@pytest.mark.parametrize("state", [State.RELEASED, State.REFUSED, State.FAILED, State.UNDELIVERED])
def test_what_has_ended_is_accounted_for(desk: Desk, inbox: Inbox, state: State) -> None:
    """Each end of a run is a result, or a reason that a person can see."""
    desk.hand_on(inbox, state)
    assert desk.json(*desk.told(*UIDS))["fates"] == {"ENDED": 4, "QUARANTINED": 0}


def test_an_image_that_nobody_knows_is_named(desk: Desk, inbox: Inbox) -> None:
    """A sender was told 0x0000 for it: exit status 1, and its UID, in the table as well."""
    report = desk.json(*desk.told(*UIDS, "1.2.3.4"), status=1)
    assert (report["ok"], _problems(report)) == (False, [("UNACCOUNTED", "1.2.3.4")])
    table = desk.run(*desk.told("1.2.3.4"))
    assert table.exit_code == 1
    assert "UNACCOUNTED" in table.stdout
    assert "1.2.3.4" in table.stdout


def test_a_list_that_cannot_be_read_is_one_line(desk: Desk, inbox: Inbox) -> None:
    """Not an empty list, which would make everything well."""
    result = desk.run("--acknowledged", str(desk.list))
    assert result.exit_code == 1
    assert result.stderr.startswith("error IO_ERROR: ")
    assert result.stderr.count("\n") == 1


def test_a_study_without_its_run_is_named(desk: Desk, inbox: Inbox) -> None:
    """Handed on, and no run knows of it: that would be silence."""
    desk.hand_on(inbox, None)
    report = desk.json(status=1)
    assert [(one["problem"], one["study_uid"]) for one in report["findings"]] == [("NO_RUN", STUDY)]


def test_a_file_that_is_gone_is_named(desk: Desk, inbox: Inbox) -> None:
    """The index alone proves nothing: somebody removed the file."""
    desk.file_of(UIDS[1]).unlink()
    assert _problems(desk.json(status=1)) == [("FILE_MISSING", UIDS[1])]


def test_a_file_that_was_put_there_is_named(desk: Desk, inbox: Inbox) -> None:
    """What the index does not know, no run will read before the next start."""
    desk.file_of("1.2.3.4").write_bytes(desk.file_of(UIDS[0]).read_bytes())
    assert _problems(desk.json(status=1)) == [("FILE_UNKNOWN", "1.2.3.4")]


@pytest.mark.parametrize("change", ["one bit of a pixel", "cut short", "empty"])
def test_only_a_deep_look_reads_the_files(desk: Desk, inbox: Inbox, change: str) -> None:
    """A disk that changed a file after it was acknowledged: --deep compares digests, the quick look does not."""
    inbox.input_digest(STUDY)
    file = desk.file_of(UIDS[2])
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes({"one bit of a pixel": body, "cut short": body[:-100], "empty": b""}[change])

    assert desk.json()["ok"] is True
    assert _problems(desk.json("--deep", status=1)) == [("FILE_CHANGED", UIDS[2])]


def test_a_deep_look_at_sound_files_finds_nothing(desk: Desk, inbox: Inbox) -> None:
    """Each digest is that of what was received."""
    assert desk.json("--deep", *desk.told(*UIDS))["ok"] is True


def test_what_comes_while_it_looks_is_no_gap(desk: Desk, inbox: Inbox) -> None:
    """Beside a service that receives: files come before their rows, and at the second look those have theirs."""
    uids = [str(series.make_slice(index).SOPInstanceUID) for index in range(4, 40)]
    over = threading.Event()

    def receive() -> None:
        for index in range(4, 40):
            inbox.store_file(series.part10(series.make_slice(index)), "MODALITY")
        over.set()

    sender = threading.Thread(target=receive)
    sender.start()
    try:
        while not over.is_set():
            assert desk.json()["ok"] is True
    finally:
        sender.join()
    assert desk.json(*desk.told(*UIDS, *uids))["fates"]["ARRIVING"] == 40


def test_what_was_let_go_is_accounted_for(desk: Desk, inbox: Inbox) -> None:
    """The pixels have left after their time, and a sender may still ask."""
    desk.hand_on(inbox, State.RELEASED)
    inbox.let_go(STUDY)
    report = desk.json("--deep", *desk.told(*UIDS))
    assert (report["ok"], report["fates"]) == (True, {"LET_GO": 4, "QUARANTINED": 0})


def test_a_study_on_its_way_out_is_accounted_for(desk: Desk, inbox: Inbox) -> None:
    """Cut off in the middle: all are remembered as let go, one has no row any more, and another one no file."""
    desk.hand_on(inbox, State.RELEASED)
    first, second, *_ = inbox.instances(STUDY)
    inbox._disk = disk = FailingDisk()
    disk.fail["remove"] = "after"
    with pytest.raises(InboxUnavailable):
        inbox.let_go(STUDY)
    assert not first.path.exists()
    inbox._index.forget(first.sop_uid)
    second.path.unlink()

    report = desk.json("--deep", *desk.told(*UIDS))

    assert (report["ok"], report["findings"]) == (True, [])
    assert report["fates"] == {"ENDED": 3, "LET_GO": 1, "QUARANTINED": 0}


def test_other_content_under_a_remembered_uid_is_not_on_its_way_out(desk: Desk, inbox: Inbox) -> None:
    """It came after the first one had left: a new image, that needs a run and a file of its own."""
    desk.hand_on(inbox, State.RELEASED)
    inbox.let_go(STUDY)
    other = series.make_slice(0)
    other.SeriesDescription = "another one"
    inbox.store_file(series.part10(other), "MODALITY")
    desk.hand_on(inbox, None)

    assert [one["problem"] for one in desk.json(status=1)["findings"]] == ["NO_RUN"]
    desk.file_of(str(other.SOPInstanceUID)).unlink()
    assert "FILE_MISSING" in [one["problem"] for one in desk.json(status=1)["findings"]]


def test_what_is_in_quarantine_is_counted(desk: Desk, inbox: Inbox) -> None:
    """The same UID with other content: the first is held, the newcomer waits for a person."""
    other = dcmread(desk.file_of(UIDS[0]))
    other.SeriesDescription = "another one"
    inbox.store_file(series.part10(other), "MODALITY")
    assert desk.json(*desk.told(*UIDS))["fates"] == {"ARRIVING": 4, "QUARANTINED": 1}


def test_looking_changes_nothing(desk: Desk, inbox: Inbox) -> None:
    """Not a file of the data folder but SQLite's own, whatever is found."""
    desk.hand_on(inbox, State.RELEASED)
    desk.file_of(UIDS[3]).unlink()

    def files() -> dict[str, bytes]:
        found = (path for path in desk.data.rglob("*") if path.is_file() and "sqlite" not in path.name)
        return {str(path): path.read_bytes() for path in found}

    before = files()
    desk.json("--deep", status=1)
    assert files() == before
    assert inbox.studies()[0].last_received_at - NOW == timedelta(0)
