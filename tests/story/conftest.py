"""What several files of the story look at: the demo, run once."""

import json

import pytest

from service.demo.package import KEYS, PACKAGE
from tests.simulators.demo_run import Told, demo


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The demo of an empty folder. It takes most of a minute, so all who judge it share it and leave it as it is."""
    folder = tmp_path_factory.mktemp("demo")
    done = demo(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    out = folder / "out"
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return Told(folder, done.stdout, run, (out / PACKAGE).read_bytes(), (out / KEYS).read_bytes())
