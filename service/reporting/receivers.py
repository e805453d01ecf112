"""The receivers that the configuration names, each with its form and its way."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from dicom_bridge.reported import Reported
from dicom_bridge.tls import TlsFiles
from service.config import Config
from service.reporting import fhir, hl7
from service.reporting.answer import Answer
from service.reporting.book import Row
from service.reporting.fhir_client import FhirClient, Server
from service.reporting.items import Key
from service.reporting.mllp import Mllp, MllpClient
from service.reporting.telling import Receiver, Untellable
from service.sections import FhirReports, Hl7Reports, ReportTls


@dataclass(frozen=True, slots=True)
class Hl7Receiver:
    """See telling.Receiver."""

    name: str
    keep_trying: timedelta
    ends: hl7.Ends
    client: MllpClient
    form: str = hl7.FORM

    def message(self, report: Reported, row: Row, gone: Sequence[Key]) -> bytes:
        """See telling.Receiver."""
        refuse_nameless(report)
        control_id = hl7.control_id(row.receiver, row.call, row.round)
        return hl7.oru(report, self.ends, control_id, row.released_at, gone=gone, withdrawn=row.withdrawn)

    def tell(self, content: bytes, row: Row) -> Answer:
        """See telling.Receiver."""
        return self.client.tell(content, hl7.control_id(row.receiver, row.call, row.round))

    def abort(self) -> None:
        """See telling.Receiver."""
        self.client.abort()


@dataclass(frozen=True, slots=True)
class FhirReceiver:
    """See telling.Receiver."""

    name: str
    keep_trying: timedelta
    record: fhir.Record
    client: FhirClient
    form: str = fhir.FORM

    def message(self, report: Reported, row: Row, gone: Sequence[Key]) -> bytes:
        """See telling.Receiver."""
        refuse_nameless(report)
        message = hl7.control_id(row.receiver, row.call, row.round)
        return fhir.bundle(report, self.record, message, row.released_at, gone=gone, withdrawn=row.withdrawn)

    def tell(self, content: bytes, row: Row) -> Answer:  # noqa: ARG002 - the transaction names itself
        """See telling.Receiver."""
        return self.client.tell(content)

    def abort(self) -> None:
        """A try under way ends within `answer_s`: its client belongs to its thread."""


def receivers_of(config: Config) -> tuple[Receiver, ...]:
    """Whom this site wants to be told."""
    found: list[Receiver] = []
    if config.reports.hl7 is not None:
        found.append(_hl7(config.reports.hl7, config.site.id))
    if config.reports.fhir is not None:
        found.append(_fhir(config.reports.fhir))
    return tuple(found)


def server_of(section: FhirReports) -> Server:
    """The address, as the client wants it."""
    return Server(section.url, section.answer_s, *_shown(section.tls), section.token)


def mllp_of(section: Hl7Reports) -> Mllp:
    """The address, as the client wants it."""
    return Mllp(section.host, section.port, section.answer_s, *_shown(section.tls))


def refuse_nameless(report: Reported) -> None:
    """What names no patient would be filed with nobody, or with anybody. Raises Untellable."""
    if not report.patient.id.strip():
        raise Untellable("the report has no patient id")


def _shown(tls: ReportTls | None) -> tuple[TlsFiles | None, str | None]:
    """Our files, and the fingerprint of the one certificate that the receiver may show."""
    return (None, None) if tls is None else (tls.files, tls.fingerprint)


def _hl7(section: Hl7Reports, site: str) -> Hl7Receiver:
    ends = hl7.Ends(
        *(section.sender, section.sender_facility or site, section.receiver, section.receiver_facility),
        charset=section.charset,
    )
    return Hl7Receiver(section.name, timedelta(days=section.keep_trying_days), ends, MllpClient(mllp_of(section)))


def _fhir(section: FhirReports) -> FhirReceiver:
    record = fhir.Record(section.patient_system, section.accession_system)
    return FhirReceiver(section.name, timedelta(days=section.keep_trying_days), record, FhirClient(server_of(section)))
