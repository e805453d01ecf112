"""Rules and manifests in one language: each predicate by itself, what was seen and wanted, and what no rule may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dicom_bridge.rules import Criteria, Predicate, Rule, RuleInvalid, SeriesSummary, ask
from dicom_bridge.split import Key, Kind, Step
from models.codes import Range

MR = "1.2.840.10008.5.1.4.1.1.4"
SERIES = SeriesSummary(
    series_uid="1.2.3",
    modality="MR",
    sop_class=MR,
    body_part="BRAIN",
    description="Ax T1 MPRAGE",
    image_types=frozenset({("ORIGINAL", "PRIMARY", "M")}),
    series_number=3,
    count=190,
    protocol="头颅 Head^Routine",
    senders=frozenset({"MR3T"}),
    contrast=frozenset({False}),
    lossy=False,
    orientation="AXIAL",
    rows=256,
    columns=224,
    pixel_spacing_mm=(0.9, 1.1),
    slice_spacing_mm=1.0,
)
UNKNOWN = SeriesSummary("1.2.3", "", "", "", "", frozenset(), None, 0)
SECOND_ECHO = replace(
    SERIES, part="ECHO_TIME-2", label="ECHO_TIME=12.1", steps=(Step(Key.ECHO_TIME, "12.1", 2, 3),), ordinal=2, volumes=3
)

YES: list[tuple[Predicate, dict[str, Any]]] = [
    (Predicate.MODALITY, {"modality": ("CT", "MR")}),
    (Predicate.SOP_CLASS, {"sop_class": (MR,)}),
    (Predicate.IMAGE_TYPE, {"image_type_includes": ("ORIGINAL",), "image_type_excludes": ("LOCALIZER",)}),
    (Predicate.BODY_PART, {"body_part": ("HEAD", "BRAIN")}),
    (Predicate.DESCRIPTION, {"description_any": ("mprage", "spgr"), "description_none": ("T2",)}),
    (Predicate.PROTOCOL, {"protocol_any": ("头颅",)}),
    (Predicate.PROTOCOL, {"protocol_any": ("head^",)}),
    (Predicate.SENDER, {"sender": ("MR3T", "MR1T")}),
    (Predicate.CONTRAST, {"contrast": False}),
    (Predicate.LOSSY, {"lossy": False}),
    (Predicate.SLICES, {"slices": Range(190, 190)}),
    (Predicate.ORIENTATION, {"orientation": ("AXIAL",)}),
    (Predicate.MATRIX, {"rows": Range(256, 512), "columns": Range(200, 224)}),
    (Predicate.PIXEL_SPACING, {"pixel_spacing_mm": Range(0.9, 1.1)}),
    (Predicate.SLICE_SPACING, {"slice_spacing_mm": Range(0.5, 0.99995)}),
]
NO: list[tuple[Predicate, dict[str, Any], str, str]] = [
    (Predicate.MODALITY, {"modality": ("CT",)}, "MR", "CT"),
    (Predicate.SOP_CLASS, {"sop_class": ("1.2",)}, MR, "1.2"),
    (Predicate.IMAGE_TYPE, {"image_type_includes": ("FFE",)}, "ORIGINAL\\PRIMARY\\M", "one of FFE"),
    (Predicate.IMAGE_TYPE, {"image_type_excludes": ("M", "MIP")}, "ORIGINAL\\PRIMARY\\M", "none of M, MIP"),
    (Predicate.BODY_PART, {"body_part": ("CHEST",)}, "BRAIN", "CHEST"),
    (Predicate.DESCRIPTION, {"description_any": ("T2",)}, "Ax T1 MPRAGE", "one of T2"),
    (Predicate.DESCRIPTION, {"description_none": ("t1",)}, "Ax T1 MPRAGE", "nothing of t1"),
    (Predicate.PROTOCOL, {"protocol_any": ("spine",)}, "头颅 Head^Routine", "one of spine"),
    (Predicate.SENDER, {"sender": ("MR1T",)}, "MR3T", "MR1T"),
    (Predicate.CONTRAST, {"contrast": True}, "no agent is named", "an agent is named"),
    (Predicate.SLICES, {"slices": Range(200, 400)}, "190", "200 to 400"),
    (Predicate.ORIENTATION, {"orientation": ("SAGITTAL", "CORONAL")}, "AXIAL", "SAGITTAL or CORONAL"),
    (Predicate.MATRIX, {"rows": Range(512, 512)}, "256 rows", "512 to 512 rows"),
    (Predicate.MATRIX, {"rows": Range(1, 512), "columns": Range(1, 200)}, "224 columns", "1 to 200 columns"),
    (Predicate.PIXEL_SPACING, {"pixel_spacing_mm": Range(0.2, 1.0)}, "1.1 mm", "0.2 to 1 mm"),
    (Predicate.SLICE_SPACING, {"slice_spacing_mm": Range(0.2, 0.9)}, "1 mm", "0.2 to 0.9 mm"),
]


@pytest.mark.parametrize(("predicate", "wanted"), YES)
def test_what_is_wanted_and_there_holds(predicate: Predicate, wanted: dict[str, Any]) -> None:
    """Lists mean any of them, ranges hold their ends (and a rounding), text is found whatever its case."""
    answer = ask(predicate, SERIES, Criteria(**wanted))
    assert answer is not None
    assert answer.holds is True


@pytest.mark.parametrize(("predicate", "wanted", "observed", "words"), NO)
def test_what_is_not_there_says_what_was_seen_and_wanted(
    predicate: Predicate, wanted: dict[str, Any], observed: str, words: str
) -> None:
    """The person who reads it needs both."""
    answer = ask(predicate, SERIES, Criteria(**wanted))
    assert answer is not None
    assert (answer.holds, answer.observed, answer.wanted) == (False, observed, words)


@pytest.mark.parametrize("predicate", [p for p in Predicate if p not in (Predicate.KIND, Predicate.GEOMETRY)])
def test_what_is_not_wanted_is_not_asked(predicate: Predicate) -> None:
    """Empty criteria ask nothing of anything, not even of a series of which nothing is known."""
    assert ask(predicate, SERIES, Criteria()) is None
    assert ask(predicate, UNKNOWN, Criteria()) is None


@pytest.mark.parametrize(
    ("predicate", "wanted"),
    [
        (Predicate.IMAGE_TYPE, {"image_type_includes": ("ORIGINAL",)}),
        (Predicate.BODY_PART, {"body_part": ("BRAIN",)}),
        (Predicate.SENDER, {"sender": ("MR3T",)}),
        (Predicate.CONTRAST, {"contrast": False}),
        (Predicate.LOSSY, {"lossy": False}),
        (Predicate.ORIENTATION, {"orientation": ("AXIAL",)}),
        (Predicate.MATRIX, {"rows": Range(1, 9), "columns": Range(1, 9)}),
        (Predicate.PIXEL_SPACING, {"pixel_spacing_mm": Range(0.2, 1.0)}),
        (Predicate.SLICE_SPACING, {"slice_spacing_mm": Range(0.2, 1.0)}),
    ],
)
def test_what_is_not_known_is_neither_yes_nor_no(predicate: Predicate, wanted: dict[str, Any]) -> None:
    """Absence is no value: the one who asks decides what it means."""
    answer = ask(predicate, UNKNOWN, Criteria(**wanted))
    assert answer is not None
    assert answer.holds is None


def test_contrast_of_some_images_is_neither() -> None:
    """A series with agent in half of its images is no series with contrast, and none without."""
    mixed = replace(SERIES, contrast=frozenset({True, False}))
    for wanted in (True, False):
        answer = ask(Predicate.CONTRAST, mixed, Criteria(contrast=wanted))
        assert answer is not None
        assert (answer.holds, answer.observed) == (False, "of some images")


def test_one_image_of_another_type_is_enough_to_exclude() -> None:
    """Every image counts: includes must hold of each, excludes of none."""
    mixed = replace(SERIES, image_types=frozenset({("ORIGINAL", "PRIMARY"), ("DERIVED", "PRIMARY", "MPR")}))
    for wanted in (Criteria(image_type_includes=("ORIGINAL",)), Criteria(image_type_excludes=("MPR",))):
        answer = ask(Predicate.IMAGE_TYPE, mixed, wanted)
        assert answer is not None
        assert answer.holds is False


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.VOLUME])
def test_images_that_are_no_volume_are_named_by_kind(kind: Kind) -> None:
    """Localizers, dose sheets, projections: each under its own name."""
    answer = ask(Predicate.KIND, replace(SERIES, kind=kind), Criteria())
    assert answer is not None
    assert (answer.holds, answer.observed) == (False, kind.value)


def test_a_model_for_projections_names_them() -> None:
    """image_type_includes lets in what it names, and nothing else of other kinds."""
    mips = replace(SERIES, kind=Kind.PROJECTION, image_types=frozenset({("DERIVED", "PRIMARY", "MIP")}))
    named = ask(Predicate.KIND, mips, Criteria(image_type_includes=("MIP",)))
    other = ask(Predicate.KIND, mips, Criteria(image_type_includes=("DERIVED",)))
    assert named is not None
    assert other is not None
    assert (named.holds, other.holds) == (True, False)


@pytest.mark.parametrize(
    ("part", "holds"),
    [
        ("first", False),
        ("last", False),
        ("ECHO_TIME=12.1", True),
        ("ECHO_TIME=12.10", True),
        ("ECHO_TIME=4.6", False),
        ("B_VALUE=12.1", False),
    ],
)
def test_a_part_is_picked_by_place_or_by_value(part: str, holds: bool) -> None:
    """The second of three echoes is neither first nor last; numbers are equal as numbers."""
    answer = ask(Predicate.PART, SECOND_ECHO, Criteria(part=part))
    assert answer is not None
    assert (answer.holds, answer.observed) == (holds, "ECHO_TIME=12.1 (volume 2 of 3)")


def test_a_series_of_one_volume_has_no_part_to_pick() -> None:
    """`part` chooses among several; it excludes no series that has one."""
    assert ask(Predicate.PART, SERIES, Criteria(part="last")) is None


def test_the_ends_of_a_series_are_its_first_and_last() -> None:
    """Ordinals count from 1 to the number of volumes."""
    for ordinal, part in ((1, "first"), (3, "last")):
        answer = ask(Predicate.PART, replace(SECOND_ECHO, ordinal=ordinal), Criteria(part=part))
        assert answer is not None
        assert answer.holds


# -- what a rule may be

PLAIN: dict[str, Any] = {"name": "brain", "model": "brain-extraction-t1"}


def test_a_rule_is_made_of_a_table_of_the_configuration() -> None:
    """Lists and pairs of TOML become tuples and ranges; what is None is not wanted."""
    rule = Rule.of(
        PLAIN
        | {
            "urgent": True,
            "modality": ["MR"],
            "slices": [60, 400],
            "rows": (128, 512),
            "slice_spacing_mm": None,
            "contrast": False,
            "part": "B_VALUE=0",
            "description_any": [],
        }
    )
    assert rule == Rule(
        name="brain",
        model="brain-extraction-t1",
        urgent=True,
        modality=("MR",),
        slices=Range(60, 400),
        rows=Range(128, 512),
        contrast=False,
        part="B_VALUE=0",
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "测试"},
        {"model": ""},
        {"model": "a/b/c"},
        {"modality": ["mr"]},
        {"sop_class": ["MR Image Storage"]},
        {"body_part": ["brain"]},
        {"image_type_excludes": ["A\\B"]},
        {"description_any": [""]},
        {"description_none": ["x" * 65]},
        {"protocol_any": ["x"] * 65},
        {"orientation": ["AXIAL", "ROUND"]},
        {"sender": ["A\\B"]},
        {"sender": ["longer than sixteen characters"]},
        {"part": "second"},
        {"part": "PHASE=2"},
        {"part": "ECHO_TIME="},
        {"slices": [400, 60]},
        {"slices": [60]},
        {"pixel_spacing_mm": [0.1, float("nan")]},
        {"colour": ["red"]},
    ],
)
def test_what_is_no_rule_is_refused(wrong: dict[str, Any]) -> None:
    """When the configuration is read, not when the first study comes."""
    with pytest.raises(RuleInvalid) as refused:
        Rule.of(PLAIN | wrong)
    assert refused.value.code == "RULE_INVALID"


def test_every_key_of_division_can_be_named_in_a_part() -> None:
    """Whatever tells volumes apart can pick one."""
    for key in Key:
        assert Rule.of(PLAIN | {"part": f"{key}=1"}).part == f"{key}=1"
