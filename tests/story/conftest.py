"""What several files of the story look at: the demo, run once."""

import fcntl
import json
import os
import shutil

import pytest

from service.demo.package import KEYS, PACKAGE
from tests.simulators.demo_run import Told, demo


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The demo of an empty folder. It takes most of a minute, so all who judge it share it and leave it as it is.

    One for all of pytest-xdist's workers as well: two demos at once would be after the same ports.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    folder = tmp_path_factory.getbasetemp().parent / f"demo-{run}" if run else tmp_path_factory.mktemp("demo")
    folder.mkdir(exist_ok=True)
    printed = folder / "printed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            done = demo(folder)
            assert done.returncode == 0, done.stdout + done.stderr
            # A second run writes its results over the first one's.
            shutil.copytree(folder / "out", folder / "first")
            # Of the PACS too: two Orthancs on one folder, a second run's and a judge's, would end each other.
            shutil.copytree(folder / "work" / "pacs", folder / "pacs")
            printed.write_text(done.stdout, encoding="utf-8")
    first = folder / "first"
    said = json.loads((first / "run.json").read_text(encoding="utf-8"))
    return Told(folder, printed.read_text("utf-8"), said, (first / PACKAGE).read_bytes(), (first / KEYS).read_bytes())
