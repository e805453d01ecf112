"""Selection: each predicate by itself, named when it decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dicom_bridge.inbox import Inbox
from dicom_bridge.rules import Predicate, Rule, SeriesSummary
from dicom_bridge.selection import (
    NO_MODEL_FITS,
    NO_RULE_MATCHES,
    Choice,
    NoFit,
    choose,
    choose_all,
    explain,
    judge,
    summarise,
    urgent,
)
from dicom_bridge.split import Key, Kind, Step
from dicom_bridge.spool_index import Instance
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


# -- rules

OTHER = replace(SERIES, series_uid="1.2.9", count=120, series_number=9, senders=frozenset({"CT1"}))


def rule(name: str = "one", to: str = "brain", **wanted: object) -> Rule:
    """Return a rule of the site."""
    return Rule.of({"name": name, "model": to} | wanted)


def test_without_rules_the_manifest_alone_decides() -> None:
    """No rule is no restriction."""
    choice = choose([SERIES], {model(): manifest()}, ())
    assert choice == Choice("1.2.3", model(), rule="", urgent=False)


def test_a_rule_restricts_what_the_manifest_takes() -> None:
    """Two series fit the model; the rule takes the one of its sender, though the other has more slices."""
    choice = choose([SERIES, OTHER], {model(): manifest()}, [rule(sender=["CT1"], urgent=True)])
    assert choice == Choice("1.2.9", model(), rule="one", urgent=True)


def test_a_rule_never_widens_what_the_manifest_takes() -> None:
    """What the model was not made for does not run, whatever the site asks for."""
    chest = replace(SERIES, body_part="CHEST")
    result = choose([chest], {model(): manifest()}, [rule(body_part=["CHEST"])])
    assert isinstance(result, NoFit)
    assert result.code == NO_RULE_MATCHES
    assert [(v.decided_by, v.asked_by, v.observed) for v in result.verdicts] == [
        (Predicate.BODY_PART, "manifest", "CHEST")
    ]


def test_the_first_rule_in_the_sites_order_wins() -> None:
    """Both rules fit; neither the models' names nor the rules' decide, only their order."""
    models = {model("brain"): manifest(), model("zebra"): manifest()}
    first, second = rule("z", "zebra"), rule("a", "brain")
    for rules, wanted in (([first, second], "zebra"), ([second, first], "brain")):
        choice = choose([SERIES], models, rules)
        assert isinstance(choice, Choice)
        assert choice.model.name == wanted


MODELS = {model(): manifest(), model("chest"): manifest(replace(CONTRACT, body_part=("CHEST",)))} | {
    model("head", version): manifest() for version in ("1.0.0", "2.0.0")
}


def test_each_model_that_fits_is_chosen_once() -> None:
    """Without rules all of them, every version, each with the series that suits it best; by name and version."""
    result = choose_all([SERIES, OTHER], MODELS)
    assert result == tuple(Choice("1.2.3", ref) for ref in (model(), model("head"), model("head", "2.0.0")))
    assert choose([SERIES, OTHER], MODELS) == Choice("1.2.3", model())


def test_of_two_series_each_model_gets_its_own() -> None:
    """Which series is chosen is each model's matter: one chest, one brain, in the models' order."""
    chest = replace(OTHER, body_part="CHEST")
    found = choose_all([chest, SERIES], {ref: MODELS[ref] for ref in (model(), model("chest"))})
    assert found == (Choice("1.2.3", model()), Choice("1.2.9", model("chest")))


def test_for_each_model_the_first_rule_that_fits_wins() -> None:
    """In the site's order; a second rule for the same model adds nothing, one that fits nothing is passed over."""
    rules = [rule("z", "head/2.0.0", sender=["CT1"]), rule("no", "brain", modality=["CT"])]
    rules += [rule("y", "brain", urgent=True), rule("x", "head/2.0.0"), rule("w", "brain", sender=["CT1"])]
    assert choose_all([SERIES, OTHER], MODELS, rules) == (
        Choice("1.2.9", model("head", "2.0.0"), rule="z"),
        Choice("1.2.3", model(), rule="y", urgent=True),
    )


@pytest.mark.parametrize("place", range(4))
def test_after_a_final_rule_none_is_asked(place: int) -> None:
    """Where it takes a series: the rules up to it count, with every version that it names; else it ends nothing."""
    rules = [rule("0", "head"), rule("1", "brain"), rule("2", "chest"), rule("3", "brain/1.0.0")]
    rules[place] = replace(rules[place], final=True)
    heads = [Choice("1.2.3", model("head", version), rule="0") for version in ("1.0.0", "2.0.0")]
    wanted = heads if place == 0 else [*heads, Choice("1.2.3", model(), rule="1")]
    assert choose_all([SERIES], MODELS, rules) == tuple(wanted)


def test_what_nearly_fits_is_read_only_where_nothing_fits() -> None:
    """A model that only the spacing stops says so by its refusal, once for a study; beside one that runs, nothing."""
    strict = {model(name): manifest(replace(CONTRACT, slice_spacing_mm=Range(0.5, 1.0))) for name in ("a", "b")}
    thick = replace(SERIES, slice_spacing_mm=1.5)
    assert choose_all([thick], strict) == (Choice("1.2.3", model("a")),)
    assert choose_all([thick], strict | {model("c"): manifest()}) == (Choice("1.2.3", model("c")),)


def test_a_rule_may_name_one_version() -> None:
    """name/version is that version alone."""
    models = {model(version="1.0.0"): manifest(), model(version="2.0.0"): manifest()}
    choice = choose([SERIES], models, [rule(to="brain/2.0.0")])
    assert isinstance(choice, Choice)
    assert choice.model.version == "2.0.0"


def test_a_study_that_no_rule_matches_is_shown_as_such() -> None:
    """NO_RULE_MATCHES, with the predicate that decided for each series, what was seen and what was wanted."""
    result = choose([SERIES, OTHER], {model(): manifest()}, [rule(sender=["US"]), rule("two", modality=["CT"])])
    assert isinstance(result, NoFit)
    assert result.code == NO_RULE_MATCHES
    assert [(v.rule, v.series_uid, v.decided_by, v.asked_by, v.observed, v.wanted) for v in result.verdicts] == [
        ("one", "1.2.3", Predicate.SENDER, "rule", "", "US"),
        ("one", "1.2.9", Predicate.SENDER, "rule", "CT1", "US"),
        ("two", "1.2.3", Predicate.MODALITY, "rule", "MR", "CT"),
        ("two", "1.2.9", Predicate.MODALITY, "rule", "MR", "CT"),
    ]
    assert result.farthest == result.verdicts[0]


def test_a_rule_for_a_model_that_is_not_here_says_so() -> None:
    """A name that is not installed decides by MODEL, for every series."""
    result = choose([SERIES], {model(): manifest()}, [rule(to="absent")])
    assert isinstance(result, NoFit)
    (verdict,) = result.verdicts
    assert (verdict.decided_by, verdict.model, verdict.wanted) == (Predicate.MODEL, None, "absent")


@pytest.mark.parametrize(
    "wanted",
    [
        {"body_part": ["BRAIN"]},
        {"contrast": False},
        {"orientation": ["AXIAL"]},
        {"slice_spacing_mm": [0.5, 2.0]},
        {"rows": [1, 512]},
        {"sender": ["CT1"]},
    ],
)
def test_what_is_not_known_does_not_meet_a_rule(wanted: dict[str, object]) -> None:
    """A rule is a choice of the site's: it takes what is so, not what might be."""
    bare = replace(SERIES, body_part="")
    result = choose([bare], {model(): manifest()}, [rule(**wanted)])
    assert isinstance(result, NoFit)
    assert result.verdicts[0].asked_by == "rule"


# -- several volumes, and what reading must refuse


def echoes(count: int = 3) -> list[SeriesSummary]:
    """Return the volumes of one series of several echoes."""
    return [
        replace(
            SERIES,
            part=f"ECHO_TIME-{n}",
            label=f"ECHO_TIME={n}",
            steps=(Step(Key.ECHO_TIME, str(n), n, count),),
            ordinal=n,
            volumes=count,
        )
        for n in range(1, count + 1)
    ]


def test_volumes_that_fit_alike_stop_each_other() -> None:
    """Which echo would be meant is not guessed: the load is told none, and refuses it as AMBIGUOUS_VOLUMES."""
    verdicts = explain(echoes(), {model(): manifest()})
    assert [verdict.decided_by for verdict in verdicts] == [Predicate.ONE_VOLUME] * 3
    assert choose(echoes(), {model(): manifest()}) == Choice("1.2.3", model(), part="")


@pytest.mark.parametrize(("part", "number"), [("first", 1), ("last", 3), ("ECHO_TIME=2", 2)])
def test_a_rule_picks_one_volume(part: str, number: int) -> None:
    """By place or by value."""
    choice = choose(echoes(), {model(): manifest()}, [rule(part=part)])
    assert choice == Choice("1.2.3", model(), part=f"ECHO_TIME-{number}", rule="one")


def test_a_manifest_picks_one_volume() -> None:
    """A model made for the first echo says so itself."""
    first = manifest(replace(CONTRACT, part="first"))
    assert choose(echoes(), {model(): first}) == Choice("1.2.3", model(), part="ECHO_TIME-1")


def test_another_series_is_no_ambiguity() -> None:
    """A series of one volume fits beside one of three: it runs."""
    plain = replace(SERIES, series_uid="1.2.8", count=60)
    assert choose([*echoes(), plain], {model(): manifest()}) == Choice("1.2.8", model())


def test_volumes_that_do_not_fit_do_not_make_others_ambiguous() -> None:
    """One of the volumes has enough slices: it is the one."""
    one, two, three = echoes()
    few = [replace(one, count=10), two, replace(three, count=10)]
    assert choose(few, {model(): manifest()}) == Choice("1.2.3", model(), part="ECHO_TIME-2")


@pytest.mark.parametrize(
    "change", [{"refused": "GANTRY_TILT"}, {"slice_spacing_mm": 5.0}, {"pixel_spacing_mm": (3.0, 3.0)}]
)
def test_a_series_that_only_its_geometry_stops_goes_on_to_be_refused_with_its_own_code(
    change: dict[str, object],
) -> None:
    """Nothing else fits: the exact reason is worth more than NO_MODEL_FITS. Something fits: that runs."""
    bent = replace(SERIES, **change)  # type: ignore[arg-type]
    assert choose([bent], {model(): manifest()}) == Choice("1.2.3", model())
    assert choose([bent], {model(): manifest()}, [rule()]) == Choice("1.2.3", model(), rule="one")
    plain = replace(SERIES, series_uid="1.2.8", count=60, slice_spacing_mm=1.0)
    assert choose([bent, plain], {model(): manifest()}) == Choice("1.2.8", model())


def test_a_spacing_that_a_rule_refuses_is_refused_by_the_rule() -> None:
    """The site's own limit is no matter for the model's checks."""
    result = choose([replace(SERIES, slice_spacing_mm=1.5)], {model(): manifest()}, [rule(slice_spacing_mm=[0.5, 1])])
    assert isinstance(result, NoFit)
    assert result.farthest is not None
    assert (result.farthest.decided_by, result.farthest.observed) == (Predicate.SLICE_SPACING, "1.5 mm")


@pytest.mark.parametrize(
    ("contract", "change", "predicate"),
    [
        ({"protocol_any": ("head",)}, {"protocol": "Spine"}, Predicate.PROTOCOL),
        ({"rows": Range(512, 512), "columns": Range(512, 512)}, {"rows": 256, "columns": 512}, Predicate.MATRIX),
        ({"orientation": ("AXIAL",)}, {"orientation": "SAGITTAL"}, Predicate.ORIENTATION),
        ({"contrast": True}, {"contrast": frozenset({False})}, Predicate.CONTRAST),
        ({"lossy": False}, {"lossy": True}, Predicate.LOSSY),
        ({"image_type_includes": ("FFE",)}, {}, Predicate.IMAGE_TYPE),
        ({}, {"kind": Kind.DOSE_SHEET}, Predicate.KIND),
    ],
)
def test_the_manifests_newer_keys_decide_too(
    contract: dict[str, object], change: dict[str, object], predicate: Predicate
) -> None:
    """Each by itself; a manifest without the key does not ask."""
    series = replace(SERIES, **change)  # type: ignore[arg-type]
    asking = manifest(replace(CONTRACT, **contract))  # type: ignore[arg-type]
    verdict = judge(series, model(), asking)
    assert (verdict.decided_by, verdict.asked_by) == (predicate, "series" if predicate == "KIND" else "manifest")
    if contract:
        assert judge(series, model(), manifest()).fits


# -- urgency


def held(tmp_path: Path, **options: str) -> tuple[Instance, ...]:
    """Return the instances of a study as the index has them."""
    inbox = Inbox(tmp_path / "inbox", Clock())
    inbox.store(received(0, **options), "ER-CT")
    instances = inbox.instances(make_slice(0).StudyInstanceUID)
    inbox.close()
    return instances


@pytest.mark.parametrize(
    ("wanted", "hurries"),
    [
        ({"sender": ["ER-CT"]}, True),
        ({"sender": ["WARD"]}, False),
        ({"modality": ["MR"], "description_any": ["phantom"]}, True),
        ({"modality": ["CT"]}, False),
        ({"description_none": ["phantom"]}, False),
        ({"orientation": ["SAGITTAL"], "slices": [500, 600]}, True),
    ],
)
def test_an_urgent_rule_is_known_before_anything_is_read(
    tmp_path: Path, wanted: dict[str, object], hurries: bool
) -> None:
    """By what the index knows; what it does not know may well be so, and a study is never slowed down by it."""
    instances = held(tmp_path)
    assert urgent(instances, [rule(**wanted, urgent=True)]) is hurries
    assert not urgent(instances, [rule(**wanted)])
    assert not urgent((), [rule(**wanted, urgent=True)])


def test_text_that_the_index_could_not_read_slows_nothing_down(tmp_path: Path) -> None:
    """A description under a wrong character set is empty there: it may be the one that the rule waits for."""
    inbox = Inbox(tmp_path / "inbox", Clock())
    ds = make_slice(0)
    ds.SeriesDescription = ""
    inbox.store(received(ds=ds), "ER-CT")
    instances = inbox.instances(ds.StudyInstanceUID)
    inbox.close()
    assert urgent(instances, [rule(description_any=["急诊"], urgent=True)])
