"""The child process of an engine: one device, warm bundles, one call at a time. Run as `python -m inference.worker`.

Nothing of a patient but voxels comes here. It lives as long as its parent: the kernel ends it when the parent's end of
the lifeline closes, even if it hangs in a network, and a crash here takes nothing else with it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import numpy as np

from inference.channel import Channel, ChannelClosed
from inference.errors import ModelFailed, ModelRefused
from inference.wall import raise_wall

BUNDLES_WARM_MAX: Final = 4
"""Bundles kept loaded; the one unused for longest goes first. Four hold a hospital's usual set in some GB."""

OOM_SCORE: Final = "800"
"""Of 1000: when memory runs out the kernel shall end this process rather than the one that receives images."""

DETAIL_CHARS_MAX: Final = 4000
"""Of a model's traceback, in the engine's log."""


def main(arguments: list[str]) -> int:
    """`worker SOCKET_FD LIFELINE_FD DEVICE`: answer requests until the parent hangs up."""
    socket_fd, lifeline_fd, wanted = int(arguments[0]), int(arguments[1]), arguments[2]
    _live_no_longer_than_parent(lifeline_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes us
    _be_first_victim()
    channel = Channel(socket.socket(fileno=socket_fd))
    try:
        _serve(channel, wanted)
    except ChannelClosed:
        return 0
    return 0


def _live_no_longer_than_parent(lifeline_fd: int) -> None:
    """Let the kernel signal this process when the parent's end of the lifeline closes; unhandled, SIGIO ends it.

    Neither prctl(PR_SET_PDEATHSIG), which fires when the parent's *thread* ends, nor a watching thread, which a
    network that holds the interpreter lock would starve.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, fcntl.fcntl(lifeline_fd, fcntl.F_GETFL) | os.O_ASYNC)
    poller = select.poll()
    poller.register(lifeline_fd, select.POLLIN)
    if poller.poll(0):  # the parent ended before the lines above
        os._exit(0)


def _be_first_victim() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    except OSError:
        return  # not allowed in every container; then the kernel's own choice stands


def _serve(channel: Channel, wanted: str) -> None:
    from inference import bundle  # late: importing torch takes seconds, and the lifeline must hold before

    device = bundle.choose_device(wanted)
    runtime = bundle.prepare(device)
    # After the device's driver has started, and before the first byte of a model is read.
    raise_wall()
    bundles: OrderedDict[str, bundle.Bundle] = OrderedDict()
    channel.send({"ok": True, "device": device, "runtime": runtime})
    while True:
        request, descriptor = channel.receive()
        try:
            loading = request["op"] == "load"
            reply = _load(bundles, request, device) if loading else _infer(bundles, request, descriptor)
        except (ModelRefused, ModelFailed) as error:
            reply = {"ok": False, "code": error.code, "message": str(error).partition(": ")[2]}
        except Exception as error:  # noqa: BLE001 the worker's wall: report upward, stay alive for the next study
            reply = _failure(error, request)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        # With every answer: a load that failed may have pushed another bundle out.
        channel.send(reply | {"id": request.get("id"), "warm": list(bundles)})


def _load(bundles: OrderedDict[str, Any], request: dict[str, Any], device: str) -> dict[str, Any]:
    from inference.bundle import Bundle
    from inference.expected import Expected

    started = time.perf_counter()
    key = request["key"]
    if key not in bundles:
        while len(bundles) >= BUNDLES_WARM_MAX:
            bundles.popitem(last=False)
        loaded = Bundle(Path(request["root"]), request["config"], device, Expected.read(request["expected"]))
        loaded.warm_up()
        bundles[key] = loaded
    return {"ok": True, "load_ms": _ms(time.perf_counter() - started)}


def _infer(bundles: OrderedDict[str, Any], request: dict[str, Any], descriptor: int | None) -> dict[str, Any]:
    """Voxels are float32 at the start of the memory, labels and heat maps uint8 behind them, each (X, Y, Z); scores
    and boxes come in the reply.
    """
    if descriptor is None:
        raise ModelFailed("MODEL_RUN_FAILED", "no voxels came with the request")
    bundles.move_to_end(request["key"])
    shape = tuple(request["shape"])
    count = int(np.prod(shape))
    # Not closed by hand: tensors may still look into it, and the last of them to go unmaps it.
    bundle = bundles[request["key"]]
    channels = bundle.expected.channels
    memory = mmap.mmap(descriptor, (4 + channels) * count, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    voxels = np.frombuffer(memory, np.float32, count).reshape(shape)
    out = np.frombuffer(memory, np.uint8, channels * count, 4 * count).reshape(channels, *shape)
    answer = bundle(voxels, np.array(request["affine"], dtype=np.float64))
    out[:] = answer.channels
    return {
        "ok": True,
        "lost": answer.lost,
        "scores": answer.scores,
        "boxes": None if answer.boxes is None else [one.said() for one in answer.boxes],
        "preprocess": _ms(answer.preprocess_s),
        "forward": _ms(answer.forward_s),
        "postprocess": _ms(answer.postprocess_s),
    }


def _failure(error: Exception, request: dict[str, Any]) -> dict[str, Any]:
    """What the parent is told: a code, the kind of error, and for its log the end of the traceback."""
    # torch.OutOfMemoryError for accelerators; for main memory torch raises a plain RuntimeError.
    exhausted = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "alloc" in str(error)
    failed = "MODEL_LOAD_FAILED" if request.get("op") == "load" else "MODEL_RUN_FAILED"
    return {
        "ok": False,
        "code": "ENGINE_OUT_OF_MEMORY" if exhausted else failed,
        "message": type(error).__name__,
        "detail": "".join(traceback.format_exception(error))[-DETAIL_CHARS_MAX:],
    }


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
