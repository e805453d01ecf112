"""What a released result lacks: one code for its run, a line of the service's log for each."""

import pytest
import structlog

from service.faults import Fault
from service.lacking import lacking, warn

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
    """What the peer refused comes first, key images before heat maps; then what could not be made."""
    assert lacking(left_out, unmade) == shown


def test_the_services_log_says_all() -> None:
    """A line for each code, with the peer and how many; none where the PACS took all."""
    with structlog.testing.capture_logs() as said:
        warn("pacs", {})
        warn("pacs", MAPS | PICTURE | {"2.25.9": "KEY_IMAGE_REFUSED"})

    assert [(one["event"], one["code"], one["refused"], one["peer"], one["log_level"]) for one in said] == [
        ("delivered_without_key_images", "KEY_IMAGE_REFUSED", 2, "pacs", "warning"),
        ("delivered_without_heat_maps", "HEAT_MAP_REFUSED", 1, "pacs", "warning"),
    ]
