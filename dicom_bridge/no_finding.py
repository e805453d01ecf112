"""A run without a finding -> one Secondary Capture that says so in words, for viewers that show no words of a report.

The picture of a finding (`keyimage`) without an outline: the slice that the report's image library names, the marking
above, and below it what the report's Qualitative Evaluations say (`statements`): that nothing was found, and of what;
or why nothing can be said. "No finding" stands only where all of the model came to a result. Scores are left to the
report: "absent" with a number beside it reads as half a finding.

Burnt in in English, in the site's language in Image Comments, for the reason of `key_picture`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_bridge.composite import part10
from dicom_bridge.key_image_validity import check_key_image
from dicom_bridge.key_picture import Picture, draw, wrapped
from dicom_bridge.keyimage import KIND, captured, link_lines, spacing_of, uid_parts, window_of
from dicom_bridge.result_context import MARKING, NO_FINDING, Algorithm, Language, ResultContext, link
from dicom_bridge.segmentation import drawn_segments, grid_shape
from dicom_bridge.statements import PRESENCES, Statement, reasons, stated, titles
from dicom_bridge.unfit import OutputInvalid
from inference.types import Findings
from models.codes import Code
from models.manifest import Manifest
from models.ref import ModelRef

NUMBER: Final = 0
"""In the place of a segment's number in the manifest, which begin at 1."""
_DERIVED_BY: Final = "Slice from the middle of what an AI analysed, enlarged, nothing outlined, with text burnt in. "
_NO_COLOUR: Final = (0, 32896, 32896)


def write_no_finding(
    findings: Findings,
    manifest: Manifest,
    ref: ModelRef,
    sources: Sequence[Dataset],
    voxels: NDArray[np.float32],
    context: ResultContext,
) -> bytes | None:
    """The picture as a Part 10 file, already through our own check; None: something was found, and nothing is to say.

    `sources`, `voxels` as for `write_key_images`. Raises OutputInvalid, CharsetRefused.
    """
    if findings.found:
        return None
    shape = grid_shape(sources)
    if voxels.shape != shape:
        raise OutputInvalid("GRID_MISMATCH", "the voxels are not those of the source's slices")
    algorithm = Algorithm.of(manifest, ref)
    said = stated(findings, drawn_segments(findings, manifest, shape), manifest)
    # The slice that the report's image library names where it has no mark to show.
    k = len(sources) // 2
    called = titles(manifest)
    written = {output: _written(title, output) for output, title in called.items()}
    words = [
        *_heading(findings, written, _written(manifest.title["en"], algorithm.name), "en-US"),
        *_of_each(said),
    ]
    picture = Picture(
        plane=voxels[k],
        mask=np.zeros(shape[1:], dtype=np.bool_),
        spacing=spacing_of(sources[k]),
        window=window_of(sources),
        colour_lab=_NO_COLOUR,
        above=[MARKING["en-US"]],
        # Below, all of it: see `keyimage.picture_of`.
        below=[
            *(line for text in words for line in wrapped(text)),
            f"Model {algorithm.name} {algorithm.version}",
            f"Slice {k + 1} of {len(sources)}, nothing outlined by AI",
            *link_lines(context.decide_at),
        ],
    )
    ds = captured(draw(picture), k, 1, manifest, algorithm, sources, context)
    language = context.site_language
    ds.DerivationDescription = _DERIVED_BY + MARKING[language]
    title, limits = manifest.title[context.text_language], manifest.limits_text[context.text_language]
    comments = [MARKING[language], limits, *_heading(findings, called, title, language)]
    comments += [f"{text}." for text in _of_each(said)]
    ds.ImageComments = " ".join(comments) + link(context).removeprefix(".")
    data = part10(ds, SecondaryCaptureImageStorage, context.uid(KIND, *uid_parts(NUMBER)))
    check_key_image(data, sources, outlined=False)
    return data


def _heading(findings: Findings, called: Mapping[str, str], title: str, language: Language) -> list[str]:
    """That the model found nothing; where it came to no whole result, why, in the report's words, and not that."""
    return reasons(findings, called, language) or [NO_FINDING[language].format(title=title)]


def _of_each(said: Sequence[Statement]) -> list[str]:
    """The names of the things that are absent, and of those that are undetermined, with their sites."""
    grouped: dict[str, list[str]] = {}
    for one in said:
        where = "" if one.site is None else f" ({_named(one.site)})"
        grouped.setdefault(PRESENCES[one.presence].meaning, []).append(_named(one.concept) + where)
    return [f"{presence}: {', '.join(names)}" for presence, names in grouped.items()]


def _named(code: Code) -> str:
    """In letters that the font has."""
    return _written(code.meaning, f"{code.scheme} {code.value}")


def _written(text: str, otherwise: str) -> str:
    return text if text.isascii() else otherwise
