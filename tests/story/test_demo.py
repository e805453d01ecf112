"""The demo itself, as a visitor runs it: with a real Orthanc, twice, and judged by what the PACS holds."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from audit import verifier
from dicom_bridge.orthanc import OrthancReader
from service.demo import stop
from service.demo.package import KEYS, PACKAGE
from service.demo.servers import start_ticks
from tests.simulators.demo_run import ZHIYING, Told, demo, ledger

IMAGES = 189


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_first_run(told: Told) -> None:
    """Refused, then approved, then measured: about 1950 cm3 of brain, every promise kept, servers down."""
    folder, printed, run = told.folder, told.printed, told.run
    assert all(run["held"].values())
    assert run["refused_before"][0]["code"] == "NO_APPROVAL"
    (finding,) = run["findings"]
    assert finding["unit"] == "cm3"
    assert 1900 < float(finding["value"]) < 2000
    assert run["study"]["images"] == IMAGES
    assert "测试^幻影" in run["patient"]
    for part in ("DEMO", "NO_APPROVAL", *(uid[:20] for uid in run["outputs"].values()), "audit verify: ok"):
        assert part in printed
    assert ledger(folder) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stranger_checks_the_package(told: Told, tmp_path: Path) -> None:
    """In an empty folder, with plain python and the keys beside it: PASS; with one byte changed anywhere, not."""
    package, keys = tmp_path / PACKAGE, tmp_path / KEYS
    package.write_bytes(told.package)
    keys.write_bytes(told.keys)
    assert package_verdict(package, keys, tmp_path / "laptop") == "PASS"
    whole = package.read_bytes()
    for at in range(len(whole) // 29, len(whole), len(whole) // 29):
        changed = bytearray(whole)
        changed[at] ^= 1
        package.write_bytes(changed)
        assert package_verdict(package, keys, tmp_path / "laptop") == "FAIL", at


def package_verdict(package: Path, keys: Path, folder: Path) -> str:
    """The first line that the verifier prints, run alone; the verifier itself is our own, not the package's."""
    folder.mkdir(exist_ok=True)
    shutil.copy(verifier.__file__, folder / "verifier.py")
    command = [sys.executable, "-I", "verifier.py", str(package), "--policy", str(keys)]
    done = subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode == 0) is done.stdout.startswith("PASS\n"), done.stderr
    return done.stdout.partition("\n")[0]


def _kinds(package: bytes) -> Counter[str]:
    with zipfile.ZipFile(io.BytesIO(package)) as members:
        return Counter(json.loads(members.read("MANIFEST.json"))["counts"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_overlay_is_a_picture_with_an_outline(told: Told) -> None:
    """The overlay shows three planes of the head with the mask outlined."""
    with Image.open(told.folder / "out" / "overlay.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 2 * pixels.shape[0]
    assert (pixels == (255, 196, 0)).all(axis=-1).sum() > 2000


@pytest.fixture
def again(told: Told, tmp_path: Path) -> Path:
    """A copy of what the demo left, for a run that changes it: others read the first at the same time."""
    shutil.copytree(told.folder / "work", tmp_path / "work")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_second_run_duplicates_nothing(told: Told, again: Path) -> None:
    """Run again, it finds the same report, says that the refusal is history, and adds no entry and no object."""
    folder, first = again, told.run
    done = demo(folder, "--keep")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        second = json.loads((folder / "out" / "run.json").read_text(encoding="utf-8"))
        for part in ("study", "model", "approval", "refused_before", "findings", "outputs"):
            assert second[part] == first[part]
        # One more export, one more start, and a sign of life for each minute that it ran; nothing else is new, but
        # perhaps the golden case of that start, which takes longer than a second run does.
        before, after = _kinds(told.package), _kinds((folder / "out" / PACKAGE).read_bytes())
        assert after.pop("HEARTBEAT") > before.pop("HEARTBEAT") >= 1
        assert after.pop("GOLDEN", 0) - before.pop("GOLDEN", 0) in {0, 1}
        assert after == before + Counter(EXPORT=1, CONFIG=1)
        assert "from an earlier run" in done.stdout
        servers = ledger(folder)
        assert [server["name"] for server in servers] == ["Orthanc", "zhiying serve", "zhiying witness"]
        with OrthancReader(second["orthanc"].split("/app/")[0]) as reader:
            held = {one.modality: len(one.instances) for one in reader.series(second["study"]["uid"])}
        assert held == {"MR": IMAGES, "SR": 1, "SEG": 1, "OT": 1}
    finally:
        assert stop.main([str(folder / "work")]) == 0
    assert all(start_ticks(server["pid"]) != server["ticks"] for server in servers)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_interrupted_demo_leaves_nothing_running(again: Path) -> None:
    """Ended from outside while its servers run, the demo stops them before it goes, and says so by its status."""
    folder = again
    command = [ZHIYING, "demo", "--workdir", str(folder / "work"), "--output", str(folder / "out")]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ))
    try:
        servers: list[dict[str, Any]] = []
        deadline = time.monotonic() + 120
        while len(servers) < 3:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.1)
            servers = ledger(folder)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 130
        assert all(start_ticks(server["pid"]) != server["ticks"] for server in servers)
        assert ledger(folder) == []
    finally:
        # Nothing is left for the next test, also where this one fails: neither the demo nor what it started.
        child.kill()
        child.wait()
        assert stop.main([str(folder / "work")]) == 0
