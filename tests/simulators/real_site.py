"""The service in a process among programs that we did not write, and the commands that its operator types."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from audit.entry import Entry
from tests.simulators import nursery
from tests.simulators.pacs import FakePacs
from tests.simulators.site import AE, Site
from tests.simulators.waiting import until

"""One command, with the imports of a cold disk and the patience of its own network calls."""
ENDED = ("RELEASED", "SHADOWED", "REFUSED", "FAILED", "UNDELIVERED")
PATIENT = ("TEST^Phantom", "测试", "TEST-0001", "19560101")
"""What our invented patient would be recognised by."""


@dataclass(frozen=True, slots=True)
class Address:
    """What a site must know of its PACS."""

    ae_title: str
    port: int


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and what it said on each of its two outputs."""

    status: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The answer to --json."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The lines of both outputs."""
        return (self.out + self.err).splitlines()


class RealSite(Site):
    """As Site; `dicom_more` are further lines of the [dicom] section, `results_more` of [results]."""

    def __init__(self, root: Path, pacs: Address, *, dicom_more: str = "", results_more: str = "", **given: Any):
        self._dicom_more, self._results_more = dicom_more, results_more
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(root, cast("FakePacs", pacs), **given)

    def _write_config(self) -> None:
        super()._write_config()
        text = self.config_file.read_text(encoding="utf-8")
        mine, to = f'ae_title = "{AE}"\n', 'to = "pacs"\n'
        text = text.replace(mine, f"{mine}{self._dicom_more}\n").replace(to, f"{to}{self._results_more}\n")
        self.config_file.write_text(text, encoding="utf-8")

    def configure(
        self,
        *,
        pacs: Address | None = None,
        pacs_more: str | None = None,
        more: str | None = None,
        dicom_more: str | None = None,
    ) -> None:
        """Write another configuration, for the next start; what is not given stays."""
        self.pacs = self.pacs if pacs is None else cast("FakePacs", pacs)
        self._pacs_more = self._pacs_more if pacs_more is None else pacs_more
        self._more = self._more if more is None else more
        self._dicom_more = self._dicom_more if dicom_more is None else dicom_more
        self._write_config()

    @property
    def log(self) -> str:
        """Everything that the service has printed."""
        return (self.root / "serve.log").read_text(encoding="utf-8")

    def health(self) -> dict[str, str]:
        """The parts and how each is, as /health says; raises when it does not say 200."""
        return cast("dict[str, str]", self.fetch("/health")["checks"])

    def fetch(self, path: str) -> Any:
        """GET of our own HTTP API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as answer:
            return json.load(answer)

    def of_call(self, call: str | None, kind: str) -> Entry:
        """The one entry of this kind about this call, from a log that was found whole."""
        (entry,) = [one for one in self.entries() if one.kind == kind and one.call == call]
        return entry

    def released(self, study: str) -> Entry:
        """Wait until the newest run of the study has ended; its RELEASED entry."""
        run = self.run_in(*ENDED, study=study)
        assert run.state == "RELEASED", (run.state, run.code, run.observed)
        return self.of_call(run.call, "RELEASED")

    def held(self, study: str) -> set[str]:
        """SOP Instance UIDs that the spool holds of a study, looked up on the disk."""
        return {path.stem for path in (self.data / "spool" / "studies" / study).glob("*.dcm")}

    def fit(self) -> None:
        """The service is well, and has printed no patient, no traceback and nothing that its log does not allow."""
        assert self.alive
        assert set(self.health().values()) == {"ok"}, self.health()
        log = self.log
        for word in (*PATIENT, "Traceback", "keys dropped"):
            assert word not in log, log[-4000:]


def zhiying(site: Site, *arguments: str | Path, config: Path | None = None) -> Said:
    """Run the command, as an operator does beside the running service."""
    command = [Path(sys.executable).with_name("zhiying"), *arguments, "--config", config or site.config_file]
    done = nursery.run(command)
    return Said(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(site: RealSite) -> Iterator[RealSite]:
    """Started, and stopped for certain."""
    try:
        site.start()
        yield site
        assert site.alive, site.log[-4000:]
    finally:
        site.stop()


def with_model(site: RealSite) -> RealSite:
    """The model in it, and approved."""
    site.approve(site.install_model())
    return site


@contextmanager
def closed_port() -> Iterator[int]:
    """A port at which every connection is refused for as long as this lasts: taken, and not listened at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def peer_lines(name: str, ae_title: str, port: int, more: Sequence[str] = ()) -> str:
    """One more [[peers]] section on this machine."""
    lines = ["[[peers]]", f'name = "{name}"', f'ae_title = "{ae_title}"', 'host = "127.0.0.1"', f"port = {port}"]
    return "\n".join([*lines, *more]) + "\n"


__all__ = [
    "AE",
    "Address",
    "RealSite",
    "Said",
    "closed_port",
    "peer_lines",
    "started",
    "until",
    "with_model",
    "zhiying",
]
