"""A site on which things are broken, and what must be so after each of them, whatever it was."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge.ledger import LEDGER_FILE, ON_THE_WAY, Batch, Ledger, State
from service import looking
from tests.simulators import nursery, series
from tests.simulators.faults_levers import FOLDER, Levers
from tests.simulators.faults_pacs import FaultyPacs
from tests.simulators.raw_peer import EXPLICIT, RawPeer, data, request, store_command
from tests.simulators.site import SLICES, Site, write_series
from tests.simulators.waiting import until

ZHIYING = Path(sys.executable).with_name("zhiying")
CONTEXT = 1
CONTEXTS = [(CONTEXT, series.MRImageStorage, [EXPLICIT])]
ASSOCIATIONS_MAX = 4
ENDS = ("RELEASED", "SHADOWED", "REFUSED", "FAILED", "UNDELIVERED")
MODALITY, SLOW = "MODALITY", "SLOWMODALITY"
"""Calling AE titles; a site may grant the second one more time."""
REJECTED = 0x03
"""PDU type A-ASSOCIATE-RJ (PS3.8 table 9-11)."""


@dataclass(frozen=True, slots=True)
class Image:
    """One instance as a modality sends it."""

    uid: str
    encoded: bytes

    @property
    def message(self) -> bytes:
        """The whole C-STORE request, as it goes over the wire."""
        command = data(CONTEXT, 3, store_command(series.MRImageStorage, self.uid))
        return command + data(CONTEXT, 2, self.encoded)


@dataclass(frozen=True, slots=True)
class Study:
    """A study of the site's ball, as files and as messages; those of odd places come last, so that gaps show."""

    uid: str
    files: tuple[Path, ...]
    images: tuple[Image, ...]

    def without(self, place: int) -> Study:
        """The same, but for one image; the last place is at the end of the volume."""
        keep = [number for number in range(len(self.files)) if number != place]
        return Study(self.uid, tuple(self.files[n] for n in keep), tuple(self.images[n] for n in keep))


def make_study(folder: Path, seed: str) -> Study:
    """A new study; `seed` names it."""
    written = write_series(folder / seed, seed=seed)
    files = (*written[::2], *written[1::2])
    read = [dcmread(path) for path in files]
    images = tuple(Image(str(ds.SOPInstanceUID), series.dataset_bytes(ds)) for ds in read)
    return Study(str(read[0].StudyInstanceUID), files, images)


class FaultySite(Site):
    """A site whose service obeys `levers`, and which remembers every instance that it acknowledged, for ever.

    `results_more`: further lines of the [results] section.
    """

    pacs: FaultyPacs

    def __init__(self, root: Path, pacs: FaultyPacs, *, results_more: str = "", **options: Any) -> None:
        self._results_more = results_more
        self.levers = Levers(root / "levers")
        self.acknowledged: set[str] = set()
        self.released: set[str] = set()
        self.small_disk = False
        super().__init__(root, pacs, **options)

    def _write_config(self) -> None:
        super()._write_config()
        text = self.config_file.read_text(encoding="utf-8")
        text = text.replace("[results]", f"[results]\n{self._results_more}")
        text = text.replace("[dicom]", f"[dicom]\nassociations_max = {ASSOCIATIONS_MAX}")
        self.config_file.write_text(text, encoding="utf-8")

    def start(self, die_at: tuple[str, ...] | None = None, under: Sequence[str] = ()) -> None:
        """As a Site, with the levers in reach."""
        super().start(die_at, under, env={FOLDER: str(self.levers.folder)})
        assert self.alive, (self.root / "serve.log").read_text(encoding="utf-8")[-2000:]

    @property
    def pid(self) -> int:
        """Of the service."""
        assert self._process is not None
        return self._process.pid

    # ---- senders -----------------------------------------------------------------------------------------------------

    def send(self, files: Sequence[Path]) -> tuple[int | None, ...]:
        """As a modality does; what is answered with 0x0000 is remembered."""
        statuses = super().send(list(files))
        uids = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files]
        self.acknowledged |= {uid for uid, status in zip(uids, statuses, strict=True) if status == 0}
        return statuses

    def sender(self, calling: str = MODALITY) -> RawPeer:
        """An association of a modality that can stop anywhere. While it is open its study is not complete."""
        peer = RawPeer(self.dicom_port)
        peer.associate(CONTEXTS, calling=calling)
        return peer

    def rejects_more(self) -> bool:
        """Whether one association more is one too many."""
        with RawPeer(self.dicom_port) as peer:
            peer.send(request(CONTEXTS, calling=MODALITY))
            return peer.pdu()[0] == REJECTED

    def store(self, peer: RawPeer, *images: Image) -> list[int]:
        """Store them one by one, remembering what is acknowledged."""
        statuses = []
        for image in images:
            statuses.append(peer.store(CONTEXT, series.MRImageStorage, image.uid, image.encoded))
            if statuses[-1] == 0:
                self.acknowledged.add(image.uid)
        return statuses

    def resend(self, study: Study) -> None:
        """What a modality does after a break: everything again that it has no answer for."""
        left = [f for f, image in zip(study.files, study.images, strict=True) if image.uid not in self.acknowledged]
        assert set(self.send(left)) <= {0}

    # ---- operators ---------------------------------------------------------------------------------------------------

    def zhiying(self, *words: str, status: int | None = 0) -> Any:
        """What a command prints with --json; its exit status must be this one, or any with None."""
        command = [ZHIYING, *words, "--json", "--config", self.config_file]
        done = nursery.run(command)
        assert status in (None, done.returncode), f"{done.returncode}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def healthy(self) -> bool:
        """Whether every part of the running service says that it is well."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/health", timeout=30) as answer:
            return bool(answer.status == 200)

    def logged(self, event: str) -> int:
        """How often the service has logged this event."""
        return (self.root / "serve.log").read_text(encoding="utf-8").count(f'"event": "{event}"')

    def batches(self) -> dict[str, Batch]:
        """What the outbox has not delivered, by the study's UID."""
        with looking.ledger(self.config_file) as (store, _):
            calls = {run.call: run.study_uid for run in store.latest()}
        ledger = Ledger(self.data / "outbox" / LEDGER_FILE)
        found = ledger.in_states(*ON_THE_WAY, State.DEAD)
        ledger.close()
        return {calls[batch.id]: batch for batch in found}

    def batch_in(self, study: Study, condition: Callable[[Batch], bool], *, jump: timedelta | None = None) -> Batch:
        """Wait until the study's batch is so; with `jump` time runs, so much at a time."""

        def look() -> Batch | None:
            batch = self.batches().get(study.uid)
            if batch is not None and condition(batch):
                return batch
            if jump is not None:
                time.sleep(1.0)  # for the outbox to see what the last one brought
                self.levers.later(jump)
            return None

        found: Batch = until(look, what="the batch gets there")
        return found

    def quarantined(self, code: str) -> list[Path]:
        """The records in quarantine with this code."""
        records = (self.data / "spool" / "quarantine").glob("*.json")
        return [record for record in records if json.loads(record.read_bytes())["code"] == code]

    def reconcile(self, status: int | None = 0) -> Any:
        """`zhiying spool reconcile` with everything that was ever acknowledged."""
        file = self.root / "acknowledged.txt"
        file.write_text("\n".join(sorted(self.acknowledged)), encoding="ascii")
        return self.zhiying("spool", "reconcile", "--deep", "--acknowledged", str(file), status=status)

    def problems(self) -> set[str]:
        """What it finds now."""
        return {str(finding["problem"]) for finding in self.reconcile(None)["findings"]}

    # ---- what must be so ---------------------------------------------------------------------------------------------

    def finish(self, study: Study, *, jump: timedelta | None = None) -> None:
        """The study ends with its result in the PACS, after one run of one model; and all else is as it must be.

        With `jump` time runs until then, so much at a time.
        """

        def ended() -> bool:
            if any(run.state in ENDS for run in self.runs() if run.study_uid == study.uid):
                return True
            if jump is not None:
                time.sleep(1.0)  # for the outbox to see what the last one brought
                self.levers.later(jump)
            return False

        until(ended, what="the study ends")
        run = self.run_in(*ENDS, study=study.uid)
        assert run.state == "RELEASED", (run.state, run.stage, run.code, run.condition, run.observed)
        self.settle()
        assert {image.uid for image in study.images} <= self.acknowledged
        assert [one.state for one in self.runs() if one.study_uid == study.uid] == ["RELEASED"]
        self.released.add(study.uid)
        self.check()

    def check(self, *, waiting: int = 0) -> Any:
        """Each row ends here: nothing acknowledged is lost, nothing is in the PACS twice, the log is whole.

        waiting: results that are made and are not delivered yet.
        """
        report = self.reconcile()
        assert (report["ok"], report["findings"]) == (True, [])
        accounted = sum(number for fate, number in report["fates"].items() if fate != "QUARANTINED")
        assert accounted == len(self.acknowledged)
        assert self.pacs.complaints == [], self.pacs.complaints
        assert self.pacs.results() == {(study, kind): 1 for study in self.released for kind in ("SR", "SEG")}
        counted = self.counted()
        made = len(self.released) + waiting
        counts = tuple(counted.get(kind, 0) for kind in ("CALL_INTENT", "CALL_RESULT", "RELEASED"))
        assert counts == (made, made, len(self.released))
        return report["fates"]

    def proofs(self) -> list[str]:
        """How each delivery was proven, in the log's order."""
        return [str(entry.body["proof"]) for entry in self.entries() if entry.kind == "RELEASED"]


def write_study_again(study: Study, folder: Path, spoil: Any) -> Study:
    """The same study once more, each data set changed by `spoil`."""
    folder.mkdir()
    files, images = [], []
    for number, path in enumerate(study.files):
        ds: Dataset = dcmread(path)
        spoil(number, ds)
        files.append(series.write_file(ds, folder / path.name))
        images.append(Image(str(ds.SOPInstanceUID), series.dataset_bytes(ds)))
    assert len(files) == SLICES
    return Study(study.uid, tuple(files), tuple(images))
