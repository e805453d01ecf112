"""An event of DICOM PS3.15 A.5.3: what it is, who took part in it, who reports it.

Pure. `audit_rules` says which entry of the log is which event; `audit_message` writes an event as DICOM's XML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from audit.entry import Entry
from dicom_bridge.errors import BridgeError, Fault

DESIGNATOR: Final = "99ZHIYING"
"""Of our own codes: DICOM has no event for "a model read a study". PS3.3 8.2: private designators begin with 99."""

SUCCESS: Final = 0
MINOR: Final = 4
"""A rule of the site or the reviewer said no: nothing is broken, and the AI did not run."""
SERIOUS: Final = 8
"""Something failed, and what was begun was ended (A.5.2: "action terminated")."""


class ReporterInvalid(BridgeError):
    """A name of our own system that no message can hold, or none at all."""

    CODES = frozenset({"REPORTER_INVALID"})
    fault = Fault.SITE


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value, with the meaning that A.5.1 demands (`originalText`)."""

    value: str
    system: str
    meaning: str


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


APPLICATION: Final = _dcm("110150", "Application")
DESTINATION: Final = _dcm("110152", "Destination Role ID")
SOURCE: Final = _dcm("110153", "Source Role ID")
DESTINATION_MEDIA: Final = _dcm("110154", "Destination Media")
URI_MEDIA: Final = _dcm("110037", "URI")
READER: Final = Code("READER", DESIGNATOR, "Reader")
"""A person, named by a pseudonym: DICOM's roles (CID 402) are of programs and media."""

APPLICATION_ACTIVITY: Final = _dcm("110100", "Application Activity")
AUDIT_LOG_USED: Final = _dcm("110101", "Audit Log Used")
INSTANCES_ACCESSED: Final = _dcm("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED: Final = _dcm("110104", "DICOM Instances Transferred")
EXPORT: Final = _dcm("110106", "Export")
SECURITY_ALERT: Final = _dcm("110113", "Security Alert")
STARTED: Final = _dcm("110120", "Application Start")
RECORDING_STOPPED: Final = _dcm("110133", "Audit Recording Stopped")
RECORDING_STARTED: Final = _dcm("110134", "Audit Recording Started")
OBJECT_SECURITY: Final = _dcm("110135", "Object Security Attributes Changed")


@dataclass(frozen=True, slots=True)
class Node:
    """A system of the site as the configuration names it: AE title, and host name or address; "" where not known."""

    ae_title: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports: the site, our system's name in it, the log's origin, our own node, and the peers by their names."""

    site: str
    system: str
    origin: str
    node: Node
    peers: Mapping[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what would make a message malformed. Raises ReporterInvalid."""
        object.__setattr__(self, "peers", MappingProxyType(dict(self.peers)))
        needed = (self.site, self.system, self.origin, *self.peers)
        optional = [text for node in (self.node, *self.peers.values()) for text in (node.ae_title, node.host)]
        if not all(needed) or not all(text.isprintable() for text in (*needed, *optional)):
            raise ReporterInvalid("REPORTER_INVALID", "a name in the configuration is empty or not printable")


@dataclass(frozen=True, slots=True)
class Participant:
    """A system that took part, or a reader. `media`: what it is made of, where it is a medium and no system."""

    user: str
    role: Code
    requestor: bool
    node: Node = field(default_factory=Node)
    media: Code | None = None


Details = tuple[tuple[str, str], ...]
"""Names and values of what else is told."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of PS3.15 A.5.3, complete but for its form.

    `part` counts the events of one entry from 0. `study`: the pseudonym, 32 hexadecimal digits. `instances`: UIDs of
    our own that were transferred. `details` are of the study, or of the log's entry where there is no study. `alert`:
    a fixed English sentence, of a Security Alert only.
    """

    entry: Entry
    reporter: Reporter
    id: Code
    action: str
    types: tuple[Code, ...]
    participants: tuple[Participant, ...]
    outcome: int = SUCCESS
    part: int = 0
    study: str | None = None
    instances: tuple[str, ...] = ()
    details: Details = ()
    alert: str = ""

    @property
    def log_entry(self) -> str:
        """The entry's name outside the log: origin and index."""
        return f"{self.reporter.origin}#{self.entry.index}"
