"""A study with a result on a disk, its run in a table, its call in a ward's log, and the service's pages over them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydicom import dcmread

from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind
from audit.log import AuditLog
from audit.note import Signer
from dicom_bridge import uids
from dicom_bridge.receipt import Receipt
from dicom_bridge.volume import load
from models.library import Library, VerifiedModel
from models.manifest import Manifest
from service.app import build_app
from service.decide_page import decide_router
from service.decisions import Desk
from service.guesses import Guesses
from service.identity import IdentityMap
from service.keys import PeriodKeys
from service.log_in import LogIn
from service.looks import Looks
from service.results import ResultStyle, ResultWriter
from service.sessions import Sessions
from service.store import Run, State, Store, connect
from service.study_page import StudyPage, study_router
from tests.simulators import findings as simulated
from tests.simulators import site
from tests.simulators.browser import TestClient
from tests.simulators.readers import PSEUDONYMS, Well, operators, readers
from tests.simulators.watched import Ward

THEN = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
SIGNER = Signer.generate("test-site.zhiying/audit")
RECEIPT = Receipt(7, Checkpoint.sign(SIGNER, SIGNER.name, 8, bytes(32)).note)


@dataclass(frozen=True, slots=True)
class Image:
    """As much of an instance as the page looks at."""

    sop_uid: str
    series_uid: str
    path: Path


class Spool:
    """What is held; `images` may be taken away, as retention does."""

    def __init__(self, paths: Sequence[Path]) -> None:
        heads = {path: dcmread(path, stop_before_pixels=True) for path in paths}
        self.study_uid = str(heads[paths[0]].StudyInstanceUID)
        self.images = [Image(str(ds.SOPInstanceUID), str(ds.SeriesInstanceUID), path) for path, ds in heads.items()]
        self.broken: Exception | None = None

    def open_studies(self) -> Sequence[Any]:
        """See service.views.Held."""
        return ()

    def instances(self, study_uid: str) -> Sequence[Any]:
        """See service.views.Held."""
        if self.broken is not None:
            raise self.broken
        return self.images if study_uid == self.study_uid else ()


class BreakableLog:
    """The log as the desk reads it and looks go into it; `broken` is raised instead, `full` by what writes."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self.broken: Exception | None = None
        self.full: Exception | None = None

    def append(self, draft: Draft) -> Entry:
        """See service.looks.Writer."""
        if self.broken is not None or self.full is not None:
            raise self.broken or self.full or AssertionError
        return self._log.append(draft)

    def find(self, key: str) -> Entry | None:
        """See service.decisions.Log."""
        if self.broken is not None:
            raise self.broken
        return self._log.find(key)

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """See service.decisions.Log."""
        return self._log.entries(start)

    def head(self) -> Checkpoint:
        """See service.decisions.Log."""
        return self._log.head()


class Studied:
    """One study of a ball, read by a model that outlines it; `run()` puts an attempt into the table.

    `closed`: with a log-in for everything.
    """

    def __init__(self, root: Path, *, closed: bool = False) -> None:
        self.root = root
        self.ward = Ward(root)
        self.ward.in_use()
        self.paths = site.write_series(root / "images")
        self.spool = Spool(self.paths)
        self.series_uid = self.spool.images[0].series_uid
        self.store = Store(connect(f"sqlite:///{root / 'runs.sqlite'}"))
        self.results = ResultWriter(root / "results", ResultStyle("test-site", "0.1.0", "zh-CN", "ISO_IR 192"))
        self.manifest: Manifest | None = simulated.manifest()
        self.log = BreakableLog(self.ward.log)
        self.desk = Desk(self.log, self.ward.log, self.store, readers(), PSEUDONYMS)
        self.guessed_at = 0.0
        self.sessions = Sessions(self.desk, self.ward.clock, Guesses(lambda: self.guessed_at), operators())
        identities = IdentityMap(root / "identity", PeriodKeys(root / "keys"))
        self.looks = Looks(self.desk, self.log, self.store, identities, self.ward.clock)
        self.page = StudyPage(
            store=self.store,
            inbox=self.spool,
            results=root / "results",
            desk=self.desk,
            sessions=self.sessions,
            looks=self.looks,
            models=lambda model: self.manifest if model else None,
            default="zh",
        )
        self.app: FastAPI = build_app(
            health=Well(),
            store=self.store,
            inbox=self.spool,
            library=Library(root / "models"),
            log=self.ward.log,
            metrics=CollectorRegistry(),
            page=self.page,
            log_in=LogIn(self.sessions, "zh") if closed else None,
            routers=[
                study_router(self.page),
                decide_router(
                    *(self.desk, self.sessions, self.looks, lambda _model: self.manifest, "zh"), closed=closed
                ),
            ],
        )
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def close(self) -> None:
        """Let go of files."""
        self.ward.log.close()
        self.store.close()

    def looked(self) -> list[Entry]:
        """The VIEWED entries."""
        return [entry for entry in self.ward.log.entries() if entry.kind is Kind.VIEWED]

    def read(self, **changes: Any) -> str:
        """A call on the study that was released, with its files and its run; its name."""
        call = self.ward.call()
        loaded = load(self.paths, "sha256:" + "0" * 64)
        model = VerifiedModel(simulated.REF, simulated.manifest(), Path("unused"), MappingProxyType({}))
        self.results.keep(call, simulated.findings(np.nan_to_num(loaded.volume.voxels) > 0))
        written = self.results.write(call, model, loaded, "2026-11-23T16:07:12.123456Z", RECEIPT, None)
        values = {"call": call, "outputs": written.outputs, "measurements": written.measurements}
        self.run(**({"state": State.RELEASED, "series_uid": self.series_uid, "approval": "TEST-1"} | values | changes))
        return call

    def run(self, **changes: Any) -> None:
        """One attempt more, by default of the model."""
        number = len(self.store.latest()) + 1
        values: dict[str, Any] = {
            "run_id": f"{uids.derive('TEST', 'run')[-24:]}-{number}",
            "study_uid": self.spool.study_uid,
            "input_digest": "sha256:" + "0" * 64,
            "attempt": number,
            "state": State.REFUSED,
            "trigger": "COUNT_MATCHED",
            "created_at": THEN,
            "updated_at": THEN,
            "model": {"name": "test-brain", "version": "1.2.0", "digest": simulated.REF.digest},
        }
        self.store.add(Run(**(values | changes)))

    def look(self, query: str = "?lang=en", study: str | None = None, **headers: str) -> Any:
        """The page as a browser asks for it; the answer."""
        path = f"/studies/{self.spool.study_uid if study is None else study}{query}"
        return self.client.get(path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", **headers})

    def picture(self, call: str, number: int = 1, study: str | None = None, **headers: str) -> Any:
        """A picture; the answer."""
        path = f"/studies/{study or self.spool.study_uid}/pictures/{call}/{number}.png"
        return self.client.get(path, headers=headers)
