"""A report as files: a page and a PDF in each language, and SHA256SUMS, whose digest stands in the log.

`sha256sum -c SHA256SUMS` checks the files; `sha256sum SHA256SUMS` gives what the entry says and a reviewer signs.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit import durable
from service.reports import page, pdf
from service.reports.document import LANGUAGES, Document, Language

SUMS: Final = "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class Report:
    """The files by name, SHA256SUMS among them, and "sha256:..." of that one."""

    files: Mapping[str, bytes]
    digest: str


def make(name: str, document: Callable[[Language], Document]) -> Report:
    """The report that `document` describes in each language, as `name`.<language>.html and .pdf."""
    files: dict[str, bytes] = {}
    for language in LANGUAGES:
        described = document(language)
        files[f"{name}.{language}.html"] = page.write(described)
        files[f"{name}.{language}.pdf"] = pdf.write(described)
    lines = [f"{hashlib.sha256(data).hexdigest()}  {file}\n" for file, data in sorted(files.items())]
    sums = "".join(lines).encode()
    return Report({**files, SUMS: sums}, f"sha256:{hashlib.sha256(sums).hexdigest()}")


def put(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write the files into the folder, which is made where there is none; what they replace was of the same names."""
    durable.make_dirs(folder)
    for name, data in report.files.items():
        durable.replace(folder / name, data)
    return tuple(folder / name for name in sorted(report.files))
