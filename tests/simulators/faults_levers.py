"""Levers that a test pulls while the service runs: a disk that fails, a clock that jumps, a step that is held.

A folder with one file for each lever. The test writes them (`Levers`); inside the service, which
`tests/faults/serve_and_die.py` builds, `fit` has the spool, the audit log and the story look at them each time.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from audit import durable
from tests.simulators.failing_disk import FailingDisk

FOLDER = "ZHIYING_TEST_LEVERS"
"""The environment variable that names the folder."""
KILL = "KILL"
HELD_POLL_S = 0.02


class Levers:
    """The test's side, and the reading of it. Each lever is set whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    # ---- pulled by the test ------------------------------------------------------------------------------------------

    def fail(self, disk: str, call: str, how: str, when: str = "before", number: int = 1) -> None:
        """From now on `call` of that disk ("spool" or "audit") raises `how` (ENOSPC, EIO), or kills at its `number`-th.

        when: "before" or "after" it took effect.
        """
        self._set(disk, f"{call} {how} {when} {number}")

    def mend(self, disk: str) -> None:
        """The disk is well again."""
        (self.folder / disk).unlink(missing_ok=True)

    def later(self, span: timedelta) -> None:
        """It is later by `span`, at once and for good."""
        self._set("clock", str(self.offset() + span.total_seconds()))

    def hold(self, step: str, moment: str) -> None:
        """Whoever comes to this step and moment waits there."""
        self._set("hold", f"{step} {moment}")

    def held(self) -> bool:
        """Whether somebody waits there."""
        return (self.folder / "held").exists()

    def release(self) -> None:
        """Go on."""
        (self.folder / "hold").unlink(missing_ok=True)
        (self.folder / "held").unlink(missing_ok=True)

    def hurry(self, seconds: float) -> None:
        """From the next start on, a peer that says nothing for so long is cut off."""
        self._set("patience", str(seconds))

    def _set(self, name: str, text: str) -> None:
        new = self.folder / f".{name}"
        new.write_text(text, encoding="ascii")
        new.replace(self.folder / name)

    # ---- read by the service -----------------------------------------------------------------------------------------

    def get(self, name: str) -> str:
        """What a lever says; "" where nobody pulled it."""
        try:
            return (self.folder / name).read_text(encoding="ascii")
        except FileNotFoundError:
            return ""

    def offset(self) -> float:
        """Seconds by which the clock is ahead."""
        return float(self.get("clock") or 0)

    def clock(self, real: Callable[[], datetime]) -> Callable[[], datetime]:
        """The real clock, ahead by what the lever says."""
        return lambda: real() + timedelta(seconds=self.offset())

    def observe(self, step: str, moment: str, _subject: str) -> None:
        """Waits where the test wants it to; see `service.pipeline.Observer`."""
        while self.get("hold") == f"{step} {moment}":
            (self.folder / "held").touch()
            threading.Event().wait(HELD_POLL_S)

    def fit(self, service: Any) -> None:
        """Put the levers into a service that has been built and not started."""
        spool = _SpoolDisk(self)
        service.inbox._disk = service.inbox._spool.disk = service.inbox._quarantine._disk = spool
        service.log._disk = service.log._files._disk = service.log._public.disk = _LogDisk(self)
        patience = self.get("patience")
        if patience:
            short = float(patience)
            for listener in service.listeners:
                listener._limits = replace(listener._limits, acse_s=short, dimse_s=short, network_s=short)


class _Doom:
    """What the lever of one disk says, applied to each call."""

    def __init__(self, levers: Levers, disk: str) -> None:
        self._levers, self._disk = levers, disk
        self._seen = 0

    def __call__(self, name: str, when: str) -> None:
        """A call is about to be made, or was."""
        said = self._levers.get(self._disk).split()
        if not said or (said[0], said[2]) != (name, when):
            return
        if said[1] != KILL:
            raise OSError(getattr(errno, said[1]), "injected")
        self._seen += 1
        if self._seen == int(said[3]):
            os.kill(os.getpid(), signal.SIGKILL)


class _SpoolDisk(FailingDisk):
    """The real disk, but for what the lever says."""

    def __init__(self, levers: Levers) -> None:
        super().__init__()
        self._doom = _Doom(levers, "spool")

    def _do(self, name: str, *, after: bool) -> None:
        self._doom(name, "after" if after else "before")


class _LogDisk:
    """The audit log's disk, but for what the lever says."""

    def __init__(self, levers: Levers) -> None:
        self._doom = _Doom(levers, "audit")

    def create_same(self, path: Path, data: bytes) -> bool:
        """See audit.durable."""
        self._doom("create_same", "before")
        new = durable.create_same(path, data)
        self._doom("create_same", "after")
        return new

    def replace(self, path: Path, data: bytes) -> None:
        """See audit.durable."""
        self._doom("replace", "before")
        durable.replace(path, data)
        self._doom("replace", "after")

    def discard(self, path: Path) -> None:
        """See audit.durable."""
        durable.discard(path)

    def make_dirs(self, path: Path) -> None:
        """See audit.durable."""
        durable.make_dirs(path)
