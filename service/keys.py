"""The site's own secrets: the key that signs the log's checkpoints, and the keys that make pseudonyms.

All are made on first use, readable by the service's user alone. Who takes the log key can sign checkpoints in the
hospital's name. Names of patients, studies, series and inputs are made with a key of their month: who takes it can
re-identify that month's entries by trying identifiers, and when it is destroyed nobody can. Names of calls are made
with the one key that stays, since the UIDs of our objects follow from them (I6): what goes into them is a digest over
every byte of the images, which nobody can enumerate who has not the images themselves.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from audit import durable
from service.errors import PeriodErased

PSEUDONYM_KEY_BYTES = 32
PERIOD = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])")
PSEUDONYM_HEX = 32  # 128 bits: no collision among a city's studies


class Pseudonyms:
    """Keyed one-way names (HMAC-SHA-256), so that the log holds no identifier that can be guessed back."""

    def __init__(self, key: bytes) -> None:
        if len(key) != PSEUDONYM_KEY_BYTES:
            raise ValueError(f"a pseudonym key has {PSEUDONYM_KEY_BYTES} bytes, this one {len(key)}")
        self._key = key

    @classmethod
    def load(cls, path: Path) -> "Pseudonyms":
        """Read the key, or make it where there is none."""
        if not path.exists():
            durable.make_dirs(path.parent)
            path.parent.chmod(0o700)
            durable.create(path, secrets.token_bytes(PSEUDONYM_KEY_BYTES))
            path.chmod(0o600)
        return cls(path.read_bytes())

    def of(self, kind: str, *parts: str) -> str:
        """32 hexadecimal digits for `parts`; `kind` keeps names of different things apart."""
        message = "\0".join((kind, *parts)).encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:PSEUDONYM_HEX]


class PeriodKeys:
    """One secret for each month (UTC), in `<month>.key`; a month whose key was destroyed never gets another.

    Nothing is kept in memory: what one process destroys is gone for the others at their next look.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def month(moment: datetime) -> str:
        """The period of an aware moment, such as "2026-11"."""
        return f"{moment.astimezone(UTC):%Y-%m}"

    def names(self, period: str) -> Pseudonyms:
        """What makes a month's pseudonyms; its key is made where there never was one. Raises PeriodErased, OSError."""
        return Pseudonyms(self._derived(period, b"pseudonyms"))

    def sealing(self, period: str) -> bytes:
        """The 32 bytes that a month's identities are encrypted with. Raises PeriodErased, OSError."""
        return self._derived(period, b"identities")

    def living(self) -> Iterator[str]:
        """The months whose key is there, oldest first."""
        if self._folder.is_dir():
            yield from sorted(path.stem for path in self._folder.glob("*.key") if PERIOD.fullmatch(path.stem))

    def erased(self, period: str) -> bool:
        """Whether the month's key was destroyed."""
        return self._tombstone(period).exists()

    def destroy(self, period: str) -> None:
        """Make the month's names and identities unreadable for ever; may be repeated. Raises OSError."""
        durable.make_dirs(self._folder)
        # First: a crash between the two must not let a second key come into the first one's place.
        durable.create_same(self._tombstone(period), b"")
        durable.destroy(self._key(period))

    def _derived(self, period: str, use: bytes) -> bytes:
        if self.erased(period):
            raise PeriodErased(f"the key of {period} was destroyed")
        path = self._key(period)
        if not path.exists():
            durable.make_dirs(self._folder)
            self._folder.chmod(0o700)
            with suppress(FileExistsError):  # another thread or process was first
                durable.create(path, secrets.token_bytes(PSEUDONYM_KEY_BYTES), mode=0o600)
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            raise PeriodErased(f"the key of {period} was destroyed") from None
        if len(secret) != PSEUDONYM_KEY_BYTES:
            raise ValueError(f"a period's key has {PSEUDONYM_KEY_BYTES} bytes, this one {len(secret)}")
        return hmac.new(secret, b"zhiying " + use, hashlib.sha256).digest()

    def _key(self, period: str) -> Path:
        return self._folder / f"{_checked(period)}.key"

    def _tombstone(self, period: str) -> Path:
        return self._folder / f"{_checked(period)}.erased"


def _checked(period: str) -> str:
    if not PERIOD.fullmatch(period):
        raise ValueError("a period is a month, YYYY-MM")
    return period
