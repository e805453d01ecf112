"""The demo itself, as a visitor runs it: with a real Orthanc, twice, and judged by what the PACS holds."""

import json
import os
import signal
import subprocess
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dicom_bridge.orthanc import OrthancReader
from service.demo import stop
from service.demo.servers import start_ticks
from tests.simulators.demo_run import ZHIYING, Told, demo, ledger

SECOND_RUN_S = 60.0  # beyond inference, of which a second run has none
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
    for part in ("DEMO", "NO_APPROVAL", run["outputs"]["SR"][:20], "audit verify: ok"):
        assert part in printed
    assert ledger(folder) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_overlay_is_a_picture_with_an_outline(told: Told) -> None:
    """The overlay shows three planes of the head with the mask outlined."""
    with Image.open(told.folder / "out" / "overlay.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 2 * pixels.shape[0]
    assert (pixels == (255, 196, 0)).all(axis=-1).sum() > 2000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_second_run_is_quick_and_duplicates_nothing(told: Told) -> None:
    """Run again, it finds the same report, says that the refusal is history, and adds no entry and no object."""
    folder, first = told.folder, told.run
    begun = time.monotonic()
    done = demo(folder, "--keep")
    took_s = time.monotonic() - begun
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        second = json.loads((folder / "out" / "run.json").read_text(encoding="utf-8"))
        for part in ("study", "model", "approval", "refused_before", "findings", "outputs", "audit"):
            assert second[part] == first[part]
        assert "from an earlier run" in done.stdout
        assert took_s < SECOND_RUN_S
        servers = ledger(folder)
        assert [server["name"] for server in servers] == ["Orthanc", "zhiying serve"]
        with OrthancReader(second["orthanc"].split("/app/")[0]) as reader:
            held = {one.modality: len(one.instances) for one in reader.series(second["study"]["uid"])}
        assert held == {"MR": IMAGES, "SR": 1, "SEG": 1}
    finally:
        assert stop.main([str(folder / "work")]) == 0
    assert all(start_ticks(server["pid"]) != server["ticks"] for server in servers)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_interrupted_demo_leaves_nothing_running(told: Told) -> None:
    """Ended from outside while its servers run, the demo stops them before it goes, and says so by its status."""
    folder = told.folder
    command = [ZHIYING, "demo", "--workdir", str(folder / "work"), "--output", str(folder / "other")]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ))
    servers: list[dict[str, Any]] = []
    deadline = time.monotonic() + 120
    while len(servers) < 2:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.1)
        servers = ledger(folder)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 130
    assert all(start_ticks(server["pid"]) != server["ticks"] for server in servers)
    assert ledger(folder) == []
