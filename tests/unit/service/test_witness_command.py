"""zhiying witness: a witness is made, taught, asked by file; the hospital makes requests and takes answers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from audit.checkpoint import Checkpoint
from audit.layout import CHECKPOINT, HEAD
from service import wire
from service.cli import app
from service.commands import witness
from service.config import Config
from tests.simulators.audit_log import draft
from tests.simulators.witnessed_log import body, leaves


def run(*words: str | Path, status: int = 0) -> Result:
    """`zhiying witness WORDS`, with its exit status checked."""
    result = CliRunner().invoke(app, ["witness", *map(str, words)])
    assert result.exit_code == status, result.output
    return result


class Place:
    """A hospital with a log, a witness behind an air gap, and the policy that names it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.config.write_text(f'[data]\nfolder = "{folder / "data"}"\n', encoding="utf-8")
        self.append(3)
        self.witness = folder / "witness"
        self.vkey = json.loads(run("keygen", "w1.example", "--folder", self.witness, "--json").stdout)["vkey"]
        self.log_vkey = wire.log_vkey(wire.settings(self.config))
        self.policy = folder / "policy"
        self.policy.write_text(f"log {self.log_vkey}\nwitness {self.vkey}\nquorum 1\n", encoding="utf-8")

    def append(self, count: int) -> None:
        """More entries in the log."""
        with wire.offline(self.config) as site:
            start = site.log.head().size
            for number in range(start, start + count):
                site.log.append(draft(number))

    def site(self, *words: str | Path, status: int = 0) -> Result:
        """A command of the hospital's side."""
        return run(*words, "--policy", self.policy, "--config", self.config, status=status)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """One for each test."""
    return Place(tmp_path)


def test_the_whole_way_by_files(place: Place) -> None:
    """Known, asked, signed, taken; then grown, and again; each file is new."""
    run("add-log", place.log_vkey, "--folder", place.witness)
    place.site("status", status=1)
    for round_ in ("1", "2"):
        request, answer = place.folder / f"request{round_}", place.folder / f"answer{round_}"
        place.site("request", "w1.example", "--out", request)
        run("sign", request, "--out", answer, "--folder", place.witness)
        assert json.loads(place.site("take", "w1.example", request, answer, "--json").stdout)["quorum"] is True
        held = json.loads(place.site("status", "--json").stdout)
        (known,) = json.loads(run("logs", "--folder", place.witness, "--json").stdout)
        assert (held["size"], held["root"]) == (known["size"], known["root"])
        place.append(2)
    assert "exists" in run("sign", request, "--out", answer, "--folder", place.witness, status=1).output


def test_a_conflict_travels_as_a_file(place: Place) -> None:
    """The hospital forgot what was cosigned: the answer names the size, and the next request starts there."""
    run("add-log", place.log_vkey, "--folder", place.witness)
    folder = place.folder
    place.site("request", "w1.example", "--out", folder / "a")
    run("sign", folder / "a", "--out", folder / "a.answer", "--folder", place.witness)
    place.append(2)
    place.site("request", "w1.example", "--out", folder / "b")
    told = run("sign", folder / "b", "--out", folder / "b.answer", "--folder", place.witness, status=1)
    assert "WITNESS_CONFLICT" in told.output
    size = (folder / "b.answer").read_text(encoding="utf-8").strip()
    taken = place.site("take", "w1.example", folder / "b", folder / "b.answer", status=1)
    assert "WITNESS_SIZE" in taken.output
    place.site("request", "w1.example", "--old", size, "--out", folder / "c")
    run("sign", folder / "c", "--out", folder / "c.answer", "--folder", place.witness)
    place.site("take", "w1.example", folder / "c", folder / "c.answer")


def test_what_a_dead_service_left_unpublished_is_submitted(place: Place) -> None:
    """Nobody publishes it any more, so whoever asks for the newest public checkpoint does, up to the head."""
    site = wire.settings(place.config)
    log = wire.open_log(site)
    log.append(draft(77))
    assert published_size(site) == 4
    log.publish()
    size = log.head().size
    log.append(draft(78))
    began = time.monotonic()
    checkpoint, files = witness.published(site)
    assert (checkpoint.size, files.checkpoint(HEAD)) == (size + 1, checkpoint)
    assert time.monotonic() - began < 10 * wire.PUBLISH_S
    log.close()
    assert witness.published(site)[0] == checkpoint


def published_size(site: Config) -> int:
    """What software that is not ours sees."""
    return Checkpoint.unverified((wire.audit_root(site) / CHECKPOINT).read_text(encoding="utf-8")).size


def test_refusals_are_one_line_with_a_code(place: Place) -> None:
    """No key yet, a second key, a log nobody knows, nonsense, a stranger's policy, nobody to push to."""
    folder = place.folder
    assert "NOT_FOUND" in run("logs", "--folder", folder / "empty", status=1).output
    assert "COMMAND_REFUSED" in run("keygen", "w1.example", "--folder", place.witness, status=1).output
    place.site("request", "w1.example", "--out", folder / "request")
    told = run("sign", folder / "request", "--out", folder / "answer", "--folder", place.witness, status=1)
    assert "WITNESS_ORIGIN_UNKNOWN" in told.output
    assert not (folder / "answer").exists()
    (folder / "request").write_bytes(b"x" * 100_000)
    told = run("sign", folder / "request", "--out", folder / "answer", "--folder", place.witness, status=1)
    assert "too long" in told.output
    assert "WITNESS_POLICY_INVALID" in place.site("request", "w9.example", "--out", folder / "r9", status=1).output
    assert "COMMAND_REFUSED" in place.site("push", status=1).output
    assert "NOTE_MALFORMED" in run("add-log", "x", "--folder", place.witness, status=1).output
    (folder / "foreign").write_bytes(body(0, leaves(3)))
    (folder / "answer").write_bytes(b"3\n")
    told = place.site("take", "w1.example", folder / "foreign", folder / "answer", status=1)
    assert "NOTE_SIGNER_UNKNOWN" in told.output
    place.policy.write_text(f"log {place.log_vkey}\nquorum 1\n", encoding="utf-8")
    assert "WITNESS_POLICY_INVALID" in place.site("status", status=1).output
