"""Taking the digests of held instances: after they were acknowledged, and before anybody relies on them.

A digest costs as much as the rest of receiving an image. So a burst is received first; at the speed of a Gigabit
network the digests are taken meanwhile, on another core. Whoever needs them sooner takes what is missing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dicom_bridge.errors import InstanceRefused
from dicom_bridge.spool_index import Instance, SpoolIndex
from dicom_bridge.spool_recovery import file_digest

PAUSE_S: Final = 0.05
"""Seconds between two looks at how much has come."""
BURST_BYTES_PER_S: Final = 150_000_000
"""What comes faster is a burst: more than a Gigabit network carries."""
UNREADABLE: Final = "unreadable"
"""In place of a digest: the file is gone, or is no instance any more."""


class Digests:
    """The digests of one spool. `received` gives how many bytes have come in all; `digest` that of a held file.

    Thread-safe. What cannot be read has the digest UNREADABLE: its run then finds out why.
    """

    def __init__(
        self,
        index: SpoolIndex,
        received: Callable[[], int],
        digest: Callable[[Path], str] = file_digest,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._index, self._received, self._digest, self._pause_s = index, received, digest, pause_s
        self._taking, self._starting = threading.Lock(), threading.Lock()
        self._wanted, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def want(self) -> None:
        """Something has come: take its digest when there is time."""
        if self._wanted.is_set():
            return
        self._wanted.set()
        with self._starting:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._take_soon, name="spool-digests", daemon=True)
                self._thread.start()

    def take(self, study_uid: str) -> None:
        """Return when every instance of the study has its digest. Raises OSError, sqlite3.Error."""
        while self._take_some(study_uid):
            pass

    def close(self) -> None:
        """Stop; what is missing is taken when somebody asks."""
        self._closed.set()
        self._wanted.set()
        with self._starting:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _take_some(self, study_uid: str | None) -> bool:
        # One at a time: two would read the same files.
        with self._taking:
            missing = self._index.undigested(study_uid)
            if missing:
                self._index.set_digests([(one, self._of(one)) for one in missing])
        return bool(missing)

    def _take_soon(self) -> None:
        while not self._closed.is_set():
            self._wanted.wait()
            before = self._received()
            if self._closed.wait(self._pause_s):
                return
            before, came = self._received(), self._received() - before
            if came > BURST_BYTES_PER_S * self._pause_s:
                continue
            self._wanted.clear()
            try:
                while self._take_some(None) and not self._closed.is_set():
                    if self._received() != before:
                        # More comes: look how fast before going on.
                        self._wanted.set()
                        break
            except (OSError, sqlite3.Error):
                # Whoever needs them meets the same error, and can tell of it; here the next arrival tries again.
                continue

    def _of(self, one: Instance) -> str:
        try:
            return self._digest(one.path)
        except (InstanceRefused, FileNotFoundError):
            return UNREADABLE
