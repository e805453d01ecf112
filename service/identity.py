"""Whom the log's pseudonyms name: a map apart from the log, encrypted, with a key for each month that can be destroyed.

identity/<YYYY-MM>.rows       one line a row: base64 of nonce and AES-256-GCM text, with the month as associated data
keys/identity/<YYYY-MM>.key   see service.keys; without it the rows are noise, and the names cannot be made again

The log never held the map, so it stays whole and provable when a month is erased.
"""

import base64
import binascii
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit import durable
from audit.errors import AuditUnavailable
from dicom_bridge.patient import Patient
from service.errors import CommandRefused, PeriodErased
from service.keys import PeriodKeys

NONCE_BYTES = 12  # random: at 2**32 rows of one key, the chance that two are equal is still one in 2**32
MODE = 0o600


@dataclass(frozen=True, slots=True)
class Named:
    """What a run's entries call its study, its input and its patient (None: the images do not say who it is)."""

    study: str
    input: str
    patient: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One study of one patient, and their pseudonyms. Personal data: for the one who asked, never for a log."""

    study: str
    patient: str | None
    study_uid: str
    patient_id: str
    issuer: str


class IdentityMap:
    """The map of one site. Threads share it; another process may read and erase, and one process adds."""

    def __init__(self, folder: Path, keys: PeriodKeys) -> None:
        self._folder, self.keys = folder, keys
        self._lock = threading.Lock()
        self._there: set[tuple[str, Row]] = set()

    @classmethod
    def of(cls, data: Path) -> "IdentityMap":
        """The map in a site's data folder."""
        return cls(data / "identity", PeriodKeys(data / "keys" / "identity"))

    def study(self, moment: datetime, study_uid: str, *, now: datetime) -> str:
        """The study's name in the month of `moment`, or in that of `now` where the first was erased."""
        return self.keys.names(self._period(moment, now)).of("study", study_uid)

    def name(self, moment: datetime, study_uid: str, digest: str, who: Patient | None, *, now: datetime) -> Named:
        """The names of a run of this study, and a durable row that says whose they are.

        `moment`: when the run began; a fact, so that a retry gives the same names. Raises AuditUnavailable where the
        disk refuses: nothing is logged under a name that nobody could ever tie to a patient.
        """
        try:
            period = self._period(moment, now)
            names = self.keys.names(period)
            named = Named(
                study=names.of("study", study_uid),
                input=names.of("input", study_uid, digest),
                patient=None if who is None else names.of("patient", who.issuer, who.id),
            )
            who = who or Patient("", "")
            self._keep(period, Row(named.study, named.patient, study_uid, who.id, who.issuer))
        except OSError as error:
            raise AuditUnavailable("the identity map cannot be written", error.errno or 0) from error
        return named

    def seen(self, began: datetime | None, study_uid: str, *, now: datetime) -> str:
        """The study's name for who looks at it: of its newest run, which `began` then, as that run made it.

        Where none began (None) or its month was erased, the name of this month, with a row that says whose it is.
        Raises PeriodErased, OSError.
        """
        if began is not None and self._period(began, now) == PeriodKeys.month(began):
            return self.study(began, study_uid, now=now)
        name = self.study(now, study_uid, now=now)
        self._keep(PeriodKeys.month(now), Row(name, None, study_uid, "", ""))
        return name

    def series(self, moment: datetime, series_uid: str, *, now: datetime) -> str:
        """The series's name."""
        return self.keys.names(self._period(moment, now)).of("series", series_uid)

    def candidates(self, study_uid: str) -> frozenset[str]:
        """Every name that the study can have: one for each month whose key is there."""
        return frozenset(self.keys.names(period).of("study", study_uid) for period in self.keys.living())

    def find(self, pseudonym: str) -> tuple[Row, ...]:
        """The rows of a study's or a patient's name; none where it is unknown, or its month was erased."""
        return self.find_all(frozenset({pseudonym}))

    def find_all(self, pseudonyms: frozenset[str]) -> tuple[Row, ...]:
        """The rows of all these names, in one reading of the map."""
        found: dict[Row, None] = {}
        for period in self.keys.living():
            for row in self._rows(period):
                if row.study in pseudonyms or row.patient in pseudonyms:
                    found[row] = None
        return tuple(found)

    def erase(self, period: str, *, now: datetime) -> int:
        """Destroy a past month's key; the number of rows that nobody can read any more. May be repeated."""
        if period >= PeriodKeys.month(now):
            raise CommandRefused(f"{period} is not over: its names are still being made")
        self.keys.destroy(period)
        path = self._path(period)
        if not path.exists():
            return 0
        with path.open("rb") as lines:
            return sum(1 for _ in lines)

    def _period(self, moment: datetime, now: datetime) -> str:
        period = PeriodKeys.month(moment)
        return PeriodKeys.month(now) if self.keys.erased(period) else period

    def _path(self, period: str) -> Path:
        return self._folder / f"{period}.rows"

    def _keep(self, period: str, row: Row) -> None:
        with self._lock:
            if (period, row) in self._there:
                return
            nonce = os.urandom(NONCE_BYTES)
            text = json.dumps(asdict(row), ensure_ascii=False).encode()
            sealed = AESGCM(self.keys.sealing(period)).encrypt(nonce, text, period.encode())
            durable.make_dirs(self._folder)
            durable.append(self._path(period), base64.b64encode(nonce + sealed) + b"\n", mode=MODE)
            self._there.add((period, row))

    def _rows(self, period: str) -> Iterator[Row]:
        path = self._path(period)
        if not path.exists():
            return
        try:
            key = AESGCM(self.keys.sealing(period))
        except PeriodErased:
            return
        with path.open("rb") as lines:
            for line in lines:
                try:
                    data = base64.b64decode(line.strip(), validate=True)
                    text = key.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], period.encode())
                except (binascii.Error, InvalidTag, ValueError):
                    continue  # torn by a crash: its run wrote it again
                yield Row(**json.loads(text))
