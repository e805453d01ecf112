"""A reading room's workstation made of DCMTK's own tools (apt `dcmtk`): what it asks and fetches, no code of ours sees.

Association refused, a status other than success, a sub-operation that failed: each is an error here, never an empty
answer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from service.demo.pacs import LOOPBACK, Orthanc, quick_network

_SECONDS_MAX = 60
_UTF8 = "ISO_IR 192"


class ToolFailed(Exception):
    """A tool ended with an error; the message is the end of what it said."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One C-FIND answer, as DCMTK keeps it in a file."""

    attributes: Dataset
    path: Path

    @property
    def text(self) -> str:
        """The whole as DCMTK reads it by the character set that it declares."""
        return as_text(self.path)


@dataclass(frozen=True, slots=True)
class Workstation:
    """`ae_title` and `port`: as the PACS knows it; `root`: an empty folder for what it gets."""

    ae_title: str
    port: int
    pacs: Orthanc
    root: Path

    def find(self, level: str, *keys: str) -> list[Answer]:
        """C-FIND in the study root model; `keys` as DCMTK writes them: Name=value, or Name alone to ask for it."""
        folder = self._folder("find")
        self._ask("findscu", level, *keys, f"SpecificCharacterSet={_UTF8}", options=["-X", "-od", str(folder)])
        return [Answer(dcmread(path), path) for path in sorted(folder.iterdir())]

    def get(self, *keys: str) -> list[Path]:
        """C-GET of the series that the keys name."""
        folder = self._folder("get")
        said = self._ask("getscu", "SERIES", *keys, options=["-v", "-od", str(folder)])
        return self._complete(folder, said)

    def move(self, *keys: str) -> list[Path]:
        """C-MOVE of the series that the keys name, to this workstation itself."""
        folder = self._folder("move")
        options = ["-v", "-od", str(folder), "-aem", self.ae_title, "+P", str(self.port)]
        self._ask("movescu", "SERIES", *keys, options=options)
        return sorted(folder.iterdir())

    def _folder(self, name: str) -> Path:
        folder = self.root / f"{name}{len(list(self.root.iterdir()))}"
        folder.mkdir()
        return folder

    def _complete(self, folder: Path, said: str) -> list[Path]:
        found = sorted(folder.iterdir())
        if f"Completed Suboperations : {len(found)}" not in said or "Failed Suboperations    : 0" not in said:
            raise ToolFailed(said[-500:])
        return found

    def _ask(self, tool: str, level: str, *keys: str, options: list[str]) -> str:
        given = [word for key in (f"QueryRetrieveLevel={level}", *keys) for word in ("-k", key)]
        command = [tool, "-S", "-aet", self.ae_title, "-aec", self.pacs.ae_title, *options, *given]
        return _run([*command, LOOPBACK, str(self.pacs.dicom_port)])


def as_text(path: Path) -> str:
    """The whole object as `dcmdump` shows it in UTF-8; a character set that is declared wrongly is an error."""
    return _run(["dcmdump", "+U8", "-q", "+L", str(path)])


def as_page(path: Path) -> str:
    """The HTML page that `dsr2html` makes of a report."""
    return _run(["dsr2html", "+U8", str(path)])


def _run(command: list[str]) -> str:
    # Not the programs of the same names that pynetdicom puts beside the interpreter.
    tool = shutil.which(command[0], path=os.defpath)
    if tool is None:
        raise ToolFailed(f"{command[0]} is not installed")
    done = subprocess.run(
        [tool, *command[1:]], capture_output=True, timeout=_SECONDS_MAX, check=False, env=quick_network(os.environ)
    )
    said = (done.stdout + done.stderr).decode("utf-8")
    if done.returncode != 0:
        raise ToolFailed(said[-500:])
    return said
