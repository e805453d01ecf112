"""The error tree of this folder: what was wrong, and whose fault it was.

::

    BridgeError             .code from the class's closed set CODES, .fault says whose
    |- InstanceRefused      INPUT  one instance cannot be taken; answered, quarantined
    |- VolumeRefused        INPUT  a series is no volume that a model may see
    |- CharsetRefused       INPUT  text that cannot be read for certain
    |- InboxUnavailable     SITE   the spool cannot keep anything now; the sender should retry
    |- ListenerFailed       SITE   the listener cannot start
    |- PeerFailed           SITE   a peer does not answer, or answers with a failure
    `- PeerInvalid          SITE   a peer's name, AE title, host or port is malformed

A message says what and where to look; it never holds patient data, a foreign UID or a path made of one.
Modules of this folder that need an error of their own derive from `BridgeError` and give CODES and fault.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Fault(StrEnum):
    """Whose fault a failure is; the words are those of the audit log's FAILED entry."""

    INPUT = "INPUT"
    SITE = "SITE"
    MODEL = "MODEL"
    US = "US"


class BridgeError(Exception):
    """Anything this folder refuses or fails at.

    `code` is one of the class's `CODES`; a code outside it is a bug of the caller and raises ValueError.
    `detail` is a fixed English sentence for a person and must not hold patient data.
    """

    CODES: ClassVar[frozenset[str]] = frozenset()
    fault: ClassVar[Fault] = Fault.US

    def __init__(self, code: str, detail: str = "") -> None:
        if code not in self.CODES:
            raise ValueError(f"{type(self).__name__} has no code {code!r}")
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class InstanceRefused(BridgeError):
    """An instance that cannot be taken (PS3.4 Table B.2-1); `tag` is the offending element, if it is one."""

    CODES = frozenset(
        {
            *("DATASET_GARBLED", "UID_MISSING", "UID_INVALID", "CLASS_MISMATCH", "CLASS_UNSUPPORTED"),
            *("WRONG_STUDY", "INSTANCE_TOO_LARGE", "NOT_AUTHORISED"),
        }
    )
    fault = Fault.INPUT

    def __init__(self, code: str, detail: str = "", tag: int | None = None) -> None:
        super().__init__(code, detail)
        self.tag = tag


class VolumeRefused(BridgeError):
    """A series that is not one regular, decodable volume of one patient (geometry gates, see volume.py)."""

    CODES = frozenset(
        {
            "AMBIGUOUS_VOLUMES",
            "DUPLICATE_INSTANCE",
            "DUPLICATE_POSITION",
            "GANTRY_TILT",
            "GEOMETRY_INVALID",
            "GEOMETRY_MISSING",
            "IDENTITY_CONFLICT",
            "MIXED_FRAME_OF_REFERENCE",
            "MIXED_MATRIX",
            "MIXED_ORIENTATION",
            "MIXED_SERIES",
            "MULTIFRAME_INVALID",
            "MULTIFRAME_UNSUPPORTED",
            "NON_UNIFORM_SPACING",
            "NOT_AN_IMAGE",
            "NOT_GRAYSCALE",
            "PIXELS_UNDECODABLE",
            "RESCALE_MISSING",
            "SINGLE_SLICE",
            "SLICE_MISSING",
            "VOLUMES_INCOMPLETE",
            "VOLUME_TOO_LARGE",
        }
    )
    fault = Fault.INPUT


class CharsetRefused(BridgeError):
    """Text that cannot be decoded or encoded for certain (PS3.5 section 6.1)."""

    CODES = frozenset({"CHARSET_UNDECODABLE", "CHARSET_UNSUPPORTED"})
    fault = Fault.INPUT


class InboxUnavailable(BridgeError):
    """The spool can keep nothing at the moment: nothing was acknowledged, the sender should retry."""

    CODES = frozenset({"SPOOL_FULL", "SPOOL_FAILED", "QUARANTINE_FULL", "STOPPING"})
    fault = Fault.SITE


class ListenerFailed(BridgeError):
    """The listener cannot be started with the given address or AE title."""

    CODES = frozenset({"PORT_UNAVAILABLE", "ALREADY_STARTED"})
    fault = Fault.SITE


class PeerFailed(BridgeError):
    """A peer is unreachable, refuses us, or answers with a failure status."""

    CODES = frozenset({"PEER_UNREACHABLE", "PEER_REJECTED", "PEER_NO_CONTEXT", "PEER_FAILURE_STATUS", "PEER_NO_ANSWER"})
    fault = Fault.SITE


class PeerInvalid(BridgeError):
    """A peer of the configuration, or of a command line, that cannot be one."""

    CODES = frozenset({"PEER_INVALID"})
    fault = Fault.SITE
