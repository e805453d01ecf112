"""Every draft that the story makes is one that the log takes, and its key says how often it may happen."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import Kind
from models.ref import ModelRef
from service import records
from service.records import decimal
from tests.simulators.reviewer import DURING, Reviewer, decide_live, request

STUDY, INPUT = "a" * 32, "b" * 32
REF = ModelRef("small-model", "1.0", "sha256:" + "ab" * 32)
DIGEST = "sha256:" + "cd" * 32
SUBJECT = records.Subject(
    site="test-site", requester="MODALITY", patient="e" * 32, study=STUDY, committed=INPUT, instances=3
)
OUTPUTS = [{"kind": "SEG", "uid": "2.25.1", "digest": "sha256:" + "0" * 64}]
WRITTEN = records.Written(
    outputs=OUTPUTS,
    outcome="FINDINGS",
    measurements=[{"code": "118565006", "value": "1951.3", "unit": "cm3"}],
    timing_ms={"forward": 12, "total": 30},
    device="cpu",
    deadline_ms=30,
    software="zhiying 0.1.0",
)


def test_each_draft_is_one_the_log_takes() -> None:
    """Draft checks itself against the schema when it is made: none of these may raise."""
    drafts = [
        records.assembled("run-1", study=STUDY, committed=INPUT, instances=3, series=1, trigger="COUNT_MATCHED"),
        records.selected("run-1", study=STUDY, series="c" * 32, ref=REF, modality="MR"),
        records.call_result("d" * 32, WRITTEN),
        records.released("d" * 32, outputs=OUTPUTS, peer="pacs", attempts=1, proof="FOUND"),
        records.denied(
            "run-1",
            study=STUDY,
            stage="PERMITTED",
            code="NO_APPROVAL",
            condition=None,
            observed=None,
            ref=None,
            call=None,
        ),
        records.failed("run-1", study=STUDY, stage="INFERRED", code="ENGINE_DIED", fault="SITE", call="d" * 32),
    ]

    assert [d.kind for d in drafts] == [
        Kind.ASSEMBLED,
        Kind.SELECTED,
        Kind.CALL_RESULT,
        Kind.RELEASED,
        Kind.DENIED,
        Kind.FAILED,
    ]


def test_an_intent_says_every_check_of_the_permit() -> None:
    """What the gate looked at is in the entry, condition by condition."""
    permit = decide_live(request(), [Reviewer().approve()], DURING)

    draft = records.call_intent(permit, SUBJECT, card=DIGEST, runtime={"torch": "2.13.0", "device": "cpu"})

    checks = draft.body["checks"]
    assert isinstance(checks, list | tuple)
    assert len(checks) == len(permit.checks) > 8
    assert draft.call == permit.call


@pytest.mark.parametrize(
    ("title", "said"),
    [("PACS", "PACS"), ("CT_AREA-2", "CT_AREA-2"), ("ID19620101", None), ("ZHANG^SAN", None), ("", None), (None, None)],
)
def test_a_requester_that_looks_like_a_person_is_not_named(title: str | None, said: str | None) -> None:
    """A calling AE title is what somebody typed: it is logged where it cannot be a date, a number or a name."""
    permit = decide_live(request(), [Reviewer().approve()], DURING)

    draft = records.call_intent(permit, replace(SUBJECT, requester=title), card=DIGEST, runtime={})

    assert draft.body["requester"] == said


@pytest.mark.parametrize(("total", "met"), [(29, "YES"), (30, "YES"), (31, "NO")])
def test_whether_the_deadline_was_met(total: int, met: str) -> None:
    """The model's own time against its manifest's limit, both in the entry."""
    draft = records.call_result("d" * 32, replace(WRITTEN, timing_ms={"total": total}))

    assert (draft.body["deadline_ms"], draft.body["deadline_met"]) == (30, met)


def test_a_result_names_the_outputs_that_it_lacks() -> None:
    """And says nothing of it where it lacks none: such a body is as it was before there was this."""
    failed = [{"output": "segment:2", "code": "OUTPUT_EMPTY"}]
    draft = records.call_result("d" * 32, replace(WRITTEN, outcome="PARTLY_FAILED", failed=failed))
    assert draft.body["failed"] == (failed[0],)
    assert "failed" not in records.call_result("d" * 32, WRITTEN).body


def test_another_approval_makes_another_intent() -> None:
    """A retry under the same approval finds its entry; under another one the new decision is a new entry."""
    reviewer = Reviewer()
    first = decide_live(request(), [reviewer.approve()], DURING)
    later = decide_live(request(), [reviewer.approve()], DURING)
    other = decide_live(request(), [reviewer.approve(approval="TEST-2026-0002")], DURING)

    keys = [records.call_intent(p, SUBJECT, card=DIGEST, runtime={}).key for p in (first, later, other)]

    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_a_model_survives_its_entry() -> None:
    """The name in an entry is the same model again."""
    assert records.model_ref(records.model_body(REF)) == REF


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(1951.26, 1, "1951.3"), (0.25, 1, "0.2"), (2.0, 0, "2"), (1e-7, 3, "0.000"), (600.0, 1, "600.0")],
)
def test_a_value_is_written_as_the_report_prints_it(value: float, decimals: int, text: str) -> None:
    """No exponent, no float noise: the log's DECIMAL."""
    assert decimal(value, decimals) == text


@given(st.floats(min_value=0, max_value=1e6, allow_nan=False), st.integers(min_value=0, max_value=6))
def test_a_value_is_never_off_by_more_than_half_a_unit(value: float, decimals: int) -> None:
    """Rounding is to the nearest, at every number of decimals."""
    assert abs(float(decimal(value, decimals)) - value) <= 0.5 * 10.0**-decimals + 1e-9


def test_times_are_not_taken_from_anywhere() -> None:
    """Drafts hold no time: the log puts it in when it takes them."""
    draft = records.failed("run-1", study=STUDY, stage="INFERRED", code="X", fault="US", call=None)

    assert str(datetime.now(UTC).year) not in str(draft.body)
