"""A site's log as a reviewer gets it, and what our verifier says of it."""

import subprocess
from pathlib import Path

from audit import verifier
from service import wire
from tests.simulators.demo_run import ZHIYING
from tests.simulators.site import Site


def packed(site: Site, package: Path) -> verifier.Report:
    """What the verifier says of the site's log, as it would be handed over."""
    about = ("--recipient", "TEST Reviewer", "--purpose", "TEST", "--contract", "TEST")
    command = [ZHIYING, "audit", "export", "--out", str(package), *about, "--config", str(site.config_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    policy = package.with_suffix(".policy")
    people = [line for line in site.parties.policy().splitlines() if line.startswith("person ")]
    policy.write_text("\n".join([f"log {wire.log_vkey(site.config)}", *people]) + "\n", encoding="utf-8")
    with package.open("rb") as file:
        return verifier.verify(file, verifier.Policy(policy))
