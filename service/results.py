"""The files of one call: findings as the model gave them, then the objects that are sent.

results/<call>/findings.npz   written when the model has answered
results/<call>/sc-NNN.dcm     where the site wants key images, and gsps.dcm, kos.dcm: see dicom_bridge.key_images
results/<call>/gsps.txt       where that is wanted and cannot be: the code of why
results/<call>/heat.dcm       where the site wants heat maps, and the model gives any that can be sent
results/<call>/seg.dcm        written after them
results/<call>/sr.dcm         written last; from then on these bytes are resent, never made again
results/withdrawn-<call>/      what the PACS is told of a withdrawal: see service.withdrawing
results/denied-<run>/sr.dcm   what the PACS is told of a refusal, where the site wants that
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from audit import durable
from dicom_bridge import heat_maps, key_images, readback, report, segmented, uids
from dicom_bridge.dispensable import HEAT_MAPS
from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.peers import ReportGroups, Segmentation
from dicom_bridge.receipt import Receipt
from dicom_bridge.result_context import Charset, Language, ResultContext
from dicom_bridge.volume import LoadedSeries
from inference.errors import FindingsCorrupt
from inference.types import Findings
from models.library import VerifiedModel
from service import records
from service.config import Config
from service.links import decide_link
from service.records import Written, decimal

FINDINGS = "findings.npz"
SEG = "seg.dcm"
SR = "sr.dcm"
WITHDRAWN = "withdrawn-"
"""How the names of withdrawals' batches and folders begin; a call follows. See service.withdrawing."""
MS = 1000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ResultStyle:
    """How this site wants its results, and its PACS: the output profile.

    `key_images`: the kinds that go with SEG and SR; `heat_maps`: whether these do.
    `report_groups`, `segmentation`: as the receiving peer's.
    `decide_at`: under which address readers' browsers reach us, of the form links.BASE; then results carry a link.
    """

    device_serial: str
    version: str
    language: Language
    charset: Charset
    key_images: Collection[KeyImage] = ()
    decide_at: str | None = None
    report_groups: ReportGroups = ReportGroups.VOLUMETRIC
    segmentation: Segmentation = Segmentation.BINARY
    heat_maps: bool = False

    @classmethod
    def of(cls, config: Config) -> "ResultStyle":
        """As the configuration has it."""
        return cls(
            device_serial=config.site.id,
            version=version("zhiying"),
            language=config.site.language,
            charset=config.site.charset,
            key_images=config.results.key_images,
            decide_at=config.results.decide_at,
            report_groups=config.report_groups,
            segmentation=config.segmentation,
            heat_maps=config.results.heat_maps,
        )


class ResultWriter:
    """Makes and keeps the results of calls under one folder."""

    def __init__(self, root: Path, style: ResultStyle) -> None:
        self._root = root
        self._style = style
        durable.make_dirs(root)

    def kept(self, call: str) -> bool:
        """Whether the model has answered and the answer is whole."""
        try:
            Findings.load(self._findings(call))
        except (FileNotFoundError, FindingsCorrupt):
            return False
        return True

    def findings(self, call: str) -> Findings:
        """What the model answered. Raises FindingsCorrupt, OSError."""
        return Findings.load(self._findings(call))

    def files(self, call: str) -> list[Path]:
        """The objects to send: the SEG first, since the SR refers to it, the SR, then heat maps and key images.

        Where nothing was found there is no SEG: an empty one says nothing, and the SR says that nothing was found.

        Which of them there are is decided when they are made, not by what the configuration says when they are sent.
        """
        return files_of(self._root / call)

    def unmade(self, call: str) -> str | None:
        """The code of why a key image that the site wants is not among them; None where none is lacking."""
        return key_images.unmade(self._root / call)

    def partly(self, call: str) -> bool:
        """Whether the report says that outputs of the model failed. Raises BridgeError, OSError."""
        return str(readback.read_document(self._root / call / SR).CompletionFlag) == "PARTIAL"

    def keep(self, call: str, findings: Findings) -> None:
        """Keep the model's answer, durably."""
        durable.make_dirs(self._root / call)
        findings.save(self._findings(call))

    def write(
        self,
        call: str,
        model: VerifiedModel,
        loaded: LoadedSeries,
        intended_at: str,
        receipt: Receipt,
        supersedes: str | None,
    ) -> Written:
        """Make the objects, or take those that an earlier try has made, and describe them.

        `receipt`: where the intent stands in the log; it travels in the objects.
        `supersedes`: the call whose report this one replaces, after later images of the same study.

        Raises OutputInvalid where an object would not be valid: then nothing is kept or sent (I7).
        """
        findings = Findings.load(self._findings(call))
        sr_path, seg_path = self._root / call / SR, self._root / call / SEG
        if not sr_path.exists() or (_drawn(findings) and not seg_path.exists()):
            before = None if supersedes is None else self._root / supersedes / SR
            context = self._context(call, intended_at, receipt, before, link=self._link(call))
            self._make(call, model, loaded, findings, context)
        decimals = {m.id: m for m in model.manifest.measurements}
        return Written(
            outputs=[_output(path, call) for path in self.files(call)],
            outcome=findings.outcome,
            measurements=[
                {
                    "code": decimals[m.id].concept.value,
                    "value": decimal(m.value, decimals[m.id].decimals),
                    "unit": decimals[m.id].unit.value,
                }
                for m in findings.measurements
            ],
            timing_ms=dict(findings.timing_ms),
            device=findings.device,
            deadline_ms=round(model.manifest.deadline_s * MS),
            # Of the version that made the objects, which after an update is not the one that tells of them.
            software=f"zhiying {readback.read_document(sr_path).SoftwareVersions}",
            failed=[{"output": one.output, "code": one.code} for one in findings.failed],
        )

    def deny(
        self, denial: str, code: str, model: VerifiedModel, loaded: LoadedSeries, denied_at: str, receipt: Receipt
    ) -> Path:
        """The report that says that the AI did not run, and why; the one that an earlier try has made, if there is one.

        `denial`: the key of the DENIED entry, of which the object's UIDs are made. Raises OutputInvalid.
        """
        folder = self._root / batch_of(denial)
        path = folder / SR
        if not path.exists():
            durable.make_dirs(folder)
            # Of a refusal there is no result to decide on: no link.
            context = self._context(denial, denied_at, receipt, None)
            durable.replace(path, report.write_denial(code, model.manifest, model.ref, loaded.headers, context))
        return path

    def _findings(self, call: str) -> Path:
        return self._root / call / FINDINGS

    def _link(self, call: str) -> str | None:
        return None if self._style.decide_at is None else decide_link(self._style.decide_at, call)

    def _context(
        self, call: str, intended_at: str, receipt: Receipt, before: Path | None, link: str | None = None
    ) -> ResultContext:
        return ResultContext(
            call=call,
            content_time=datetime.fromisoformat(intended_at),
            device_serial=self._style.device_serial,
            bridge_version=self._style.version,
            site_language=self._style.language,
            charset=self._style.charset,
            predecessors=() if before is None else (readback.read_document(before),),
            receipt=receipt,
            decide_at=link,
            report_groups=self._style.report_groups,
        )

    def _make(
        self, call: str, model: VerifiedModel, loaded: LoadedSeries, findings: Findings, context: ResultContext
    ) -> None:
        about = (model.manifest, model.ref, loaded.headers)
        # Every writer checks what it wrote against our own rules before it gives it away.
        wanted = self._style.segmentation
        seg = segmented.write_segmentation(findings, *about, context, wanted) if _drawn(findings) else None
        if seg is not None and seg.instead is not None:
            _log.warning("segmentation_is_binary", model=model.ref.name, code=seg.instead)
        heat = heat_maps.make_heat_maps(findings, *about, context) if self._style.heat_maps else None
        if self._style.heat_maps and heat_maps.withheld(findings, model.manifest):
            _log.warning("heat_map_not_sent", model=model.ref.name, code=heat_maps.UNCALIBRATED)
        read, maps = None if seg is None else seg.read, None if heat is None else heat[1]
        sr = report.write_sr(findings, *about, read, context, heat=maps)
        # Nobody has seen these bytes before the CALL_RESULT entry names them, so an earlier half-made set may go.
        folder = self._root / call
        for path in (*self.files(call), folder / key_images.UNMADE):
            durable.remove(path)
        for name, data in key_images.write(self._style.key_images, findings, *about, loaded.volume.voxels, context):
            durable.replace(folder / name, data)
        if heat is not None:
            durable.replace(folder / HEAT_MAPS, heat[0])
        if seg is not None:
            durable.replace(folder / SEG, seg.data)
        if (why := key_images.unmade(folder)) is not None:
            _log.warning("key_image_not_sent", model=model.ref.name, code=why)
        # The report is the last: where it is, all is.
        durable.replace(folder / SR, sr)


def batch_of(denial: str) -> str:
    """What the outbox and the folder call the report of a refusal; never a call's name, which has no dash."""
    return denial.replace(":", "-", 1)


def is_denial(batch: str) -> bool:
    """Whether a batch of the outbox is no result: the report of a refusal, or the note of a withdrawal."""
    return batch.startswith((batch_of(records.DENIAL), WITHDRAWN))


def files_of(folder: Path) -> list[Path]:
    """The objects that a call's folder holds, in the order in which they are sent; the SR in any case."""
    seg, heat = ([path] if path.exists() else [] for path in (folder / SEG, folder / HEAT_MAPS))
    return [*seg, folder / SR, *heat, *key_images.files(folder)]


def _drawn(findings: Findings) -> bool:
    """Whether there is a SEG: a segment has a voxel."""
    return any(segment.part.size for segment in findings.segments)


def _output(path: Path, call: str) -> dict[str, str]:
    """What the log says of one file, whose name tells what it is."""
    kind, _, number = path.stem.upper().partition("-")
    uid = uids.derive(kind, call, *key_images.uid_parts(number))
    return {"kind": kind, "uid": uid, "digest": f"sha256:{_digest(path)}"}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
