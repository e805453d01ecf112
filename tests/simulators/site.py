"""A small hospital in a folder: a model of one threshold, a reviewer's approval, a PACS, and the service in a process.

Everything is real but the model's size and the PACS, which is `tests.simulators.pacs`: the service under test is the
one that `zhiying serve` runs, in a process that can be killed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audit import fsck
from audit.entry import Entry
from dicom_bridge.peers import Peer
from dicom_bridge.store_scu import send
from models.library import Library
from models.ref import ModelRef
from service import looking, wire
from service.demo.servers import free_port
from service.store import Run
from tests.simulators import nursery, series, small_model, tiny_model
from tests.simulators.pacs import FakePacs
from tests.simulators.parties import Case, Parties
from tests.simulators.reviewer import TERMS
from tests.simulators.waiting import LIMIT_S, until

AE = "ZHIYING"
REPOSITORY = Path(__file__).resolve().parents[2]
SLICES, ROWS, COLUMNS = 24, 40, 40
BALL_RADIUS = 9.0


def stage_model(
    folder: Path, network: type[torch.nn.Module] = tiny_model.Threshold, *, name: str = "small-model"
) -> Path:
    """A complete model, ready to install: the threshold network with a manifest that takes the site's series."""
    fields = small_model.manifest_fields(deadline_s=60, name=name)
    fields["input"] |= {"slices": [8, 40], "fov_mm": [10.0, 100.0], "slice_spacing_mm": [0.5, 2.0]}
    fields["measurements"][0] |= {"plausible": [0.1, 50.0]}
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "manifest.json").write_bytes(small_model.as_json(fields))
    (folder / "configs" / "inference.json").write_text(json.dumps(tiny_model.INFERENCE), encoding="utf-8")
    (folder / "configs" / "metadata.json").write_text('{"version": "1.0"}', encoding="utf-8")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=Warning)
        torch.jit.save(torch.jit.script(network()), str(folder / "models" / "model.pt"))
    return folder


def ball(index: int, ds: Any, *, value: int = 1) -> None:
    """Draw slice `index` of a ball of this value in the dark."""
    r, c = np.mgrid[:ROWS, :COLUMNS]
    inside = (r - ROWS / 2) ** 2 + (c - COLUMNS / 2) ** 2 + (index - SLICES / 2) ** 2 <= BALL_RADIUS**2
    series.set_pixels(ds, inside.astype(np.int16) * value)


def write_series(
    folder: Path, *, seed: str = "one", skip: tuple[int, ...] = (), value: int = 1, **options: Any
) -> list[Path]:
    """The site's series of a ball: 24 slices of 40 x 40 at 1 mm; `seed` names the study."""
    options.setdefault("count", SLICES)
    return series.write_series(
        folder, spoil=partial(ball, value=value), skip=skip, seed=seed, shape=(ROWS, COLUMNS), **options
    )


class Site:
    """One installation under `root`; its PACS lives in the test's process."""

    def __init__(
        self,
        root: Path,
        pacs: FakePacs,
        *,
        quiet_s: float = 0.5,
        database: str | None = None,
        pacs_more: str = "",
        more: str = "",
        denials: bool = False,
        decides: bool = False,
    ) -> None:
        """`database`: URL of a PostgreSQL; without it, SQLite files as by default.

        `pacs_more`: further lines of the PACS's [[peers]] section; `more`: further sections of the file; `denials`: the
        PACS is told of refusals. `decides`: results carry a link to the form of this service.
        """
        self.root = root
        self.pacs = pacs
        self.dicom_port, self.http_port = free_port(), free_port()
        self.config_file = root / "zhiying.toml"
        self._quiet_s = quiet_s
        self._database, self._pacs_more, self._more, self._denials = database, pacs_more, more, denials
        self._decide_at = f'decide_at = "http://127.0.0.1:{self.http_port}"' if decides else ""
        self._process: subprocess.Popen[bytes] | nursery.Popen | None = None
        root.mkdir(parents=True, exist_ok=True)
        keys = root / "parties.json"  # a copy of a prepared site has the same people
        self.parties = Parties.of_keys(keys.read_text(encoding="utf-8")) if keys.exists() else Parties()
        keys.write_text(self.parties.keys(), encoding="utf-8")
        (root / "trust.policy").write_text(self.parties.policy(), encoding="utf-8")
        self._write_config()

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.root / "data"

    @property
    def config(self) -> Any:
        """As the service reads it."""
        return wire.settings(self.config_file)

    def _write_config(self) -> None:
        self.config_file.write_text(
            f"""
[site]
id = "test-site"
[data]
folder = {json.dumps(str(self.data))}
free_bytes_min = 0
[dicom]
ae_title = "{AE}"
port = {self.dicom_port}
[http]
port = {self.http_port}
[[peers]]
name = "pacs"
ae_title = "{self.pacs.ae_title}"
host = "127.0.0.1"
port = {self.pacs.port}
{self._pacs_more}
[results]
to = "pacs"
denials = {json.dumps(self._denials)}
{self._decide_at}
[assembly]
quiet_s = {self._quiet_s}
[review]
trust = {json.dumps(str(self.root / "trust.policy"))}
care_setting = "OP"
reading_mode = "second_reader"
{"" if self._database is None else f"[database]{chr(10)}url = {json.dumps(self._database)}"}
{self._more}
""",
            encoding="utf-8",
        )

    def install_model(
        self, network: type[torch.nn.Module] = tiny_model.Threshold, *, name: str = "small-model"
    ) -> ModelRef:
        """Take the tiny model in, under this name."""
        return Library(self.data / "models").install(stage_model(self.root / f"staged-{name}", network, name=name))

    def approve(
        self, ref: ModelRef, *, number: int = 1, bounds: Sequence[Mapping[str, Any]] | None = None, **conditions: Any
    ) -> str:
        """The whole life of its dossier, so that it may run LIVE from here on; gives the approval's note.

        `bounds`: those of a local acceptance, where they are others than usual.
        """
        terms = {
            "approval": f"TEST-{number:04d}",
            "criteria_set": "TEST/1",
            "reviewer_org": "test-review-centre",
            "model": {"name": ref.name, "version": ref.version, "digest": ref.digest},
            "valid": {"from": "2020-01-01", "to": "2099-12-31"},
            **TERMS,
            "acceptance": list(TERMS["acceptance"] if bounds is None else bounds),
            "conditions": {
                "modality": ["MR"],
                "body_part": ["BRAIN"],
                "age_years": [18, 120],
                "sex": ["F", "M", "O"],
                "manufacturer": ["*"],
                "site": ["test-site"],
                "slice_spacing_mm": ["0.5", "2.0"],
                "max_autonomy": "A1",
                "care_setting": ["*"],
                "reading_mode": ["second_reader"],
                "max_calls_day": 2000,
                "require": ["opt_out_check"],
            }
            | conditions,
        }
        with wire.offline_of(self.config) as opened:
            case = Case(self.parties, opened.register, opened.log, ref)
            approval = case.live(terms)
            recorded = opened.log.find(f"approval:{approval.id.lower()}")
        assert recorded is not None
        return str(recorded.body["note"])

    # ---- the process -----------------------------------------------------------------------------------------------

    def start(
        self,
        die_at: tuple[str, ...] | None = None,
        under: Sequence[str] = (),
        *,
        degraded: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start the service; with `die_at` it kills itself at that step and moment, or by the third's signal.

        `under`: a command that runs it, such as strace; then it starts from nothing, else from the nursery. `degraded`:
        wait until it says that something is wrong. `env`: more of its environment.
        """
        victim = REPOSITORY / "tests" / "faults" / "serve_and_die.py"
        command = [*under, sys.executable, str(victim), str(self.config_file), *(die_at or ())]
        with (self.root / "serve.log").open("ab") as log:
            start = subprocess.Popen if under else nursery.Popen
            environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | (env or {})
            self._process = start(command, stdout=log, stderr=log, cwd=REPOSITORY, env=environment)
        try:
            until(lambda: self.checks() if degraded else self._up(), LIMIT_S, "the service answers")
        except TimeoutError:
            self.kill()
            raise

    def checks(self) -> dict[str, str]:
        """What /health says of each part; nothing while it does not answer, or answers that all is well."""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/health", timeout=1).close()
        except urllib.error.HTTPError as answer:
            with answer:
                return dict(json.load(answer)["checks"])
        except OSError:
            pass
        return {}

    def _up(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            return True  # died at its crash point while it resumed: as wanted, or the caller will see
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def wait_for_death(self, limit_s: float = LIMIT_S) -> int:
        """The status with which the process ended: -9 after SIGKILL."""
        process = self._process
        assert process is not None
        until(lambda: process.poll() is not None, limit_s, "the service dies at its crash point")
        return int(process.returncode)

    def wait_for_freeze(self, limit_s: float = LIMIT_S) -> None:
        """Wait until the service, told to die by SIGSTOP, stands still."""
        process = self._process
        assert process is not None
        stat = Path(f"/proc/{process.pid}/stat")  # proc(5): the state follows the name, which may hold spaces
        until(lambda: stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T", limit_s, "it stands still")

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """As the power cut does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """As systemd does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(LIMIT_S)

    # ---- what people do and see --------------------------------------------------------------------------------------

    def send(self, files: list[Path]) -> tuple[int | None, ...]:
        """Send as a modality does; gives the statuses."""
        return send(files, Peer("service", AE, "127.0.0.1", self.dicom_port), "MODALITY").statuses

    def runs(self) -> tuple[Run, ...]:
        """All runs, newest first."""
        with looking.ledger(self.config_file) as (store, _):
            return store.latest()

    def settle(self, limit_s: float = LIMIT_S) -> None:
        """Wait until no study waits to be looked at."""

        def settled() -> bool:
            with looking.ledger(self.config_file) as (_, index):
                return not index.open_studies()

        until(settled, limit_s, "every study that was sent has been looked at")

    def run_in(self, *states: str, study: str | None = None, limit_s: float = LIMIT_S) -> Run:
        """Wait until the newest run (of `study`) is in one of the states."""

        def look() -> Run | None:
            runs = [run for run in self.runs() if study in (None, run.study_uid)]
            return runs[0] if runs and runs[0].state in states else None

        try:
            found: Run = until(look, limit_s, f"a run in {states}")
        except TimeoutError as late:
            log = (self.root / "serve.log").read_text(encoding="utf-8")[-2000:]
            raise TimeoutError(f"{late}; runs: {[(r.state, r.code) for r in self.runs()]}; log: {log}") from None
        return found

    def entries(self) -> list[Entry]:
        """The log's entries, read by the checker's code; fails where the log is not whole."""
        report = fsck.check(wire.audit_root(self.config), wire.log_verifier(self.config))
        assert report.ok, report.problems
        with wire.offline_of(self.config) as opened:
            return list(opened.log.entries())

    def counted(self) -> Mapping[str, int]:
        """How many entries of each kind the log holds."""
        kinds = [entry.kind.value for entry in self.entries()]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def template_of(root: Path, *, number: int = 1) -> Path:
    """A prepared site's folder, to be copied for each test: with an approved model, and never started.

    `number`: the approval's; the first one's id is the patient's, which no export may hold.
    """
    with FakePacs() as pacs:
        site = Site(root, pacs)
        site.approve(site.install_model(), number=number)
    return root


def copy_of(template: Path, root: Path) -> Path:
    """A fresh copy of a prepared site's folder."""
    shutil.copytree(template, root)
    (root / "serve.log").unlink(missing_ok=True)
    return root
