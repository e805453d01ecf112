"""Selection: each predicate by itself, named when it decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dicom_bridge.inbox import Inbox
from dicom_bridge.selection import (
    NO_MODEL_FITS,
    Choice,
    NoFit,
    Predicate,
    SeriesSummary,
    choose,
    explain,
    judge,
    summarise,
    summarise_headers,
)
from models.codes import Code, Range
from models.manifest import BundleSpec, InputContract, Manifest
from models.ref import ModelRef
from tests.simulators.received import Clock, received
from tests.simulators.series import make_slice

MR = "1.2.840.10008.5.1.4.1.1.4"
CT = "1.2.840.10008.5.1.4.1.1.2"

CONTRACT = InputContract(
    modality=("MR",),
    sop_classes=(MR,),
    body_part=("BRAIN", "HEAD"),
    description_any=("t1", "mprage"),
    image_type_excludes=("LOCALIZER", "DERIVED"),
    slices=Range(50, 400),
    slice_spacing_mm=Range(0.5, 2.0),
    pixel_spacing_mm=Range(0.5, 2.0),
    fov_mm=Range(100.0, 400.0),
)
SERIES = SeriesSummary(
    series_uid="1.2.3",
    modality="MR",
    sop_class=MR,
    body_part="BRAIN",
    description="Sag T1 MPRAGE",
    image_types=frozenset({("ORIGINAL", "PRIMARY", "M")}),
    series_number=3,
    count=190,
)


def model(name: str = "brain", version: str = "1.0.0") -> ModelRef:
    """Return a made-up model."""
    return ModelRef(name, version, "sha256:" + "0" * 64)


def manifest(contract: InputContract = CONTRACT) -> Manifest:
    """Return a manifest around a contract."""
    words = {"en": "x", "zh": "x"}
    return Manifest(
        name="brain",
        version="1.0.0",
        title=words,
        vendor="TEST",
        licence="MIT",
        intended_use=words,
        limits_text=words,
        algorithm_family=Code("123110", "DCM", "Artificial Intelligence"),
        input=contract,
        segments=(),
        measurements=(),
        bundle=BundleSpec("configs/inference.json", "configs/metadata.json"),
        deadline_s=60,
        max_autonomy="A1",
    )


def test_a_fitting_series_is_chosen() -> None:
    """Every predicate says yes: the series and the model."""
    assert choose([SERIES], {model(): manifest()}) == Choice("1.2.3", model())


@pytest.mark.parametrize(
    ("change", "predicate"),
    [
        ({"modality": "CT"}, Predicate.MODALITY),
        ({"modality": ""}, Predicate.MODALITY),
        ({"sop_class": CT}, Predicate.SOP_CLASS),
        ({"sop_class": ""}, Predicate.SOP_CLASS),
        ({"image_types": frozenset({("ORIGINAL", "PRIMARY", "LOCALIZER")})}, Predicate.IMAGE_TYPE),
        ({"image_types": frozenset({("ORIGINAL", "PRIMARY"), ("DERIVED", "SECONDARY")})}, Predicate.IMAGE_TYPE),
        ({"body_part": "CHEST"}, Predicate.BODY_PART),
        ({"description": "T2 FLAIR"}, Predicate.DESCRIPTION),
        ({"description": ""}, Predicate.DESCRIPTION),
        ({"count": 49}, Predicate.SLICES),
        ({"count": 401}, Predicate.SLICES),
        ({"count": 0}, Predicate.SLICES),
    ],
)
def test_each_predicate_decides_by_itself_and_is_named(change: dict[str, object], predicate: Predicate) -> None:
    """One thing wrong: no model fits, and the verdict names that one thing."""
    result = choose([replace(SERIES, **change)], {model(): manifest()})  # type: ignore[arg-type]
    assert isinstance(result, NoFit)
    assert result.code == NO_MODEL_FITS
    assert [(v.series_uid, v.decided_by, v.fits) for v in result.verdicts] == [("1.2.3", predicate, False)]


@pytest.mark.parametrize(
    "change",
    [
        {"description": "mprage"},
        {"description": "AX T1 +C"},
        {"body_part": "HEAD"},
        {"image_types": frozenset()},
        {"image_types": frozenset({()})},
        {"count": 50},
        {"count": 400},
        {"series_number": None},
    ],
)
def test_what_is_within_the_contract_fits(change: dict[str, object]) -> None:
    """Any of the words whatever their case, any of the body parts, both ends of the range."""
    assert judge(replace(SERIES, **change), model(), manifest()).fits  # type: ignore[arg-type]


def test_an_unknown_body_part_is_left_to_the_gate() -> None:
    """Not guessed and not passed over in silence: the gate refuses it with its own code."""
    assert judge(replace(SERIES, body_part=""), model(), manifest()).fits


def test_a_contract_without_words_takes_any_description() -> None:
    """Empty description_any means any, none included."""
    free = manifest(replace(CONTRACT, description_any=()))
    assert judge(replace(SERIES, description=""), model(), free).fits


def test_predicates_are_asked_in_their_order() -> None:
    """With several wrong, the first decides; so an explanation starts with the plainest reason."""
    wrong = replace(SERIES, modality="CT", sop_class=CT, body_part="CHEST", count=1)
    assert judge(wrong, model(), manifest()).decided_by is Predicate.MODALITY


def test_the_choice_does_not_depend_on_order() -> None:
    """The finer series wins, then the lower number, then the UID, in whatever order they came."""
    fine = replace(SERIES, series_uid="9", count=300, series_number=9)
    early = replace(SERIES, series_uid="8", count=190, series_number=2)
    late = replace(SERIES, series_uid="7", count=190, series_number=5)
    same = replace(SERIES, series_uid="6", count=190, series_number=5)
    chosen = []
    remaining = [late, fine, same, early]
    while remaining:
        forward, backward = choose(remaining, {model(): manifest()}), choose(remaining[::-1], {model(): manifest()})
        assert forward == backward
        assert isinstance(forward, Choice)
        chosen.append(forward.series_uid)
        remaining = [one for one in remaining if one.series_uid != forward.series_uid]
    assert chosen == ["9", "8", "6", "7"]


def test_every_pair_is_explained() -> None:
    """explain gives one verdict for each series and model."""
    chest = manifest(replace(CONTRACT, body_part=("CHEST",)))
    other = replace(SERIES, series_uid="1.2.4", body_part="CHEST")
    manifests = {model("chest"): chest, model("brain"): manifest()}
    verdicts = explain([SERIES, other], manifests)
    assert [(v.model.name, v.series_uid, v.decided_by) for v in verdicts] == [
        ("brain", "1.2.3", None),
        ("brain", "1.2.4", Predicate.BODY_PART),
        ("chest", "1.2.3", Predicate.BODY_PART),
        ("chest", "1.2.4", None),
    ]


def test_nothing_to_choose_from_is_no_fit() -> None:
    """No series, or no model: NO_MODEL_FITS, never an exception."""
    assert choose([], {model(): manifest()}) == NoFit(())
    assert choose([SERIES], {}) == NoFit(())


def test_a_study_is_summarised_from_the_index(tmp_path: Path) -> None:
    """Series by series, results left out, without opening a file; what differs within a series is not known."""
    inbox = Inbox(tmp_path / "inbox", Clock())
    for index in range(3):
        inbox.store(received(index), "A")
    localizer = make_slice(3)
    localizer.ImageType, localizer.BodyPartExamined = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "NECK"
    report = make_slice(4)
    report.Modality, report.SeriesInstanceUID = "SR", "2.25.5"
    inbox.store(received(ds=localizer), "A")
    inbox.store(received(ds=report), "A")
    instances = inbox.instances(localizer.StudyInstanceUID)
    for instance in instances:
        instance.path.unlink()
    (summary,) = summarise(instances)
    assert (summary.series_uid, summary.modality, summary.sop_class) == (localizer.SeriesInstanceUID, "MR", MR)
    assert (summary.body_part, summary.description, summary.count) == ("", "T1 3D phantom", 4)
    assert summary.image_types == {("ORIGINAL", "PRIMARY", "M"), ("ORIGINAL", "PRIMARY", "LOCALIZER")}
    inbox.close()


def test_headers_are_summarised_alike(tmp_path: Path) -> None:
    """From headers, as for a folder of files, the same summary comes out."""
    inbox = Inbox(tmp_path / "inbox", Clock())
    for index in range(3):
        inbox.store(received(index), "A")
    headers = [make_slice(index) for index in range(3)]
    assert summarise(inbox.instances(headers[0].StudyInstanceUID)) == (summarise_headers(headers),)
    with pytest.raises(ValueError, match="at least one"):
        summarise_headers([])
    inbox.close()
