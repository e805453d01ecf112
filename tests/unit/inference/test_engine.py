"""The engine against a network that answers, hangs, raises and dies, in a real child process."""

from __future__ import annotations

import json
import linecache
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from inference.engine import Engine
from inference.errors import (
    EngineCancelled,
    EngineClosed,
    EngineDied,
    EngineTimeout,
    InferenceError,
    ModelFailed,
    ModelRefused,
)
from inference.types import TIMING_KEYS
from models.library import VerifiedModel
from tests.simulators import tiny_model, volumes
from tests.simulators.waiting import until

DEADLINE_S = 30.0


class Events:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str | int]]] = []

    def __call__(self, event: str, /, **values: str | int) -> None:
        """Record one event."""
        self.seen.append((event, values))

    def names(self) -> list[str]:
        """Their names in order."""
        return [name for name, _ in self.seen]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VerifiedModel:
    """The tiny model."""
    return tiny_model.build(tmp_path_factory.mktemp("tiny") / "m")


@pytest.fixture(scope="module")
def events() -> Events:
    """What the shared engine logged."""
    return Events()


@pytest.fixture(scope="module")
def engine(events: Events) -> Iterator[Engine]:
    """One engine for all tests of the module: each must leave it able to answer."""
    with Engine(device="cpu", log=events) as one:
        yield one


def _answers(engine: Engine, model: VerifiedModel) -> bool:
    volume = volumes.block()
    return np.array_equal(engine.infer(model, volume, DEADLINE_S).labels, volume.voxels > 0.5)


def _gone(pid: int, within_s: float = 10.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
def test_an_answer_is_labels_times_and_versions(engine: Engine, model: VerifiedModel) -> None:
    """The label map is uint8 on the volume's grid; every stage has whole milliseconds; the runtime names versions."""
    volume = volumes.block()
    prediction = engine.infer(model, volume, DEADLINE_S)
    assert prediction.labels.dtype == np.uint8
    assert np.array_equal(prediction.labels, volume.voxels > 0.5)
    assert set(prediction.timing_ms) == TIMING_KEYS
    assert all(isinstance(value, int) and value >= 0 for value in prediction.timing_ms.values())
    assert prediction.device == "cpu"
    assert {"torch", "monai", "numpy", "precision", "threads", "device"} == set(prediction.runtime)


@pytest.mark.parametrize("affine", [*volumes.every_orientation(), *map(volumes.oblique, range(12))])
def test_labels_come_back_on_the_source_grid(
    engine: Engine, model: VerifiedModel, affine: npt.NDArray[np.float64]
) -> None:
    """From any orientation, an irregular pattern comes back voxel for voxel."""
    random = np.random.default_rng(5)
    voxels = (random.random((5, 6, 7)) > 0.6).astype(np.float32)
    volume = replace(volumes.block((5, 6, 7), affine), voxels=voxels)
    assert np.array_equal(engine.infer(model, volume, DEADLINE_S).labels, voxels > 0.5)


def test_a_warm_model_is_not_loaded_again(engine: Engine, model: VerifiedModel) -> None:
    """After `warm`, a call pays nothing for loading, and the description shows the model as warm."""
    engine.warm(model)
    assert engine.infer(model, volumes.block(), DEADLINE_S).timing_ms["load"] == 0
    description = engine.describe()
    assert description["running"] is True
    assert description["warm"] == [model.ref.digest]
    assert description["device"] == "cpu"
    assert description["runtime"]["precision"] == "float32"


@pytest.mark.slow
def test_a_call_beyond_its_deadline_is_killed_and_the_next_one_works(engine: Engine, model: VerifiedModel) -> None:
    """A hanging network costs its own study only: DEADLINE_EXCEEDED, its process gone, the next call answered."""
    engine.warm(model)
    pid = engine.describe()["pid"]
    started = time.monotonic()
    with pytest.raises(EngineTimeout) as caught:
        engine.infer(model, volumes.block(first_canonical=tiny_model.HANG), 0.5)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert 0.5 <= time.monotonic() - started < 15.0
    assert _gone(pid)
    assert _answers(engine, model)
    assert engine.describe()["pid"] != pid


@pytest.mark.slow
def test_a_child_killed_in_a_call_is_reported_and_replaced(engine: Engine, model: VerifiedModel) -> None:
    """SIGKILL from outside during a call: ENGINE_DIED at once, and the next call works."""
    engine.warm(model)
    killer = threading.Timer(1.0, os.kill, (engine.describe()["pid"], signal.SIGKILL))
    killer.start()
    with pytest.raises(EngineDied) as caught:
        engine.infer(model, volumes.block(first_canonical=tiny_model.HANG), DEADLINE_S)
    assert caught.value.code == "ENGINE_DIED"
    assert caught.value.retry
    assert _answers(engine, model)


CHILD = """
import socket, sys
from inference import wall, worker
{}
sys.exit(worker.main(sys.argv[1:]))
"""
CALLING_HOME = 'worker._infer = lambda *_: socket.create_connection(("192.0.2.1", 443), 5)'
NO_WALL = 'worker.raise_wall = lambda: wall.raise_wall("a machine without")'


def changed_child(change: str) -> Callable[..., subprocess.Popen[bytes]]:
    """What starts the child with one thing in it another."""

    def launch(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command[:2], "-c", CHILD.format(change), *command[4:]], **how)

    return launch


@pytest.mark.slow
def test_no_model_is_loaded_without_the_wall(model: VerifiedModel) -> None:
    """Where the kernel cannot keep the network away, the child ends before it has read a model."""
    events = Events()
    with Engine(device="cpu", log=events) as one:
        one._launch = changed_child(NO_WALL)
        with pytest.raises(EngineDied):
            one.infer(model, volumes.block(), DEADLINE_S)
    assert events.names() == ["engine_died"]


@pytest.mark.slow
def test_a_model_that_reaches_for_the_network_is_ended(model: VerifiedModel) -> None:
    """By the kernel, before a byte leaves: the call says so, is not tried again by itself, and the engine goes on."""
    events = Events()

    with Engine(device="cpu", log=events) as one:
        one._launch = changed_child(CALLING_HOME)
        with pytest.raises(ModelFailed) as caught:
            one.infer(model, volumes.block(), DEADLINE_S)
        one._launch = subprocess.Popen
        assert (caught.value.code, caught.value.fault, caught.value.retry) == ("EGRESS_BLOCKED", "MODEL", False)
        assert events.names()[-1] == "engine_egress_blocked"
        assert _answers(one, model)


@pytest.mark.slow
def test_a_child_killed_between_calls_is_replaced_unseen(engine: Engine, model: VerifiedModel, events: Events) -> None:
    """A child that died while idle costs the next call a start, not an error."""
    engine.warm(model)
    pid = engine.describe()["pid"]
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while engine.describe()["running"] and time.monotonic() < until:  # its first thread ends before its last
        time.sleep(0.02)
    assert engine.describe()["running"] is False
    assert _answers(engine, model)
    assert "engine_child_gone" in events.names()


def test_a_model_that_raises_leaves_the_child_alive(engine: Engine, model: VerifiedModel, events: Events) -> None:
    """An exception in the network is MODEL_RUN_FAILED; its traceback goes to the log, and nothing restarts."""
    engine.warm(model)
    pid = engine.describe()["pid"]
    with pytest.raises(ModelFailed) as caught:
        engine.infer(model, volumes.block(first_canonical=tiny_model.RAISE), DEADLINE_S)
    assert caught.value.code == "MODEL_RUN_FAILED"
    assert "asked to fail" not in str(caught.value)
    name, values = events.seen[-1]
    assert name == "engine_model_failed"
    assert "asked to fail" in str(values["detail"])
    assert _answers(engine, model)
    assert engine.describe()["pid"] == pid


def test_an_answer_that_is_no_label_map_is_refused(engine: Engine, model: VerifiedModel) -> None:
    """Probabilities where labels were promised are not rounded into labels."""
    with pytest.raises(ModelFailed) as caught:
        engine.infer(model, volumes.block(first_canonical=tiny_model.WRONG_LABEL), DEADLINE_S)
    assert caught.value.code == "MODEL_OUTPUT_INVALID"


def test_a_bundle_with_an_expression_is_refused(engine: Engine, tmp_path: Path, model: VerifiedModel) -> None:
    """A configuration that holds a program is not run; the engine goes on with the other models."""
    mark = tmp_path / "ran"
    bad = tiny_model.build(tmp_path / "bad", digest="b", extra=f"$open({str(mark)!r}, 'w')")
    with pytest.raises(ModelRefused) as caught:
        engine.warm(bad)
    assert caught.value.code == "MODEL_CONFIG_REFUSED"
    assert not mark.exists()
    assert _answers(engine, model)


def test_a_damaged_network_cannot_be_loaded(engine: Engine, tmp_path: Path, model: VerifiedModel) -> None:
    """Weights that are no TorchScript archive: MODEL_LOAD_FAILED, and no path in the message."""
    bad = tiny_model.build(tmp_path / "bad", digest="c")
    (bad.path / "models" / "model.pt").write_bytes(b"not an archive")
    with pytest.raises(ModelFailed) as caught:
        engine.warm(bad)
    assert caught.value.code == "MODEL_LOAD_FAILED"
    assert str(tmp_path) not in str(caught.value)
    assert _answers(engine, model)


def test_calls_from_many_threads_get_their_own_answers(engine: Engine, model: VerifiedModel) -> None:
    """Each thread gets the labels of its own volume."""
    wrong: list[int] = []

    def work(seed: int) -> None:
        voxels = (np.random.default_rng(seed).random((5, 6, 7)) > 0.5).astype(np.float32)
        volume = replace(volumes.block((5, 6, 7)), voxels=voxels)
        for _ in range(5):
            if not np.array_equal(engine.infer(model, volume, DEADLINE_S).labels, voxels > 0.5):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_memory_or_descriptor_is_left_behind(engine: Engine, model: VerifiedModel) -> None:
    """Calls leave no open descriptor here and no file in shared memory."""
    _answers(engine, model)
    before = len(list(Path("/proc/self/fd").iterdir())), sorted(Path("/dev/shm").iterdir())
    for _ in range(5):
        _answers(engine, model)
    assert (len(list(Path("/proc/self/fd").iterdir())), sorted(Path("/dev/shm").iterdir())) == before


def test_only_so_many_bundles_stay_warm(engine: Engine, tmp_path: Path, model: VerifiedModel) -> None:
    """A fifth model puts out the one that was unused for longest, which is then loaded again when it is needed."""
    engine.warm(model)
    others = [tiny_model.build(tmp_path / name, digest=name) for name in "12345"]
    for other in others:
        engine.warm(other)
    assert engine.describe()["warm"] == [other.ref.digest for other in others[1:]]
    assert engine.infer(others[0], volumes.block(), DEADLINE_S).timing_ms["load"] > 0
    assert _answers(engine, model)


@pytest.mark.slow
def test_close_ends_a_call_under_way(model: VerifiedModel) -> None:
    """A service that stops does not wait for a hanging network: ENGINE_CLOSED, and the child is gone."""
    engine = Engine(device="cpu", log=Events())
    engine.warm(model)
    pid = engine.describe()["pid"]
    threading.Timer(0.3, engine.close).start()
    with pytest.raises(EngineClosed):
        engine.infer(model, volumes.block(first_canonical=tiny_model.HANG), DEADLINE_S)
    assert _gone(pid)
    with pytest.raises(EngineClosed):
        engine.infer(model, volumes.block(), DEADLINE_S)
    engine.close()


@pytest.mark.slow
def test_a_device_that_is_not_there_is_the_sites_fault(model: VerifiedModel) -> None:
    """A configured accelerator that is missing is refused, never replaced by the CPU unasked."""
    with Engine(device="cuda:7", log=Events()) as engine, pytest.raises(EngineDied) as caught:
        engine.warm(model)
    assert caught.value.fault == "SITE"


PARENT = """
import sys, json
from pathlib import Path
from types import MappingProxyType
from inference.engine import Engine
from models.library import VerifiedModel
from models.ref import ModelRef
from inference.types import Volume
import numpy as np
from types import SimpleNamespace

def main():
    bundle = SimpleNamespace(inference="configs/inference.json")
    ref = ModelRef("tiny", "1", "sha256:" + "a" * 64)
    outputs = {"segments": (1,), "heat_maps": (), "classifications": (), "detections": (), "partial": "refuse"}
    manifest = SimpleNamespace(bundle=bundle, **outputs)
    model = VerifiedModel(ref, manifest, Path(sys.argv[1]), MappingProxyType({}))
    engine = Engine(device="cpu", log=lambda event, **values: None)
    engine.warm(model)
    heavy = sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "monai", "scipy"))
    print(json.dumps({"pid": engine.describe()["pid"], "heavy": heavy}), flush=True)
    voxels = np.zeros((4, 4, 4), np.float32)
    voxels[0, 0, 0] = float(sys.argv[2])
    volume = Volume(voxels, np.diag((-1.0, -1.0, 1.0, 1.0)), "sha256:" + "1" * 64, "MR")
    engine.infer(model, volume, 600.0)
    sys.stdin.read()

main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", [tiny_model.HANG, 0.0], ids=["hanging", "idle"])
def test_no_orphan_and_no_torch_in_the_parent(model: VerifiedModel, order: float) -> None:
    """A parent killed with SIGKILL takes its child along, idle or stuck in a network; and it never imported torch."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(model.path), str(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert parent.stdout is not None
        told = json.loads(parent.stdout.readline())
        assert told["heavy"] == []
        time.sleep(0.3)  # into the call
        assert Path(f"/proc/{told['pid']}").exists()
    finally:
        parent.kill()
        parent.communicate()
    assert _gone(told["pid"])


# ---- a model is stopped ----------------------------------------------------------------------------------------------


def _hanging(engine: Engine, model: VerifiedModel, errors: list[BaseException]) -> threading.Thread:
    """A call that would hang for minutes, in a thread; what it raises goes into `errors`."""
    volume = volumes.block(first_canonical=tiny_model.HANG)

    def work() -> None:
        try:
            engine.infer(model, volume, 300.0)
        except InferenceError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("everything", [False, True])
def test_a_cancelled_call_ends_at_once_and_the_next_one_works(
    engine: Engine, model: VerifiedModel, events: Events, *, everything: bool
) -> None:
    """ENGINE_CANCELLED within a second, the child gone when `cancel` returns; then a new child, the same answers."""
    assert _answers(engine, model)
    pid = engine.describe()["pid"]
    errors: list[BaseException] = []
    call = _hanging(engine, model, errors)
    until(lambda: engine.running() == model.ref.digest)
    began = time.monotonic()
    assert engine.cancel(None if everything else model.ref.digest)
    assert not Path(f"/proc/{pid}").exists(), "nothing runs any more"
    call.join(10)
    assert time.monotonic() - began < 1.0
    assert [type(error) for error in errors] == [EngineCancelled]
    assert [getattr(error, "code", "") for error in errors] == ["ENGINE_CANCELLED"]
    assert ("engine_killed", {"code": "ENGINE_CANCELLED"}) in events.seen
    assert engine.running() is None
    assert _answers(engine, model)


def test_what_waits_for_its_turn_is_cancelled_too(engine: Engine, model: VerifiedModel) -> None:
    """Else the call behind would begin the very model that was stopped."""
    errors: list[BaseException] = []
    first = _hanging(engine, model, errors)
    until(lambda: engine.running() is not None)
    # Whether a thread waits for a lock cannot be seen: it has passed everything before it when its stack stands there.
    second = _hanging(engine, model, errors)
    until(lambda: _stands_in(second, "_turn_of"))
    engine.cancel(model.ref.digest)
    for call in (first, second):
        call.join(10)
    assert [type(error) for error in errors] == [EngineCancelled] * 2
    assert _answers(engine, model)


def _stands_in(thread: threading.Thread, function: str) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == function and "self._turn:" in _line_of(frame):
            return True
        frame = frame.f_back
    return False


def _line_of(frame: FrameType) -> str:
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno)


def test_another_models_call_is_left_alone(engine: Engine, model: VerifiedModel, tmp_path: Path) -> None:
    """Only what was stopped ends: another model's call under way goes on, and its child lives."""
    other = tiny_model.build(tmp_path / "other", digest="e")
    assert _answers(engine, model)
    starts = engine.describe()["starts"]
    errors: list[BaseException] = []
    call = _hanging(engine, model, errors)
    until(lambda: engine.running() == model.ref.digest)
    assert not engine.cancel(other.ref.digest)
    assert call.is_alive()
    assert engine.describe()["starts"] == starts
    assert engine.cancel(model.ref.digest)
    call.join(10)
    assert [type(error) for error in errors] == [EngineCancelled]


def test_a_cancel_with_nothing_to_end_harms_nothing(engine: Engine, model: VerifiedModel) -> None:
    """Idle, never started, and closed: False each time, and the child that is there stays."""
    assert _answers(engine, model)
    pid = engine.describe()["pid"]
    assert not engine.cancel(model.ref.digest)
    assert not engine.cancel(None)
    assert _answers(engine, model)
    assert engine.describe()["pid"] == pid
    with Engine(device="cpu", log=Events()) as fresh:
        assert not fresh.cancel(None)
    assert not fresh.cancel(None)


def test_a_model_that_is_being_loaded_can_be_cancelled(model: VerifiedModel) -> None:
    """Also while the child still imports torch: the load ends with ENGINE_CANCELLED, and the next call works."""
    errors: list[BaseException] = []

    def load() -> None:
        try:
            engine.warm(model)
        except InferenceError as error:
            errors.append(error)

    with Engine(device="cpu", log=Events()) as engine:
        call = threading.Thread(target=load)
        call.start()
        until(lambda: engine.describe()["pid"] is not None)
        assert engine.cancel(model.ref.digest)
        call.join(10)
        assert [type(error) for error in errors] == [EngineCancelled]
        assert _answers(engine, model)
