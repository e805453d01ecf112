"""The conformance statement says what the code negotiates and answers, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, Comprehensive3DSRStorage, SegmentationStorage

from dicom_bridge import receipt, status
from dicom_bridge.commitment_messages import PUSH_MODEL
from dicom_bridge.fastlane import ListenerLimits
from dicom_bridge.finding import StudyRootQueryRetrieveInformationModelFind
from dicom_bridge.incoming import InboxLimits
from dicom_bridge.key_kinds import CLASSES
from dicom_bridge.offers import STORAGE_CLASSES, TRANSFER_SYNTAXES
from dicom_bridge.segment_pixels import LABEL_MAP_STORAGE
from dicom_bridge.status import Fate, fate
from dicom_bridge.transfer import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from dicom_bridge.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

PAGE = Path(__file__).resolve().parents[3] / "docs" / "conformance.md"
TEXT = PAGE.read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text of one section, by the beginning of its heading."""
    found = re.search(rf"^#+ {re.escape(title)}.*?$(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The rows of a section's tables, without their headings."""
    lines = [line.strip().strip("|") for line in section(title).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    rules = [number for number, row in enumerate(cells) if set(row[0]) <= {"-"} and row[0]]
    return [row for number, row in enumerate(cells) if number not in rules and number + 1 not in rules]


def test_the_layout_is_that_of_the_standard() -> None:
    """Every part of PS3.2 annex A has its place, in its order."""
    wanted = ["Overview", "Introduction", "Networking", "Media interchange", "Character sets", "Security", "Annexes"]
    headings = re.findall(r"^## \d+\. (.*)$", TEXT, re.MULTILINE)

    assert [heading for heading in headings if heading in wanted] == wanted


def test_storage_classes_are_those_that_are_accepted() -> None:
    """Annex 8.1 lists each class once, and exactly those that the listener takes."""
    listed = [row[1] for row in rows("8.1 ")]

    assert len(listed) == len(set(listed))
    assert set(listed) == set(STORAGE_CLASSES)


def test_transfer_syntaxes_are_those_that_are_accepted() -> None:
    """Annex 8.2 lists exactly those that the listener takes, in its order of preference, under their own names."""
    listed = rows("8.2 ")

    assert [row[1] for row in listed] == list(TRANSFER_SYNTAXES)
    assert [row[0] for row in listed] == [UID(uid).name for uid in TRANSFER_SYNTAXES]


def test_what_is_sent_and_asked_is_listed() -> None:
    """The classes of our objects and the services that we use are those of the code."""
    initiated = {row[1] for row in rows("2.2.2 Initiation") if row[1].startswith("1.2.840")}
    services = {
        str(StudyRootQueryRetrieveInformationModelFind),
        str(StudyRootQueryRetrieveInformationModelMove),
        str(StudyRootQueryRetrieveInformationModelGet),
    }

    ours = {str(one) for one in (Comprehensive3DSRStorage, SegmentationStorage, LABEL_MAP_STORAGE)}
    assert initiated == ours | set(CLASSES.values()) | services
    assert PUSH_MODEL in section("2.2.2 Initiation")
    assert PUSH_MODEL in section("2.2.3 Acceptance")


def test_who_we_are_is_true() -> None:
    """Implementation class UID, version name, PDU length and number of associations are those of the code."""
    facts = dict(row[:2] for row in rows("2.2.1 Association policies"))

    assert facts["Implementation class UID"] == f"`{IMPLEMENTATION_CLASS_UID}`"
    assert facts["Implementation version name"] == f"`{IMPLEMENTATION_VERSION_NAME}`"
    assert facts["Maximum PDU length received"] == f"{ListenerLimits().pdu_bytes_max} bytes"
    assert facts["Associations accepted at once"].startswith(f"{ListenerLimits().associations_max} ")
    assert InboxLimits().instance_bytes_max == 2 * 1024**3


def test_every_answer_to_c_store_is_listed() -> None:
    """The statuses of 2.2.3 are exactly those that the code can give."""
    listed = {int(row[0], 16) for row in rows("2.2.3 Acceptance")}
    given = {answer.status for answer in status._ANSWERS.values()} | {status.SUCCESS.status, status.FAULT.status}

    assert listed == given


def test_private_attributes_are_those_that_are_written() -> None:
    """The table of section 6 and the creator are the elements of the code, and no module but one makes any."""
    ds = Dataset()
    receipt.put(ds, receipt.Receipt(7, "note"))
    made = [
        (f"(0071,xx{element.tag.element & 0xFF:02X})", element.VR) for element in ds if element.tag.element >= 0x0100
    ]

    assert [tuple(row[:2]) for row in rows("6. Content")] == made
    assert f"`{receipt.CREATOR}`" in section("6. Content")


@pytest.mark.parametrize("code", [0x0000, 0x0001, 0x0107, 0x0116, 0xB000, 0xB007, 0xBFFF])
def test_what_counts_as_stored_is_told(code: int) -> None:
    """The first row of the table of 2.2.2."""
    assert fate(code) is Fate.STORED


@pytest.mark.parametrize(
    ("code", "wanted"),
    [(0xA700, Fate.RETRY), (0xA800, Fate.RETRY), (0xA900, Fate.DEAD), (0xC000, Fate.DEAD), (0x0122, Fate.DEAD)],
)
def test_what_is_tried_again_is_told(code: int, wanted: Fate) -> None:
    """The second and third rows."""
    assert fate(code) is wanted
