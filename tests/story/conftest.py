"""What several files of the story look at: the demo, run once."""

import fcntl
import json
import os

import pytest

from service.demo.package import KEYS, PACKAGE
from tests.simulators.demo_run import Told, demo


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The demo of an empty folder. It takes minutes, so all who judge it share it; who would change it takes a copy.

    One for all of pytest-xdist's workers as well: each reads it at any time, and the demo is made once.
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
            printed.write_text(done.stdout, encoding="utf-8")
    out = folder / "out"
    said = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return Told(folder, printed.read_text("utf-8"), said, (out / PACKAGE).read_bytes(), (out / KEYS).read_bytes())
