"""What tests of the audit log share: a clock, drafts of every kind, a disk that fails, a quick way to fill a log."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from audit import fsck
from audit.canonical import JsonValue
from audit.durable import Disk
from audit.entry import Draft, Kind
from audit.errors import ContentDiffers
from audit.log import AuditLog
from audit.note import Signer

if TYPE_CHECKING:
    # Processes that are started for one append each have no use for it, and it takes longer than all the rest.
    import pytest

ORIGIN = "hospital.example/audit"
CALL = "c" * 32
STUDY = "5" * 32
DIGEST = "sha256:" + "d" * 64
MODEL: dict[str, JsonValue] = {"name": "brain-extraction-t1", "version": "1.0.2", "digest": DIGEST}
SIGNER = Signer.parse("PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")
"""The published key of Go's note tests: everybody knows it, so nobody can mistake it for a secret."""
_NOTIFIED: dict[str, JsonValue] = {
    "peer": "ris",
    "form": "HL7_ORU_R01",
    "told": "RESULT",
    "digest": DIGEST,
    "outcome": "DELIVERED",
    "proof": "AA",
    "attempts": 2,
}

_T = TypeVar("_T")


class Clock:
    """Time that moves one second at each look."""

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 23, 16, 7, 12, 123456, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The next moment."""
        self._now += timedelta(seconds=1)
        return self._now


def _without_call() -> dict[Kind, dict[str, JsonValue]]:
    return {
        Kind.LOG_START: {"origin": ORIGIN, "software": "zhiying 0.1.0", "predecessor": None},
        Kind.HEARTBEAT: {"interval_s": 60},
        Kind.EXPORT: {
            "recipient": "TEST Reviewer",
            "purpose": "YEARLY_REVIEW",
            "contract": "TEST-2026-1",
            "scope": DIGEST,
        },
        Kind.APPROVAL: {"note": SIGNER.sign("zhiying-approval/1\n{}\n"), "note_digest": DIGEST},
        Kind.RESTORE: {
            "note": SIGNER.sign("zhiying.audit/restore/1\n{}\n"),
            "note_digest": DIGEST,
            "reason": "BACKUP",
        },
        Kind.SEAL: {"successor": f"{ORIGIN}/2", "reason": "KEY_ROTATION"},
        Kind.CONFIG: {"settings": DIGEST, "software": "zhiying 0.1.0", "code": DIGEST, "runtime": {"python": "3.11.2"}},
        Kind.LOG_READ: {"person": "li.m", "purpose": "PATIENT_REQUEST", "pseudonym": STUDY},
        Kind.ERASURE: {"period": "2026-10", "rows": 12},
        **_of_the_review(),
    }


def _of_the_review() -> dict[Kind, dict[str, JsonValue]]:
    return {
        Kind.STATE_CHANGE: {
            "model": MODEL,
            "event": "RESTRICT",
            "from": "LIVE",
            "to": "LIVE",
            "reason": "SUBGROUP_GAP",
            "condition": "SEX",
            "observed": "F",
            "evidence": 7,
            "note": None,
            "note_digest": None,
        },
        Kind.STOP: _switch("STOP"),
        Kind.RESUME: _switch("RESUME"),
        Kind.EVALUATION: {
            "metric": "SUBGROUP_GAP",
            "tier": "T1",
            "model": MODEL,
            "approval": "APPROVAL-2026-001",
            "first": 3,
            "last": 6,
            "n": 412,
            "value": "0.131000",
            "limit": "0.100000",
            "outcome": "RESTRICT",
            "subgroup": "SEX:F",
            "code": DIGEST,
        },
        **_of_the_site(),
    }


def _of_the_site() -> dict[Kind, dict[str, JsonValue]]:
    return {
        Kind.GOLDEN: {
            "model": MODEL,
            "case": DIGEST,
            "occasion": "DAILY",
            "outcome": "MATCH",
            "measurements": [{"code": "118565006", "value": "1951.3", "unit": "cm3"}],
            "difference": "0.000000",
            "tolerance": "0.010000",
            "device": "cpu",
            "runtime": {"torch": "2.13.0+cpu"},
        },
        Kind.ACCEPTANCE: {
            "model": MODEL,
            "approval": "APPROVAL-2026-001",
            "dataset": DIGEST,
            "cases": 120,
            "rows": [{"metric": "DICE", "subgroup": None, "n": 120, "value": "0.97", "low": "0.96", "high": "0.98"}],
            "unmet": 0,
            "report": DIGEST,
            "code": DIGEST,
        },
        Kind.SAFETY_REPORT: {
            "model": MODEL,
            "period": "2026-11",
            "months": 1,
            "first": 0,
            "last": 9,
            "report": DIGEST,
        },
        Kind.INCIDENT: {
            "incident": "9" * 32,
            "event": "OPENED",
            "category": "HARM",
            "severity": "SERIOUS",
            "model": MODEL,
            "clocks": [{"clock": "DEVICE_EVENT_SERIOUS", "due": "2026-12-13T16:07:12.123456Z"}],
        },
        Kind.LOOKBACK: {
            "person": "TEST Officer",
            "purpose": "RECALL",
            "incident": "9" * 32,
            "model": MODEL,
            "approval": "TEST-0001",
            "condition": "AGE_YEARS",
            "observed": "70-74",
            "from": "2026-11-01T00:00:00.000000Z",
            "to": None,
            "calls": 17,
        },
        Kind.OPT_OUT: {"patient": "3" * 32, "choice": "OPTED_OUT"},
        **_of_the_pacs(),
    }


def _of_the_pacs() -> dict[Kind, dict[str, JsonValue]]:
    return {
        Kind.RECONCILED: {
            "report": DIGEST,
            "source": "PEER",
            "peer": "pacs",
            "size": 9,
            "from": "2026-11-16T16:07:12.123456Z",
            "to": None,
            "held": 5,
            "others": 2,
            "agreed": 3,
            "pending": 0,
            "receipts": 0,
            "found": {"UNLOGGED": 2, "MISSING": 1},
            "unlogged": [{"uid": "2.25.17", "model": DIGEST}, {"uid": "2.25.18", "model": None}],
        },
        Kind.WITHDRAWN: {
            "reason": "QUALITY",
            "person": "li.m",
            "by": None,
            "peer": "pacs",
            "note": "2.25.19",
            "outputs": [{"uid": "2.25.17"}],
        },
    }


def _switch(event: str) -> dict[str, JsonValue]:
    note = SIGNER.sign(f'zhiying-act/1\n{{"event":"{event}"}}\n')
    return {"level": "SITE", "site": "test-hospital", "reason": "DRILL", "note": note, "note_digest": DIGEST}


def _afterwards() -> dict[Kind, dict[str, JsonValue]]:
    return {
        Kind.HUMAN_DECISION: {
            "decision": "MODIFY",
            "reasons": ["MEASURE"],
            "significant": "YES",
            "reader": "8" * 32,
            "role": "RADIOLOGIST",
            "training": DIGEST,
            "channel": "API",
            "seconds": 41,
            "blinded": "NO",
            "difference": [{"code": "118565006", "before": "1951.3", "after": "1890.0", "unit": "cm3"}],
            "concordance": None,
        },
        Kind.VIEWED: {"study": STUDY, "reader": "8" * 32, "role": "RADIOLOGIST"},
        Kind.CASE: {
            "approval": "APPROVAL-2026-001",
            "dataset": DIGEST,
            "truth": "PRESENT",
            "positive": "YES",
            "score": "0.93",
            "dice": "0.971",
            "volume_error": "-0.012",
            "failed": "NO",
        },
    }


def body(kind: Kind) -> dict[str, JsonValue]:
    """A full, good body of each kind."""
    return {
        **_without_call(),
        **_afterwards(),
        Kind.ASSEMBLED: {
            "study": STUDY,
            "instances": 189,
            "series": 2,
            "trigger": "COUNT_MATCHED",
            "input": "1" * 32,
        },
        Kind.SELECTED: {"study": STUDY, "series": "e" * 32, "model": MODEL, "modality": "MR"},
        Kind.CALL_INTENT: {
            "site": "test-hospital",
            "requester": "PACS",
            "patient": "7" * 32,
            "study": STUDY,
            "series": 1,
            "instances": 189,
            "card": DIGEST,
            "input": "1" * 32,
            "model": MODEL,
            "approval": "APPROVAL-2026-001",
            "policy": DIGEST,
            "autonomy": "A1",
            "state": "LIVE",
            "checks": [{"condition": "AGE_YEARS", "outcome": "MET", "observed": "70-74"}],
            "runtime": {"torch": "2.13.0+cpu", "monai": "1.6.1"},
        },
        Kind.CALL_RESULT: {
            "outputs": [{"kind": "SR", "uid": "2.25.1234567890123456789012345", "digest": DIGEST}],
            "outcome": "OK",
            "measurements": [{"code": "118565006", "value": "1951.3", "unit": "cm3"}],
            "timing_ms": {"forward": 1500, "total": 2100},
            "deadline_ms": 120_000,
            "deadline_met": "YES",
            "device": "cuda:0 NVIDIA A100",
            "software": "zhiying 0.1.0",
        },
        Kind.RELEASED: {
            "outputs": [{"uid": "2.25.0", "digest": DIGEST}],
            "peer": "pacs",
            "attempts": 1,
            "proof": "FOUND",
        },
        Kind.NOTIFIED: _NOTIFIED,
        Kind.DENIED: {
            "study": STUDY,
            "stage": "PERMIT",
            "code": "CONDITION_NOT_MET",
            "condition": "age_years",
            "observed": "15-19",
            "model": MODEL,
        },
        Kind.FAILED: {"study": STUDY, "stage": "INFER", "code": "ENGINE_DIED", "fault": "MODEL"},
    }[kind]


def draft(number: int = 0, *, instances: int | None = None) -> Draft:
    """An ASSEMBLED entry with its own key."""
    content = body(Kind.ASSEMBLED)
    content["instances"] = number if instances is None else instances
    return Draft(Kind.ASSEMBLED, f"assembled:{number}", content)


def fill(log: AuditLog, numbers: range) -> None:
    """Append many drafts; together, so that they share commits."""
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda number: log.append(draft(number)), numbers))


def twin(root: Path, copy: Path) -> Path:
    """A copy of a log, by hard links: no file of a log is ever written twice, so nothing is shared that changes."""
    shutil.copytree(root, copy, copy_function=os.link)
    return copy


def healthy(root: Path) -> int:
    """Assert that nothing is wrong, and return the size."""
    report = fsck.check(root, SIGNER.verifier)
    assert report.problems == ()
    return report.size


def staged_logs(tmp_path_factory: pytest.TempPathFactory, stages: Sequence[int]) -> dict[int, Path]:
    """A log with so many entries beyond the first, for each; to be copied."""
    made = {}
    for count in stages:
        made[count] = tmp_path_factory.mktemp("stage") / "log"
        with open_log(made[count]) as log:
            fill(log, range(1000, 1000 + count))
    return made


class Died(BaseException):
    """The process is dead: nothing it would do next happens. Not an Exception, as SIGKILL is none."""


class QuickDisk:
    """What a log needs of a disk, but for surviving a power cut: files appear whole or not at all; nothing is synced.

    For tests that are not about durability: a busy machine's disk makes them slow.
    """

    def create_same(self, path: Path, data: bytes) -> bool:
        """See audit.durable."""
        if path.exists():
            if path.read_bytes() != data:
                raise ContentDiffers
            return False
        self.replace(path, data)
        return True

    def replace(self, path: Path, data: bytes) -> None:
        """See audit.durable."""
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)

    def discard(self, path: Path) -> None:
        """See audit.durable."""
        path.unlink(missing_ok=True)

    def make_dirs(self, path: Path) -> None:
        """See audit.durable."""
        path.mkdir(parents=True, exist_ok=True)


QUICK = QuickDisk()


def open_log(
    root: Path,
    *,
    source: str = "service",
    signer: Signer = SIGNER,
    disk: Disk = QUICK,
    publish_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sm3: bool = False,
) -> AuditLog:
    """The log of these tests."""
    return AuditLog.open(
        root,
        origin=ORIGIN,
        source=source,
        signer=signer,
        now=Clock(),
        software="test",
        disk=disk,
        publish_s=publish_s,
        clock=clock,
        sm3=sm3,
    )


class FaultyDisk:
    """A disk that fails at one operation, before or after it took effect; polices that writes stay inside the log.

    ``at`` counts operations from 0. ``dies``: the writer is killed there, and every later operation is too.
    """

    def __init__(self, root: Path, *, at: int = -1, after: bool = False, dies: bool = False) -> None:
        self._root = root
        self._at = at
        self._after = after
        self._dies = dies
        self._dead = False
        self.done: list[str] = []

    @property
    def reached(self) -> bool:
        """Whether the operation at which to fail came."""
        return len(self.done) > self._at

    def kill(self) -> None:
        """The writer is dead from now on."""
        self._dead = True

    def create_same(self, path: Path, data: bytes) -> bool:
        """See audit.durable."""
        return self._do("create_same", path, lambda: QUICK.create_same(path, data))

    def replace(self, path: Path, data: bytes) -> None:
        """See audit.durable."""
        self._do("replace", path, lambda: QUICK.replace(path, data))

    def discard(self, path: Path) -> None:
        """See audit.durable."""
        self._do("discard", path, lambda: QUICK.discard(path))

    def make_dirs(self, path: Path) -> None:
        """See audit.durable."""
        self._do("make_dirs", path, lambda: QUICK.make_dirs(path))

    def _do(self, verb: str, path: Path, work: Callable[[], _T]) -> _T:
        if not path.is_relative_to(self._root):
            raise ValueError(path)
        if self._dead:
            raise Died
        here = len(self.done)
        self.done.append(f"{verb} {path.relative_to(self._root)}")
        if here == self._at and not self._after:
            self._fail()
        result = work()
        if here == self._at:
            self._fail()
        return result

    def _fail(self) -> None:
        if self._dies:
            self._dead = True
            raise Died
        raise OSError(errno.EIO if self._after else errno.ENOSPC, "invented for this test")
