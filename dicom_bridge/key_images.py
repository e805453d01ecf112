"""The key images of one call, of whichever kinds its site has chosen, and what their files are called.

sc-NNN.dcm   a picture of segment NNN of the manifest (`keyimage`)
sc-000.dcm   the picture of a run without a finding, which has no segment (`no_finding`)
gsps.dcm     the presentation state (`presentation`)
kos.dcm      the key object selection (`key_objects`)
gsps.txt     in place of gsps.dcm: the code of why these slices can have none
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge import keyimage, uids
from dicom_bridge.key_kinds import KeyImage
from dicom_bridge.key_objects import write_key_objects
from dicom_bridge.no_finding import NUMBER, write_no_finding
from dicom_bridge.presentation import RESCALE_MIXED, write_presentation
from dicom_bridge.result_context import ResultContext
from dicom_bridge.unfit import OutputInvalid
from inference.types import Findings
from models.manifest import Manifest
from models.ref import ModelRef

SEGMENTS_MAX: Final = 255
"""Numbers of segments in a manifest, which begin at 1."""
UNMADE: Final = "gsps.txt"
"""Name of the file that says why there is no presentation state; it is no object, and is never sent."""
_PICTURE: Final = "sc-{:03d}"
_PICTURES: Final = "sc-[0-9][0-9][0-9].dcm"


def write(
    kinds: Collection[KeyImage],
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    voxels: NDArray[np.float32],
    context: ResultContext,
) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file, already through our own check. Where nothing is marked there is NO_FINDING's alone.

    A presentation state that these slices cannot have (RESCALE_MIXED) is left out; for it comes UNMADE, with the code.
    Raises OutputInvalid, CharsetRefused.
    """
    about = (findings, manifest, ref, sources)
    if KeyImage.SC in kinds:
        for segment, data in keyimage.write_key_images(*about, voxels, context):
            yield f"{_PICTURE.format(segment)}.dcm", data
    if KeyImage.NO_FINDING in kinds and (said := write_no_finding(*about, voxels, context)) is not None:
        yield f"{_PICTURE.format(NUMBER)}.dcm", said
    if KeyImage.GSPS in kinds:
        try:
            state = write_presentation(*about, voxels, context)
        except OutputInvalid as refused:
            # Of these images there is none, and all else is right. Any other code is a fault of ours, and ends the run.
            if refused.code != RESCALE_MIXED:
                raise
            yield UNMADE, refused.code.encode("ascii")
        else:
            if state is not None:
                yield "gsps.dcm", state
    if KeyImage.KOS in kinds and (selection := write_key_objects(*about, context)) is not None:
        yield "kos.dcm", selection


def files(folder: Path) -> list[Path]:
    """Those that a call's folder holds, in the order in which they are sent."""
    single = (folder / f"{kind.lower()}.dcm" for kind in (KeyImage.GSPS, KeyImage.KOS))
    return [*sorted(folder.glob(_PICTURES)), *(path for path in single if path.exists())]


def unmade(folder: Path) -> str | None:
    """The code of why a call's folder lacks a key image that its site wants; None where it lacks none."""
    try:
        return (folder / UNMADE).read_text(encoding="ascii")
    except FileNotFoundError:
        return None


def uid_parts(number: str) -> tuple[str, ...]:
    """What, after kind and call, the UID of a file is derived from; `number`: what its name says after a dash."""
    return keyimage.uid_parts(int(number)) if number else ()


def names(call: str) -> frozenset[str]:
    """The UIDs of all key images that a call can have."""
    pictures = (uids.derive(KeyImage.SC, call, *keyimage.uid_parts(n)) for n in range(NUMBER, SEGMENTS_MAX + 1))
    return frozenset((*pictures, uids.derive(KeyImage.GSPS, call), uids.derive(KeyImage.KOS, call)))
