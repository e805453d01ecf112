"""What every result of one call has in common: who made it, when, in which language, under which UIDs.

The five places in which an object names its algorithm (IHE AIR §6.5.3.1; reference table of Contributing Equipment,
TID 1004, TID 4019 and the Algorithm Identification macro) are all filled from one `Algorithm`, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

from pydicom.dataset import Dataset

from dicom_bridge import uids
from dicom_bridge.peers import ReportGroups
from dicom_bridge.receipt import Receipt
from models.codes import Code
from models.manifest import Manifest
from models.ref import ModelRef

Language = Literal["zh-CN", "en-US"]
Charset = Literal["ISO_IR 192", "GB18030"]

# China has one civil time. A site elsewhere passes its own; a source that declares (0008,0201) wins over both.
CHINA_STANDARD_TIME = timezone(timedelta(hours=8))

BRIDGE_MANUFACTURER = "Zhiying"
BRIDGE_MODEL_NAME = "Zhiying DICOM Bridge"

SEG_SERIES_NUMBER = 9001
SR_SERIES_NUMBER = 9002
GSPS_SERIES_NUMBER = 9003
KOS_SERIES_NUMBER = 9004
SC_SERIES_NUMBER = 9005

# LO holds 64 characters (PS3.5 Table 6.2-1).
LO_MAX = 64
# Enough of the model's digest to tell two builds of one version apart in a viewer; the whole digest is in the log.
DIGEST_SHOWN = 12

MARKING: dict[Language, str] = {
    "en-US": "AI output. Not for diagnosis. Requires review by a physician.",
    "zh-CN": "人工智能输出结果，不得直接用于诊断，须经医师审核确认。",
}
NOT_PERFORMED: dict[Language, str] = {
    "en-US": "AI not performed: {code}. The images were not analysed; this says nothing about them.",
    "zh-CN": "未执行人工智能分析：{code}。影像未经分析，本文件不含任何关于影像的结论。",
}
NO_FINDING: dict[Language, str] = {
    "en-US": "{title}: no finding.",
    "zh-CN": "{title}：人工智能未检出任何目标。",
}
"""Of a model that came to a result; what it looked for is named beside it."""
INCONCLUSIVE: dict[Language, str] = {
    "en-US": "AI inconclusive: {code}. The images were analysed without a result; nothing is excluded.",
    "zh-CN": "人工智能分析无结论：{code}。影像已分析但未得出结果，不排除任何异常。",
}
PARTLY_FAILED: dict[Language, str] = {
    "en-US": "AI partly failed: {codes}. What is not stated here has no result; nothing is excluded by that.",
    "zh-CN": "人工智能分析部分失败：{codes}。本文件未述及的内容没有结果，不得据此排除异常。",
}
DECIDE_AT: dict[Language, str] = {
    "en-US": "Decide on this AI result",
    "zh-CN": "对此AI结果作出决定",
}
"""Names the address at which a reader says what became of the result."""
SERIES_MARKING: dict[Language, str] = {"en-US": "not for diagnosis", "zh-CN": "非诊断用"}


@dataclass(frozen=True, slots=True)
class ResultContext:
    """Everything outside findings and sources on which the bytes of a result depend.

    Same context, findings and sources give the same bytes: this is why the time is a field and not a clock.
    `content_time` is the start of the analysis (aware), fixed once per call. `predecessors` are the earlier SR of the
    same study that this one supersedes (PS3.3 C.17.2.3). `receipt`: where the call stands in the audit log.
    `decide_at`: the address (ASCII) at which a reader decides on the result; None where there is none.
    `report_groups`: the shape that the peer's viewers can show; of segments, as detections have one shape only.
    """

    call: str
    content_time: datetime
    device_serial: str
    bridge_version: str
    site_language: Language
    charset: Charset
    predecessors: Sequence[Dataset] = ()
    civil_time: timezone = CHINA_STANDARD_TIME
    receipt: Receipt | None = None
    decide_at: str | None = None
    report_groups: ReportGroups = ReportGroups.VOLUMETRIC

    def uid(self, kind: str, *parts: str) -> str:
        """The UID of one thing of this call; the same for ever."""
        return uids.derive(kind, self.call, *parts)

    @property
    def text_language(self) -> str:
        """Key of the manifest's texts: "zh" or "en"."""
        return self.site_language.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One model as DICOM names it: vendor, model, version with the weights' short hash, and its Device UID."""

    vendor: str
    name: str
    version: str
    device_uid: str
    family: Code

    @classmethod
    def of(cls, manifest: Manifest, ref: ModelRef) -> Algorithm:
        """The identity of exactly this model: another digest gives another version text and another Device UID."""
        short = ref.digest.removeprefix("sha256:")[:DIGEST_SHOWN]
        room = LO_MAX - len(short) - 1
        return cls(
            vendor=manifest.vendor[:LO_MAX],
            name=ref.name[:LO_MAX],
            version=f"{ref.version[:room]}+{short}",
            device_uid=uids.device_uid(manifest.vendor, ref.name, ref.version, ref.digest),
            family=manifest.algorithm_family,
        )


@dataclass(frozen=True, slots=True)
class Tracking:
    """The identity of one finding, the same in SR (112039, 112040) and SEG (0062,0020), (0062,0021)."""

    identifier: str
    uid: str


def tracking(context: ResultContext, segment: int, label: str) -> Tracking:
    """Tracking of segment `segment` (the manifest's number) of this call."""
    return Tracking(identifier=label[:LO_MAX], uid=context.uid("TRACKING", str(segment)))


def series_description(context: ResultContext, model: str, kind: str) -> str:
    """The marking that worklists show, at most 64 characters: a long model name is shortened, never the marking."""
    marking = SERIES_MARKING[context.site_language]
    room = LO_MAX - len(f"AI  {kind} - {marking}")
    return f"AI {model[:room]} {kind} - {marking}"


def link(context: ResultContext) -> str:
    """The address at which a reader decides, with its name, to end a sentence; "" where the site has none."""
    return "" if context.decide_at is None else f". {DECIDE_AT[context.site_language]}: {context.decide_at}"
