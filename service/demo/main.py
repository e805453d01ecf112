"""`zhiying demo`: tells the story, shows the table, and stops what it started, whatever happens."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from audit.errors import AuditError
from dicom_bridge.errors import BridgeError
from ethics_review.errors import ReviewError
from models.errors import ModelError
from service import wire
from service.demo.commands import own_environment
from service.demo.errors import NotHeld
from service.demo.screen import Screen
from service.demo.servers import Servers
from service.demo.story import Places, Story
from service.demo.viewer import start_viewer
from service.errors import ServiceError

STAGES = ("load", "preprocess", "forward", "postprocess", "total")
INTERRUPTED = 130  # exit status by custom: 128 + SIGINT
WHEELS = "ZHIYING_DEMO_WHEELS"
"""A folder with the pinned wheels, for a machine without internet: no download is then tried for those in it."""


def run(*, keep: bool, output: Path, workdir: Path, viewer: Path | None = None) -> int:
    """Tell the story; exit status 0 only if all of it held. `keep` leaves the servers up if it did.

    `viewer`: the built files of OHIF, which is then served as well.
    """
    console = Console()
    workdir, output = workdir.absolute(), output.absolute()
    try:
        places = Places(workdir, output, _local_wheels(os.environ.get(WHEELS)))
        workdir.mkdir(parents=True, exist_ok=True)
        with _own_settings(), _interruptible(), Servers(places.ledger) as servers:
            for name in servers.stop_earlier():
                console.print(f"stopped {name} of an earlier run")
            with Screen(console) as screen:
                world, report = Story(places, screen, servers, wire.now).tell()
                screen.table("Zhiying 智影: the demo's study", rows(report))
                screen.say(f"zhiying audit verify: ok, {report['audit']['entries']} entries, nothing differs")
                screen.say(f"written: {', '.join(sorted(path.name for path in output.iterdir()))} in {output}")
            if keep:
                if viewer is not None:
                    opened = start_viewer(servers, viewer, world.pacs, workdir, report["study"]["uid"])
                    console.print(f"Open the study in OHIF: {opened}", soft_wrap=True)
                servers.keep()
                console.print(f"The servers stay up: Orthanc {world.pacs.url}, Zhiying {world.hospital.url}")
                console.print("Stop them with: make demo-stop")
    except KeyboardInterrupt:
        console.print("stopped before the end; the servers are down")
        return INTERRUPTED
    except OSError as error:
        _complain(f"IO_ERROR: {error.strerror or type(error).__name__}: {error.filename or ''}")
        return 1
    except (ServiceError, AuditError, BridgeError, ReviewError, ModelError) as error:
        text = str(error)
        _complain(text if text.startswith(error.code) else f"{error.code}: {text}")
        return 1
    return 0


def _complain(line: str) -> None:
    """One line on the standard error."""
    Console(stderr=True).print(f"error {line}", markup=False, highlight=False, soft_wrap=True)


def rows(report: dict[str, Any]) -> dict[str, str]:
    """The table's rows out of what run.json holds."""
    model, approval = report["model"], report["approval"]
    table = {
        "study": f"{report['study']['uid']} ({report['study']['images']} images, {report['patient']})",
        "model": f"{model['name']} {model['version']}",
        "digest": model["digest"],
        "approval": f"{approval['approval']} by {approval['key']}, {approval['valid']}",
        "refused before it": ", ".join(f"{one['code']} (entry {one['entry']})" for one in report["refused_before"]),
    }
    for number in report["findings"]:
        table[f"finding: {number['meaning']}"] = f"{number['value']} {number['unit']}"
    table["time per step"] = ", ".join(f"{name.lower()} {value} ms" for name, value in report["steps_ms"].items())
    table["inside the model"] = ", ".join(
        f"{name} {report['timing_ms'][name]} ms" for name in sorted(report["timing_ms"], key=_stage)
    )
    table["time"] = ", ".join(f"{name} {seconds} s" for name, seconds in report["seconds"].items())
    table |= report["outputs"]
    table["in Orthanc"] = report["orthanc"]
    table["log"] = f"{report['audit']['entries']} entries, root {report['audit']['root']}"
    return table | {f"✓ {name}": "yes" for name, held in report["held"].items() if held}


def _stage(name: str) -> int:
    """Stages of a call in the order in which they happen; unknown ones last."""
    return STAGES.index(name) if name in STAGES else len(STAGES)


def _local_wheels(folder: str | None) -> dict[str, Path]:
    """Package name -> wheel, for those in the folder."""
    if folder is None:
        return {}
    found = {path.name.split("-")[0]: path for path in sorted(Path(folder).glob("*.whl"))}
    if not found:
        raise NotHeld(f"{WHEELS} names a folder without wheels")
    return found


@contextmanager
def _own_settings() -> Iterator[None]:
    """Settings of another Zhiying in the environment would override the demo's own file: they are put aside."""
    foreign = {name: value for name, value in os.environ.items() if name not in own_environment(os.environ)}
    for name in foreign:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(foreign)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, so that its servers are stopped then too."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
