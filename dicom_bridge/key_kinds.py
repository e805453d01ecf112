"""What a site may have beside SEG and SR, for viewers that show neither: the kinds of key image."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from pydicom.uid import (
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)


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
        KeyImage.SC: str(SecondaryCaptureImageStorage),
        KeyImage.GSPS: str(GrayscaleSoftcopyPresentationStateStorage),
        KeyImage.KOS: str(KeyObjectSelectionDocumentStorage),
        KeyImage.NO_FINDING: str(SecondaryCaptureImageStorage),
    }
)
"""The SOP class of each kind."""
