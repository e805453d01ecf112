"""What a report says of the study as a whole: Qualitative Evaluations, TID 1500 row 12 (PS3.16).

The outcome (CID 6047), one statement of presence (CID 240) for each thing that the model looks for, by its name and
where it has one its site, why nothing more can be said, and the marking that no viewer may drop. Last, where the site
has it, the address at which a reader decides on the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dicom_bridge import content
from dicom_bridge.content import Item
from dicom_bridge.groups import FINDING_SITE, PRIVATE_SCHEME, score
from dicom_bridge.result_context import (
    DECIDE_AT,
    INCONCLUSIVE,
    MARKING,
    NOT_PERFORMED,
    PARTLY_FAILED,
    Language,
    ResultContext,
)
from dicom_bridge.segmentation import DrawnSegment
from dicom_bridge.unfit import OutputInvalid
from inference.types import FailedOutput, Findings, Presence
from models.codes import Code
from models.manifest import Manifest

_QUALITATIVE = Code("C0034375", "UMLS", "Qualitative Evaluations")
_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
_NONE_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")
# By whether something failed, and whether something was found.
_SUMMARIES: Final[Mapping[tuple[bool, bool], Code]] = {
    (False, True): Code("111242", "DCM", "All algorithms succeeded; with findings"),
    (False, False): Code("111241", "DCM", "All algorithms succeeded; without findings"),
    (True, True): Code("111244", "DCM", "Not all algorithms succeeded; with findings"),
    (True, False): Code("111243", "DCM", "Not all algorithms succeeded; without findings"),
}
_COMMENT = Code("121106", "DCM", "Comment")
PRESENCES: Final[Mapping[Presence, Code]] = {
    "PRESENT": Code("52101004", "SCT", "Present"),
    "ABSENT": Code("272519000", "SCT", "Absent"),
    "UNDETERMINED": Code("373068000", "SCT", "Undetermined"),
}
# CID 7150: only of something abnormal is presence a statement worth making; an organ is simply there.
_ABNORMAL: Final = "49755003"


@dataclass(frozen=True, slots=True)
class Statement:
    """That one thing is there, is not, or that nobody knows. `below`: what the report has under it (site, score)."""

    concept: Code
    presence: Presence
    site: Code | None = None
    below: tuple[Item, ...] = ()


def qualitative(
    findings: Findings,
    segments: Sequence[DrawnSegment],
    manifest: Manifest,
    context: ResultContext,
) -> Item:
    """The container of a model that ran.

    Raises OutputInvalid STATEMENT_UNKNOWN, STATEMENT_MISSING: the findings speak of a target that the manifest does not
    have, or are silent on one although nothing failed.
    """
    said = [
        content.code(content.CONTAINS, one.concept, PRESENCES[one.presence], one.below)
        for one in stated(findings, segments, manifest)
    ]
    language = context.site_language
    why = reasons(findings, titles(manifest), language)
    texts = [*why, MARKING[language], manifest.limits_text[context.text_language]]
    return _container(_SUMMARIES[bool(findings.failed), findings.found], said, texts, _decide_at(context))


def stated(findings: Findings, segments: Sequence[DrawnSegment], manifest: Manifest) -> list[Statement]:
    """What is said of each thing that the model looks for, in the report's order; raises as `qualitative`."""
    drawn = {segment.spec.number for segment in segments}
    silent_allowed = bool(findings.failed) or findings.inconclusive is not None
    return [
        *_of_segments(findings, drawn, manifest, silent_allowed=silent_allowed),
        *_of_detections(findings, manifest, silent_allowed=silent_allowed),
        *_of_classifications(findings, manifest, silent_allowed=silent_allowed),
    ]


def reasons(findings: Findings, called: Mapping[str, str], language: Language) -> list[str]:
    """Why nothing more can be said, a sentence or two each; none where all of the model came to a result.

    `called`: what a reader calls each output, by its name; an output that is not there is called by its name.
    """
    said = []
    if findings.inconclusive is not None:
        said.append(INCONCLUSIVE[language].format(code=findings.inconclusive))
    if findings.failed:
        codes = ", ".join(f"{one.code} ({called.get(one.output, one.output)})" for one in findings.failed)
        said.append(PARTLY_FAILED[language].format(codes=codes))
    return said


def titles(manifest: Manifest) -> dict[str, str]:
    """What a reader calls each output of a model, by the name that `Findings.failed` has for it."""
    return {
        **{f"segment:{one.number}": one.label for one in manifest.segments},
        **{f"classification:{one.id}": one.concept.meaning for one in manifest.classifications},
        **{f"detection:{one.id}": one.concept.meaning for one in manifest.detections},
        **{f"heat_map:{one.id}": one.label for one in manifest.heat_maps},
    }


def not_performed(code: str, context: ResultContext) -> Item:
    """The container of a model that did not run, and the code of why: no statement on the patient."""
    language = context.site_language
    return _container(_NONE_SUCCEEDED, (), [NOT_PERFORMED[language].format(code=code), MARKING[language]])


def completion_description(failed: Sequence[FailedOutput]) -> str:
    """Completion Flag Description (0040,A492), VR LO: the first reason, and how many more the comments name."""
    more = f" (+{len(failed) - 1})" if len(failed) > 1 else ""
    return f"Partly failed: {failed[0].code}{more}"


def _container(summary: Code, said: Sequence[Item], texts: Sequence[str], links: Sequence[Item] = ()) -> Item:
    comments = [content.text(content.CONTAINS, _COMMENT, text) for text in texts]
    return content.container(
        _QUALITATIVE, [content.code(content.CONTAINS, _SUMMARY, summary), *said, *comments, *links]
    )


def _decide_at(context: ResultContext) -> list[Item]:
    """The address alone is the text: whoever copies it, or a viewer that makes a link of it, has nothing to cut off."""
    if context.decide_at is None:
        return []
    # A name of its own, so that programs find it without reading comments; its meaning is in the site's language.
    name = Code("DECIDE_AT", PRIVATE_SCHEME, DECIDE_AT[context.site_language])
    return [content.text(content.CONTAINS, name, context.decide_at)]


def _of_segments(
    findings: Findings, drawn: set[int], manifest: Manifest, *, silent_allowed: bool
) -> Iterator[Statement]:
    """An abnormality with an empty mask is absent; one without a mask was not looked for, which is no absence."""
    masked = {segment.number for segment in findings.segments}
    abnormal = [spec for spec in manifest.segments if spec.category.value == _ABNORMAL]
    for kind in dict.fromkeys(spec.type for spec in abnormal):
        numbers = {spec.number for spec in abnormal if spec.type == kind}
        presence: Presence = "PRESENT" if numbers & drawn else "ABSENT" if numbers <= masked else "UNDETERMINED"
        if presence == "UNDETERMINED" and not silent_allowed:
            raise OutputInvalid("STATEMENT_MISSING", "a segment has no mask, not even an empty one")
        yield Statement(kind, presence)


def _of_detections(findings: Findings, manifest: Manifest, *, silent_allowed: bool) -> Iterator[Statement]:
    """No detection is absence only where all of the model ran: a part that failed may have been the one that looks."""
    found = {detection.id for detection in findings.detections}
    for target in dict.fromkeys((spec.concept, spec.site) for spec in manifest.detections):
        ids = {spec.id for spec in manifest.detections if (spec.concept, spec.site) == target}
        presence: Presence = "PRESENT" if ids & found else "UNDETERMINED" if silent_allowed else "ABSENT"
        concept, site = target
        where = content.code(content.MODIFIER, FINDING_SITE, site)
        yield Statement(concept, presence, site, (where,))


def _of_classifications(findings: Findings, manifest: Manifest, *, silent_allowed: bool) -> Iterator[Statement]:
    said = {one.id: one for one in findings.classifications}
    if said.keys() - {spec.id for spec in manifest.classifications}:
        raise OutputInvalid("STATEMENT_UNKNOWN", "a classification is not in the manifest")
    for spec in manifest.classifications:
        one = said.get(spec.id)
        if one is None and not silent_allowed:
            raise OutputInvalid("STATEMENT_MISSING", "a classification of the manifest is not stated")
        scored = (
            ()
            if one is None or one.score is None
            else (score(one.score, calibrated=spec.calibrated, relationship=content.PROPERTIES),)
        )
        yield Statement(spec.concept, "UNDETERMINED" if one is None else one.presence, below=scored)
