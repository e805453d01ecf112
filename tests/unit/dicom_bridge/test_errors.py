"""The error tree: closed codes, a fault for each class, nothing about patients."""

from __future__ import annotations

import pytest

from dicom_bridge import errors
from dicom_bridge.errors import BridgeError, Fault, InstanceRefused, VolumeRefused

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BridgeError)]


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not BridgeError])
def test_every_code_of_a_class_can_be_raised_and_read(kind: type[BridgeError]) -> None:
    """Each class has codes, each is a screaming word, and the exception carries it."""
    assert kind.CODES
    for code in kind.CODES:
        assert code.isupper()
        assert code.replace("_", "").isalnum()
        error = kind(code, "why")
        assert (error.code, error.detail, str(error)) == (code, "why", f"{code}: why")
        assert isinstance(error.fault, Fault)


def test_a_code_outside_the_set_is_a_bug() -> None:
    """A code that the class does not declare raises ValueError at once."""
    with pytest.raises(ValueError, match="no code"):
        VolumeRefused("SPOOL_FULL")


def test_no_code_means_two_things() -> None:
    """A code belongs to one class only, so that a code alone says whose fault it is."""
    codes = [code for kind in CLASSES for code in kind.CODES]
    assert len(codes) == len(set(codes))


def test_an_instance_names_the_offending_element() -> None:
    """InstanceRefused carries the tag for Offending Element (0000,0901)."""
    assert InstanceRefused("UID_MISSING", "absent", 0x0020000D).tag == 0x0020000D
    assert InstanceRefused("UID_MISSING").tag is None
    assert str(InstanceRefused("UID_MISSING")) == "UID_MISSING"
