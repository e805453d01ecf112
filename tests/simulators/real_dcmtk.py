"""DCMTK's own programs (apt `dcmtk`) as modalities, archives and encoders around us."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_bridge.tls import TlsFiles
from service.demo.pacs import LOOPBACK, quick_network
from service.demo.servers import Servers, answers, free_port

TOOL_S = 120
EXPLICIT = "1.2.840.10008.1.2.1"
ENCODERS = {
    "JPEG-LS lossless": ("1.2.840.10008.1.2.4.80", "-xt", ("dcmcjpls", "+el")),
    "JPEG lossless": ("1.2.840.10008.1.2.4.70", "-xs", ("dcmcjpeg", "+e1")),
    "RLE": ("1.2.840.10008.1.2.5", "-xr", ("dcmcrle",)),
    "Deflated": ("1.2.840.10008.1.2.1.99", "-xd", ("dcmconv", "+td")),
    "Implicit little endian": ("1.2.840.10008.1.2", "-xi", ("dcmconv", "+ti")),
    "Explicit big endian": ("1.2.840.10008.1.2.2", "-xb", ("dcmconv", "+tb")),
}
"""Lossless syntaxes: UID, storescu's option to propose it, and the program with the option that writes it."""


def program(name: str) -> str:
    """DCMTK's own, not that of the same name which pynetdicom puts beside the interpreter."""
    found = shutil.which(name, path=os.defpath)
    assert found is not None, f"{name} is not installed"
    return found


def call(name: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of the programs to its end."""
    return subprocess.run(
        [program(name), *options],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TOOL_S,
        check=False,
        env=quick_network(os.environ),
    )


def caller(name: str, port: int, *options: str | Path, calling: str = "MODALITY", files: Sequence[Path] = ()) -> bool:
    """Call our port as an SCU; whether it ended well."""
    common = ["-aet", calling, "-aec", "ZHIYING", "-to", "20"]
    return call(name, *common, *options, LOOPBACK, str(port), *files).returncode == 0


def secured(files: TlsFiles) -> list[str]:
    """How the programs are told of mutual TLS."""
    return ["+tls", str(files.key), str(files.certificate), "+cf", str(files.authority)]


def encode(files: Sequence[Path], folder: Path, syntax: str) -> list[Path]:
    """Write each file again in the syntax of this name (see ENCODERS)."""
    folder.mkdir(parents=True, exist_ok=True)
    tool, *options = ENCODERS[syntax][2]
    keep = ["+un"] if tool in ("dcmcjpls", "dcmcjpeg") else []  # the UIDs stay: it is the same image
    made = []
    for path in files:
        done = call(tool, *options, *keep, path, folder / path.name)
        assert done.returncode == 0, done.stderr
        made.append(folder / path.name)
    return made


@dataclass(frozen=True, slots=True)
class Receiver:
    """A storescp that runs."""

    port: int
    folder: Path
    log: Path

    @property
    def files(self) -> list[Path]:
        """What it has stored."""
        return sorted(self.folder.iterdir())


@contextmanager
def storescp(root: Path, files: TlsFiles | None = None, title: str = "STORESCP") -> Iterator[Receiver]:
    """DCMTK's plain receiver, or with `files` behind mutual TLS."""
    folder, log, port = root / "stored", root / "storescp.log", free_port()
    folder.mkdir(parents=True)
    options = [] if files is None else secured(files)
    command = [program("storescp"), "-v", *options, "-aet", title, "-od", str(folder), str(port)]
    with Servers(root / "servers.json") as servers:
        pid = servers.start("storescp", command, log=log, environment=quick_network(os.environ))
        servers.wait_until(pid, lambda: answers(port), log=log)
        yield Receiver(port, folder, log)
