"""DICOM TLS (PS3.15 annex B.12, BCP 195): our certificate, and whom we believe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate (chain), its key, and the authority that signs the certificates of our peers."""

    certificate: Path
    key: Path
    authority: Path
