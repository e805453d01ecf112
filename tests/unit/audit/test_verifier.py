"""The verifier: an honest package passes, every edit is found with its place, and what is not there is not PASS."""

import ast
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from audit import verifier
from audit.canonical import canonical
from audit.entry import Draft, Kind
from audit.export import Evidence, Scope, export
from audit.note import Signer
from tests.simulators.audit_log import ORIGIN, body
from tests.simulators.audit_package import (
    APPROVED_AT,
    FIRST_CALL,
    LIFE,
    START,
    Hospital,
    WitnessKey,
    check,
    forged,
    members,
    repacked,
    signed_head,
)
from tests.simulators.reviewer import Reviewer

CALLS_BEFORE, CALLS = 4, 7
LINES_MAX = 1330
"""Of the verifier: what can be read in an evening."""


class Taken:
    """An honest package: an older witnessed checkpoint in the middle, a witnessed newest one, every kind of member."""

    def __init__(self, folder: Path, **evidence: Any) -> None:
        self.folder = folder
        self.hospital = hospital = Hospital()
        hospital.approve()
        for number in range(CALLS_BEFORE):
            hospital.call(number)
        self.older = hospital.witnessed()
        self.older_size = len(hospital.log.made)
        hospital.log.now += timedelta(hours=1)
        for number in range(CALLS_BEFORE, CALLS):
            hospital.call(number)
        self.newest = hospital.witnessed()
        self.leaves = hospital.log.leaves()
        self.policy = hospital.policy(folder)
        path = folder / "package.zip"
        beside = {"checkpoint": self.newest, "older": (self.older,), "reconciliation": {"pacs.json": b'{"uids":[]}'}}
        export(hospital.log, path, evidence=Evidence(**(beside | evidence)))
        self.bytes = path.read_bytes()
        self.parts = members(self.bytes)

    def rewritten(self, leaves: list[bytes], note: str | None = None) -> bytes:
        """The attacker's package: other leaves, a checkpoint by the operator's key, the old witnessed one beside."""
        return repacked(self.parts, leaves, note or signed_head(self.hospital.signer, leaves).note)

    def changed(self, index: int, **fields: Any) -> list[bytes]:
        """The leaves with fields of one envelope changed."""
        leaves = list(self.leaves)
        leaves[index] = canonical(json.loads(leaves[index]) | fields)
        return leaves


@pytest.fixture
def taken(tmp_path: Path) -> Taken:
    """An honest package."""
    return Taken(tmp_path)


def remarks(report: verifier.Report) -> str:
    """Everything that was said, for assertions."""
    return "\n".join(f"{one.verdict} {one.where}: {one.what}" for one in report.remarks)


def fails(package: bytes, policy: Path, index: int | None, words: str) -> None:
    """Assert FAIL, at this index, in these words."""
    report = check(package, policy)
    assert report.verdict == "FAIL", remarks(report)
    assert words in remarks(report)
    assert report.first_bad == index


def test_an_honest_package_passes(taken: Taken) -> None:
    """Everything is counted, re-evaluated and witnessed."""
    report = check(taken.bytes, taken.policy)
    assert (report.verdict, report.remarks, report.first_bad) == ("PASS", [], None)
    figures = report.figures
    assert (figures["size"], figures["in_scope"], figures["out_of_scope"]) == (
        FIRST_CALL + 4 * CALLS,
        FIRST_CALL + 4 * CALLS,
        0,
    )
    assert (figures["unwitnessed_tail"], figures["outside_window"], figures["calls_open"]) == (0, 0, 0)
    assert figures["decisions"] == {"evaluated": CALLS, "agree": CALLS, "differ": 0, "unknown": 0, "differ_at": []}
    assert [json.loads(leaf)["body"].get("event", json.loads(leaf)["kind"]) for leaf in taken.leaves][:FIRST_CALL] == [
        *LIFE
    ]
    assert figures["largest_gap"] == {
        "seconds": 3601.0,
        "from_index": taken.older_size - 1,
        "to_index": taken.older_size,
    }


def test_an_honest_package_is_what_its_head_alone_says(tmp_path: Path) -> None:
    """Without witnesses in the policy the log is the operator's word: INCOMPLETE."""
    taken = Taken(tmp_path)
    taken.hospital.witnesses = ()
    report = check(taken.bytes, taken.hospital.policy(tmp_path, without="quorum"))
    assert report.verdict == "INCOMPLETE"
    assert "names no witness" in remarks(report)


def test_one_byte_anywhere_is_found_with_its_member(taken: Taken) -> None:
    """A changed byte in any member, its header or the directory gives FAIL, at the member or the zip."""
    generator = random.Random(4)
    layout = verifier.Package(BytesIO(taken.bytes), verifier.Report()).members
    positions = [(name, one.start + generator.randrange(one.size)) for name, one in layout.items() for _ in range(6)]
    positions += [(name, one.start - 1 - generator.randrange(30)) for name, one in layout.items() for _ in range(2)]
    positions += [("", generator.randrange(len(taken.bytes))) for _ in range(200)]
    positions += [("", len(taken.bytes) - 1 - back) for back in range(22 + 60)]
    for name, at in positions:
        edited = bytearray(taken.bytes)
        edited[at] ^= generator.randrange(1, 256)
        report = check(bytes(edited), taken.policy)
        assert report.verdict == "FAIL", (name, at)
        places = {one.where for one in report.remarks if one.verdict == "FAIL"}
        assert not name or name in places or any(place.startswith("zip") for place in places), (name, at, places)
        if name.startswith("entries/") and at >= layout[name].start:
            assert report.first_bad is not None, (name, at)


@pytest.mark.parametrize("cut", [0, 1, 21, 22, 100, 5000])
def test_a_package_that_is_cut_short_or_longer_fails(taken: Taken, cut: int) -> None:
    """No prefix of a package is a package, and nothing may follow or precede one."""
    assert check(taken.bytes[:cut], taken.policy).verdict == "FAIL"
    assert check(taken.bytes[: len(taken.bytes) - cut - 1], taken.policy).verdict == "FAIL"
    assert check(taken.bytes + bytes(cut + 1), taken.policy).verdict == "FAIL"
    assert check(bytes(cut + 1) + taken.bytes, taken.policy).verdict == "FAIL"


def test_an_edited_entry_under_a_new_head_fails(taken: Taken) -> None:
    """The operator's key signs any tree; the checkpoint that witnesses cosigned before does not fit it."""
    leaves = taken.changed(3, body=json.loads(taken.leaves[3])["body"] | {"autonomy": "A1", "runtime": {}})
    fails(taken.rewritten(leaves), taken.policy, 0, f"the first bad one is among 0 to {taken.older_size - 1}")


def test_an_edited_entry_without_any_old_checkpoint_is_not_pass(taken: Taken) -> None:
    """An attacker who throws the witnessed checkpoints away has nothing that witnesses vouch for."""
    taken.parts.pop(f"checkpoints/{taken.older_size:013d}")
    leaves = taken.changed(3, body=json.loads(taken.leaves[3])["body"] | {"runtime": {}})
    report = check(taken.rewritten(leaves), taken.policy)
    assert report.verdict == "INCOMPLETE"
    assert "no checkpoint has cosignatures of 2" in remarks(report)
    assert report.figures["unwitnessed_tail"] == len(leaves)


def test_a_deleted_entry_is_a_gap_of_its_source(taken: Taken) -> None:
    """Where it was, the sequence number of the next entry does not follow."""
    at = taken.older_size + 3
    fails(taken.rewritten(taken.leaves[:at] + taken.leaves[at + 1 :]), taken.policy, at, f"where {at} is due")


def test_a_deleted_entry_with_renumbered_rest_fails(taken: Taken) -> None:
    """Renumbering hides the gap, and then the call lacks what it rests on, or the old checkpoint its entries."""
    at = FIRST_CALL + 1  # the first intent
    rest = [json.loads(leaf) for leaf in taken.leaves[at + 1 :]]
    renumbered = [canonical(entry | {"seq": entry["seq"] - 1}) for entry in rest]
    fails(taken.rewritten(taken.leaves[:at] + renumbered), taken.policy, 0, "CALL_RESULT without its CALL_INTENT")


def test_an_older_state_is_incomplete_for_the_period(taken: Taken) -> None:
    """Truncated to a genuine witnessed state, the log says nothing about what came after."""
    leaves = taken.leaves[: taken.older_size]
    taken.parts.pop(f"checkpoints/{taken.older_size:013d}")
    package = repacked(taken.parts, leaves, taken.older)
    assert check(package, taken.policy).verdict == "PASS"
    report = check(package, taken.policy, period_end="2026-12-10T01:40:00.000000Z")
    assert report.verdict == "INCOMPLETE"
    assert "nothing witnessed at or after the period's end" in remarks(report)


def test_the_packages_own_period_counts_when_none_is_given(tmp_path: Path) -> None:
    """A package that says it is of a period must be witnessed until its end."""
    hospital = Hospital()
    scope = Scope(end=START + timedelta(days=1))
    export(hospital.log, tmp_path / "p.zip", scope, Evidence(checkpoint=hospital.witnessed()))
    report = check((tmp_path / "p.zip").read_bytes(), hospital.policy(tmp_path))
    assert report.verdict == "INCOMPLETE"
    assert "the period's end, 2026-12-11" in remarks(report)


def test_dropped_rows_fail(taken: Taken) -> None:
    """An export cannot leave entries out: the chunk must hold as many as the checkpoint says."""
    name = f"entries/{0:013d}"
    dropped = repacked(taken.parts, taken.leaves[:-1], taken.newest)
    parts = members(dropped)
    fails(
        forged(parts, lambda manifest: manifest.update(size=len(taken.leaves))),
        taken.policy,
        len(taken.leaves) - 1,
        "fewer entries",
    )
    parts.pop(name)
    report = check(forged(parts), taken.policy)
    assert report.verdict == "FAIL"
    assert name in remarks(report)


def test_swapped_entries_fail(taken: Taken) -> None:
    """Order is part of the log."""
    leaves = list(taken.leaves)
    at = taken.older_size + 1
    leaves[at], leaves[at + 1] = leaves[at + 1], leaves[at]
    fails(taken.rewritten(leaves), taken.policy, at, "earlier than its source's entry before it")


def test_a_backdated_entry_is_outside_its_checkpoints_window(taken: Taken) -> None:
    """An entry after a checkpoint cannot be from before it, even in a source of its own, and even fully witnessed."""
    hospital = taken.hospital
    before = hospital.log.now
    hospital.log.now = START - timedelta(hours=5)
    late = hospital.assembled(999, source="other", seconds=0)
    hospital.log.now = before
    leaves = [*taken.leaves, late.to_bytes()]
    note = hospital.witnessed(signed_head(hospital.signer, leaves).note)
    fails(taken.rewritten(leaves, note), taken.policy, late.index, "outside its checkpoint's window")
    report = check(taken.rewritten(leaves, note), taken.policy)
    assert report.figures["outside_window"] == 1


def test_a_postdated_entry_is_outside_its_checkpoints_window(taken: Taken) -> None:
    """What a witness had seen at noon was not written in the evening."""
    leaves = taken.changed(len(taken.leaves) - 1, time="2026-12-11T01:00:00.000000Z")
    note = taken.hospital.witnessed(signed_head(taken.hospital.signer, leaves).note)
    fails(taken.rewritten(leaves, note), taken.policy, len(leaves) - 1, "outside its checkpoint's window")


def test_an_approval_by_an_unknown_key_fails(taken: Taken) -> None:
    """Only the policy's reviewers approve; calls under another's approval differ too."""
    stranger = Reviewer(Signer.generate("reviewer.example/test"))
    lines = [f"reviewer {stranger.signer.vkey}", f"reviewer {Signer.generate('another.example').vkey}"]
    policy = taken.hospital.policy(taken.folder, *lines, without="reviewer")
    fails(taken.bytes, policy, LIFE.index("BEGIN_REVIEW"), "not signed by 1 REVIEWER of the policy")
    assert f"FAIL entry {APPROVED_AT}: not signed by 2 REVIEWER" in remarks(check(taken.bytes, policy))


def test_an_approval_by_the_operator_fails(tmp_path: Path) -> None:
    """The hospital cannot approve itself, even beside the reviewer."""
    hospital = Hospital()
    note = hospital.reviewer.note()
    text = note.rpartition("\n\n")[0] + "\n"
    entry = hospital.approve(note + hospital.signer.sign(text).rpartition("\n\n")[2])
    export(hospital.log, tmp_path / "p.zip", evidence=Evidence(checkpoint=hospital.witnessed()))
    fails((tmp_path / "p.zip").read_bytes(), hospital.policy(tmp_path), entry.index, "log's own key")


@pytest.mark.parametrize("by", [0, 1])
def test_too_few_witnesses_are_incomplete(tmp_path: Path, by: int) -> None:
    """One of two is no quorum of two."""
    hospital = Hospital()
    export(hospital.log, tmp_path / "p.zip", evidence=Evidence(checkpoint=hospital.witnessed(by=by)))
    report = check((tmp_path / "p.zip").read_bytes(), hospital.policy(tmp_path))
    assert report.verdict == "INCOMPLETE"
    assert (report.figures["witnessed_size"], report.figures["unwitnessed_tail"]) == (0, 1)


def test_a_bad_cosignature_in_a_trusted_name_fails(tmp_path: Path) -> None:
    """It is not merely absent: somebody forged it."""
    hospital = Hospital()
    note = hospital.witnessed()
    other = WitnessKey("commission.example/w").cosign(hospital.log.head().note, START).splitlines()[-1]
    genuine = note.splitlines()[-1]
    bad = genuine[:-20] + ("A" if genuine[-20] != "A" else "B") + genuine[-19:]
    for line, verdict in ((bad, "FAIL"), (other, "PASS")):
        path = tmp_path / f"{verdict}.zip"
        export(hospital.log, path, evidence=Evidence(checkpoint=f"{note}{line}\n"))
        assert check(path.read_bytes(), hospital.policy(tmp_path)).verdict == verdict


def test_entries_after_the_last_witnessed_head_are_counted(taken: Taken) -> None:
    """The un-witnessed tail is INCOMPLETE beyond what the reader allows."""
    note = taken.hospital.log.head().note
    package = repacked(taken.parts, taken.leaves, note)
    tail = len(taken.leaves) - taken.older_size
    report = check(package, taken.policy, tail_max=tail - 1)
    assert (report.verdict, report.figures["unwitnessed_tail"]) == ("INCOMPLETE", tail)
    assert check(package, taken.policy, tail_max=tail).verdict == "PASS"


def test_a_second_checkpoint_that_does_not_fit_fails(taken: Taken) -> None:
    """Two histories under one key: the other view's checkpoint shows it, with the range of the first bad entry."""
    other = [*taken.leaves[:10], *taken.changed(11, seq=11)[10:12]]
    other[-1] = canonical(json.loads(other[-1]) | {"key": "another:11"})
    parts = taken.parts | {f"checkpoints/{12:013d}": signed_head(taken.hospital.signer, other).note.encode()}
    fails(forged(parts), taken.policy, 0, "checkpoint of size 12: the entries do not make")


@pytest.mark.parametrize("stranger", ["key", "origin"])
def test_a_checkpoint_of_another_log_or_key_fails(taken: Taken, stranger: str) -> None:
    """The policy names the key and the origin; nothing else is this log."""
    signer = Signer.generate(ORIGIN) if stranger == "key" else taken.hospital.signer
    note = signed_head(signer, taken.leaves, "other.example/log" if stranger == "origin" else ORIGIN).note
    words = "not signed by the log's key" if stranger == "key" else "a checkpoint of another log"
    fails(repacked(taken.parts, taken.leaves, note), taken.policy, None, words)


# What one entry can be wrong in, though every hash, signature and cosignature over it is right.
ENTRY_EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "schema": ({"schema": "zhiying.audit/2"}, "another schema"),
    "kind": ({"kind": "call_intent"}, "kind"),
    "key": ({"key": "UPPER"}, "key: not"),
    "key repeated": ({"key": "log-start"}, "another entry's"),
    "call": ({"call": "12"}, "call: not"),
    "no call": ({"call": None}, "against the rule"),
    "source": ({"source": "a b"}, "source: not"),
    "new source": ({"source": "other"}, "where 0 is due"),
    "seq": ({"seq": "7"}, "seq or body"),
    "seq true": ({"seq": True}, "seq or body"),
    "body": ({"body": []}, "seq or body"),
    "time zone": ({"time": "2026-12-10T01:00:30+08:00"}, "time: not"),
    "time": ({"time": "2026-13-10T01:00:30.000000Z"}, "no such moment"),
    "second start": ({"kind": "LOG_START", "call": None}, "LOG_START"),
    "more": ({"more": 1}, "fields"),
}


@pytest.mark.parametrize("edit", ENTRY_EDITS.values(), ids=ENTRY_EDITS)
def test_each_field_of_an_entry_is_checked(taken: Taken, edit: tuple[dict[str, Any], str]) -> None:
    """Even if witnesses cosigned it: they see no entries."""
    at = taken.older_size + 2  # a CALL_RESULT in the later part
    leaves = taken.changed(at, **edit[0])
    note = taken.hospital.witnessed(signed_head(taken.hospital.signer, leaves).note)
    fails(taken.rewritten(leaves, note), taken.policy, at, edit[1])


@pytest.mark.parametrize(
    "leaf",
    [b"{}", b"[", b"null", b"1.5", b'{"a":1,"a":1}', b" {}", b'"\\ud800"', b"\xff", b"[" * 60_000, b"9" * 60_000],
    ids=lambda leaf: leaf[:12].decode("latin-1"),
)
def test_a_leaf_that_is_no_entry_fails(taken: Taken, leaf: bytes) -> None:
    """At its index, without a traceback."""
    leaves = [*taken.leaves, leaf]
    parts = members(taken.rewritten(taken.leaves))
    hospital = taken.hospital
    first = f"entries/{0:013d}"
    parts[first] += len(leaf).to_bytes(2, "big") + leaf
    parts["checkpoint"] = hospital.witnessed(signed_head(hospital.signer, leaves).note).encode()
    package = forged(parts, lambda manifest: manifest.update(size=len(leaves)))
    fails(package, taken.policy, len(leaves) - 1, f"entry {len(leaves) - 1}: not")


def story(tmp_path: Path, tell: Callable[[Hospital], object], *lines: str, without: str = "-") -> verifier.Report:
    """The report on a witnessed log in which this happened after the approval."""
    hospital = Hospital()
    hospital.approve()
    tell(hospital)
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.zip"
    export(hospital.log, path, evidence=Evidence(checkpoint=hospital.witnessed()))
    return check(path.read_bytes(), hospital.policy(tmp_path, *lines, without=without))


def test_a_result_without_intent_fails(tmp_path: Path) -> None:
    """Nothing runs before it is written that it will."""
    report = story(tmp_path, lambda hospital: hospital.result(1))
    assert (report.verdict, report.first_bad) == ("FAIL", FIRST_CALL)
    report = story(tmp_path, lambda hospital: (hospital.intent(1), hospital.released(1)))
    assert (report.verdict, report.first_bad) == ("FAIL", FIRST_CALL + 1)
    assert "RELEASED without its CALL_RESULT" in remarks(report)


def withdrawn(hospital: Hospital, number: int) -> None:
    """A call's result is said to count no more."""
    call = f"{number:032x}"
    hospital.log.append(Draft(Kind.WITHDRAWN, f"withdrawn:{call}", body(Kind.WITHDRAWN), call))


def test_a_withdrawal_follows_a_result(tmp_path: Path) -> None:
    """What was never found cannot count no more; after a result a withdrawal is in order."""
    report = story(tmp_path, lambda hospital: (hospital.intent(1), withdrawn(hospital, 1)))
    assert (report.verdict, report.first_bad) == ("FAIL", FIRST_CALL + 1)
    assert "WITHDRAWN without its CALL_RESULT" in remarks(report)
    report = story(tmp_path, lambda hospital: (hospital.call(1), withdrawn(hospital, 1)))
    assert report.verdict == "PASS"


def test_a_result_that_is_told_before_it_is_released_fails(tmp_path: Path) -> None:
    """Who reads no DICOM hears of nothing that the PACS has not, and of it as often as the log says."""
    assert story(tmp_path, lambda hospital: (hospital.call(1), hospital.notified(1))).verdict == "PASS"
    report = story(tmp_path, lambda hospital: (hospital.intent(1), hospital.result(1), hospital.notified(1)))
    assert (report.verdict, report.first_bad) == ("FAIL", FIRST_CALL + 2)
    assert "NOTIFIED without its RELEASED" in remarks(report)
    report = story(tmp_path, lambda hospital: (hospital.intent(1), hospital.notified(1)))
    assert "NOTIFIED without its CALL_RESULT" in remarks(report)
    report = story(tmp_path, lambda hospital: hospital.notified(1))
    assert "NOTIFIED without its CALL_INTENT" in remarks(report)


def test_a_look_says_who_looked_at_what_and_when(tmp_path: Path) -> None:
    """One entry for each reader, study and civil day: its key says so, and an entry of another one is found."""

    def honest(hospital: Hospital) -> None:
        hospital.viewed()
        hospital.viewed("9" * 32)
        hospital.viewed(seconds=86_400)

    report = story(tmp_path, honest)
    assert (report.verdict, report.figures["counts"]["VIEWED"]) == ("PASS", 3)

    for changed in ({"reader": "7" * 32}, {"study": "4" * 32}, {"role": "CLINICAL_OWNER"}):
        report = story(tmp_path, lambda hospital, said=changed: hospital.viewed(said=said))  # type: ignore[misc]
        assert (report.verdict, report.first_bad) == ("FAIL", FIRST_CALL)
        assert "VIEWED: not the key of its reader, study and day" in remarks(report)
    for day in ("2026-12-09", "2026-12-11"):
        report = story(tmp_path, lambda hospital, day=day: hospital.viewed(day=day))  # type: ignore[misc]
        assert (report.verdict, report.first_bad) == ("FAIL", FIRST_CALL)
        assert "VIEWED: not the key of its reader, study and day" in remarks(report)
    report = story(tmp_path, lambda hospital: [hospital.viewed(), hospital.viewed()])
    assert "its key is another entry's" in remarks(report)


def test_a_look_that_was_changed_is_found(tmp_path: Path) -> None:
    """Another name in the package, in place of who looked: by the tree, and by the key where the tree was made anew."""
    hospital = Hospital()
    hospital.approve()
    hospital.viewed()
    path = tmp_path / "package.zip"
    export(hospital.log, path, evidence=Evidence(checkpoint=hospital.witnessed()))
    parts, leaves = members(path.read_bytes()), hospital.log.leaves()
    for said, words in (
        ({"reader": "7" * 32}, "VIEWED: not the key of its reader, study and day"),
        ({"reader": "li"}, "VIEWED: not its two names and role"),
        ({"study": "1.2.840.99999.7"}, "VIEWED: not its two names and role"),
        ({"role": "radiologist"}, "VIEWED: not its two names and role"),
        ({"role": 7}, "VIEWED: its body is not of its form"),
        ({"patient": "TEST"}, "VIEWED: its body is not of its form"),
    ):
        entry = json.loads(leaves[-1])
        changed = [*leaves[:-1], canonical(entry | {"body": entry["body"] | said})]
        report = check(repacked(parts, changed, hospital.witnessed()), hospital.policy(tmp_path))
        assert report.verdict == "FAIL"
        assert "the entries do not make this checkpoint's root" in remarks(report)
        anew = check(repacked(parts, changed, signed_head(hospital.signer, changed).note), hospital.policy(tmp_path))
        assert (anew.verdict, anew.first_bad) == ("FAIL", FIRST_CALL)
        assert words in remarks(anew)


def test_a_call_without_an_end_is_a_finding(tmp_path: Path) -> None:
    """It may just be running: the reader sees it, and decides."""
    report = story(tmp_path, lambda hospital: hospital.intent(1))
    assert (report.verdict, report.figures["calls_open"]) == ("PASS", 1)
    assert f"FINDING entry {FIRST_CALL}: a call that was begun" in remarks(report)


def failed_call(hospital: Hospital) -> None:
    """A call that failed."""
    hospital.intent(1)
    body = {"study": "5" * 32, "stage": "INFER", "code": "ENGINE_DIED", "fault": "MODEL"}
    hospital.add(Kind.FAILED, "failed:1", body, f"{1:032x}")


def test_a_failure_ends_a_call(tmp_path: Path) -> None:
    """Nothing is open after it."""
    assert story(tmp_path, failed_call).figures["calls_open"] == 0


DIFFERENCES: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "modality": ({"MODALITY": "CT"}, {}, "MODALITY does not hold"),
    "unknown": ({"BODY_PART": "UNKNOWN"}, {}, "BODY_PART does not hold"),
    "too young": ({"AGE_YEARS": "10-14"}, {}, "AGE_YEARS does not hold"),
    "age in words": ({"AGE_YEARS": "old"}, {}, "AGE_YEARS does not hold"),
    "spacing": ({"SLICE_SPACING_MM": "2.01"}, {}, "SLICE_SPACING_MM does not hold"),
    "autonomy": ({"MAX_AUTONOMY": "A2"}, {"autonomy": "A2"}, "MAX_AUTONOMY does not hold"),
    "autonomy used": (
        {"MAX_AUTONOMY": "A1"},
        {"autonomy": "A4"},
        "another autonomy was checked than was used",
    ),
    "no such condition": ({"PHASE_OF_MOON": "FULL"}, {}, "PHASE_OF_MOON does not hold"),
    "validity": ({"VALIDITY": "ENDED"}, {}, "VALIDITY does not hold"),
    "model": ({}, {"model": {"name": "small-model", "version": "1.1", "digest": "sha256:" + "ab" * 32}}, "another mod"),
    "policy": ({}, {"policy": "sha256:" + "0" * 64}, "another policy digest"),
    "approval": ({}, {"approval": "TEST-2026-0002"}, "no approval of this name"),
    "nothing checked": ({}, {"checks": []}, "not checked: AGE_YEARS, BODY_PART"),
    "outcome": (
        {},
        {"checks": [{"condition": "SEX", "outcome": "ATTRIBUTE_UNKNOWN", "observed": "UNKNOWN"}]},
        "SEX has the outcome ATTRIBUTE_UNKNOWN",
    ),
}


@pytest.mark.parametrize(("checks", "changes", "words"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_a_decision_that_its_conditions_do_not_give_differs(
    tmp_path: Path, checks: dict[str, str], changes: dict[str, Any], words: str
) -> None:
    """The gate is evaluated again from what was logged; the index is told."""
    report = story(tmp_path, lambda hospital: (hospital.intent(1, checks, **changes), hospital.result(1)))
    assert (report.verdict, report.first_bad) == ("FAIL", FIRST_CALL)
    assert f"decision differs: {words}" in remarks(report)
    figures = {"evaluated": 1, "agree": 0, "differ": 1, "unknown": 0, "differ_at": [FIRST_CALL]}
    assert report.figures["decisions"] == figures


@pytest.mark.parametrize("hours", [-24 * 365, 24 * 365])
def test_an_approval_out_of_its_time_permits_nothing(tmp_path: Path, hours: int) -> None:
    """Validity is weighed with the entry's own time, in civil days of China."""

    def tell(hospital: Hospital) -> None:
        hospital.log.now += timedelta(hours=max(hours, 0))
        hospital.intent(1)

    if hours > 0:
        assert "not in force" in remarks(story(tmp_path, tell))
    else:
        found = [verifier._day("2026-12-01", days) for days in (0, 1)]
        assert found == ["2026-11-30T16:00:00.000000Z", "2026-12-01T16:00:00.000000Z"]


def test_silence_longer_than_heartbeats_is_incomplete(tmp_path: Path) -> None:
    """As many heartbeats as fit into the silence are missing."""

    def tell(hospital: Hospital) -> None:
        hospital.assembled(1, seconds=59)
        hospital.assembled(2, seconds=190)

    report = story(tmp_path, tell, "heartbeat 60")
    assert (report.verdict, report.figures["heartbeats_missing"]) == ("INCOMPLETE", 3)
    assert f"entry {FIRST_CALL + 1}: silence of 190 s" in remarks(report)


def test_without_a_reviewer_in_the_policy_approvals_are_incomplete(tmp_path: Path) -> None:
    """Nobody told whom to believe."""
    report = story(tmp_path, lambda hospital: hospital.call(1), without="reviewer")
    assert report.verdict == "INCOMPLETE"
    assert f"entry {APPROVED_AT}: its signatures are not all checked: the policy names 0 of 2 REVIEWER" in remarks(
        report
    )


def filtered(tmp_path: Path, hidden: frozenset[str]) -> tuple[bytes, Hospital]:
    """A package whose filter leaves these kinds out."""
    hospital = Hospital()
    hospital.approve()
    for number in range(3):
        hospital.call(number)
    scope = Scope(filter={"kind": "some"}, selects=lambda entry: str(entry.kind) not in hidden)
    path = tmp_path / "filtered.zip"
    export(hospital.log, path, scope, Evidence(checkpoint=hospital.witnessed()))
    return path.read_bytes(), hospital


def test_entries_out_of_scope_are_hashes_that_count(tmp_path: Path) -> None:
    """What no rule needs may be out of scope, and the package passes."""
    package, hospital = filtered(tmp_path, frozenset({"ASSEMBLED", "APPROVAL", "LOG_START"}))
    report = check(package, hospital.policy(tmp_path))
    assert (report.verdict, report.figures["out_of_scope"]) == ("PASS", 3)
    assert "ASSEMBLED" not in report.figures["counts"]
    assert report.figures["decisions"]["agree"] == 3


def test_a_filter_that_hides_what_a_check_needs_is_incomplete(tmp_path: Path) -> None:
    """A result whose intent is hidden may have one: nobody can tell."""
    package, hospital = filtered(tmp_path, frozenset({"CALL_INTENT"}))
    report = check(package, hospital.policy(tmp_path))
    assert report.verdict == "INCOMPLETE"
    assert "CALL_RESULT without its CALL_INTENT before it, or it is hidden" in remarks(report)


def test_hidden_entries_explain_only_as_many_gaps_as_they_are(taken: Taken) -> None:
    """One hash cannot stand for two missing numbers, nor for a gap somewhere else."""
    at = taken.older_size
    leaves = [
        *taken.leaves[:at],
        *(canonical(json.loads(leaf) | {"seq": 99 + n}) for n, leaf in enumerate(taken.leaves[at:])),
    ]
    note = taken.hospital.witnessed(signed_head(taken.hospital.signer, leaves).note)
    package = repacked(taken.parts, leaves, note, hidden=[2, at - 1])
    report = check(package, taken.policy)
    assert (report.verdict, report.first_bad) == ("FAIL", at)
    assert "seq 99" in remarks(report)


def test_one_hidden_entry_does_not_explain_the_gaps_of_two_sources(taken: Taken) -> None:
    """Each could be the hidden one's; both cannot."""
    hospital = taken.hospital
    hospital.log.seqs["one"] = hospital.log.seqs["two"] = 1
    hidden = hospital.assembled(100).index
    hospital.assembled(101, source="one")
    second = hospital.assembled(102, source="two").index
    leaves = hospital.log.leaves()
    note = hospital.witnessed(signed_head(hospital.signer, leaves).note)
    report = check(repacked(taken.parts, leaves, note, hidden=[hidden]), taken.policy)
    assert (report.verdict, report.first_bad) == ("FAIL", second)


def test_bytes_between_the_members_and_the_directory_fail(taken: Taken) -> None:
    """Also where the end of the file says that the directory begins later."""
    end = bytearray(taken.bytes[-22:])
    start = int.from_bytes(end[16:20], "little")
    end[16:20] = (start + 4).to_bytes(4, "little")
    package = taken.bytes[:start] + b"more" + taken.bytes[start:-22] + bytes(end)
    report = check(package, taken.policy)
    assert (report.verdict, report.remarks[0].where) == ("FAIL", "zip directory")


MANIFEST_EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"format": "zhiying.audit-package/2"}, "not the fields"),
    "origin": ({"origin": "other.example"}, "origin or size"),
    "size": ({"size": 3}, "origin or size"),
    "counts": ({"counts": {"CALL_INTENT": 1}}, "counts"),
    "first": ({"first": -1}, "first and last"),
    "last": ({"last": 10**9}, "first and last"),
    "period": ({"period": {"from": None, "to": "yesterday"}}, "period"),
    "filter": ({"filter": {"study": 1}}, "filter"),
    "verifier": ({"verifier": "sha256:" + "0" * 64}, "verifier's digest"),
    "does_not_prove": ({"does_not_prove": {}}, "does_not_prove"),
    "more": ({"more": 1}, "not the fields"),
    "members": ({"members": []}, "wrong type"),
}


@pytest.mark.parametrize(("change", "words"), MANIFEST_EDITS.values(), ids=MANIFEST_EDITS)
def test_what_the_manifest_says_must_be_so(taken: Taken, change: dict[str, Any], words: str) -> None:
    """Nothing in it is believed that can be counted."""
    report = check(forged(taken.parts, lambda manifest: manifest.update(change)), taken.policy)
    assert report.verdict == "FAIL"
    assert words in remarks(report)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "entries/../x", "notes.txt", "entries/0000000001024"])
def test_members_that_no_package_has_fail(taken: Taken, name: str) -> None:
    """Extra members and paths are refused by name."""
    report = check(forged({**taken.parts, name: b"x"}), taken.policy)
    assert report.verdict == "FAIL"
    assert name in remarks(report)


def test_a_missing_member_fails(taken: Taken) -> None:
    """Each member that the manifest names is there, and no other."""
    for name in ("checkpoint", "README.md", "verifier.py", f"checkpoints/{taken.older_size:013d}"):
        parts = dict(taken.parts)
        removed = parts.pop(name)
        digest = json.loads(taken.parts["MANIFEST.json"])["members"][name]
        package = forged(parts, lambda manifest, name=name, digest=digest: manifest["members"].update({name: digest}))  # type: ignore[misc]
        assert removed
        assert name in remarks(check(package, taken.policy))


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The verifier as a stranger runs it, from an empty directory."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    command = [sys.executable, "-I", str(folder / "verifier.py"), *words]
    return subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False, timeout=120, env={})


def test_a_stranger_runs_the_packages_own_verifier(taken: Taken) -> None:
    """By itself, in an empty directory and an empty environment, with the status that it promises and no traceback."""
    (taken.folder / "verifier.py").write_bytes(taken.parts["verifier.py"])
    package, policy = str(taken.folder / "package.zip"), str(taken.policy)
    done = run(taken.folder, package, "--policy", policy)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.startswith("PASS\n")
    assert "does not prove" in done.stdout
    done = run(taken.folder, package, "--policy", policy, "--json", "--period-end", "2027-01-01T00:00:00+08:00")
    said = json.loads(done.stdout)
    assert (done.returncode, said["verdict"], said["witnessed_size"]) == (2, "INCOMPLETE", len(taken.leaves))
    assert set(said["does_not_prove"]) == {"en", "zh"}
    edited = bytearray(taken.bytes)
    edited[5000] ^= 1
    (taken.folder / "edited.zip").write_bytes(edited)
    done = run(taken.folder, str(taken.folder / "edited.zip"), "--policy", policy)
    assert (done.returncode, done.stderr) == (1, "")
    assert re.match(r"FAIL\nfirst bad index: \d+\n", done.stdout)


@pytest.mark.parametrize(
    "words",
    [(), ("absent.zip",), ("{p}",), ("absent.zip", "--policy", "{k}"), ("{p}", "--policy", "absent")]
    + [("{p}", "--policy", "{k}", "--period-end", text) for text in ("today", "2026-12-31T00:00:00")]
    + [("{p}", "--policy", "{p}"), ("{p}", "--policy", "{k}", "--max-unwitnessed", "all")],
)
def test_a_command_that_cannot_be_used_says_so_in_one_line(taken: Taken, words: tuple[str, ...]) -> None:
    """Exit status 3, and no traceback."""
    shutil.copy(verifier.__file__, taken.folder / "verifier.py")
    given = [word.format(p=taken.folder / "package.zip", k=taken.policy) for word in words]
    done = run(taken.folder, *given)
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1


def test_the_verifier_is_one_file_of_the_standard_library() -> None:
    """It imports nothing else, parses as Python 3.9, and can be read in an evening."""
    text = Path(verifier.__file__).read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)
    assert not imported & {"socket", "urllib", "http", "ssl", "ftplib", "asyncio"}
    assert len(text.splitlines()) <= LINES_MAX
