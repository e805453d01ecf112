"""What a site may have beside SEG and SR, for viewers that show neither: the kinds of key image."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"


class KeyImage(StrEnum):
    """SC: a picture of each segment. GSPS: outlines and text that a viewer lays over the slices. KOS: which slices.

    NO_FINDING: a picture that says in words how a run ended that found nothing; in the log and by its UID it is an SC.
    """

    SC = "SC"
    GSPS = "GSPS"
    KOS = "KOS"
    NO_FINDING = "NO_FINDING"


CLASSES: Final[Mapping[KeyImage, str]] = MappingProxyType(
    {
        KeyImage.SC: _SECONDARY_CAPTURE,
        KeyImage.GSPS: "1.2.840.10008.5.1.4.1.1.11.1",
        KeyImage.KOS: "1.2.840.10008.5.1.4.1.1.88.59",
        KeyImage.NO_FINDING: _SECONDARY_CAPTURE,
    }
)
"""The SOP class of each kind (PS3.4 B.5), written out: the configuration needs it, and pydicom takes long to load."""
