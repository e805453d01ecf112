"""DIMSE statuses: the table of standards, both ways."""

from __future__ import annotations

import pytest

from dicom_bridge import status
from dicom_bridge.errors import InboxUnavailable, InstanceRefused, VolumeRefused
from dicom_bridge.status import Fate


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((InboxUnavailable(code), 0xA700) for code in sorted(InboxUnavailable.CODES)),
        (InstanceRefused("CLASS_MISMATCH"), 0xA900),
        (InstanceRefused("CLASS_UNSUPPORTED"), 0x0122),
        (InstanceRefused("NOT_AUTHORISED"), 0x0124),
        (InstanceRefused("DATASET_GARBLED"), 0xC000),
        (InstanceRefused("UID_MISSING"), 0xC000),
        (InstanceRefused("UID_INVALID"), 0xC000),
        (InstanceRefused("INSTANCE_TOO_LARGE"), 0xC001),
    ],
)
def test_every_refusal_has_its_status(error: InstanceRefused | InboxUnavailable, code: int) -> None:
    """What the inbox may raise is answered by the row of PS3.4 Table B.2-1, with a comment that fits."""
    answer = status.answer(error)
    assert answer.status == code
    assert 0 < len(answer.comment) <= status.ERROR_COMMENT_MAX
    assert "PS3." in answer.section


def test_no_code_of_the_inbox_is_without_a_row() -> None:
    """A new code must get a row: the fallback is for bugs only."""
    for kind in (InstanceRefused, InboxUnavailable):
        for code in kind.CODES:
            assert status.answer(kind(code)) is not status.FAULT
    assert status.answer(VolumeRefused("GANTRY_TILT")) is status.FAULT


def test_a_failure_is_never_success() -> None:
    """Only SUCCESS is 0x0000."""
    answers = [status.answer(kind(code)) for kind in (InstanceRefused, InboxUnavailable) for code in kind.CODES]
    assert all(answer.status not in (0x0000, 0x0001) and answer.status >> 12 != 0xB for answer in answers)
    assert status.fate(status.FAULT.status) is Fate.DEAD
    assert status.SUCCESS.status == 0x0000


def test_only_a_refused_instance_names_an_element() -> None:
    """Offending Element is for data, not for a full disk."""
    assert status.offending(InstanceRefused("UID_MISSING", "", 0x00080018)) == 0x00080018
    assert status.offending(InboxUnavailable("SPOOL_FULL")) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0x0000, Fate.STORED), (0xB000, Fate.STORED), (0xB006, Fate.STORED), (0xB007, Fate.STORED),
        (0xBFFF, Fate.STORED),
        (0x0001, Fate.STORED), (0x0107, Fate.STORED), (0x0116, Fate.STORED),
        (0xA700, Fate.RETRY), (0xA7FF, Fate.RETRY), (0xA500, Fate.RETRY),
        (0xA900, Fate.DEAD), (0xA9FF, Fate.DEAD), (0xC000, Fate.DEAD), (0xCFFF, Fate.DEAD),
        (0x0122, Fate.DEAD), (0x0124, Fate.DEAD), (0x0110, Fate.DEAD), (0xFE00, Fate.DEAD),
    ],
)  # fmt: skip
def test_a_peers_answer_has_one_fate(code: int, expected: Fate) -> None:
    """Stored, worth another try, or a matter for a person."""
    assert status.fate(code) is expected
