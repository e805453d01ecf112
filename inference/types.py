"""The numbers that go in and come out: Volume, Findings and their parts. NumPy only.

Every type checks itself when it is made, so that whoever holds one need not check again. Arrays are read-only views.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from audit import durable
from inference.boxes import fits, placed, read_only, smallest_box, three
from inference.errors import FindingsCorrupt, VolumeInvalid
from inference.found import FoundBox
from inference.heat_map import LEVELS as LEVELS
from inference.heat_map import HeatMap as HeatMap
from inference.outputs import FailedOutput as FailedOutput

FloatArray = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
LabelArray = npt.NDArray[np.uint8]

Point = tuple[float, float, float]
Presence = Literal["PRESENT", "ABSENT", "UNDETERMINED"]
Outcome = Literal["FINDINGS", "NO_FINDINGS", "INCONCLUSIVE", "PARTLY_FAILED"]

TIMING_KEYS: Final = frozenset({"load", "preprocess", "forward", "postprocess", "total"})
"""Stages of one call, each in whole milliseconds. `load` is 0 when the model was warm."""

FINDINGS_MAGIC: Final = b"zhiying.findings/1\n"
FINDINGS_BYTES_MAX: Final = 4 << 30
"""Refuse to read a findings file above 4 GiB: 255 masks of 512 x 512 x 500 voxels need 4.2e9 bytes packed."""

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PRESENCES: Final[frozenset[Presence]] = frozenset({"PRESENT", "ABSENT", "UNDETERMINED"})
_REASON: Final = re.compile(r"[A-Z][A-Z0-9_]{0,39}")
_MODALITY: Final = re.compile(r"[A-Z0-9_]{1,16}")


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One image series as a regular grid.

    voxels: (K, R, C) = (slice, row, column) float32, in the modality's own unit (HU for CT, arbitrary for MR).
    affine: (4, 4) float64, homogeneous index (k, r, c, 1) -> position (x, y, z, 1) in mm in DICOM's patient system
        (LPS: x to the left, y to the back, z to the head), of the voxel's centre. PS3.3 C.7.6.2.1.1.
    source_digest: digest of the exact instances that the voxels came from.
    modality: DICOM (0008,0060).
    Raises VolumeInvalid (VOLUME_INVALID).
    """

    voxels: FloatArray
    affine: Affine
    source_digest: str
    modality: str

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or self.voxels.dtype != np.float32 or min(self.voxels.shape) < 1:
            raise VolumeInvalid("VOLUME_INVALID", f"voxels are {self.voxels.shape} {self.voxels.dtype}, not 3D float32")
        if self.affine.shape != (4, 4) or self.affine.dtype != np.float64 or not np.isfinite(self.affine).all():
            raise VolumeInvalid("VOLUME_INVALID", "affine is not a finite 4 x 4 float64 matrix")
        if not np.array_equal(self.affine[3], (0.0, 0.0, 0.0, 1.0)) or self.voxel_mm3 <= 0.0:
            raise VolumeInvalid("VOLUME_INVALID", "affine is not an invertible homogeneous matrix")
        if _DIGEST.fullmatch(self.source_digest) is None or _MODALITY.fullmatch(self.modality) is None:
            raise VolumeInvalid("VOLUME_INVALID", "source_digest or modality is malformed")
        object.__setattr__(self, "voxels", read_only(self.voxels))
        object.__setattr__(self, "affine", read_only(self.affine))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, R, C)."""
        k, r, c = self.voxels.shape
        return k, r, c

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm between neighbours along (slice, row, column) index."""
        slice_mm, row_mm, column_mm = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_mm), float(row_mm), float(column_mm)

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in mm3; right for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))


@dataclass(frozen=True, slots=True, eq=False, init=False)
class SegmentMask:
    """One segment on the volume's own grid: `number` as in the manifest (1 to 255), and the smallest box that holds it.

    shape: (K, R, C) of the grid. part: the box, bool, a copy; its first voxel is the grid's `origin` (k, r, c). Outside
    there is nothing; an empty segment has an empty box. Whole masks of 104 organs on 300 x 512 x 512 are 8 GB.
    """

    number: int
    shape: tuple[int, int, int]
    origin: tuple[int, int, int]
    part: BoolArray

    def __init__(
        self,
        number: int,
        mask: BoolArray,
        origin: tuple[int, int, int] = (0, 0, 0),
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        """`mask` is the whole grid, or what lies from `origin` on in a grid of `shape`."""
        if not 1 <= number <= 255 or mask.ndim != 3 or mask.dtype != np.bool_:
            raise VolumeInvalid("VOLUME_INVALID", f"segment {number} is {mask.shape} {mask.dtype}")
        grid = mask.shape if shape is None else shape
        if len(grid) != 3 or not fits(mask.shape, origin, grid):
            raise VolumeInvalid("VOLUME_INVALID", f"segment {number} is not inside of its grid")
        box = smallest_box(mask)
        object.__setattr__(self, "number", number)
        object.__setattr__(self, "shape", grid)
        object.__setattr__(self, "origin", tuple(o + b.start for o, b in zip(origin, box, strict=True)))
        object.__setattr__(self, "part", read_only(mask[box].copy()))

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where `part` lies in the grid."""
        return placed(self.origin, self.part.shape)

    def plane(self, k: int) -> BoolArray:
        """Slice k of the grid, (R, C) bool, made anew each time."""
        page = np.zeros(self.shape[1:], dtype=np.bool_)
        if 0 <= k - self.origin[0] < len(self.part):
            page[self.box[1:]] = self.part[k - self.origin[0]]
        return page

    @property
    def mask(self) -> BoolArray:
        """The whole grid, (K, R, C) bool, read-only; made anew each time."""
        whole = np.zeros(self.shape, dtype=np.bool_)
        whole[self.box] = self.part
        return read_only(whole)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number: `id` names the manifest's MeasurementSpec (concept, unit, decimals); `value` is in that unit."""

    id: str
    value: float

    def __post_init__(self) -> None:
        if _ID.fullmatch(self.id) is None:
            raise VolumeInvalid("VOLUME_INVALID", "measurement id is malformed")


@dataclass(frozen=True, slots=True)
class Detection:
    """One thing found: `id` names the manifest's DetectionSpec, `score` is the model's, 0 to 1.

    low, high: opposite corners of its box in index coordinates (k, r, c) on the volume's grid, whole numbers at the
        voxels' centres. A box has an extent along row and column, and may lie in one slice; a point has none at all.
    """

    id: str
    low: Point
    high: Point
    score: float

    def __post_init__(self) -> None:
        if _ID.fullmatch(self.id) is None or not 0.0 <= self.score <= 1.0:
            raise VolumeInvalid("VOLUME_INVALID", "a detection's id or score is malformed")
        if len(self.low) != 3 or len(self.high) != 3 or not all(map(math.isfinite, (*self.low, *self.high))):
            raise VolumeInvalid("VOLUME_INVALID", "a detection's corners are not three finite numbers each")
        boxed = self.low[0] <= self.high[0] and self.low[1] < self.high[1] and self.low[2] < self.high[2]
        if not (boxed or self.is_point):
            raise VolumeInvalid("VOLUME_INVALID", "a detection is neither a box nor a point")

    @property
    def is_point(self) -> bool:
        """Whether it has a place but no extent."""
        return self.low == self.high

    @property
    def slice_index(self) -> int:
        """The slice k nearest to its middle; of two equally near, the lower one."""
        return math.ceil((self.low[0] + self.high[0]) / 2 - 0.5)

    def within(self, shape: tuple[int, int, int]) -> bool:
        """Whether it lies on the grid (K, R, C), whose outermost voxels reach half an index beyond their centres."""
        ends = zip(self.low, self.high, shape, strict=True)
        return 0 <= self.slice_index < shape[0] and all(low >= -0.5 and high <= n - 0.5 for low, high, n in ends)


@dataclass(frozen=True, slots=True)
class Classification:
    """What is said of the whole study: `id` names the manifest's ClassificationSpec; `score` 0 to 1, None without."""

    id: str
    presence: Presence
    score: float | None = None

    def __post_init__(self) -> None:
        if _ID.fullmatch(self.id) is None or self.presence not in _PRESENCES:
            raise VolumeInvalid("VOLUME_INVALID", "a classification's id or presence is malformed")
        if self.score is not None and not 0.0 <= self.score <= 1.0:
            raise VolumeInvalid("VOLUME_INVALID", "a classification's score is not from 0 to 1")


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the engine gives back: a label map on the volume's grid, and how it came about.

    labels: (K, R, C) uint8, 0 is background, other values are segment numbers; all 0 of a model without segments.
    timing_ms: one whole number of milliseconds for each of `TIMING_KEYS`.
    device: "cpu", "cuda:0", ...; runtime: versions and settings that could change a result.
    heat_maps: each (K, R, C) uint8, 255 for 1, in the manifest's order.
    scores: 0 to 1, one for each of the manifest's classifications, in their order. boxes: what was detected, in any
        order and whatever its score, corners (k, r, c); None of a model that detects nothing.
    Where the manifest allows partial answers: a map that failed is None, and so are boxes; a score may be any number.
    """

    labels: LabelArray
    timing_ms: Mapping[str, int]
    device: str
    runtime: Mapping[str, str]
    heat_maps: tuple[LabelArray | None, ...] = ()
    scores: tuple[float, ...] = ()
    boxes: tuple[FoundBox, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What one model found on one volume, ready for a report. Units: timing_ms in ms.

    inconclusive: the coded reason for which the model could say nothing of the images. Then there is no segment,
        number, detection or heat map, and every classification is UNDETERMINED: nothing may be taken for "nothing
        found".
    failed: the outputs that did not pass their check, where the manifest lets the others stand; they are left out.
    Raises VolumeInvalid (VOLUME_INVALID).
    """

    segments: tuple[SegmentMask, ...]
    measurements: tuple[Measurement, ...]
    timing_ms: Mapping[str, int]
    device: str
    runtime: Mapping[str, str] = field(default_factory=dict)
    detections: tuple[Detection, ...] = ()
    classifications: tuple[Classification, ...] = ()
    inconclusive: str | None = None
    heat_maps: tuple[HeatMap, ...] = ()
    failed: tuple[FailedOutput, ...] = ()

    def __post_init__(self) -> None:
        failed = {one.output for one in self.failed}
        if len(failed) != len(self.failed) or failed & self.given:
            raise VolumeInvalid("VOLUME_INVALID", "an output failed twice, or failed and is there")
        for those in (self.classifications, self.heat_maps):
            if len({one.id for one in those}) != len(those):
                raise VolumeInvalid("VOLUME_INVALID", "a classification or a heat map appears twice")
        if self.inconclusive is None:
            return
        if _REASON.fullmatch(self.inconclusive) is None:
            raise VolumeInvalid("VOLUME_INVALID", "the reason is not an upper-case code")
        decided = any(one.presence != "UNDETERMINED" for one in self.classifications)
        if self.segments or self.measurements or self.detections or self.heat_maps or decided:
            raise VolumeInvalid("VOLUME_INVALID", "inconclusive findings that found or excluded something")

    @property
    def given(self) -> set[str]:
        """The names of the outputs that are there; of detections, of those kinds of which something was found."""
        said = {f"classification:{one.id}" for one in self.classifications}
        shown = {f"detection:{one.id}" for one in self.detections} | {f"heat_map:{one.id}" for one in self.heat_maps}
        return said | shown | {f"segment:{one.number}" for one in self.segments}

    @property
    def found(self) -> bool:
        """Whether a segment has a voxel, something was detected, or a thing is PRESENT."""
        present = any(one.presence == "PRESENT" for one in self.classifications)
        return present or bool(self.detections) or any(one.part.size for one in self.segments)

    @property
    def outcome(self) -> Outcome:
        """What came of it. PARTLY_FAILED stands before what was found: neither is the whole of it."""
        if self.inconclusive is not None:
            return "INCONCLUSIVE"
        if self.failed:
            return "PARTLY_FAILED"
        return "FINDINGS" if self.found else "NO_FINDINGS"

    def save(self, path: Path) -> None:
        """Write the findings durably, replacing what an earlier try of the same call left.

        Layout: magic line, SHA-256 of the rest in hex, newline, then an npz archive (masks as packed bits).
        The same findings give the same bytes. Raises OSError.
        """
        arrays: dict[str, npt.NDArray[np.uint8]] = {}
        meta = {
            "segments": [
                {"number": s.number, "shape": s.shape, "origin": s.origin, "part": s.part.shape} for s in self.segments
            ],
            "measurements": [{"id": m.id, "value": m.value.hex()} for m in self.measurements],
            "timing_ms": dict(self.timing_ms),
            "device": self.device,
            "runtime": dict(self.runtime),
            **self._statements(),
        }
        arrays["meta"] = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), dtype=np.uint8)
        for segment in self.segments:
            arrays[f"mask_{segment.number}"] = np.packbits(segment.part)
        for place, heat_map in enumerate(self.heat_maps):
            arrays[f"heat_{place}"] = heat_map.packed()
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        body = buffer.getbuffer()
        digest = hashlib.sha256(body).hexdigest().encode()
        durable.replace(path, b"".join((FINDINGS_MAGIC, digest, b"\n", body)))

    def _statements(self) -> dict[str, Any]:
        """What findings of segments alone do not have; left out where empty, so that their bytes stay as they were."""
        detections = [
            {"id": d.id, "low": _hex(d.low), "high": _hex(d.high), "score": float(d.score).hex()}
            for d in self.detections
        ]
        classifications = [
            {"id": c.id, "presence": c.presence, "score": None if c.score is None else _hex((c.score,))[0]}
            for c in self.classifications
        ]
        heat_maps = [one.described() for one in self.heat_maps]
        every = {"detections": detections, "classifications": classifications, "heat_maps": heat_maps}
        every |= {"inconclusive": self.inconclusive, "failed": [(one.output, one.code) for one in self.failed]}
        return {key: value for key, value in every.items() if value}

    @classmethod
    def load(cls, path: Path) -> Findings:
        """Read what `save` wrote. Raises FindingsCorrupt for anything else, OSError if there is no such file."""
        if path.stat().st_size > FINDINGS_BYTES_MAX:
            raise FindingsCorrupt("FINDINGS_CORRUPT", "the file is larger than any findings")
        data = path.read_bytes()
        head = len(FINDINGS_MAGIC) + 64 + 1
        if not data.startswith(FINDINGS_MAGIC) or len(data) <= head or data[head - 1 : head] != b"\n":
            raise FindingsCorrupt("FINDINGS_CORRUPT", "the file does not begin as findings do")
        body = memoryview(data)[head:]
        if hashlib.sha256(body).hexdigest().encode() != data[len(FINDINGS_MAGIC) : head - 1]:
            raise FindingsCorrupt("FINDINGS_CORRUPT", "the content does not match its digest")
        try:
            return cls._parse(io.BytesIO(body))
        except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, VolumeInvalid) as error:
            raise FindingsCorrupt("FINDINGS_CORRUPT", f"unreadable content: {type(error).__name__}") from error

    @classmethod
    def _parse(cls, archive: io.BytesIO) -> Findings:
        with np.load(archive, allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            segments = []
            for item in meta["segments"]:
                shape = three(item["shape"])
                # Without a box it is the whole grid: so they were kept before there were boxes.
                origin, size = three(item.get("origin", (0, 0, 0))), three(item.get("part", shape))
                packed = arrays[f"mask_{item['number']}"]
                if packed.size != (math.prod(size) + 7) // 8:
                    raise FindingsCorrupt("FINDINGS_CORRUPT", "a mask has not the size that it states")
                bits = np.unpackbits(packed, count=math.prod(size)).reshape(size)
                segments.append(SegmentMask(int(item["number"]), bits.view(np.bool_), origin, shape))
            said = enumerate(meta.get("heat_maps", ()))
            heat_maps = tuple(HeatMap.unpacked(item, arrays[f"heat_{place}"]) for place, item in said)
        return cls(
            segments=tuple(segments),
            measurements=tuple(Measurement(str(m["id"]), float.fromhex(m["value"])) for m in meta["measurements"]),
            timing_ms={str(key): int(value) for key, value in meta["timing_ms"].items()},
            device=str(meta["device"]),
            runtime={str(key): str(value) for key, value in meta["runtime"].items()},
            detections=tuple(
                Detection(str(d["id"]), _point(d["low"]), _point(d["high"]), float.fromhex(d["score"]))
                for d in meta.get("detections", ())
            ),
            classifications=tuple(
                Classification(c["id"], c["presence"], None if c["score"] is None else float.fromhex(c["score"]))
                for c in meta.get("classifications", ())
            ),
            inconclusive=meta.get("inconclusive"),
            heat_maps=heat_maps,
            failed=tuple(FailedOutput(output, code) for output, code in meta.get("failed", ())),
        )


def _hex(values: tuple[float, ...]) -> list[str]:
    return [float(value).hex() for value in values]  # as measurements: they come back to the last bit


def _point(values: list[str]) -> Point:
    k, r, c = (float.fromhex(value) for value in values)
    return k, r, c
