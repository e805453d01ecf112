"""One `zhiying demo`, as a visitor starts it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ZHIYING = str(Path(sys.executable).with_name("zhiying"))


@dataclass(frozen=True, slots=True)
class Told:
    """A demo that ended well: its folder, what it printed, its run.json, and what the reviewer took away."""

    folder: Path
    printed: str
    run: dict[str, Any]
    package: bytes
    keys: bytes


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One `zhiying demo` in the folder."""
    command = [ZHIYING, "demo", "--workdir", str(folder / "work"), "--output", str(folder / "out"), *options]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The servers that the demo says are up."""
    try:
        return list(json.loads((folder / "work" / "servers.json").read_text(encoding="utf-8")))
    except FileNotFoundError:  # asked for first, it could go before it is read
        return []
