"""Logs and numbers for operators: JSON lines on standard error, Prometheus at /metrics. No patient data in either (I5).

A log line may only carry the keys listed here; anything else is dropped and counted, so that a careless call can leak
nothing.
"""

import io
import logging
import sys
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from service.pipeline import Step

ALLOWED_KEYS = frozenset(
    (
        *("event", "level", "timestamp", "run", "state", "stage", "step", "code", "fault", "kind", "peer", "attempts"),
        *("instances", "series", "error_type", "seconds", "port", "ae_title", "device", "trigger", "size"),
        *("pid", "starts", "model", "version", "ms", "deadline_ms", "status"),
        *("pull", "expected", "stored", "address"),
        *("waiting", "refused", "pause_s", "index", "was", "begins", "metric", "output"),
    )
)
STEP_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def set_up_logging(level: int = logging.INFO) -> None:
    """Called once, when the service starts."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            only_allowed,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Droppable(sys.stderr))),
    )


class _Droppable(io.TextIOBase):
    """A stream whose lines are dropped where it does not take them.

    A log file on the disk that is full: what tells of the fault must not stop whoever meets it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it, or not."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write out what waits, or not."""
        with suppress(OSError):
            self._stream.flush()


def only_allowed(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop every key that is not on the list."""
    dropped = [key for key in line if key not in ALLOWED_KEYS]
    for key in dropped:
        del line[key]
    if dropped:
        line["error_type"] = f"{len(dropped)} keys dropped"
    return line


class Metrics:
    """Counters of this process, and the observer that feeds them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._steps = Histogram(
            "zhiying_step_seconds", "Time of each step", ["step"], buckets=STEP_BUCKETS_S, registry=self.registry
        )
        self._started = Counter("zhiying_runs_total", "Runs started", registry=self.registry)
        self._delivered = Counter("zhiying_delivered_total", "Calls that the PACS has stored", registry=self.registry)
        self._denied = Counter(
            "zhiying_associations_denied_total", "DICOM associations not opened", ["code"], registry=self.registry
        )
        self._since: dict[tuple[str, str], float] = {}

    def denied(self, code: str) -> None:
        """An association was not opened."""
        self._denied.labels(code=code).inc()

    def observe(self, step: str, moment: str, subject: str) -> None:
        """Told by the pipeline before and after each step."""
        if moment == "before":
            self._since[(step, subject)] = time.monotonic()
            if step == Step.ASSEMBLED:
                self._started.inc()
        elif moment == "after":
            began = self._since.pop((step, subject), None)
            if began is not None:
                self._steps.labels(step=step).observe(time.monotonic() - began)
        elif moment == "delivered":
            self._delivered.inc()
