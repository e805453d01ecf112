"""`zhiying serve` with a model that costs nothing: hospital_service.py CONFIG STAMPS INFER_S.

Everything is what a hospital runs (listener, spool, gate, audit log, SEG and SR, outbox) but the process that computes.
Each moment of each step is a line of STAMPS: time, step, moment, subject.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inference.types import Prediction, Volume
from models.library import VerifiedModel
from service import wire
from service.serving import build
from service.stop_signal import StopSignals

ZERO_MS = dict.fromkeys(("load", "preprocess", "forward", "postprocess", "total"), 0)


class StandIn:
    """In place of `inference.engine.Engine`: the threshold network's answer, in a comparison of one array.

    `infer_s`: how long it pretends to compute, one study at a time.
    """

    def __init__(self, infer_s: float) -> None:
        self._infer_s = infer_s
        self._turn = threading.Lock()

    def warm(self, model: VerifiedModel) -> None:
        """Always warm."""

    def infer(self, _model: VerifiedModel, volume: Volume, _deadline_s: float) -> Prediction:
        """1 where the image is brighter than a half, as `tiny_model.Threshold`."""
        with self._turn:
            time.sleep(self._infer_s)
        return Prediction((volume.voxels > 0.5).view(np.uint8), ZERO_MS, "cpu", {"stand-in": "1"})

    def describe(self) -> Mapping[str, Any]:
        """A device that is no device."""
        return {"device": "cpu", "runtime": {"stand-in": "1"}}

    def cancel(self, _digest: str | None) -> bool:
        """What it pretends to compute ends by itself."""
        return False

    def running(self) -> str | None:
        """Nothing that could be ended."""
        return None

    def close(self) -> None:
        """Nothing to end."""


def main(config: str, stamps: str, infer_s: str) -> None:
    """Serve until SIGTERM."""
    stop = StopSignals(signal.SIGTERM)
    with Path(stamps).open("a", encoding="utf-8", buffering=1) as lines:

        def observe(step: str, moment: str, subject: str) -> None:
            lines.write(f"{time.time():.6f} {step} {moment} {subject}\n")

        service = build(wire.settings(Path(config)), observe, StandIn(float(infer_s)))
        service.start()
        stop.wait()
        service.stop()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
