"""A dossier's folder, and what of it is handed to a reviewer: every document by its digest, under one root.

dossier.json names the model and the documents; it, like they, was written by strangers. Files are plain files in the
folder itself, of bounded size; links are refused. The root is the SHA-256 of `submission.json`, the canonical list of
digests: what a reviewer signs is about these bytes, and about no others.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Final

from audit.entry import canonical
from ethics_review import papers
from ethics_review.errors import DossierIncomplete, DossierInvalid
from ethics_review.metrics import N_MIN
from ethics_review.papers import PAPERS, Asked, Finding, Outcome, Paper, finding
from models.errors import RefInvalid
from models.ref import ModelRef, is_digest
from models.strict import DOCUMENT_BYTES_MAX, Fields, Malformed, parse_json

SCHEMA: Final = "zhiying.dossier/1"
SUBMISSION_SCHEMA: Final = "zhiying.submission/1"
DOSSIER_NAME: Final = "dossier.json"
DOCUMENTS_MAX: Final = 64
"""Twelve kinds are known; the others are reports beside them."""
ATTACHMENT_BYTES_MAX: Final = 16 * 2**20
"""Of what is not parsed: a report with figures, a bill of materials."""
TOTAL_BYTES_MAX: Final = 128 * 2**20
"""Of a dossier: it is held in memory, on a reviewer's laptop too."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
# One name for one file on every system, in a single folder: no slash, nothing hidden, no capitals to confuse.
_FILE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}(?:\.[a-z0-9]{1,8}){0,2}")
_BY_NAME: Final = MappingProxyType({paper.name: paper for paper in PAPERS})
_BY_FILE: Final = MappingProxyType({paper.file: paper for paper in PAPERS})


@dataclass(frozen=True, slots=True)
class Named:
    """A document as dossier.json names it."""

    name: str
    file: str
    digest: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A complete dossier, frozen.

    Attributes:
        body: the canonical bytes of submission.json; root: "sha256:..." of them.
        files: bytes of each document by file name. interested: organisations that may not review.
        shadow_only: a research protocol stands in for the registration.
    """

    model: ModelRef
    documents: tuple[Named, ...]
    dossier: bytes
    files: Mapping[str, bytes]
    body: bytes
    findings: tuple[Finding, ...]
    interested: frozenset[str]
    shadow_only: bool

    @property
    def root(self) -> str:
        """What an approval names as `submission`."""
        return "sha256:" + hashlib.sha256(self.body).hexdigest()


def check(folder: Path, today: date, installed: ModelRef | None = None, *, n_min: int = N_MIN) -> tuple[Finding, ...]:
    """What is there and what is missing, control by control. `installed`: the model that the hospital has, if it has.

    Raises DossierInvalid where dossier.json is not one; what is wrong with a document is a finding.
    """
    return _look(folder, today, installed, n_min)[1]


def freeze(folder: Path, today: date, installed: ModelRef, *, n_min: int = N_MIN) -> Submission:
    """The submission. Raises DossierIncomplete with the findings that block it, DossierInvalid."""
    dossier, found, files = _look(folder, today, installed, n_min)
    blocking = tuple(one for one in found if one.blocks)
    if blocking:
        raise DossierIncomplete(tuple(f"{one.control} {one.outcome} {one.document}" for one in blocking))
    model, documents = read_dossier(dossier)
    by_name = {one.name: files[one.file] for one in documents}
    return Submission(
        model=model,
        documents=documents,
        dossier=dossier,
        files=MappingProxyType(files),
        body=body_of(model, documents, dossier),
        findings=found,
        interested=papers.interested(parse_json(by_name["interests"])),
        shadow_only="registration" not in by_name,
    )


def body_of(model: ModelRef, documents: tuple[Named, ...], dossier: bytes) -> bytes:
    """submission.json: the model, and digests of dossier.json and of every document by name."""
    return canonical(
        {
            "schema": SUBMISSION_SCHEMA,
            "model": {"name": model.name, "version": model.version, "digest": model.digest},
            "dossier": _digest(dossier),
            "documents": {one.name: one.digest for one in documents},
        }
    )


def collect(folder: Path, model: ModelRef) -> bytes:
    """A dossier.json for the files that lie in the folder: known names are papers, others attachments.

    Raises DossierInvalid for a name or a file that no dossier may hold, OSError.
    """
    documents = {}
    for file in _present(folder):
        data = _plain_bytes(folder / file, ATTACHMENT_BYTES_MAX)
        name = _BY_FILE[file].name if file in _BY_FILE else re.sub(r"[^a-z0-9]", "_", file.lower())
        if data is None or not _FILE.fullmatch(file) or not _NAME.fullmatch(name) or name in documents:
            raise DossierInvalid(
                file[:64], "a plain file wanted; lower-case letters, digits and - in its name, 32 at most"
            )
        documents[name] = {"file": file, "digest": _digest(data)}
    return canonical(
        {
            "schema": SCHEMA,
            "model": {"name": model.name, "version": model.version, "digest": model.digest},
            "documents": documents,
        }
    )


def read_dossier(data: bytes) -> tuple[ModelRef, tuple[Named, ...]]:
    """The model and the documents that a dossier.json names, by name. Raises DossierInvalid."""
    try:
        top = Fields(parse_json(data), "", ("schema", "model", "documents"))
        top.choice("schema", (SCHEMA,))
        inner = top.fields("model", ModelRef.__slots__)
        model = ModelRef(inner.text("name"), inner.text("version"), inner.text("digest"))
        documents = tuple(_named(top))
    except Malformed as wrong:
        raise DossierInvalid(wrong.where, wrong.what) from None
    except RefInvalid as wrong:
        raise DossierInvalid("model", str(wrong)) from None
    return model, documents


def model_of(folder: Path) -> ModelRef:
    """The model that the folder's dossier.json is about. Raises DossierInvalid."""
    return read_dossier(_dossier(folder))[0]


def _dossier(folder: Path) -> bytes:
    data = _plain_bytes(folder / DOSSIER_NAME, DOCUMENT_BYTES_MAX)
    if data is None:
        raise DossierInvalid(DOSSIER_NAME, "a plain file of bounded size wanted; `zhiying review index` writes it")
    return data


def _named(top: Fields) -> Iterator[Named]:
    value = top.value("documents")
    names = tuple(sorted(value)) if isinstance(value, Mapping) else ()
    if len(names) > DOCUMENTS_MAX:
        raise Malformed("documents", f"at most {DOCUMENTS_MAX} wanted")
    inner = top.fields("documents", names)
    files: set[str] = set()
    for name in names:
        if not _NAME.fullmatch(name):
            raise Malformed("documents", "names of lower-case letters, digits and _ wanted")
        one = inner.fields(name, ("file", "digest"))
        file, digest = one.text("file", longest=90), one.text("digest", longest=71)
        if not _FILE.fullmatch(file) or file == DOSSIER_NAME or file in files:
            raise Malformed(one.path("file"), "the name of a plain file in this folder wanted, each file once")
        if name in _BY_NAME and file != _BY_NAME[name].file:
            raise Malformed(one.path("file"), f"{_BY_NAME[name].file} wanted")
        if not is_digest(digest):
            raise Malformed(one.path("digest"), '"sha256:" and 64 lower-case hexadecimal digits wanted')
        files.add(file)
        yield Named(name, file, digest)


def _look(
    folder: Path, today: date, installed: ModelRef | None, n_min: int
) -> tuple[bytes, tuple[Finding, ...], dict[str, bytes]]:
    dossier = _dossier(folder)
    model, documents = read_dossier(dossier)
    asked = Asked(model, today, n_min)
    named = {one.name: one for one in documents}
    files: dict[str, bytes] = {}
    found = [_same_model(model, installed)]
    for paper in PAPERS:
        found += _judged(folder, paper, named.get(paper.name), asked, files)
    for one in documents:
        if one.name not in _BY_NAME:
            found += _attachment(folder, one, files)
    if not {"registration", "protocol"} & named.keys():
        what = "add registration.json, or protocol.json for research in SHADOW"
        found.append(finding("SP-01", Outcome.MISSING, "registration", what))
    for stray in sorted(set(_present(folder)) - {one.file for one in documents}):
        what = (
            f"{papers.printable(stray)} lies in the folder and dossier.json does not name it: name it, or take it out"
        )
        found.append(finding("LC-01", Outcome.INVALID, DOSSIER_NAME, what))
    if sum(len(data) for data in files.values()) > TOTAL_BYTES_MAX:
        found.append(finding("LC-01", Outcome.INVALID, DOSSIER_NAME, f"more than {TOTAL_BYTES_MAX} bytes in all"))
    return dossier, tuple(sorted(found, key=lambda one: (one.control, one.document))), files


def _same_model(model: ModelRef, installed: ModelRef | None) -> Finding:
    if installed is None:
        what = "not compared: the model is not installed here"
        return finding("SE-04", Outcome.INSUFFICIENT, "model", what)
    if installed != model:
        what = f"the dossier is about {model.digest}, installed is {installed.digest}: other bytes are another model"
        return finding("SE-04", Outcome.INVALID, "model", what)
    return finding("SE-04", Outcome.OK, "model", "the installed model is the one that the dossier is about")


def _judged(
    folder: Path, paper: Paper, named: Named | None, asked: Asked, files: dict[str, bytes]
) -> Iterator[Finding]:
    if named is None:
        if paper.needed:
            yield finding(paper.control, Outcome.MISSING, paper.name, f"add {paper.file}: {paper.purpose}")
        elif paper.name == "sbom":
            what = f"no {paper.file}: {paper.purpose} is not part of this dossier"
            yield finding(paper.control, Outcome.INSUFFICIENT, paper.name, what)
        return
    data, wrong = _bytes_of(folder, named, ATTACHMENT_BYTES_MAX if paper.read is None else DOCUMENT_BYTES_MAX)
    if data is None:
        yield finding(paper.control, Outcome.INVALID, paper.name, wrong)
        return
    files[named.file] = data
    if paper.read is None:
        yield finding(paper.control, Outcome.OK, paper.name, f"{paper.purpose} is bound by its digest, and not read")
        return
    try:
        yield from tuple(paper.read(parse_json(data), asked))
    except Malformed as wrong_in:
        yield finding(paper.control, Outcome.INVALID, paper.name, f"{papers.printable(str(wrong_in))} ({paper.file})")


def _attachment(folder: Path, named: Named, files: dict[str, bytes]) -> Iterator[Finding]:
    data, wrong = _bytes_of(folder, named, ATTACHMENT_BYTES_MAX)
    if data is None:
        yield finding("LC-01", Outcome.INVALID, named.name, wrong)
    else:
        files[named.file] = data


def _bytes_of(folder: Path, named: Named, most: int) -> tuple[bytes | None, str]:
    data = _plain_bytes(folder / named.file, most)
    if data is None:
        return None, f"{named.file}: a plain file of at most {most} bytes wanted; it is missing, a link, or too large"
    if _digest(data) != named.digest:
        return None, f"{named.file}: its digest is {_digest(data)}, dossier.json names another (`zhiying review index`)"
    return data, ""


def _present(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.name != DOSSIER_NAME and not one.name.startswith("."))


def _plain_bytes(path: Path, most: int) -> bytes | None:
    """A plain file's bytes; None if it is missing, no plain file, or larger. A link is never followed."""
    try:
        # Opened first and looked at then, so that nobody can put another file there in between.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(handle)
    return data if len(data) <= most else None


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
