"""Do the receivers of reports answer? For the doctor: nothing of a patient is told, and nothing is changed there."""

import ssl
from collections.abc import Iterator

import httpx

from dicom_bridge import tls
from dicom_bridge.tls import TlsUnusable
from service import wire
from service.config import Config
from service.reporting.fhir_client import FhirClient
from service.reporting.mllp import MllpClient
from service.reporting.receivers import mllp_of, server_of

Look = tuple[str, bool, str]
"""Receiver, whether it is well, and what was seen."""


def look(config: Config) -> Iterator[Look]:
    """One line for each receiver that the configuration names."""
    ris, record = config.reports.hl7, config.reports.fhir
    for section in (ris, record):
        if section is not None and section.tls is not None:
            try:
                tls.check(section.tls.files, wire.now())
            except TlsUnusable as wrong:
                yield section.name, False, str(wrong)
    if ris is not None:
        where, secured = f"{ris.host}:{ris.port}", "TLS" if ris.tls else "no TLS"
        try:
            MllpClient(mllp_of(ris)).connect().close()
        except (OSError, TlsUnusable) as error:
            yield ris.name, False, f"{where}: {_why(error)}"
        else:
            yield ris.name, True, f"{where} takes a connection ({secured}); MLLP cannot be asked for more"
    if record is not None:
        try:
            status = FhirClient(server_of(record)).metadata()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TlsUnusable) as error:
            yield record.name, False, f"{record.url}: {_why(error)}"
        else:
            good = status == httpx.codes.OK
            yield record.name, good, f"{record.url}/metadata answers with status {status}"


def _why(error: Exception) -> str:
    if isinstance(error, TlsUnusable):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is refused"
    return getattr(error, "strerror", None) or type(error).__name__
