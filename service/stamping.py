"""Fetching time stamps: the chore of the running service, and what the command line does beside it."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from audit import durable
from audit.checkpoint import Checkpoint
from audit.errors import AuditError
from audit.files import Files
from audit.layout import CHECKPOINT
from service import wire
from service.config import Config
from service.errors import CommandRefused, ConfigInvalid
from service.sections import Timestamps
from service.stamps import Held, Stamps, text_of
from service.timestamping import Authority, TimestampRefused, query, verify
from service.tsa_client import TimestampUnreachable, post
from service.witnessing import desk

FOLDER = "stamps"
"""In the data folder, beside the log."""
RETRY_S = 60.0
"""After an attempt that failed: soon enough for a stamp that is due each hour, and no burden on an authority."""
CLOCK_S = 60.0
"""A stamp further from our own clock is told: verifiers allow some minutes, and then find every entry untimely."""

_log = structlog.get_logger()
Post = Callable[[str, bytes], bytes]
"""POST a query to a URL; raises TimestampUnreachable, TimestampRefused."""
Newest = Callable[[], Checkpoint | None]
"""The checkpoint to stamp: one that our log signed, with the cosignatures that there are; None while there is none."""


def section(config: Config) -> Timestamps:
    """[audit.timestamps]. Raises ConfigInvalid where there is none."""
    if config.audit.timestamps is None:
        raise ConfigInvalid("[audit.timestamps] names no authority")
    return config.audit.timestamps


def authority(site: Timestamps) -> Authority:
    """Whose stamps count. Raises TimestampRefused, OSError."""
    chain = b"" if site.chain is None else site.chain.read_bytes()
    return Authority.pinned(site.authority.read_bytes(), chain, site.policy_oid)


def opened(config: Config) -> Stamps:
    """The site's stamps."""
    return Stamps(config.data.folder / FOLDER, wire.log_verifier(config), wire.origin(config))


def public(config: Config) -> Checkpoint | None:
    """The newest checkpoint that the log has published. Raises AuditCorrupt."""
    root: Path = wire.audit_root(config)
    return Files(root, wire.origin(config), wire.log_verifier(config), durable).checkpoint(CHECKPOINT)


def newest(config: Config) -> Checkpoint | None:
    """The checkpoint to be stamped: what a quorum has cosigned, where there are witnesses, else the public one."""
    if config.audit.witnesses is None:
        return public(config)
    held = desk(config, None)[0].witnessed()
    return None if held is None else held.checkpoint


def fetch(url: str, trusted: Authority, checkpoint: Checkpoint, send: Post = post) -> Held:
    """A stamp of this checkpoint, asked for and verified. Raises TimestampUnreachable, TimestampRefused."""
    text = text_of(checkpoint)
    asked = query(text)
    return Held(checkpoint, verify(text, send(url, asked.der), trusted, asked.nonce))


class StampMetrics:
    """Numbers for operators."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._asked = Counter(
            "zhiying_time_stamps_total", "Time stamps asked for, by outcome", ["code"], registry=registry
        )
        self._size = Gauge("zhiying_stamped_entries", "Entries under the newest time stamp", registry=registry)

    def asked(self, code: str) -> None:
        """An attempt ended: OK, or an error's code."""
        self._asked.labels(code=code).inc()

    def stamped(self, size: int) -> None:
        """The newest stamp is over so many entries."""
        self._size.set(size)


class Stamper:
    """A chore, to be called every few seconds: at most once in `every_s` it has the newest checkpoint stamped."""

    def __init__(
        self,
        site: Timestamps,
        stamps: Stamps,
        newest: Newest,
        metrics: StampMetrics,
        *,
        send: Post = post,
        now: Callable[[], datetime] = wire.now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives seconds that only grow. Raises TimestampRefused, OSError for certificates that are none."""
        self._site, self._stamps, self._newest, self._metrics = site, stamps, newest, metrics
        self._trusted = authority(site)
        self._send, self._now, self._clock = send, now, clock
        self._due: float | None = None

    def __call__(self) -> None:
        """Stamp, when it is time and there is something new. Raises AuditError, OSError: tried again, as all else."""
        if self._site.url is None:
            return
        if self._due is None:
            self._due = self._clock() + self._rest()
        if self._clock() < self._due:
            return
        # Said before it is tried, so that whatever goes wrong is not tried again at once.
        self._due = self._clock() + min(RETRY_S, self._site.every_s)
        checkpoint = self._newest()
        last = self._stamps.newest()
        if checkpoint is None or (last is not None and checkpoint.size <= last.checkpoint.size):
            return
        if self._stamp(self._site.url, checkpoint):
            self._due = self._clock() + self._site.every_s

    def _stamp(self, url: str, checkpoint: Checkpoint) -> bool:
        try:
            held = fetch(url, self._trusted, checkpoint, self._send)
            self._stamps.keep(held.checkpoint, held.stamp)
        except TimestampUnreachable as error:
            self._metrics.asked(error.code)
            _log.warning("time_stamp_put_off", code=error.code, size=checkpoint.size)
            return False
        except (TimestampRefused, CommandRefused) as error:
            self._metrics.asked(error.code)
            _log.error("time_stamp_refused", code=error.code, size=checkpoint.size)
            return False
        except (AuditError, OSError) as error:
            self._metrics.asked(getattr(error, "code", "IO_ERROR"))
            raise
        self._metrics.asked("OK")
        self._metrics.stamped(checkpoint.size)
        apart = abs((self._now() - held.stamp.at).total_seconds())
        if apart > CLOCK_S:
            _log.error("clock_differs", code="CLOCK_DIFFERS", seconds=round(apart))
        _log.info("time_stamp_kept", size=checkpoint.size)
        return True

    def _rest(self) -> float:
        """What is left of the pause that the last process began; a clock that was set back does not make it longer."""
        last = self._stamps.newest()
        if last is None:
            return 0.0
        self._metrics.stamped(last.checkpoint.size)
        age = (self._now() - last.stamp.at).total_seconds()
        return min(max(self._site.every_s - age, 0.0), self._site.every_s)
