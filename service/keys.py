"""The site's own secrets: the key that signs the log's checkpoints, and the key that makes pseudonyms.

Both are made on first use, readable by the service's user alone. Who takes the pseudonym key can re-identify
entries of the log by trying identifiers; who takes the log key can sign checkpoints in the hospital's name.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from audit import durable

PSEUDONYM_KEY_BYTES = 32
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
