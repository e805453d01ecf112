"""What a released result lacks: one code for its run, a line of the service's log for each."""

import pytest
import structlog

from service.faults import Fault
from service.lacking import lacking, say_partly, warn

PICTURE, MAPS = {"2.25.7": "KEY_IMAGE_REFUSED"}, {"2.25.8": "HEAT_MAP_REFUSED"}


@pytest.mark.parametrize(
    ("left_out", "unmade", "shown"),
    [
        ({}, None, None),
        (PICTURE, None, Fault("KEY_IMAGE_REFUSED", "SITE")),
        (MAPS, None, Fault("HEAT_MAP_REFUSED", "SITE")),
        (MAPS | PICTURE, None, Fault("KEY_IMAGE_REFUSED", "SITE")),
        ({}, "RESCALE_MIXED", Fault("RESCALE_MIXED", "INPUT")),
        (MAPS, "RESCALE_MIXED", Fault("HEAT_MAP_REFUSED", "SITE")),
    ],
)
def test_a_run_shows_one_code(left_out: dict[str, str], unmade: str | None, shown: Fault | None) -> None:
    """An output of the model before all; then what the peer refused, key images first; then what could not be made."""
    assert lacking(left_out, unmade) == shown
    assert lacking(left_out, unmade, partly=True) == Fault("PARTLY_FAILED", "MODEL")


def test_the_services_log_says_all() -> None:
    """A line for each code, with the peer and how many; none where the PACS took all."""
    with structlog.testing.capture_logs() as said:
        warn("pacs", {})
        warn("pacs", MAPS | PICTURE | {"2.25.9": "KEY_IMAGE_REFUSED"})

    assert [(one["event"], one["code"], one["refused"], one["peer"], one["log_level"]) for one in said] == [
        ("delivered_without_key_images", "KEY_IMAGE_REFUSED", 2, "pacs", "warning"),
        ("delivered_without_heat_maps", "HEAT_MAP_REFUSED", 1, "pacs", "warning"),
    ]


def test_the_services_log_names_each_output_that_failed() -> None:
    """With its code; of a whole result it says nothing, and the run shows nothing."""
    with structlog.testing.capture_logs() as said:
        assert say_partly("WRITTEN", []) == {}
        failed = [{"output": "segment:2", "code": "OUTPUT_EMPTY"}, {"output": "heat_map:x", "code": "OUTPUT_SHAPE"}]
        shown = say_partly("WRITTEN", failed)

    assert shown == {"stage": "WRITTEN", "code": "PARTLY_FAILED", "fault": "MODEL"}
    assert [(one["event"], one["output"], one["code"], one["log_level"]) for one in said] == [
        ("output_left_out", "segment:2", "OUTPUT_EMPTY", "warning"),
        ("output_left_out", "heat_map:x", "OUTPUT_SHAPE", "warning"),
    ]
