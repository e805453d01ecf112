"""A result that is released without an object that its site wants: what its run shows, and what the service's log says.

Never a report or a segmentation: without these nothing is released (`dicom_bridge.dispensable`).
"""

from collections.abc import Mapping
from typing import Final

import structlog

from dicom_bridge.dispensable import HEAT_MAP_REFUSED, KEY_IMAGE_REFUSED
from service.faults import Fault

EVENTS: Final[Mapping[str, str]] = {
    KEY_IMAGE_REFUSED: "delivered_without_key_images",
    HEAT_MAP_REFUSED: "delivered_without_heat_maps",
}
"""What the service's log says of each code. A run has one code: where both are true, the first."""

_log = structlog.get_logger()


def lacking(left_out: Mapping[str, str], unmade: str | None) -> Fault | None:
    """What the run shows; None where nothing is lacking.

    `left_out`: what the peer refused, UID and code; `unmade`: why a key image could not be made. First comes what a
    person can mend: the peer.
    """
    for code in EVENTS:
        if code in left_out.values():
            return Fault(code, "SITE")
    return None if unmade is None else Fault(unmade, "INPUT")


def warn(peer: str, left_out: Mapping[str, str]) -> None:
    """Say what `peer` did not take, one line for each code."""
    for code, event in EVENTS.items():
        if number := list(left_out.values()).count(code):
            _log.warning(event, peer=peer, code=code, refused=number)
