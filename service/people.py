"""What a package holds for people and for other systems, made from its entries in one reading, and the look at it all.

See audit.export.Companion: the log's folder knows nothing of medicine, so the service makes these members.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from audit.entry import Entry, Kind, parse
from audit.errors import EntryInvalid
from audit.package import CHUNK
from audit.verifier import DOES_NOT_PROVE
from dicom_bridge.audit_event import Reporter
from dicom_bridge.audit_message import to_xml
from dicom_bridge.audit_rules import events_of
from service.audit_feed import Calls, Log
from service.call_book import CallBook
from service.fhir_audit import to_fhir
from service.phi_scan import Scan
from service.summary import PAGE, About, fixed_texts, render
from service.tables import tables
from service.tally import Approved, Tally

XML_HEAD: Final = '<?xml version="1.0" encoding="UTF-8"?>\n<AuditMessages>\n'
XML_TAIL: Final = "</AuditMessages>\n"

Member = tuple[str, Iterable[bytes]]


def scan_of(words: Iterable[str], canaries: Iterable[str] = ()) -> Scan:
    """A scan that knows the product's own texts. `words`: see service.phi_scan; used and forgotten."""
    page = fixed_texts()
    fixed = {PAGE: page, "MANIFEST.json": [text for texts in DOES_NOT_PROVE.values() for text in texts]}
    own = [*page, *(kind.value for kind in Kind)]
    return Scan(words, canaries=canaries, fixed=lambda member: fixed.get(member, ()), own_words=own)


class People:
    """The companion of one export."""

    def __init__(self, log: Log, reporter: Reporter, about: About, scan: Scan) -> None:
        self._calls = Calls(log)
        self._reporter = reporter
        self._about = about
        self._scan = scan

    def look(self, member: str, offset: int, data: bytes) -> None:
        """See Companion."""
        if member.startswith("entries/") and b'"kind":"APPROVAL"' in data:
            self._know_approval(data)
        self._scan.look(member, offset, data)

    def members(self, entries: Iterator[Entry]) -> Iterator[Member]:
        """See Companion."""
        tally, book = Tally(), CallBook()
        try:
            chunk: _Chunk | None = None
            for entry in entries:
                tally.entry(entry)
                book.add(entry)
                first = entry.index // CHUNK * CHUNK
                if chunk is None or chunk.first != first:
                    if chunk is not None:
                        yield from chunk.members()
                    chunk = _Chunk(first, [], [])
                chunk.take(entry, self._reporter, self._calls.study_of(entry))
            if chunk is not None:
                yield from chunk.members()
            for call in book.calls():
                tally.call(call)
            yield PAGE, [render(tally, self._about)]
            yield from tables(book, tally)
        finally:
            book.close()

    def verdict(self) -> bytes:
        """See Companion. Raises PatientDataFound."""
        self._scan.refuse_hits()
        return self._scan.report()

    def _know_approval(self, data: bytes) -> None:
        try:
            approved = Approved.of(parse(0, data))
        except EntryInvalid:
            return  # of another version; then nothing of it is known
        for text in approved.texts:
            self._scan.know(text)


@dataclass(slots=True)
class _Chunk:
    """The events of the entries of one member `entries/...`, in both forms."""

    first: int
    fhir: list[str]
    dicom: list[str]

    def take(self, entry: Entry, reporter: Reporter, study: str | None) -> None:
        for event in events_of(entry, reporter, study):
            self.fhir.append(json.dumps(to_fhir(event), ensure_ascii=False, separators=(",", ":")) + "\n")
            self.dicom.append(to_xml(event) + "\n")

    def members(self) -> Iterator[Member]:
        if self.fhir:
            yield f"fhir/{self.first:013d}.ndjson", ["".join(self.fhir).encode()]
            yield f"dicom-audit/{self.first:013d}.xml", ["".join((XML_HEAD, *self.dicom, XML_TAIL)).encode()]
