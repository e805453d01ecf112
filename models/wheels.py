"""One pinned wheel, from pip's index or carried in as a file; used only if its SHA-256 is the pinned one.

pip verifies the hash before it writes the file, and we verify it again on the file that we are going to read. pip keeps
its own configuration, so that a hospital's mirror is used where there is one.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from audit import durable
from models.archive import digest_of_file
from models.errors import SourceHashMismatch, SourceUnreachable
from models.ref import is_digest

DOWNLOAD_S_MAX: Final = 900
"""Seconds for one wheel: 100 MB at 1 Mbit/s. A person is watching, and can start it again."""
SOCKET_S: Final = 30
RETRIES: Final = 2

Progress = Callable[[str], None]
"""Told one short line at the start of each long step."""


def quiet(_: str) -> None:
    """Progress that nobody watches."""


def fetch_wheel(
    package: str, version: str, sha256: str, into: Path, wheel: Path | None = None, *, progress: Progress = quiet
) -> Path:
    """A verified copy of the wheel in the folder `into`; one that is there already is used again.

    Args:
        sha256: "sha256:..." or its 64 hexadecimal digits alone.
        wheel: a local copy to take instead of downloading (air gap).

    Raises SourceHashMismatch, SourceUnreachable.
    """
    wanted = sha256 if sha256.startswith("sha256:") else f"sha256:{sha256}"
    if not is_digest(wanted):
        raise SourceHashMismatch("the pinned hash is not a SHA-256")
    try:
        into.mkdir(parents=True, exist_ok=True)
        for present in sorted(into.glob(f"{package.replace('-', '_')}-{version}-*.whl")):
            if digest_of_file(present).sha256 == wanted:
                return present
            # Half a download, or another build under the same name: never to be picked up by anybody.
            present.unlink()
        with tempfile.TemporaryDirectory(dir=into, prefix=".fetch-") as scratch:
            found = (
                _local(wheel, Path(scratch)) if wheel else _download(package, version, wanted, Path(scratch), progress)
            )
            if digest_of_file(found).sha256 != wanted:
                raise SourceHashMismatch(f"{package} {version}: the wheel is not the one that is pinned")
            durable.adopt(found, into / found.name)
            return into / found.name
    except OSError as wrong:
        raise SourceUnreachable(f"{package} {version}: {wrong.strerror or 'reading or writing failed'}") from wrong


def _local(wheel: Path, scratch: Path) -> Path:
    # A copy, so that what was hashed is what is read, whoever else can write to the stick.
    return Path(shutil.copyfile(wheel, scratch / wheel.name))


def _download(package: str, version: str, wanted: str, scratch: Path, progress: Progress) -> Path:
    progress(f"downloading {package} {version}")
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package}=={version} --hash={wanted}\n", encoding="utf-8")
    into = scratch / "wheel"
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input",
        "--disable-pip-version-check", "--no-cache-dir", "--quiet", f"--timeout={SOCKET_S}", f"--retries={RETRIES}",
        f"--dest={into}", f"--requirement={requirements}",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=DOWNLOAD_S_MAX, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise SourceUnreachable(f"{package} {version}: no wheel after {DOWNLOAD_S_MAX} s") from None
    if done.returncode != 0:
        # pip's own words may hold the mirror's password, so they are read but not repeated.
        if b"DO NOT MATCH THE HASHES" in done.stderr:
            raise SourceHashMismatch(f"{package} {version}: the index's wheel is not the one that is pinned")
        raise SourceUnreachable(
            f"{package} {version}: pip could not download it (exit status {done.returncode}); "
            "check the index in pip's configuration, or carry the wheel in and name it"
        )
    found = sorted(into.glob("*.whl"))
    if len(found) != 1:
        raise SourceUnreachable(f"{package} {version}: pip left no wheel")
    return found[0]
