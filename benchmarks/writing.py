"""How long SEG and SR of a whole body take: 104 organs on 300 x 512 x 512, as TotalSegmentator's, and how much memory.

In the same run the same label map through highdicom's own constructor (`highdicom.seg.Segmentation`, BINARY), as its
documentation shows it. Each round is a process of its own, so that its peak is its own; both end with the file's bytes
in memory. Ours is checked too, and described in an SR that is checked, as in the service. Writes results/writing.json.
writing.py [--quick] [ROUNDS]: 3 unless given. Seconds of the processor stand beside: others on the machine change them
less.
"""

import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from benchmarks import figures
from dicom_bridge import report, segmentation
from inference.types import Findings, Measurement, SegmentMask
from models.manifest import Manifest
from tests.simulators import findings as phantom

SCALE = 4 if figures.quick() else 1
SHAPE = (300 // SCALE, 512 // SCALE, 512 // SCALE)
STEP_MM = 1.5
ROUNDS = 1 if figures.quick() else 3
SECONDS_AIM, MIB_AIM = 3.0, 2048.0
ORGANS = (
    (24, (22, 50, 60)),
    (24, (60, 160, 12)),
    (5, (100, 180, 120)),
    (10, (80, 130, 130)),
    (25, (90, 25, 25)),
    (16, (110, 90, 70)),
)
"""How many, and slices, rows and columns of each: vertebrae, ribs, lobes, organs of the abdomen, vessels, muscles."""


def body() -> np.ndarray:
    """Label map of ellipsoids that do not overlap, each at a place of its own in the body: always the same."""
    random = np.random.default_rng(104)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    number = 0
    # The small ones first: what comes later yields, and so nothing is lost inside of something larger.
    for count, whole in sorted(ORGANS, key=lambda organ: int(np.prod(organ[1]))):
        size = [n // SCALE for n in whole]
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij", sparse=True)
        solid = sum(axis**2 for axis in axes) < 1
        for _ in range(count):
            number += 1
            at = [int(random.integers(n // 8, n - n // 8 - m)) for n, m in zip(SHAPE, size, strict=True)]
            window = labels[tuple(slice(a, a + m) for a, m in zip(at, size, strict=True))]
            window[solid & (window == 0)] = number
    return labels


def manifest() -> Manifest:
    """The invented model's, with 104 segments and a volume of each."""
    base = phantom.manifest()
    numbers = range(1, 1 + sum(count for count, _ in ORGANS))
    return replace(
        base,
        segments=tuple(replace(base.segments[0], number=n, label=f"Organ {n}") for n in numbers),
        measurements=tuple(replace(base.measurements[0], id=f"volume_{n}", segment=n) for n in numbers),
    )


def findings(labels: np.ndarray) -> Findings:
    """What the inference gives for this label map."""
    segments = tuple(SegmentMask(spec.number, labels == spec.number) for spec in manifest().segments)
    measurements = tuple(
        Measurement(f"volume_{s.number}", float(np.count_nonzero(s.part)) * 0.001875) for s in segments
    )
    return Findings(segments, measurements, {}, "cpu")


def sources() -> list[Dataset]:
    """Headers of the series."""
    return phantom.series(SHAPE, step_mm=STEP_MM)


def ours(folder: Path) -> dict[str, float]:
    """SEG and SR from the findings that were kept, as `service.results` makes them."""
    headers, known, context = sources(), manifest(), phantom.context()
    before = resident_mib()
    found = Findings.load(folder / "findings")
    held = resident_mib() - before
    began, began_cpu = time.perf_counter(), time.process_time()
    seg, reread = segmentation.make_seg(found, known, phantom.REF, headers, context)
    seg_s = time.perf_counter() - began
    sr = report.write_sr(found, known, phantom.REF, headers, reread, context)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "seg_seconds": seg_s,
        "seg_bytes": len(seg),
        "sr_bytes": len(sr),
        "input_mib": held,
    }


def highdicom(folder: Path) -> dict[str, float]:
    """The SEG alone, from the label map."""
    headers = sources()
    algorithm = hd.AlgorithmIdentificationSequence(
        name="test", version="1", family=Code("123110", "DCM", "Artificial Intelligence")
    )
    described = [
        hd.seg.SegmentDescription(
            segment_number=spec.number,
            segment_label=spec.label,
            segmented_property_category=Code(spec.category.value, spec.category.scheme, spec.category.meaning),
            segmented_property_type=Code(spec.type.value, spec.type.scheme, spec.type.meaning),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for spec in manifest().segments
    ]
    before = resident_mib()
    labels = np.load(folder / "labels.npy")
    held = resident_mib() - before
    began, began_cpu = time.perf_counter(), time.process_time()
    seg = hd.seg.Segmentation(
        source_images=headers,
        pixel_array=labels,
        segmentation_type="BINARY",
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=9001,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Test",
        manufacturer_model_name="Test",
        software_versions="1",
        device_serial_number="1",
    )
    buffer = io.BytesIO()
    seg.save_as(buffer)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "seg_bytes": len(buffer.getvalue()),
        "input_mib": held,
    }


WRITERS: dict[str, Callable[[Path], dict[str, float]]] = {"ours": ours, "highdicom": highdicom}


def resident_mib() -> float:
    """MiB of memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def child(name: str, folder: Path) -> None:
    """One round of one writer."""
    result = WRITERS[name](folder)
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


def one_round(name: str, folder: Path) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, name, str(folder), *([figures.QUICK] if figures.quick() else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    print(f"  {name:12}{result['seconds']:8.2f} s{result['peak_mib']:8.0f} MiB", flush=True)
    return result


def main(rounds: int = ROUNDS) -> None:
    """Run, print, write."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="zhiying-bench-") as name:
        folder = Path(name)
        labels = body()
        np.save(folder / "labels.npy", labels)
        found = findings(labels)
        found.save(folder / "findings")
        frames = sum(int(np.count_nonzero(s.part.any(axis=(1, 2)))) for s in found.segments)
        assert all(s.part.size for s in found.segments)
        measured = [{who: one_round(who, folder) for who in WRITERS} for _ in range(rounds)]
        kept = (folder / "findings").stat().st_size
    each = {
        who: {key: round(statistics.median(one[who][key] for one in measured), 2) for key in measured[0][who]}
        for who in WRITERS
    }
    mine, theirs = each["ours"], each["highdicom"]
    print(f"\n104 segments, {frames} frames, medians of {rounds}; load average before: {load:.2f}")
    aims = f"   aim < {SECONDS_AIM:g} s, < {MIB_AIM:g} MiB"
    print(f"{'SEG and SR, ours':24}{mine['seconds']:8.2f} s{mine['peak_mib']:8.0f} MiB{aims}")
    print(f"{'SEG alone, ours':24}{mine['seg_seconds']:8.2f} s")
    print(f"{'SEG alone, highdicom':24}{theirs['seconds']:8.2f} s{theirs['peak_mib']:8.0f} MiB")
    print(f"{'highdicom / ours, SEG':24}{theirs['seconds'] / mine['seg_seconds']:8.1f}")
    print(f"input held, MiB: ours {mine['input_mib']:.0f} (104 whole masks: 7800), label map {theirs['input_mib']:.0f}")
    result = {
        "segments": len(manifest().segments),
        "shape": SHAPE,
        "frames": frames,
        "rounds": rounds,
        **each,
        "findings_bytes": kept,
        "ratio_seg_seconds": round(theirs["seconds"] / mine["seg_seconds"], 1),
        "ratio_peak": round(theirs["peak_mib"] / mine["peak_mib"], 2),
        "load_average_before": round(load, 2),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("highdicom", "numpy", "pydicom")},
        },
    }
    figures.publish(__file__, result)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in WRITERS:
        child(sys.argv[1], Path(sys.argv[2]))
    else:
        main(*(int(word) for word in figures.words()[:1]))
