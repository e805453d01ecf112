"""One device, held by a child process: warm models, a deadline, and nothing lost when the child dies.

This process never imports torch. A call that exceeds its deadline is ended by killing the child; the next call starts
a new one; so is a call that `cancel` ends, because its model was stopped. The child ends with this process, however
that ends (see worker.py).
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

import numpy as np

from inference import wall
from inference.channel import Channel, ChannelClosed
from inference.errors import (
    Code,
    EngineCancelled,
    EngineClosed,
    EngineDied,
    EngineError,
    EngineTimeout,
    ModelFailed,
    ModelRefused,
)
from inference.expected import Expected
from inference.found import FoundBox
from inference.geometry import Reorientation
from inference.types import LabelArray, Prediction, Volume
from models.library import VerifiedModel

START_DEADLINE_S: Final = 120.0
"""For the child to import torch: 3 s warm; a minute from a cold network disk has been seen."""

LOAD_DEADLINE_S: Final = 300.0
"""For a model to be loaded and run once; first kernels on an accelerator are compiled then."""

STOP_S: Final = 5.0
"""For a killed child to be gone; longer means that the kernel holds it (a hung device driver)."""

CHILD_ALLOCATOR: Final = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.hugetlb=1"
"""Keep freed memory, in huge pages. By default glibc returns each large tensor to the kernel and then pays for zeroed
pages anew in every layer: half the time of a 3D network on a CPU. Same arithmetic, same bits. Other C libraries ignore
it."""

_RUN_FAILED: Final = partial(ModelFailed, "MODEL_RUN_FAILED")
_ERRORS: Final[Mapping[str, Callable[[str], EngineError]]] = {
    "MODEL_CONFIG_REFUSED": partial(ModelRefused, "MODEL_CONFIG_REFUSED"),
    "MODEL_LOAD_FAILED": partial(ModelFailed, "MODEL_LOAD_FAILED"),
    "MODEL_OUTPUT_INVALID": partial(ModelFailed, "MODEL_OUTPUT_INVALID"),
    "ENGINE_OUT_OF_MEMORY": partial(EngineError, "ENGINE_OUT_OF_MEMORY"),
}
"""What the child may answer, as our errors."""

_PACKAGES: Final = Path(__file__).resolve().parent.parent


class Log(Protocol):
    """Takes an event's name and plain values; never raises."""

    def __call__(self, event: str, /, **values: str | int) -> object:
        """Record one event."""


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    channel: Channel
    lifeline: int
    device: str
    runtime: Mapping[str, str]
    warm: set[str]


class Engine:
    """Runs models on one device, one call at a time; calls from several threads wait for each other.

    Args:
        device: torch's name of it ("cpu", "cuda:0"); empty or None takes the accelerator if there is one.
        log: told of starts, ends and failures of the child; gets no patient data, for the child has none but voxels.

    The child starts with the first `warm` or `infer`, and again after it died or was killed.
    """

    def __init__(self, *, device: str | None, log: Log) -> None:
        self._wanted = device or ""
        self._log = log
        self._launch: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen  # tests have processes made otherwise
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._child: _Child | None = None
        # Whose turn it is, and how often each model was cancelled. Held for moments only, never during a call.
        self._naming = threading.Lock()
        self._current: str | None = None
        self._cancels: dict[str | None, int] = {}
        self._since = 0  # cancels of the current model when its call began
        self._starts = 0
        self._asked = 0

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def describe(self) -> dict[str, Any]:
        """State now, without waiting: device, running, pid, starts, warm (model digests), runtime (versions)."""
        child = self._child
        if child is None:
            return {"device": self._wanted, "running": False, "pid": None, "starts": self._starts, "warm": [],
                    "runtime": {}}  # fmt: skip
        return {
            "device": child.device,
            "running": child.process.poll() is None,
            "pid": child.process.pid,
            "starts": self._starts,
            "warm": sorted(child.warm),
            "runtime": dict(child.runtime),
        }

    def warm(self, model: VerifiedModel) -> None:
        """Load the model and run it once, unless it is warm. Raises EngineError."""
        with self._turn_of(model.ref.digest):
            self._load(self._alive(), model)

    def infer(self, model: VerifiedModel, volume: Volume, deadline_s: float) -> Prediction:
        """Label map, heat maps and boxes on the volume's own grid, and the model's scores.

        Loads the model first if need be, under a limit of its own.

        Raises EngineTimeout (DEADLINE_EXCEEDED, LOAD_DEADLINE_EXCEEDED), EngineDied (ENGINE_DIED), ModelRefused,
        ModelFailed, EngineError (ENGINE_OUT_OF_MEMORY), EngineCancelled, EngineClosed. After each of them the next call
        works anew.
        """
        with self._turn_of(model.ref.digest):
            started = time.monotonic()
            child = self._alive()
            load_ms = self._load(child, model)
            answer, channels = self._compute(child, model, volume, deadline_s)
            lost = set(answer["lost"])
            maps = [None if place in lost else one for place, one in enumerate(channels)]
            timing_ms = {stage: int(answer[stage]) for stage in ("preprocess", "forward", "postprocess")}
            timing_ms |= {"load": load_ms, "total": _ms_since(started)}
            labels = channels[0] if Expected.of(model.manifest).labels else np.zeros(volume.shape, np.uint8)
            maps = maps[int(Expected.of(model.manifest).labels) :]
            boxes = answer["boxes"] if model.manifest.detections else None
            return Prediction(
                *(labels, timing_ms, child.device, child.runtime, tuple(maps), tuple(answer["scores"])),
                boxes=None if boxes is None else tuple(boxes),
            )

    def cancel(self, digest: str | None) -> bool:
        """End what runs of the model of this digest (None: of any), and what waits for its turn; whether anything ran.

        The child is gone when this returns (or the kernel holds it, see STOP_S). Those calls raise EngineCancelled; one
        that begins after this works anew, so whoever stops a model for good keeps others from calling, or calls again.
        """
        with self._naming:
            self._cancels[digest] = self._cancels.get(digest, 0) + 1
            named = self._current is not None and digest in (None, self._current)
            child = self._child if named else None
            if child is None:
                return False
            child.process.kill()  # under the lock: the child cannot have become another model's meanwhile
        self._log("engine_killed", code="ENGINE_CANCELLED")
        try:
            child.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._log("engine_child_unkillable", pid=child.process.pid)
        return True

    def running(self) -> str | None:
        """The digest of the model whose call is under way; without waiting."""
        return self._current

    def close(self) -> None:
        """End the child, now; a call under way raises EngineClosed, as does every later one. May be repeated."""
        self._closed.set()
        child = self._child
        if child is not None:
            child.process.kill()  # not waiting for our turn: a call under way gets the end of the stream
        with self._turn:
            self._drop()

    @contextmanager
    def _turn_of(self, digest: str) -> Iterator[None]:
        """Wait for the turn, as a call of this model. A cancel meanwhile ends the call before it has begun."""
        since = self._cancels_of(digest)
        with self._turn:
            with self._naming:
                self._current, self._since = digest, since
            try:
                if self._cancelled():
                    raise EngineCancelled("ENGINE_CANCELLED", "the model was stopped while the call waited")
                yield
            finally:
                with self._naming:
                    self._current = None

    def _cancels_of(self, digest: str) -> int:
        with self._naming:
            return self._cancels.get(digest, 0) + self._cancels.get(None, 0)

    def _cancelled(self) -> bool:
        return self._current is not None and self._cancels_of(self._current) != self._since

    def _compute(
        self, child: _Child, model: VerifiedModel, volume: Volume, deadline_s: float
    ) -> tuple[dict[str, Any], list[LabelArray]]:
        """The child's answer, and the label map, then the manifest's heat maps, turned back to the source grid; so are
        the answer's boxes.
        """
        turn = Reorientation.to_canonical(volume.affine)
        canonical = turn.apply(volume.voxels).shape
        count = volume.voxels.size
        request = {
            "op": "infer",
            "key": model.ref.digest,
            "shape": list(canonical),
            "affine": turn.apply_to_affine(volume.affine, volume.shape).tolist(),
        }
        try:
            descriptor = os.memfd_create("zhiying", os.MFD_CLOEXEC)
        except OSError as error:
            raise EngineError("ENGINE_OUT_OF_MEMORY", "no memory for the voxels") from error
        # Voxels first (float32), then room for labels and maps (uint8). All go with the last descriptor and mapping.
        count_out = Expected.of(model.manifest).channels
        try:
            memory = _mapped(descriptor, (4 + count_out) * count)
            turn.copy_to_canonical(volume.voxels, np.frombuffer(memory, np.float32, count).reshape(canonical))
            answer = self._ask(child, request, deadline_s, "DEADLINE_EXCEEDED", descriptor)
        finally:
            os.close(descriptor)
        channels = np.frombuffer(memory, np.uint8, count_out * count, 4 * count).reshape(count_out, *canonical)
        given = None if answer["boxes"] is None else [FoundBox.read(said) for said in answer["boxes"]]
        boxes = given and [FoundBox(one.kind, *turn.undo_box(one.low, one.high, canonical), one.score) for one in given]
        return answer | {"boxes": boxes}, [np.ascontiguousarray(turn.undo(one)) for one in channels]

    def _load(self, child: _Child, model: VerifiedModel) -> int:
        """Milliseconds that loading took; 0 if the model was warm."""
        if model.ref.digest in child.warm:
            return 0
        request = {
            "op": "load",
            "key": model.ref.digest,
            "root": str(model.path),
            "config": model.manifest.bundle.inference,
            "expected": Expected.of(model.manifest).said(),
        }
        answer = self._ask(child, request, LOAD_DEADLINE_S, "LOAD_DEADLINE_EXCEEDED")
        self._log("engine_model_loaded", model=model.ref.name, version=model.ref.version, ms=int(answer["load_ms"]))
        return int(answer["load_ms"])

    def _ask(
        self, child: _Child, request: dict[str, Any], deadline_s: float, late: Code, descriptor: int | None = None
    ) -> dict[str, Any]:
        """One request and its answer; on any silence the child is dropped, on an error answer it lives on."""
        if self._cancelled():
            raise self._died()
        self._asked += 1
        try:
            child.channel.send(request | {"id": self._asked}, descriptor)
            answer, _ = child.channel.receive(deadline_s)
            if answer.get("id") != self._asked:  # never take one study's answer for another's
                raise ChannelClosed("an answer to another request")
        except TimeoutError:
            self._drop()
            self._log("engine_killed", code=late, deadline_ms=round(1000 * deadline_s))
            raise EngineTimeout(late, f"no answer within {deadline_s:g} s; the child was killed") from None
        except ChannelClosed:
            raise self._died() from None
        except BaseException:  # an interrupt here would leave an answer in the channel
            self._drop()
            raise
        child.warm.clear()
        child.warm.update(answer["warm"])
        if not answer.get("ok"):
            raise self._error_of(answer)
        return answer

    def _error_of(self, answer: Mapping[str, Any]) -> EngineError:
        code, message = str(answer.get("code")), str(answer.get("message"))
        self._log("engine_model_failed", code=code, kind=message, detail=str(answer.get("detail", "")))
        if code == "ENGINE_OUT_OF_MEMORY":
            self._drop()  # what is left of the memory is not worth keeping
        return _ERRORS.get(code, _RUN_FAILED)(message)

    def _alive(self) -> _Child:
        """The child, started if there is none."""
        if self._closed.is_set():
            raise EngineClosed("ENGINE_CLOSED", "the engine is closed")
        if self._child is not None and self._child.process.poll() is not None:
            self._log("engine_child_gone", status=self._child.process.returncode)
            self._drop()
        if self._child is None:
            self._child = self._start()
            if self._closed.is_set():  # closed meanwhile, when there was nothing to kill yet
                raise self._died()
        return self._child

    def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        lifeline_read, lifeline_write = os.pipe()
        environment = os.environ | {
            "GLIBC_TUNABLES": CHILD_ALLOCATOR,
            "PYTHONPATH": str(_PACKAGES),  # the child runs this very code, wherever it is installed
        }
        arguments = [str(theirs.fileno()), str(lifeline_read), self._wanted]
        with theirs:
            try:
                process = self._launch(
                    [sys.executable, "-P", "-m", "inference.worker", *arguments],
                    pass_fds=(theirs.fileno(), lifeline_read),
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a library prints must not land between the lines of a command's --json
                    env=environment,
                )
            finally:
                os.close(lifeline_read)
        self._starts += 1
        child = _Child(process, Channel(ours), lifeline_write, "", {}, set())
        self._child = child
        try:
            hello, _ = child.channel.receive(START_DEADLINE_S)
        except (TimeoutError, ChannelClosed):
            raise self._died() from None
        device, runtime = str(hello["device"]), {str(k): str(v) for k, v in hello["runtime"].items()}
        self._log("engine_started", pid=process.pid, device=device)
        return _Child(process, child.channel, lifeline_write, device, runtime, set())

    def _died(self) -> EngineError:
        """Clean up after a child that hung up, and say why."""
        status = self._drop()
        if self._closed.is_set():
            return EngineClosed("ENGINE_CLOSED", "the engine was closed during the call")
        if self._cancelled():
            return EngineCancelled("ENGINE_CANCELLED", "the model was stopped during the call")
        if status == wall.STATUS:
            self._log("engine_egress_blocked")
            return ModelFailed("EGRESS_BLOCKED", "the model reached for the network; its process was ended")
        self._log("engine_died", status=status)
        return EngineDied("ENGINE_DIED", f"the child ended with status {status}")

    def _drop(self) -> int:
        """End the child and free what belongs to it; its exit status, -1 if it cannot be had."""
        child, self._child = self._child, None
        if child is None:
            return -1
        child.process.kill()
        child.channel.close()
        os.close(child.lifeline)
        try:
            return child.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._log("engine_child_unkillable", pid=child.process.pid)
            return -1


def _mapped(descriptor: int, size: int) -> mmap.mmap:
    """`size` bytes of the memory file, its pages at hand before they are needed."""
    try:
        os.ftruncate(descriptor, size)
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except OSError as error:
        raise EngineError("ENGINE_OUT_OF_MEMORY", "no memory for the voxels") from error


def _ms_since(started: float) -> int:
    return round(1000 * (time.monotonic() - started))
