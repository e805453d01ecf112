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
    """SC: a picture of each segment. GSPS: outlines and text that a viewer lays over the slices. KOS: which slices."""

    SC = "SC"
    GSPS = "GSPS"
    KOS = "KOS"


CLASSES: Final[Mapping[KeyImage, str]] = MappingProxyType(
    {
        KeyImage.SC: str(SecondaryCaptureImageStorage),
        KeyImage.GSPS: str(GrayscaleSoftcopyPresentationStateStorage),
        KeyImage.KOS: str(KeyObjectSelectionDocumentStorage),
    }
)
"""The SOP class of each kind."""
