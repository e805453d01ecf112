"""Operators' logs and numbers carry nothing of a patient."""

import ast
from pathlib import Path

from prometheus_client import generate_latest

from service import telemetry
from service.pipeline import Step
from service.telemetry import ALLOWED_KEYS, Metrics, only_allowed


def test_a_key_that_is_not_listed_is_dropped_and_counted() -> None:
    """A careless log call leaks nothing, and can be seen."""
    line = only_allowed(
        None, "info", {"event": "x", "code": "NO_APPROVAL", "patient_name": "测试^幻影", "path": "/spool"}
    )

    assert line == {"event": "x", "code": "NO_APPROVAL", "error_type": "2 keys dropped"}


def test_a_clean_line_is_left_alone() -> None:
    """Listed keys pass."""
    assert only_allowed(None, "info", {"event": "x", "run": "abc-1"}) == {"event": "x", "run": "abc-1"}


def test_what_the_service_says_is_on_the_list() -> None:
    """No call of the service's own names a key that would be dropped: an operator would look for it in vain."""
    said = {}
    for path in Path(telemetry.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("_log.", "say")):
                said |= {word.arg: path.name for word in node.keywords if word.arg is not None}
    assert said
    assert {key: name for key, name in said.items() if key not in ALLOWED_KEYS} == {}


def test_steps_are_timed() -> None:
    """Each step's time is in its histogram."""
    metrics = Metrics()

    for step in Step:
        metrics.observe(step, "before", "run-1")
        metrics.observe(step, "after", "run-1")
    metrics.observe("RELEASED", "delivered", "c" * 32)
    text = generate_latest(metrics.registry).decode()

    assert 'zhiying_step_seconds_count{step="INFERRED"} 1.0' in text
    assert "zhiying_runs_total 1.0" in text
    assert "zhiying_delivered_total 1.0" in text


def test_an_end_without_a_begin_is_ignored() -> None:
    """After a crash the second half of a step may be seen alone."""
    metrics = Metrics()

    metrics.observe("INFERRED", "after", "run-1")

    assert "INFERRED" not in generate_latest(metrics.registry).decode()


def test_no_subject_becomes_a_label() -> None:
    """Run and call ids would make a series for each study, and tell who was examined when."""
    metrics = Metrics()
    metrics.observe(Step.ASSEMBLED, "before", "canary-subject")
    metrics.observe(Step.ASSEMBLED, "after", "canary-subject")

    assert "canary-subject" not in generate_latest(metrics.registry).decode()
