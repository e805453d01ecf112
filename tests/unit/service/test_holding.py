"""What a PACS holds of ours, by class where its modality says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from dicom_bridge import uids
from dicom_bridge.catalogue import SeriesEntry, Window
from service.holding import of_peer

STUDY = "2.25.7"
WINDOW = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), frozenset({"MR"}))


@dataclass
class Pacs:
    """A source with one study of one series."""

    entry: SeriesEntry

    def studies(self, _: Window) -> list[object]:
        """None that the window would find."""
        return []

    def catalogue(self, _: str) -> Mapping[str, SeriesEntry]:
        """The series."""
        return {"2.25.8": self.entry}


@pytest.mark.parametrize(
    ("sop_class", "counts"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", True),
        ("1.2.840.10008.5.1.4.1.1.66.7", True),
        ("1.2.840.10008.5.1.4.1.1.88.34", True),
        ("1.2.840.10008.5.1.4.1.1.4", False),
    ],
)
def test_results_of_ours_are_found_by_their_class(sop_class: str, counts: bool) -> None:
    """A label map is a result as much as a BINARY segmentation; a picture of the scanner's is none."""
    uid = uids.derive("SEG", "a" * 32)
    found = of_peer(Pacs(SeriesEntry("MR", 1, {uid: sop_class})), "pacs", WINDOW, [STUDY])  # type: ignore[arg-type]
    assert found.uids == (frozenset({uid}) if counts else frozenset())
