"""What a model says in words and places rather than outlines: specifications of detections and classifications."""

from dataclasses import dataclass

from models.codes import Code
from models.strict import Fields, Malformed


@dataclass(frozen=True, slots=True)
class DetectionSpec:
    """One kind of thing that the model looks for, each found one with its place and score.

    Attributes:
        concept, category, site: what it is, CID 7150, and where in the body it is looked for.
        calibrated: whether a score is a probability; otherwise it is shown as a model's score and never called one.
        threshold: the lowest score that counts as found, 0 to 1.
    """

    id: str
    concept: Code
    category: Code
    site: Code
    calibrated: bool
    threshold: float


@dataclass(frozen=True, slots=True)
class ClassificationSpec:
    """One thing of which the model says whether the study shows it; `calibrated` as in DetectionSpec.

    absent_below, present_from: what a score of 0 to 1 comes to. Below the first the thing is ABSENT, from the second on
        PRESENT, between them UNDETERMINED; where they are equal nothing is left open. With 0 nothing is ever ABSENT.
    """

    id: str
    concept: Code
    calibrated: bool
    absent_below: float
    present_from: float


def read_detection(value: object, path: str) -> DetectionSpec:
    """One item of the manifest's `detections`. Raises Malformed."""
    one = Fields(value, path, DetectionSpec.__slots__)
    return DetectionSpec(
        id=one.word("id"),
        concept=one.code("concept"),
        category=one.code("category"),
        site=one.code("site"),
        calibrated=one.boolean("calibrated"),
        threshold=one.number("threshold", 0.0, 1.0),
    )


def read_classification(value: object, path: str) -> ClassificationSpec:
    """One item of the manifest's `classifications`. Raises Malformed."""
    one = Fields(value, path, ClassificationSpec.__slots__)
    absent_below, present_from = (one.number(key, 0.0, 1.0) for key in ("absent_below", "present_from"))
    # From 0 on, everything would be PRESENT whatever the model answers.
    if not 0.0 < present_from >= absent_below:
        raise Malformed(one.path("present_from"), "above 0, and not below absent_below, wanted")
    return ClassificationSpec(
        id=one.word("id"),
        concept=one.code("concept"),
        calibrated=one.boolean("calibrated"),
        absent_below=absent_below,
        present_from=present_from,
    )
