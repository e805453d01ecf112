"""What begins to work: an entry with the code, the settings and the libraries of this process, once per start.

Between two of these entries nothing was exchanged; who asks which program made a result finds it here.
"""

import hashlib
import json
import platform
import secrets
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sqlalchemy.engine import make_url

from audit.canonical import JsonValue
from audit.entry import Draft, Kind
from service.config import Config
from service.heartbeat import Log

FOLDERS = ("audit", "models", "ethics_review", "inference", "dicom_bridge", "service")
LIBRARIES = ("torch", "monai", "numpy", "pydicom", "pynetdicom", "highdicom", "cryptography", "dbos")
"""What a result's bytes, or the proof of it, depend on."""


class Started:
    """A chore, to be called until it has said so once."""

    def __init__(self, log: Log, config: Config, software: str) -> None:
        self._log = log
        self._config, self._software = config, software
        self._key = f"config:{secrets.token_hex(16)}"
        self._draft: Draft | None = None
        self._said = False

    def __call__(self) -> None:
        """Log it, the first time. Raises AuditError, OSError: the same entry is tried at the next call."""
        if self._said:
            return
        if self._draft is None:
            body: dict[str, JsonValue] = {
                "settings": settings_digest(self._config),
                "software": self._software,
                "code": code_digest(),
                "runtime": dict(runtime()),
            }
            self._draft = Draft(Kind.CONFIG, self._key, body)
        self._log.append(self._draft)
        self._said = True


def settings_digest(config: Config) -> str:
    """Of the configuration as it holds after defaults and environment; of the database's password nothing."""
    said = config.model_dump(mode="json")
    if config.database.url is not None:
        said["database"]["url"] = make_url(config.database.url).set(password=None).render_as_string()
    text = json.dumps(said, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return _digest(text.encode())


def code_digest() -> str:
    """Of all source files of the product, by name and content: another character anywhere gives another digest."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in sorted(_sources())]
    return _digest("".join(lines).encode())


def runtime() -> Iterator[tuple[str, str]]:
    """Python and libraries, with their versions."""
    yield "python", platform.python_version()
    for name in LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue  # the witness's machine, for one, has no torch


def _sources() -> Iterator[tuple[str, Path]]:
    root = Path(__file__).resolve().parent.parent
    for folder in FOLDERS:
        for path in (root / folder).rglob("*.py"):
            yield path.relative_to(root).as_posix(), path


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
