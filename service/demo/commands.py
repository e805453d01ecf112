"""Runs the product's own commands as a person would: `zhiying ...` in a process of its own, and DCMTK's storescu."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.demo.errors import StepFailed, ToolMissing
from service.demo.pacs import LOOPBACK, SCANNER_AE, Orthanc, quick_network
from service.demo.servers import find_tool

COMMAND_LIMIT_S = 900.0  # `models pull` downloads 16 MB; a hospital's slow line is given time
SEND_LIMIT_S = 120.0  # 189 images of 128 KiB on loopback take a second


def own_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the settings of another Zhiying on this machine: its file rules here."""
    return {name: value for name, value in environment.items() if not name.startswith("ZHIYING_")}


def program() -> str:
    """The `zhiying` that was installed beside this interpreter."""
    path = Path(sys.executable).with_name("zhiying")
    if not path.exists():
        raise ToolMissing(
            f"'{path.name}' is not beside {sys.executable}; install the project there: scripts/setup.sh demo"
        )
    return str(path)


class Zhiying:
    """The command line of one configuration."""

    def __init__(self, config: Path) -> None:
        self._config = config

    @property
    def serve(self) -> list[str]:
        """The command that runs the service."""
        return [program(), "serve", "--config", str(self._config)]

    def ask(self, *words: str | Path, configured: bool = True) -> Any:
        """Run `zhiying WORDS --json` and give what it printed. Raises StepFailed with the command's own error line."""
        command = [program(), *map(str, words), "--json"]
        if configured:
            command += ["--config", str(self._config)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                encoding="utf-8",
                env=own_environment(os.environ),
                stdin=subprocess.DEVNULL,
                timeout=COMMAND_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StepFailed(f"'{shown(*words)}' did not end in {COMMAND_LIMIT_S:.0f} s") from None
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["(no message)"]
            raise StepFailed(f"'{shown(*words)}' ended with status {done.returncode}: {said[-1]}")
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            raise StepFailed(f"'{shown(*words)}' did not print JSON") from None


def shown(*words: str | Path) -> str:
    """A command as it is shown to a person: files by their names alone."""
    return " ".join(["zhiying", *(word.name if isinstance(word, Path) else word for word in words)])


def scan(series: Path, pacs: Orthanc) -> None:
    """Play the scanner: send the series to the PACS by C-STORE. Raises StepFailed, ToolMissing."""
    command = [find_tool("storescu", "dcmtk"), "+sd", "-aet", SCANNER_AE, "-aec", pacs.ae_title]
    command += [LOOPBACK, str(pacs.dicom_port), str(series)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=quick_network(os.environ),
            stdin=subprocess.DEVNULL,
            timeout=SEND_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StepFailed(f"the scanner could not send its images in {SEND_LIMIT_S:.0f} s") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["(no message)"]
        raise StepFailed(f"storescu ended with status {done.returncode}: {said[0]}")
