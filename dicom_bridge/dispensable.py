"""Which objects of a batch a peer may refuse for good without harm: key images and heat maps beside SEG and SR.

Pictures say nothing that SEG and SR do not say, and heat maps are no finding: a peer that has these two has the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dicom_bridge.key_kinds import CLASSES
from dicom_bridge.ledger import Batch, Output
from dicom_bridge.status import Fate, fate
from dicom_bridge.store_scu import SendResult

KEY_IMAGE_REFUSED: Final = "KEY_IMAGE_REFUSED"
"""Code of a batch that was delivered without some of its key images."""
HEAT_MAP_REFUSED: Final = "HEAT_MAP_REFUSED"
"""Code of a batch that was delivered without its heat maps."""
HEAT_MAPS: Final = "heat.dcm"
"""Name of the file of heat maps: they are a segmentation by their class, and only that the name tells apart."""
_CLASSES: Final = frozenset(CLASSES.values())


def dispensable(batch: Batch, output: Output) -> bool:
    """Whether the batch is a result without this one of its objects; a batch of key images alone is none."""
    return _beside(output) and not all(_beside(one) for one in batch.outputs)


def held(batch: Batch) -> tuple[Output, ...]:
    """What the peer has answered for: from STORED on, all but what was left out."""
    return tuple(output for output in batch.outputs if output.stored)


def left_out(batch: Batch) -> Mapping[str, str]:
    """What the peer did not take, of a batch that is stored or further: the UID of each, and the code that says so."""
    return {
        output.uid: HEAT_MAP_REFUSED if _heat_maps(output) else KEY_IMAGE_REFUSED
        for output in batch.outputs
        if not output.stored and dispensable(batch, output)
    }


def settled(batch: Batch, missing: Sequence[Output], result: SendResult) -> bool:
    """Whether nothing more need be sent: each of `missing`, in the order of the answers, is stored or left out."""
    return all(
        (status is not None and fate(status) is Fate.STORED)
        or (dispensable(batch, output) and _refused(status, hopeless=result.hopeless))
        for output, status in zip(missing, result.statuses, strict=True)
    )


def _beside(output: Output) -> bool:
    return output.sop_class in _CLASSES or _heat_maps(output)


def _heat_maps(output: Output) -> bool:
    return output.path.name == HEAT_MAPS


def _refused(status: int | None, *, hopeless: bool) -> bool:
    return hopeless if status is None else fate(status) is Fate.DEAD
