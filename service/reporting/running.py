"""The telling of reports as part of the service: one thread for each receiver that the configuration names."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from audit.log import AuditLog
from dicom_bridge import tls
from dicom_bridge.delivery import Leave
from service import wire
from service.caretaker import Caretaker
from service.config import Config
from service.heartbeat import CallLog
from service.reporting.book import Book
from service.reporting.receivers import receivers_of
from service.reporting.telling import Desk, ReportMetrics, Teller
from service.results import SR

ROUND_S = 1.0
"""How soon after its release a result is told: once it is in the log, a second is nothing to a worklist."""


class Telling:
    """Runs until stopped. Raises TlsUnusable, BookUnavailable, AuditError."""

    def __init__(
        self,
        config: Config,
        log: AuditLog,
        writer: CallLog,
        may_leave: Callable[[str], Leave],
        registry: CollectorRegistry,
    ) -> None:
        receivers = receivers_of(config)
        for section in (config.reports.hl7, config.reports.fhir):
            if section is not None and section.tls is not None:
                # A file that is wrong is told now, in words, and not by connections that fail.
                tls.check(section.tls.files, wire.now())
        folder = config.data.folder / "reports"
        # Nobody to tell, and never was: no file is made.
        self._book = Book(folder) if receivers or folder.exists() else None
        self._tellers: list[Teller] = []
        if self._book is not None:
            self._book.tidy([one.name for one in receivers], wire.now())
            results = config.data.folder / "results"
            desk = Desk(
                *(self._book, log, writer, lambda call: results / call / SR, may_leave, wire.now),
                metrics=ReportMetrics(registry),
            )
            self._tellers = [Teller(one, desk) for one in receivers]
        self._keepers = [Caretaker(one, pause_s=ROUND_S) for one in self._tellers]

    def start(self) -> None:
        """Begin where the last run has stopped."""
        for keeper in self._keepers:
            keeper.start()

    def stop(self) -> None:
        """End; what waits goes on at the next start."""
        for teller in self._tellers:
            teller.stop()
        for keeper in self._keepers:
            keeper.stop()
        if self._book is not None:
            self._book.close()

    @property
    def running(self) -> bool:
        """For /health: whether it tries; a receiver that is away is no fault of ours."""
        return all(keeper.running for keeper in self._keepers)
