"""What the demo's reviewer takes away, and how it is checked: with plain python, and keys that came another way."""

import subprocess
import sys
import zipfile
from pathlib import Path

from service.demo.commands import Zhiying
from service.demo.errors import NotHeld
from service.demo.witness import DemoWitness

PACKAGE, KEYS = "audit-package.zip", "reviewer-keys.txt"
LIMIT_S = 120.0


def hand_over(zhiying: Zhiying, witness: DemoWitness, trust: str, output: Path, workdir: Path) -> str:
    """Export the log of this run, check it as a stranger would, and give the verifier's first line. Raises NotHeld.

    Leaves the package and, beside it, the keys in `output`.
    """
    log_key = zhiying.ask("audit", "key")["vkey"]
    asking = workdir / "witnesses.txt"
    asking.write_text(f"witness {witness.public_line} {witness.url}\nquorum 1\n", encoding="utf-8")
    keys = output / KEYS
    lines = (
        "# Whom the reviewer trusts. In earnest these lines never come with the package.",
        f"log {log_key}",
        f"witness {witness.public_line}",
        "quorum 1",
        *(line for line in trust.splitlines() if line.startswith("person ")),
    )
    keys.write_text("\n".join(lines) + "\n", encoding="utf-8")
    package = output / PACKAGE
    package.unlink(missing_ok=True)
    about = ("--recipient", "DEMO Reviewer", "--purpose", "DEMONSTRATION", "--contract", "DEMO")
    zhiying.ask("audit", "export", "--out", package, *about, "--policy", asking)
    return verified(package, keys, workdir / "laptop")


def verified(package: Path, keys: Path, folder: Path) -> str:
    """Run the package's own verifier in this folder with plain python. Raises NotHeld unless it says PASS."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(package) as members:
        (folder / "verifier.py").write_bytes(members.read("verifier.py"))
    command = [sys.executable, "-I", "verifier.py", str(package), "--policy", str(keys)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    first = (done.stdout.splitlines() or [done.stderr.strip() or "nothing"])[0]
    if done.returncode != 0:
        raise NotHeld(f"the package does not pass its verifier: {first}")
    return first
