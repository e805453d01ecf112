"""UIDs that we mint: the same parts always give the same UID, so a retry never makes a second object.

Form: "2.25." and the decimal value of a name-based UUID (PS3.5 annex B.2), at most 44 characters.
"""

from __future__ import annotations

import re
import uuid
from typing import Final

# Changing this namespace would give every result of every hospital a new identity: it never changes.
_NAMESPACE: Final = uuid.UUID("6d6b1c2e-6f0e-5b57-9a1c-7a5d8f4c2b10")
# PS3.5 section 9.1: numeric components without leading zeros, joined by dots.
_UID: Final = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
# What senders in the field do write: a leading zero in a component. Harmless to keep, wrong to make.
_LENIENT_UID: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*")
UUID_VERSION: Final = 5
UID_LENGTH_MAX: Final = 64
"""Characters of a UID (PS3.5 section 9.1)."""


def derive(kind: str, *parts: str) -> str:
    """Return the UID of the object of this `kind` made from exactly these `parts`.

    Parts are joined with their lengths, so ("ab", "c") and ("a", "bc") differ. Raises ValueError without parts.
    """
    if not kind or not parts:
        raise ValueError("a UID is derived from a kind and at least one part")
    name = "".join(f"{len(part)}:{part}" for part in (kind, *parts))
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def device_uid(vendor: str, name: str, version: str, digest: str) -> str:
    """Return the Device UID (0018,1002) of one exact model: any changed file changes `digest` and so the UID."""
    return derive("DEVICE", vendor, name, version, digest)


def valid(uid: str) -> bool:
    """Say whether `uid` is a UID by the letter of PS3.5 section 9.1."""
    return len(uid) <= UID_LENGTH_MAX and _UID.fullmatch(uid) is not None


def storable(uid: str) -> bool:
    """Say whether a received `uid` may name a file: only digits between single dots, at most 64 characters.

    More lenient than `valid` by leading zeros and a missing dot, which some modalities send and which cannot
    leave a folder; "..", slashes, empty components and trailing dots are refused.
    """
    return len(uid) <= UID_LENGTH_MAX and _LENIENT_UID.fullmatch(uid) is not None


def own(uid: str) -> bool:
    """Say whether `uid` has the form of those that `derive` makes."""
    return uid.startswith("2.25.") and valid(uid)


def name_based(uid: str) -> bool:
    """Say whether `uid` is one that `derive` can make: under 2.25 the number of a UUID of version 5 (RFC 9562).

    Viewers that save reports under 2.25 draw digits at random: of OHIF's, about one in 250 passes.
    """
    number = uid.removeprefix("2.25.")
    if not own(uid) or not number.isdecimal() or int(number) >= 1 << 128:
        return False
    return uuid.UUID(int=int(number)).version == UUID_VERSION


IMPLEMENTATION_CLASS_UID: Final = derive("IMPLEMENTATION", "zhiying", "dicom_bridge")
"""(0002,0012) of every file we write and of every association we open or accept (PS3.7 annex D.3.3.2)."""

IMPLEMENTATION_VERSION_NAME: Final = "ZHIYING_1"
"""(0002,0013), at most 16 characters; the number changes when the encoding of our files does."""
