"""What tests of audit messages share: a site, an entry of every kind, the canaries that must not come out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, cast

from audit.entry import BODIES, CALL_NEEDED, Draft, Entry, Kind
from dicom_bridge.audit_event import Event, Node, Reporter
from dicom_bridge.audit_rules import events_of
from tests.simulators.audit_log import CALL, DIGEST, ORIGIN, STUDY, body

TIME = "2026-11-23T16:07:12.123456Z"
REPORTER = Reporter(
    site="test-hospital",
    system="zhiying",
    origin=ORIGIN,
    node=Node("ZHIYING", "ai.hospital.example"),
    peers={"pacs": Node("PACS", "192.0.2.7")},
)
YOUNG = ("HEARTBEAT", "EXPORT", "RESTORE")
"""Kinds of a later log."""
UNKNOWN = ("AMENDED", "KEY_ROTATION")
Later = StrEnum("Later", [(name, name) for name in (*YOUNG, *UNKNOWN)])
NAME = "ZHANGSAN"
"""A patient's name in the alphabet of a code: only where no code may stand can it be told from one."""
CANARIES = (
    "TEST^Phantom",
    "测试",
    "Zhang San",
    "110101199003078888",
    "19620101",
    "1.2.840.113619.2.55.3.604688119.971",
)
NOT_OURS = frozenset({"condition", "observed", "checks", "runtime", "measurements", "device", "note"})
"""Fields of a body that come out of a header, of a model or of a machine: their content stays in the log."""


def entry(kind: str, given: Mapping[str, Any] | None = None, *, index: int = 7, call: str | None = None) -> Entry:
    """An entry of the kind, with a full body unless one is given; also of a kind that only a later log has."""
    known = kind in Kind.__members__
    content = given if given is not None else body(Kind(kind)) if known else {}
    needs = kind in CALL_NEEDED
    named = CALL if needs and call is None else call
    member = Kind(kind) if known else cast("Kind", Later(kind))
    if known and given is None:
        Draft(member, "key", content, named)  # it could be logged
    return Entry(index, "service", index, TIME, "b0" * 16, index, member, f"{kind.lower()}:{index}", content, named)


def every_event() -> list[Event]:
    """Of every kind, known and unknown, with and without a study."""
    found: list[Event] = []
    for kind in (*BODIES, *YOUNG, *UNKNOWN):
        for study in (None, STUDY):
            found += events_of(entry(str(kind)), REPORTER, study)
    return [*found, *events_of(largest(), REPORTER, STUDY), *events_of(released(256), REPORTER, STUDY)]


def largest() -> Entry:
    """The largest CALL_RESULT that the schema admits, in what a message repeats of it."""
    outputs = [{"kind": "SEG", "uid": f"2.25.{10**38 + n}", "digest": DIGEST} for n in range(256)]
    return entry("CALL_RESULT", {**body(Kind.CALL_RESULT), "outputs": outputs})


def released(count: int) -> Entry:
    """A RELEASED entry with that many objects."""
    outputs = [{"uid": f"2.25.{10**38 + n}", "digest": DIGEST} for n in range(count)]
    return entry("RELEASED", {**body(Kind.RELEASED), "outputs": outputs})


def poisoned(value: Any, canary: str) -> Any:
    """The same shape with the canary as every text, key and item: what a broken or a later log could hold."""
    if isinstance(value, Mapping):
        return {**{name: poisoned(item, canary) for name, item in value.items()}, canary: canary}
    if isinstance(value, (list, tuple)):
        return [poisoned(item, canary) for item in value]
    return canary if isinstance(value, str) else value
