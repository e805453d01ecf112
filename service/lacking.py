"""A result that is released without all that its site wants: what its run shows, and what the service's log says.

An object may be lacking, never a report or a segmentation: without these nothing is released
(`dicom_bridge.dispensable`). Or outputs of the model are, that failed their check, and the report says so.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import structlog

from dicom_bridge.dispensable import HEAT_MAP_REFUSED, KEY_IMAGE_REFUSED
from service.faults import Fault

EVENTS: Final[Mapping[str, str]] = {
    KEY_IMAGE_REFUSED: "delivered_without_key_images",
    HEAT_MAP_REFUSED: "delivered_without_heat_maps",
}
"""What the service's log says of each code. A run has one code: where both are true, the first."""

PARTLY_FAILED: Final = Fault("PARTLY_FAILED", "MODEL")
"""What the run shows of a result that lacks some outputs of the model."""

_log = structlog.get_logger()


def lacking(left_out: Mapping[str, str], unmade: str | None, *, partly: bool = False) -> Fault | None:
    """What the run shows; None where nothing is lacking.

    `left_out`: what the peer refused, UID and code; `unmade`: why a key image could not be made; `partly`: whether
    outputs of the model failed. That comes first, as it is of the result; then what a person can mend: the peer.
    """
    if partly:
        return PARTLY_FAILED
    for code in EVENTS:
        if code in left_out.values():
            return Fault(code, "SITE")
    return None if unmade is None else Fault(unmade, "INPUT")


def warn(peer: str, left_out: Mapping[str, str]) -> None:
    """Say what `peer` did not take, one line for each code."""
    for code, event in EVENTS.items():
        if number := list(left_out.values()).count(code):
            _log.warning(event, peer=peer, code=code, refused=number)


def say_partly(stage: str, failed: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """What the run shows of a result that lacks these outputs of the model, one line in the service's log for each."""
    said: dict[str, str] = {}
    for one in failed:
        _log.warning("output_left_out", output=one["output"], code=one["code"])
        said = {"stage": stage, "code": PARTLY_FAILED.code, "fault": PARTLY_FAILED.side}
    return said
