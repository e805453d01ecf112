"""The papers of a dossier: each says what it must, or its control is not answered."""

import copy
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ethics_review.controls import catalogue
from ethics_review.papers import MANDATORY_SUBGROUPS, PAPERS, Asked, Finding, Outcome, interested, printable
from models.strict import Malformed
from tests.simulators import dossiers
from tests.simulators.reviewer import MODEL

BY_NAME = {paper.name: paper for paper in PAPERS}
READ = [paper.name for paper in PAPERS if paper.read is not None]


def complete() -> dict[str, dict[str, Any]]:
    """Every paper that is read, as it should be."""
    return dossiers.papers() | {"protocol": copy.deepcopy(dossiers.PROTOCOL)}


def read(name: str, value: object, asked: Asked = dossiers.ASKED) -> tuple[Finding, ...]:
    """What one paper shows."""
    reader = BY_NAME[name].read
    assert reader is not None
    return tuple(reader(value, asked))


def outcomes(name: str, value: object, asked: Asked = dossiers.ASKED) -> dict[str, Outcome]:
    """Control and outcome; of several findings of one control the last."""
    return {found.control: found.outcome for found in read(name, value, asked)}


def spoilt(name: str, *path: str | int, to: object) -> dict[str, Any]:
    """A paper with one value changed."""
    value = complete()[name]
    place: Any = value
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return value


@pytest.mark.parametrize("name", READ)
def test_a_complete_paper_answers_its_control(name: str) -> None:
    """Nothing that is as it should be blocks, and the paper's own control is among what it answers."""
    found = read(name, complete()[name])

    assert BY_NAME[name].control in {one.control for one in found}
    assert not any(one.blocks for one in found)


def test_every_control_of_a_paper_is_in_the_catalogue() -> None:
    """What a finding names can be looked up."""
    known = {control.id for control in catalogue()}

    assert {paper.control for paper in PAPERS} <= known
    assert {one.control for name in READ for one in read(name, complete()[name])} <= known


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every key and item of a document is."""
    found = [path] if path else []
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return found + [place for key, inner in items for place in places(inner, (*path, key))]


MAY_BE_LEFT_OUT = {("AppliedModelCard", "ReleaseInfo", "RegulatoryApproval")}


@pytest.mark.parametrize("name", READ)
def test_every_key_is_wanted_and_no_other_is_known(name: str) -> None:
    """A key less or a key more is no paper: a word that we do not know could be the one that matters."""
    for path in places(complete()[name]):
        if isinstance(path[-1], int) or path in MAY_BE_LEFT_OUT:
            continue
        value = complete()[name]
        parent: Any = value
        for step in path[:-1]:
            parent = parent[step]
        taken = parent.pop(path[-1])
        with pytest.raises(Malformed):
            read(name, value)
        parent[path[-1]] = taken
        parent["surplus"] = "text"
        with pytest.raises(Malformed):
            read(name, value)


WRONG = (None, True, 0, -1, 1.5, "", " ", "\x1b[2J", "\u202e", "x" * 20_001, [], {}, [None], "\ud800")


@pytest.mark.parametrize("name", READ)
def test_every_value_has_its_kind(name: str) -> None:
    """Whatever stands in a paper's place for a value, the answer is a finding or Malformed, and nothing else."""
    for path in places(complete()[name]):
        for wrong in WRONG:
            with suppress(Malformed):
                assert all(one.what.isprintable() for one in read(name, spoilt(name, *path, to=wrong)))


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("value", [None, [], "text", 1, {}, {"schema": "other"}])
def test_what_is_no_such_paper_is_refused(name: str, value: object) -> None:
    """Another document under the name of a paper is Malformed."""
    with pytest.raises(Malformed):
        read(name, value)


LATE = Asked(MODEL, date(2030, 1, 1), 30)


@pytest.mark.parametrize(
    ("name", "control", "outcome", "value", "asked"),
    [
        ("privacy", "PR-01", Outcome.EXPIRED, None, LATE),
        ("registration", "SP-01", Outcome.EXPIRED, None, LATE),
        ("protocol", "SP-01", Outcome.EXPIRED, None, LATE),
        ("intended_use", "HO-01", Outcome.INSUFFICIENT, spoilt("intended_use", "autonomy", to="A3"), dossiers.ASKED),
        ("emergency_plan", "HO-03", Outcome.INSUFFICIENT, spoilt("emergency_plan", "drills_a_year", to=1), None),
        ("notices", "TR-03", Outcome.MISSING, spoilt("notices", "from", to="2026-12-16"), None),
        ("datasets", "LC-08", Outcome.MISSING, spoilt("datasets", "datasets", 1, "use", to=["TUNING"]), None),
    ],
)
def test_each_paper_can_fall_short(
    name: str, control: str, outcome: Outcome, value: object, asked: Asked | None
) -> None:
    """A control that is not met is told as what it is; EXPIRED and MISSING block, INSUFFICIENT does not."""
    (found,) = [
        one
        for one in read(name, complete()[name] if value is None else value, asked or dossiers.ASKED)
        if one.control == control
    ]

    assert found.outcome is outcome
    assert found.blocks is (outcome is not Outcome.INSUFFICIENT)


@pytest.mark.parametrize(
    ("name", "key"), [("privacy", "valid_to"), ("registration", "expires"), ("protocol", "expires")]
)
def test_the_last_day_counts(name: str, key: str) -> None:
    """What ends on a day is in force on that day, and not on the next."""
    last = date.fromisoformat(complete()[name][key])
    control = BY_NAME[name].control

    assert outcomes(name, complete()[name], Asked(MODEL, last, 30))[control] is Outcome.OK
    after = Asked(MODEL, date.fromordinal(last.toordinal() + 1), 30)
    assert outcomes(name, complete()[name], after)[control] is Outcome.EXPIRED


def test_a_notice_of_tomorrow_is_missing_today() -> None:
    """TR-03: patients are told from the day on that the notice names, and that day counts."""
    notice = spoilt("notices", "from", to="2026-12-16")
    assert outcomes("notices", notice) == {"TR-03": Outcome.MISSING}
    assert outcomes("notices", notice, Asked(MODEL, date(2026, 12, 16), 30)) == {"TR-03": Outcome.OK}


def test_a_protocol_says_that_it_is_for_shadow_only() -> None:
    """Who reads the finding learns what cannot come of it."""
    (found,) = read("protocol", dossiers.PROTOCOL)

    assert "SHADOW only" in found.what


@pytest.mark.parametrize("day", ["2026-2-03", "2026-02-30", "20260203", "2026-02-03T00:00:00", "０2026-02-03"])
def test_a_day_is_a_day(day: str) -> None:
    """One writing of a day, and only days that exist."""
    with pytest.raises(Malformed):
        read("privacy", spoilt("privacy", "valid_to", to=day))


# ---- the model card


def card(value: dict[str, Any]) -> dict[str, Any]:
    """The card's own content."""
    inner: dict[str, Any] = value["AppliedModelCard"]
    return inner


def test_every_mandatory_field_of_the_card_is_wanted() -> None:
    """No field that CHAI's schema calls mandatory may be blank; the bibliography may."""
    sections = [path for path in places(complete()["model_card"]) if len(path) > 2 and isinstance(path[-1], str)]
    texts = 0
    for path in sections:
        value = complete()["model_card"]
        place: Any = value
        for step in path[:-1]:
            place = place[step]
        if isinstance(place[path[-1]], str):
            texts += 1
            place[path[-1]] = " \n"
            with pytest.raises(Malformed, match=str(path[-1])):
                read("model_card", value)
    assert texts >= 40


def test_what_the_schema_leaves_open_may_be_there() -> None:
    """Optional elements are taken, and must be text as well."""
    value = complete()["model_card"]
    card(value)["ReleaseInfo"]["EHRCompatibility"] = ["TEST EHR"]
    card(value)["TrustIngredients"]["AISystemFacts"]["Security"] = "Signed."
    card(value)["Resources"]["ClinicalTrial"] = "None."
    assert outcomes("model_card", value) == {"TR-02": Outcome.OK}

    card(value)["Resources"]["ClinicalTrial"] = ""
    with pytest.raises(Malformed, match="ClinicalTrial"):
        read("model_card", value)


def test_a_card_of_another_version_is_not_this_models() -> None:
    """The card that is approved is the card of the bytes that are approved."""
    with pytest.raises(Malformed, match="ReleaseVersion"):
        read("model_card", spoilt("model_card", "AppliedModelCard", "ReleaseInfo", "ReleaseVersion", to="1.1"))


def test_a_metric_without_results_is_none() -> None:
    """At least one result each, with label and value."""
    with pytest.raises(Malformed, match="Results"):
        read("model_card", spoilt("model_card", "AppliedModelCard", "KeyMetrics", "FairnessEquity", "Results", to=[]))


# ---- hazards and data sets


def test_a_hazards_controls_are_of_the_catalogue() -> None:
    """A hazard without a control, or with one that nobody knows, is not controlled."""
    for wrong in ([], ["XX-01"], ["HO-01", "HO-01"]):
        with pytest.raises(Malformed, match="controls"):
            read("hazards", spoilt("hazards", "hazards", 0, "controls", to=wrong))


def test_hazards_have_different_ids() -> None:
    """An incident names one hazard, by its id."""
    value = complete()["hazards"]
    value["hazards"] *= 2
    with pytest.raises(Malformed, match="one id"):
        read("hazards", value)


def test_training_and_test_data_are_named() -> None:
    """Each of the two uses that is missing is a finding of its own."""
    value = spoilt("datasets", "datasets", 0, "use", to=["TUNING"])
    value["datasets"][1]["use"] = ["TUNING"]

    found = read("datasets", value)

    assert [one.outcome for one in found] == [Outcome.MISSING, Outcome.MISSING]
    assert "TRAINING" in found[0].what
    assert "TEST" in found[1].what


# ---- subgroups


def subgroups(*rows: dict[str, Any], **claims: str) -> dict[str, Outcome]:
    """The outcome for each mandatory subgroup."""
    value = complete()["subgroups"]
    value["claims"] |= claims
    value["rows"] += rows
    return {one.what.split(":")[0]: one.outcome for one in read("subgroups", value)}


def row(subgroup: str, n: int, value: str | None) -> dict[str, Any]:
    """One row, as metrics.Row writes it."""
    return {"metric": "DICE", "subgroup": subgroup, "n": n, "value": value, "low": value, "high": value}


def test_a_subgroup_is_reported_or_called_insufficient() -> None:
    """FA-01: for each of the four, enough cases or the word; the word is told, and does not block."""
    assert subgroups() == {
        "SEX": Outcome.OK,
        "AGE_YEARS": Outcome.OK,
        "MANUFACTURER": Outcome.OK,
        "SITE": Outcome.INSUFFICIENT,
    }
    assert subgroups(SITE="REPORTED")["SITE"] is Outcome.MISSING
    assert subgroups(row("SITE:test-site", 30, "0.9"), SITE="REPORTED")["SITE"] is Outcome.OK
    assert subgroups(row("SITE:test-site", 29, None), SITE="REPORTED")["SITE"] is Outcome.MISSING


def test_a_small_group_beside_large_ones_is_told() -> None:
    """Groups with too few cases are INSUFFICIENT, counted, beside those that have enough."""
    assert subgroups(row("SEX:O", 3, None))["SEX"] is Outcome.INSUFFICIENT


def test_few_cases_say_nothing() -> None:
    """A value from fewer than n_min cases is refused; so is silence where there are enough."""
    with pytest.raises(Malformed, match="null wanted"):
        subgroups(row("SEX:O", 29, "1.0"))
    with pytest.raises(Malformed, match="a value wanted"):
        subgroups(row("SEX:O", 30, None))


@given(st.integers(0, 60), st.integers(1, 60))
def test_n_min_is_the_sites(n: int, n_min: int) -> None:
    """The number below which cases say nothing is configuration, and it is met exactly."""
    value = complete()["subgroups"]
    value["claims"] = dict.fromkeys(MANDATORY_SUBGROUPS, "INSUFFICIENT") | {"SITE": "REPORTED"}
    value["rows"] = [row("SITE:a", n, "0.9" if n >= n_min else None)]
    (found,) = [
        one for one in read("subgroups", value, Asked(MODEL, dossiers.TODAY, n_min)) if one.what.startswith("SITE")
    ]
    assert (found.outcome is Outcome.OK) is (n >= n_min)


def test_a_groups_name_is_whole() -> None:
    """SITE_OTHER is not SITE."""
    assert subgroups(row("SITE_OTHER:a", 100, "0.9"), SITE="REPORTED")["SITE"] is Outcome.MISSING


# ---- interests


def test_whoever_has_an_interest_is_listed() -> None:
    """LC-03: organisations with any declared interest may not review; the others may."""
    value = complete()["interests"]
    assert interested(value) == {"test-vendor"}
    value["statements"].append({"person": "TEST Sun", "organisation": "test-hospital", "interest": "Owns shares."})
    assert interested(value) == {"test-vendor", "test-hospital"}
    assert "test-hospital, test-vendor" in read("interests", value)[0].what


def test_one_person_one_statement() -> None:
    """Two statements of one person could say two things."""
    value = complete()["interests"]
    value["statements"].append(value["statements"][0])
    with pytest.raises(Malformed, match="two statements"):
        read("interests", value)


@pytest.mark.parametrize(
    "show", [lambda: printable("a\x1b[31mb\u202ec"), lambda: printable("\ud800" * 3), lambda: printable("x" * 999)]
)
def test_a_strangers_text_is_harmless_on_a_screen(show: Callable[[], str]) -> None:
    """No control characters, nothing that turns the writing around, and not much of it."""
    assert show().isprintable()
    assert len(show()) <= 256
