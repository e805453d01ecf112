"""The same instance in other bytes is the same; anything else is not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_bridge import same_content as module
from tests.simulators.series import make_slice, part10, set_pixels


def same_content(one: bytes, other: bytes) -> bool:
    """Compare two files of these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "one"), Path(folder, "other")
        for path, content in zip(paths, (one, other), strict=True):
            path.write_bytes(content)
        return module.same_content(*paths)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_another_encoding_is_the_same_content(syntax: str) -> None:
    """Explicit, implicit or deflated: one instance."""
    assert same_content(part10(make_slice(0)), part10(make_slice(0), syntax))


def test_group_lengths_do_not_count() -> None:
    """Retired group lengths are about bytes, not about the patient."""
    ds = make_slice(0)
    ds.add_new(0x00080000, "UL", 100)
    assert same_content(part10(make_slice(0)), part10(ds))


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: setattr(ds, "PatientName", "TEST^Other"),
        lambda ds: setattr(ds, "PatientID", "TEST-2"),
        lambda ds: delattr(ds, "PatientSex"),
        lambda ds: setattr(ds, "AccessionNumber", "1"),
        lambda ds: set_pixels(ds, np.zeros((16, 12), dtype=np.int16)),
    ],
)
def test_any_difference_counts(change: Callable[[Dataset], None]) -> None:
    """Changed, removed, added, other pixels: not the same."""
    ds = make_slice(0)
    change(ds)
    assert not same_content(part10(make_slice(0)), part10(ds))


def with_items(*names: str) -> Dataset:
    """Return a slice with a sequence."""
    ds = make_slice(0)
    ds.ReferencedPerformedProcedureStepSequence = []
    for name in names:
        item = Dataset()
        item.PerformingPhysicianName = name
        ds.ReferencedPerformedProcedureStepSequence.append(item)
    return ds


def test_sequences_are_compared_item_by_item() -> None:
    """Equal items in implicit and explicit VR are the same; another value, number or order of items is not."""
    one = part10(with_items("TEST^A", "TEST^B"))
    assert same_content(one, part10(with_items("TEST^A", "TEST^B"), ImplicitVRLittleEndian))
    for other in (with_items("TEST^A", "TEST^C"), with_items("TEST^A"), with_items("TEST^B", "TEST^A")):
        assert not same_content(one, part10(other))
        assert not same_content(one, part10(other, ImplicitVRLittleEndian))


def test_two_unreadable_names_are_not_the_same() -> None:
    """Decoded with replacement characters they would look alike."""
    whole = part10(make_slice(0))
    one, other = (
        whole.replace(b"TEST^Phantom", b"TEST^Phant\xff\xfe"),
        whole.replace(b"TEST^Phantom", b"TEST^Phant\xfe\xff"),
    )
    assert one != other
    assert not same_content(one, other)
    assert same_content(one, one)


def test_what_cannot_be_compared_for_certain_is_not_the_same() -> None:
    """Rubbish, cut files, and pixels in another byte order: a person must look."""
    whole = part10(make_slice(0))
    for other in (b"", b"rubbish" * 100, whole[:200], part10(make_slice(0), ExplicitVRBigEndian)):
        assert not same_content(whole, other)


def test_files_that_do_not_fit_into_memory_are_not_compared(tmp_path: Path) -> None:
    """Above the limit two encodings count as different, rather than being held in memory both."""
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.write_bytes(part10(make_slice(0)))
    assert module.same_content(one, other)
    with one.open("r+b") as file:
        file.truncate(module.COMPARED_BYTES_MAX + 1)
    assert not module.same_content(one, other)
    assert not module.same_content(one, tmp_path / "gone")
