"""A vendor, a hospital and a reviewer, each with a folder of keys: one model's whole life, with the real service.

Refused, reviewed, live; suspended by the monitor for what readers said; resumed; an incident that only the reviewer's
signature can end; retired. Then the export goes to the verifier, which weighs every decision again.
"""

import hashlib
import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from audit import verifier
from audit.entry import Kind
from models.ref import ModelRef
from service import wire
from tests.simulators import nursery
from tests.simulators.pacs import FakePacs
from tests.simulators.parties import D1, PEOPLE, Case
from tests.simulators.site import Site, write_series
from tests.simulators.waiting import until

ZHIYING = Path(sys.executable).with_name("zhiying")
TOKEN = "t" * 40
LIMIT_S = 120.0
"""For what takes a second, on a machine that does much else beside."""
DISAGREEMENTS = 9
"""From 6 % to 12 % each adds ln 2 to the chart: the ninth on end passes h = 6."""
READERS = f"""
[[readers]]
name = "test-li"
role = "RADIOLOGIST"
token_sha256 = "{hashlib.sha256(TOKEN.encode()).hexdigest()}"
training = "{D1}"
"""


class Hospital(Site):
    """The site, and the parties' folders: what one party signs reaches the others as a file."""

    ref: ModelRef

    def key(self, name: str) -> Path:
        """Where a person keeps the secret key: in the folder of the organisation."""
        path = self.root / PEOPLE[name][0] / f"{name}.key"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            self.parties.signers[name].save(path)
        return path

    def asked(self, *words: str | Path, status: int = 0) -> Any:
        """What a command prints as JSON; where it must fail, its line on the standard error."""
        return self.printed(*words, "--config", self.config_file, "--json", status=status)

    def printed(self, *words: str | Path, status: int = 0) -> Any:
        """The same of one that needs no site."""
        done = nursery.run([ZHIYING, *words])
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr if status else json.loads(done.stdout)

    def study(self, name: str, *states: str) -> Any:
        """Send a new study, and wait until its run is in one of the states."""
        files = write_series(self.root / name, seed=name)
        assert set(self.send(files)) == {0}
        uid = str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
        return self.run_in(*states, study=uid, limit_s=LIMIT_S)

    def decide(self, call: str, said: Mapping[str, Any]) -> None:
        """A physician's word, through the API."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}/calls/{call}/decision",
            data=json.dumps(said).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310 - to this machine
            assert answer.status in {200, 201}

    def state(self) -> tuple[str, str | None]:
        """Where the dossier stands, and why, by `zhiying review show`."""
        (one,) = self.asked("review", "show", self.ref.name)["dossiers"]
        return one["state"], one["cause"]

    def golden(self) -> int:
        """A golden case that matched, as the service logs one: this model, which is no network, brings none."""
        with wire.offline_of(self.config) as opened:
            return Case(self.parties, opened.register, opened.log, self.ref).golden()

    def statement(self, **said: Any) -> Path:
        """What an act states, as a file."""
        path = self.root / "statement.json"
        path.write_text(json.dumps(said), encoding="utf-8")
        return path

    def resume(self, *by: str, status: int = 0) -> Any:
        """`zhiying review resume`, signed by these."""
        stated = self.statement(root_cause=D1, correction=D1, golden=self.golden())
        keys = [word for name in by for word in ("--key", self.key(name))]
        return self.asked("review", "resume", self.ref.name, "--statement", stated, *keys, status=status)


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    """A running service with a model that nobody has approved."""
    with FakePacs() as pacs:
        made = Hospital(tmp_path, pacs, more=READERS)
        made.ref = made.install_model()
        made.start()
        yield made
        made.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_life(hospital: Hospital, tmp_path: Path) -> None:
    """Each party does its part and nobody another's; the log tells all of it, and the verifier finds no difference."""
    assert hospital.study("early", "REFUSED").code == "NO_APPROVAL"
    hospital.approve(hospital.ref, number=7)  # the first one's id is the patient's, which no export may hold
    assert hospital.state() == ("LIVE", None)

    for number in range(DISAGREEMENTS):
        run = hospital.study(f"read-{number}", "RELEASED")
        hospital.decide(run.call, {"decision": "REJECT", "reasons": ["FALSE_POSITIVE"], "significant": "YES"})
    until(lambda: hospital.state()[0] == "SUSPENDED", LIMIT_S, "the monitor suspends")
    assert hospital.state() == ("SUSPENDED", "PERFORMANCE")
    assert hospital.study("suspended", "REFUSED").code == "SUSPENDED"

    assert "ACT_SIGNERS" in hospital.resume("safety", status=1)
    hospital.resume("owner", "safety")
    assert hospital.state() == ("LIVE", None)
    hospital.study("resumed", "RELEASED")

    opened = hospital.asked("review", "incident", "open", "--category", "DEVICE_SERIOUS", "--model", hospital.ref.name)
    assert opened["model_state"] == "SUSPENDED"
    assert "ACT_SIGNERS" in hospital.resume("owner", "safety", status=1), "harm is not for the hospital alone to end"
    hospital.resume("owner", "safety", "reviewer-1")
    hospital.study("again", "RELEASED")

    keys = ("--key", hospital.key("owner"), "--key", hospital.key("safety"))
    hospital.asked("review", "retire", hospital.ref.name, "--statement", hospital.statement(archive=D1), *keys)
    assert hospital.study("late", "REFUSED").code == "RETIRED"
    weighed(hospital, tmp_path)


def weighed(hospital: Hospital, folder: Path) -> None:
    """The export, by the verifier: nothing is wrong, and every decision comes out as it did."""
    about = ("--recipient", "TEST Reviewer", "--purpose", "YEARLY_REVIEW", "--contract", "TEST-1")
    package, policy = folder / "package.zip", folder / "policy.txt"
    hospital.asked("audit", "export", "--out", package, *about)
    people = [line for line in hospital.parties.policy().splitlines() if line.startswith("person ")]
    policy.write_text("\n".join([f"log {wire.log_vkey(hospital.config)}", *people]) + "\n", encoding="utf-8")
    with package.open("rb") as file:
        report = verifier.verify(file, verifier.Policy(policy))
    failed = [remark for remark in report.remarks if remark.verdict == verifier.FAIL]
    assert failed == []
    trust, key = folder / "trust.policy", wire.log_vkey(hospital.config)
    trust.write_text(hospital.parties.policy(), encoding="utf-8")
    again = hospital.printed("review", "recompute", package, "--trust", trust, "--log-key", key, "--json")
    assert (again["good"], again["agree"], again["missing"], again["set_aside"]) == (True, again["evaluations"], [], [])
    assert again["evaluations"] == hospital.counted()[Kind.EVALUATION] > 10
    decisions = report.figures["decisions"]
    counted = hospital.counted()
    # No witness was asked, so it is not PASS; but every intent was weighed, and what the dossier's state denied.
    assert report.verdict == verifier.INCOMPLETE
    assert (decisions["differ"], decisions["evaluated"]) == (0, decisions["agree"])
    assert decisions["agree"] >= counted[Kind.CALL_INTENT] + 3
    assert counted[Kind.HUMAN_DECISION] == DISAGREEMENTS
    assert counted[Kind.INCIDENT] == 1
