"""A labelled local set: a folder with dataset.json, images and masks. Strictly read, and named by a digest over it all.

{"schema": "zhiying.dataset/1", "id": "...", "task": "SEGMENTATION" | "CLASSIFICATION", "segment": 1 | null,
 "classification": "..." (may be left out: which of the model's the truths are of),
 "rights": "sha256:... of the statement by which the hospital may use these images for this",
 "cases": [{"id": "...", "folder": "...", "truth": "PRESENT" | "ABSENT" | null, "mask": "..." | null,
            "volume_cm3": "1234.5" | null}, ...]}

A case's id and its folder are for the hospital's own eyes: no entry, report or log line repeats them.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from models.ref import is_digest, is_member_path
from models.strict import Fields, Malformed, parse_json
from service.errors import DatasetInvalid

SCHEMA: Final = "zhiying.dataset/1"
FILE: Final = "dataset.json"
TASKS: Final = ("SEGMENTATION", "CLASSIFICATION")
CASES_MAX: Final = 5_000
"""Far above what anybody outlines by hand; a run of so many takes days."""
SEGMENT_MAX: Final = 255

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VOLUME: Final = re.compile(r"(0|[1-9][0-9]{0,5})(\.[0-9]{1,3})?")
_CASE_KEYS: Final = ("id", "folder", "truth", "mask", "volume_cm3")
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LabelledCase:
    """One case. `folder` holds one study; `truth`: PRESENT, ABSENT or None; `mask`: of the segment, on the images'
    own grid; `volume_cm3`: of the segment, above 0.
    """

    id: str
    folder: Path
    truth: str | None
    mask: Path | None
    volume_cm3: Fraction | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset as its file describes it. `segment`: which of the model's the masks and volumes are of.

    classification: which of the model's the truths are of; None: whether it draws or detects anything at all.
    """

    root: Path
    id: str
    task: str
    segment: int | None
    rights: str
    cases: tuple[LabelledCase, ...]
    classification: str | None = None

    def digest(self) -> str:
        """ "sha256:..." over dataset.json, every file of every case and every mask, by name and content."""
        lines = [f"{_digest(path)}  {path.relative_to(self.root).as_posix()}\n" for path in sorted(set(self._files()))]
        return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"

    def _files(self) -> Iterator[Path]:
        yield self.root / FILE
        for case in self.cases:
            yield from files_of(case)
            if case.mask is not None:
                yield case.mask


def files_of(case: LabelledCase) -> tuple[Path, ...]:
    """Every file of the case's folder, in the order of their names."""
    return tuple(sorted(path for path in case.folder.rglob("*") if path.is_file()))


def read(root: Path) -> Dataset:
    """The dataset in this folder. Raises DatasetInvalid, whose message names the key; OSError."""
    try:
        return _dataset(root, parse_json((root / FILE).read_bytes()))
    except FileNotFoundError:
        raise DatasetInvalid(f"{root} holds no {FILE}") from None
    except Malformed as wrong:
        raise DatasetInvalid(f"{FILE}: {wrong.where}: {wrong.what}") from None


def _dataset(root: Path, value: object) -> Dataset:
    top = Fields(value, "", ("schema", "id", "task", "segment", "rights", "cases"), ("classification",))
    top.choice("schema", (SCHEMA,))
    task = top.choice("task", TASKS)
    segment = None if top.value("segment") is None else top.integer("segment", 1, SEGMENT_MAX)
    if (segment is None) is (task == "SEGMENTATION"):
        raise Malformed("segment", "the model's segment for SEGMENTATION, null for CLASSIFICATION wanted")
    classification = top.word("classification") if top.has("classification") else None
    if classification is not None and task != "CLASSIFICATION":
        raise Malformed("classification", "only of CLASSIFICATION")
    rights = top.text("rights", longest=71)
    if not is_digest(rights):
        raise Malformed("rights", "sha256 digest of the statement wanted")
    cases = top.items("cases", lambda item, path: _case(root, item, path, task), most=CASES_MAX)
    for name in ("id", "folder"):
        if len({getattr(case, name) for case in cases}) != len(cases):
            raise Malformed("cases", f"two cases have one {name}")
    return Dataset(root, _id(top), task, segment, rights, cases, classification)


def _case(root: Path, item: object, path: str, task: str) -> LabelledCase:
    fields = Fields(item, path, _CASE_KEYS)
    folder = root / _member(fields, "folder")
    mask = None if fields.value("mask") is None else root / _member(fields, "mask")
    if not folder.is_dir():
        raise Malformed(fields.path("folder"), "no such folder")
    if mask is not None and not mask.is_file():
        raise Malformed(fields.path("mask"), "no such file")
    truth = None if fields.value("truth") is None else fields.choice("truth", ("PRESENT", "ABSENT"))
    volume = _volume(fields)
    if task == "CLASSIFICATION" and (truth is None or mask is not None or volume is not None):
        raise Malformed(path, "a truth, and neither mask nor volume, wanted for CLASSIFICATION")
    if truth is None and mask is None and volume is None:
        raise Malformed(path, "a case without any label")
    return LabelledCase(_id(fields), folder, truth, mask, volume)


def _id(fields: Fields) -> str:
    text = fields.text("id", longest=64)
    if not _ID.fullmatch(text):
        raise Malformed(fields.path("id"), "letters, digits and . _ - wanted, 64 at most")
    return text


def _member(fields: Fields, key: str) -> str:
    text = fields.text(key, longest=256)
    if not is_member_path(text):
        raise Malformed(fields.path(key), "a path inside the dataset wanted, of letters, digits and . _ -")
    return text


def _volume(fields: Fields) -> Fraction | None:
    if fields.value("volume_cm3") is None:
        return None
    text = fields.text("volume_cm3", longest=12)
    if not _VOLUME.fullmatch(text) or not Fraction(text):
        raise Malformed(fields.path("volume_cm3"), 'cm3 as text above 0 wanted, such as "1234.5", or null')
    return Fraction(text)


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            total.update(data)
    return total.hexdigest()
