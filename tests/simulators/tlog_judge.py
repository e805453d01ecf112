"""The judge of logs and packages that we did not write: Go's own signed notes, tiles and proofs (tests/judges/tlog)."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "judges" / "tlog"
LIBRARY = Path("/usr/share/gocode")
"""Where Debian's golang-golang-x-mod-dev puts golang.org/x/mod."""
SECONDS_MAX = 300


class JudgeMissing(Exception):
    """No Go, or not its library: no verdict is not a good verdict."""


@dataclass(frozen=True)
class Verdict:
    """``ok`` with the size and root (base64) that were proven, and how many older checkpoints; else ``why`` not."""

    ok: bool
    size: int = 0
    root: str = ""
    older: int = 0
    why: str = ""


class TlogJudge:
    """Built once, then asked about many places in one process."""

    def __init__(self, folder: Path) -> None:
        go = shutil.which("go")
        if go is None or not (LIBRARY / "src" / "golang.org" / "x" / "mod" / "sumdb" / "tlog").is_dir():
            raise JudgeMissing("scripts/setup.sh test installs golang-go and golang-golang-x-mod-dev")
        self._program = folder / "tlog-judge"
        # No network and no module proxy: what Debian has installed, or nothing.
        there = {"GO111MODULE": "off", "GOPATH": str(LIBRARY), "GOCACHE": str(folder / "cache"), "CGO_ENABLED": "0"}
        command = [go, "build", "-o", str(self._program), "."]
        subprocess.run(command, cwd=SOURCE, env={**os.environ, **there}, check=True, timeout=SECONDS_MAX)

    def ask(self, questions: Sequence[Sequence[str]]) -> list[Verdict]:
        """One verdict for each question; see the head of main.go for the words."""
        said = "".join("\t".join(words) + "\n" for words in questions)
        command = [str(self._program)]
        done = subprocess.run(command, input=said.encode(), capture_output=True, timeout=SECONDS_MAX, check=False)
        answers = done.stdout.decode().splitlines()
        if done.returncode != 0 or len(answers) != len(questions):
            raise JudgeMissing(f"the judge ended with {done.returncode}: {done.stderr.decode()[-500:]}")
        return [_verdict(line) for line in answers]


def _verdict(line: str) -> Verdict:
    word, _, rest = line.partition(" ")
    if word != "ok":
        return Verdict(ok=False, why=rest)
    size, root, older = rest.split(" ")
    return Verdict(True, int(size), root, int(older))
