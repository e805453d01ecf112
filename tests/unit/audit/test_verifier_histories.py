"""What a log's own story must be: clocks, logs that follow logs, seals, a second tree, members beside."""

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from audit import entry, verifier
from audit.canonical import canonical
from audit.checkpoint import Checkpoint
from audit.entry import Kind
from audit.export import export
from audit.note import Signer
from tests.simulators.audit_log import ORIGIN
from tests.simulators.audit_package import Hospital, WitnessKey, check, forged, members, repacked, signed_head

RESTORE_HEADER = "zhiying.audit/restore/1"
BEFORE = {"origin": "hospital.example/audit-1", "size": 7, "root": "A" * 43 + "="}
FOLLOWS = f"follows {BEFORE['origin']} {BEFORE['size']} {BEFORE['root']}"


def remarks(report: verifier.Report) -> str:
    """Everything that was said, for assertions."""
    return "\n".join(f"{one.verdict} {one.where}: {one.what}" for one in report.remarks)


def packed(hospital: Hospital, leaves: list[bytes], folder: Path, hidden: tuple[int, ...] = ()) -> bytes:
    """A witnessed package of these leaves."""
    path = folder / "honest.zip"
    if not path.exists():
        export(hospital.log, path)
    note = hospital.witnessed(signed_head(hospital.signer, leaves).note)
    return repacked(members(path.read_bytes()), leaves, note, hidden)


def judged(report: verifier.Report, verdict: str, index: int | None, words: str) -> None:
    """Assert this verdict, at this index, in these words."""
    assert report.verdict == verdict, remarks(report)
    assert words in remarks(report)
    assert report.first_bad == index


def test_calls_are_needed_and_absent_where_the_log_says() -> None:
    """The verifier's two tables are the log's: what the log writes is never refused for its call."""
    known = set(Kind.__members__)
    assert {str(kind) for kind in entry.CALL_NEEDED} == verifier.CALL_NEEDED
    assert {str(kind) for kind in entry.CALL_ABSENT} == verifier.CALL_ABSENT & known
    assert verifier.CALL_ABSENT - known <= {"RESTORE", "SEAL"}
    assert entry.ENVELOPE == verifier.ENVELOPE


# ---- Clocks.


def clock_moved(hospital: Hospital, seconds: float) -> None:
    """Somebody sets the hospital's wall clock; its ticks go on."""
    hospital.log.now += timedelta(seconds=seconds)
    hospital.log.began += timedelta(seconds=seconds)


def restarted(hospital: Hospital) -> None:
    """A new run of the writer, whose ticks begin again."""
    hospital.log.boot = "b1" * 16
    hospital.log.began = hospital.log.now


def crept(hospital: Hospital) -> None:
    """The clock is moved in steps that each are allowed."""
    for number in range(5):
        clock_moved(hospital, 20)
        hospital.assembled(number)


def ticks_back(hospital: Hospital) -> None:
    """The ticks lose an hour, and the wall clock none."""
    hospital.log.began += timedelta(hours=1)


CLOCKS: dict[str, tuple[Callable[[Hospital], object], str]] = {
    "still": (lambda _: None, ""),
    "corrected by seconds": (lambda hospital: clock_moved(hospital, 59), ""),
    "corrected and back": (lambda hospital: [clock_moved(hospital, by) for by in (50, 50, -50)], ""),
    "moved forward": (lambda hospital: clock_moved(hospital, 61), "by 61 s against its ticks"),
    "stopped for an hour": (lambda hospital: setattr(hospital.log, "began", hospital.log.began - HOUR), "by -3600 s"),
    "moved in small steps": (crept, "by 80 s against its ticks"),
    "ticks go back": (ticks_back, "its ticks go back"),
    "restarted": (restarted, ""),
    "restarted and moved": (lambda hospital: (clock_moved(hospital, 300), restarted(hospital)), ""),
}
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(("move", "words"), CLOCKS.values(), ids=CLOCKS)
def test_a_clock_that_was_moved_within_a_run_fails(
    tmp_path: Path, move: Callable[[Hospital], object], words: str
) -> None:
    """Wall time and the run's ticks differ by no more than the window (60 s); a new run begins anew."""
    hospital = Hospital()
    hospital.approve()
    move(hospital)
    at = hospital.assembled(99).index
    hospital.assembled(100)
    report = check(packed(hospital, hospital.log.leaves(), tmp_path), hospital.policy(tmp_path))
    if words:
        assert report.verdict == "FAIL"
        assert f"its clock was moved: {words}" in remarks(report)
        assert report.totals["FAIL"] == 1, "each move is told once"
        assert report.first_bad in {at, at - 1, at - 2}
    else:
        assert report.verdict == "PASS", remarks(report)


def test_clocks_of_two_runs_at_once_are_apart(tmp_path: Path) -> None:
    """Two processes may write to one log in turn: each has its own ticks."""
    hospital = Hospital()
    began = hospital.log.began
    for number in range(4):
        hospital.log.boot = f"b{number % 2}" * 16
        hospital.log.began = began + timedelta(days=number % 2)
        hospital.assembled(number)
    report = check(packed(hospital, hospital.log.leaves(), tmp_path), hospital.policy(tmp_path))
    assert report.verdict == "PASS", remarks(report)


# ---- Logs that follow a log, and logs that end.


@dataclass
class Follower:
    """The leaves of a log that follows another; parts of it can be made wrong."""

    hospital: Hospital = field(default_factory=Hospital)
    restorer: Signer = field(default_factory=lambda: Signer.generate("commission.example/restore"))
    predecessor: Any = field(default_factory=lambda: dict(BEFORE))
    statement: dict[str, Any] = field(default_factory=dict)
    header: str = RESTORE_HEADER
    second: str = "RESTORE"

    def policy(self, folder: Path, *lines: str, restorer: str | None = None) -> Path:
        """The reviewer's policy; the restorer's key unless another is given."""
        vkey = self.restorer.vkey if restorer is None else restorer
        return self.hospital.policy(folder, *lines, *([f"restorer {vkey}"] if vkey else []))

    def leaves(self, signer: Signer | None = None, digest: str | None = None) -> list[bytes]:
        """LOG_START with its predecessor, RESTORE with a note by ``signer``, and one entry more."""
        hospital = self.hospital
        for number in range(3 - len(hospital.log.made)):
            hospital.add(Kind.HEARTBEAT, f"heartbeat:{number}", {"interval_s": 60})
        said = {"predecessor": self.predecessor, "successor": ORIGIN, "reason": "BACKUP", "witnessed": None}
        text = f"{self.header}\n{canonical(said | self.statement).decode()}\n"
        note = (signer or self.restorer).sign(text)
        found = f"sha256:{hashlib.sha256(note.encode()).hexdigest()}"
        start, restore, *rest = (json.loads(leaf) for leaf in hospital.log.leaves())
        start["body"]["predecessor"] = self.predecessor
        restore |= {"kind": self.second, "body": {"note": note, "note_digest": digest or found, "reason": "BACKUP"}}
        return [canonical(one) for one in (start, restore, *rest)]

    def report(self, folder: Path, policy: Path, **options: Any) -> verifier.Report:
        """The verifier's report on it."""
        return check(packed(self.hospital, self.leaves(**options), folder), policy)


def test_a_log_that_follows_the_named_one_passes(tmp_path: Path) -> None:
    """What the policy says is what the log says, and whoever may has signed that it goes on."""
    follower = Follower()
    report = follower.report(tmp_path, follower.policy(tmp_path, FOLLOWS))
    assert (report.verdict, report.figures["follows"]) == ("PASS", BEFORE), remarks(report)


def test_a_log_before_this_one_must_be_named(tmp_path: Path) -> None:
    """Without a follows line nobody has said that the log before was looked at."""
    follower = Follower()
    report = follower.report(tmp_path, follower.policy(tmp_path))
    judged(report, "INCOMPLETE", None, "entry 0: the log before this one: verify its own package")
    assert report.figures["follows"] == BEFORE


def test_a_log_that_says_it_follows_none_passes(tmp_path: Path) -> None:
    """Null, and absent as in older entries, are the same: nothing before it."""
    hospital = Hospital()
    start, *rest = (json.loads(leaf) for leaf in hospital.log.leaves())
    for predecessor in ({"predecessor": None}, {}):
        start["body"] = {"origin": ORIGIN, "software": "test", **predecessor}
        report = check(packed(hospital, [canonical(start), *rest], tmp_path), hospital.policy(tmp_path))
        assert (report.verdict, report.figures["follows"]) == ("PASS", None)


OTHER_PREDECESSORS: dict[str, Any] = {
    "origin": BEFORE | {"origin": "hospital.example/audit-2"},
    "size": BEFORE | {"size": 8},
    "root": BEFORE | {"root": "B" + BEFORE["root"][1:]},
    "none": None,
    "true for one": BEFORE | {"size": True},
    "text for a number": BEFORE | {"size": "7"},
    "more": BEFORE | {"more": 1},
    "less": {"origin": "hospital.example/audit-1", "size": 7},
    "a list": [1],
    "a text": "hospital.example/audit-1",
}


@pytest.mark.parametrize("predecessor", OTHER_PREDECESSORS.values(), ids=OTHER_PREDECESSORS)
def test_another_predecessor_than_the_policys_fails(tmp_path: Path, predecessor: Any) -> None:
    """An attacker may let a log follow any other, or none: the policy's line decides."""
    follower = Follower(predecessor=predecessor)
    report = follower.report(tmp_path, follower.policy(tmp_path, FOLLOWS))
    assert (report.verdict, report.first_bad) == ("FAIL", 0), remarks(report)


STATEMENTS: dict[str, dict[str, Any]] = {
    "another log's": {"statement": {"successor": "other.example/audit"}},
    "after another log": {"statement": {"predecessor": BEFORE | {"size": 6}}},
    "for another reason": {"statement": {"reason": "KEY_ROTATION"}},
    "another form": {"header": "zhiying-approval/1"},
}


@pytest.mark.parametrize("changes", STATEMENTS.values(), ids=STATEMENTS)
def test_a_statement_about_other_logs_fails(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A genuine signature over one succession cannot be used for another."""
    follower = Follower(**changes)
    report = follower.report(tmp_path, follower.policy(tmp_path, FOLLOWS))
    judged(report, "FAIL", 1, "its statement is not about this log")


def test_only_a_restorer_of_the_policy_lets_a_log_go_on(tmp_path: Path) -> None:
    """Not the log's own key, not a reviewer, not a stranger; with nobody named, nobody can tell."""
    follower = Follower()
    policy = follower.policy(tmp_path, FOLLOWS)
    own, reviewer = follower.hospital.signer, follower.hospital.reviewer.signer
    judged(follower.report(tmp_path, policy, signer=own), "FAIL", 1, "log's own key")
    for signer in (reviewer, Signer.generate(follower.restorer.name)):
        judged(follower.report(tmp_path, policy, signer=signer), "FAIL", 1, "by no restorer of the policy")
    judged(follower.report(tmp_path, policy, digest="sha256:" + "0" * 64), "FAIL", 1, "digest is another")
    nobody = follower.policy(tmp_path, FOLLOWS, restorer="")
    judged(follower.report(tmp_path, nobody), "INCOMPLETE", None, "the policy names no restorer")


def test_a_log_that_follows_goes_on_with_a_restore(tmp_path: Path) -> None:
    """Another entry in its place is FAIL; where it is hidden, or not yet written, nobody can tell."""
    follower = Follower(second="HEARTBEAT")
    policy = follower.policy(tmp_path, FOLLOWS)
    judged(follower.report(tmp_path, policy), "FAIL", 1, "goes on with RESTORE")
    follower = Follower()
    policy, leaves = follower.policy(tmp_path, FOLLOWS), follower.leaves()
    words = "entry 1: the RESTORE of a log that follows another is not in scope"
    judged(check(packed(follower.hospital, leaves, tmp_path, (1,)), policy), "INCOMPLETE", None, words)
    judged(check(packed(follower.hospital, leaves[:1], tmp_path), policy), "INCOMPLETE", None, words)


def test_a_restore_of_a_log_that_follows_none_fails(tmp_path: Path) -> None:
    """Its statement is about another log, whatever it says."""
    follower = Follower(predecessor=None)
    judged(follower.report(tmp_path, follower.policy(tmp_path)), "PASS", None, "")
    follower = Follower(predecessor=None, statement={"predecessor": BEFORE})
    judged(follower.report(tmp_path, follower.policy(tmp_path)), "FAIL", 1, "not about this log")


@pytest.mark.parametrize(("sealed", "hidden", "bad"), [(4, (), None), (3, (), 4), (3, (4,), 4), (2, (), 3)])
def test_nothing_may_follow_a_seal(tmp_path: Path, sealed: int, hidden: tuple[int, ...], bad: int | None) -> None:
    """A sealed log that goes on has been opened behind its readers' backs, also if what came is out of scope."""
    hospital = Hospital()
    for number in range(4):
        hospital.add(Kind.HEARTBEAT, f"heartbeat:{number}", {"interval_s": 60})
    leaves = hospital.log.leaves()
    body = {"successor": "hospital.example/audit-2", "reason": "BACKUP"}
    leaves[sealed] = canonical(json.loads(leaves[sealed]) | {"kind": "SEAL", "body": body})
    report = check(packed(hospital, leaves, tmp_path, hidden), hospital.policy(tmp_path))
    judged(report, "PASS" if bad is None else "FAIL", bad, "" if bad is None else "after a SEAL nothing may be written")


# ---- The tree with SM3.


def sm3(data: bytes) -> bytes:
    """GB/T 32905, by OpenSSL."""
    return hashlib.new("sm3", data).digest()


def sm3_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word by word, with SM3 for SHA-256."""
    if len(leaves) < 2:
        return sm3(b"\0" + leaves[0]) if leaves else sm3(b"")
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return sm3(b"\1" + sm3_root(leaves[:half]) + sm3_root(leaves[half:]))


def test_sm3_is_the_published_one() -> None:
    """GB/T 32905-2016, appendix A.1."""
    assert sm3(b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 255, 256, 1023, 1024, 1025, 2050])
def test_the_sm3_tree_has_the_shape_of_the_other(size: int) -> None:
    """At any size, also where chunks meet."""
    leaves = [b"%d" % number for number in range(size)]
    report = verifier.Report()
    tree = verifier.Tree([verifier.Checkpoint(size, sm3_root(leaves), "", ())], report, "sm3/checkpoint", "sm3")
    hashes = [tree.hash(b"\0" + leaf).digest() for leaf in leaves]
    for first in range(0, size, verifier.CHUNK):
        tree.take(hashes[first : first + verifier.CHUNK])
    assert (tree.good, report.remarks) == (size, [])


class Twofold:
    """A hospital with both trees, and its package."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hospital = folder, Hospital()
        self.hospital.approve()
        self.hospital.call(0)
        self.leaves = self.hospital.log.leaves()
        self.signer = Signer(f"{ORIGIN}/sm3", self.hospital.signer._private)
        self.policy = self.hospital.policy(folder, f"sm3 {self.signer.vkey}")

    def head(self, root: bytes | None = None, **changes: Any) -> bytes:
        """The SM3 tree's checkpoint, or a wrong one."""
        given = {"signer": self.signer, "origin": f"{ORIGIN}/sm3", "size": len(self.leaves)} | changes
        root = sm3_root(self.leaves) if root is None else root
        return Checkpoint.sign(given["signer"], given["origin"], given["size"], root).note.encode()

    def package(self, head: bytes | None, leaves: list[bytes] | None = None, hidden: tuple[int, ...] = ()) -> bytes:
        """A package with this member, or without."""
        parts = members(packed(self.hospital, leaves or self.leaves, self.folder, hidden))
        return forged(parts if head is None else parts | {"sm3/checkpoint": head})


def test_a_package_with_both_trees_passes(tmp_path: Path) -> None:
    """Both roots are compared with the same entries."""
    twofold = Twofold(tmp_path)
    report = check(twofold.package(twofold.head()), twofold.policy)
    assert (report.verdict, report.remarks) == ("PASS", [])
    assert report.figures["sm3_size"] == len(twofold.leaves)


def test_a_second_tree_that_nobody_asked_for_is_a_finding(tmp_path: Path) -> None:
    """It is not hashed, whatever it says; only its bytes are compared."""
    twofold = Twofold(tmp_path)
    policy = twofold.hospital.policy(tmp_path)
    report = check(twofold.package(twofold.head(bytes(32))), policy)
    judged(report, "PASS", None, "FINDING sm3/checkpoint: not looked at")
    assert report.figures["sm3_size"] is None


SM3_ATTACKS: dict[str, tuple[Callable[[Twofold], bytes | None], str, str]] = {
    "absent": (lambda _: None, "INCOMPLETE", "the policy asks for it"),
    "another root": (lambda one: one.head(bytes(32)), "FAIL", "do not make this checkpoint's root"),
    "the other tree's root": (
        lambda one: one.head(signed_head(one.hospital.signer, one.leaves).root),
        "FAIL",
        "do not make this checkpoint's root",
    ),
    "the log's key under its own name": (lambda one: one.head(signer=one.hospital.signer), "FAIL", "not signed"),
    "a stranger's key": (lambda one: one.head(signer=Signer.generate(one.signer.name)), "FAIL", "not signed"),
    "the log's own origin": (lambda one: one.head(origin=ORIGIN), "FAIL", "of another log"),
    "the log's own checkpoint": (lambda one: one.hospital.log.head().note.encode(), "FAIL", "not signed"),
    "fewer entries": (lambda one: one.head(sm3_root(one.leaves[:3]), size=3), "INCOMPLETE", "of size 3, where 15"),
    "fewer and wrong": (lambda one: one.head(size=3), "FAIL", "do not make this checkpoint's root"),
    "more entries": (lambda one: one.head(size=16), "INCOMPLETE", "of size 16, where 15"),
    "no note": (lambda _: b"SM3\n", "FAIL", "no signatures"),
}


@pytest.mark.parametrize(("head", "verdict", "words"), SM3_ATTACKS.values(), ids=SM3_ATTACKS)
def test_a_second_tree_that_is_not_as_asked_is_not_pass(
    tmp_path: Path, head: Callable[[Twofold], bytes | None], verdict: str, words: str
) -> None:
    """The attacker has the operator's key, and leaves out, exchanges or shortens the SM3 head."""
    twofold = Twofold(tmp_path)
    report = check(twofold.package(head(twofold)), twofold.policy)
    assert report.verdict == verdict, remarks(report)
    assert f"{verdict} sm3/checkpoint: " in remarks(report)
    assert words in remarks(report)


def test_an_entry_that_the_second_tree_has_otherwise_fails(tmp_path: Path) -> None:
    """If SHA-256 were broken, and witnesses cosigned the exchanged entry, the SM3 head would still show it."""
    twofold = Twofold(tmp_path)
    leaves = list(twofold.leaves)
    leaves[2] = canonical(json.loads(leaves[2]) | {"key": "exchanged"})
    judged(check(twofold.package(twofold.head(), leaves), twofold.policy), "FAIL", 0, "FAIL sm3/checkpoint")


def test_a_second_tree_over_hidden_entries_is_incomplete(tmp_path: Path) -> None:
    """The package has the SHA-256 hash of what is out of scope, and no other."""
    twofold = Twofold(tmp_path)
    report = check(twofold.package(twofold.head(), hidden=(2,)), twofold.policy)
    judged(report, "INCOMPLETE", None, "sm3/checkpoint: not compared")


def test_a_python_without_sm3_says_so(tmp_path: Path) -> None:
    """It never passes what it could not compute."""
    twofold = Twofold(tmp_path)
    package = tmp_path / "p.zip"
    package.write_bytes(twofold.package(twofold.head()))
    # As on a machine whose OpenSSL was built without it.
    lacking = "import hashlib, runpy, sys; hashlib.algorithms_available = frozenset(); sys.argv = sys.argv[1:]; "
    run = lacking + "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-I", "-c", run, verifier.__file__, str(package), "--policy", str(twofold.policy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (2, "")
    assert "this Python has no SM3" in done.stdout


# ---- Lines of the policy.

BAD_LINES = {
    "restorer is the log": "restorer {log}",
    "restorer is the reviewer": "restorer {reviewer}",
    "restorer is a witness's kind of key": "restorer {witness}",
    "restorer without a key": "restorer",
    "follows without a root": "follows a.example/log 7",
    "follows a size in words": "follows a.example/log seven {root}",
    "follows a size with a sign": "follows a.example/log -7 {root}",
    "follows twice": "follows a.example/log 7 {root}\nfollows a.example/log 7 {root}",
    "sm3 of another name": "sm3 {log}",
    "sm3 of another key": "sm3 {other}",
    "sm3 twice": "sm3 {sm3}\nsm3 {sm3}",
    "window twice": "window 60",
}


@pytest.mark.parametrize("text", BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_that_is_not_clear_is_refused(tmp_path: Path, text: str) -> None:
    """One clear line, and no verdict."""
    hospital = Hospital()
    keys = {
        "log": hospital.signer.vkey,
        "reviewer": hospital.reviewer.signer.vkey,
        "witness": WitnessKey("commission.example/v").vkey,
        "sm3": Signer(f"{ORIGIN}/sm3", hospital.signer._private).vkey,
        "other": Signer.generate(f"{ORIGIN}/sm3").vkey,
        "root": BEFORE["root"],
    }
    policy = hospital.policy(tmp_path, text.format(**keys))
    with pytest.raises(verifier.Unusable):
        verifier.Policy(policy)


def test_the_new_lines_are_read(tmp_path: Path) -> None:
    """Several restorers, one log before, one second tree."""
    hospital = Hospital()
    restorers = [Signer.generate(f"restorer-{number}.example/r") for number in range(2)]
    lines = [f"restorer {signer.vkey}" for signer in restorers]
    sm3_key = Signer(f"{ORIGIN}/sm3", hospital.signer._private)
    policy = verifier.Policy(hospital.policy(tmp_path, *lines, FOLLOWS, f"sm3 {sm3_key.vkey}"))
    assert [key.name for key in policy.restorers] == [signer.name for signer in restorers]
    assert (policy.follows, policy.sm3.name) == (BEFORE, f"{ORIGIN}/sm3")


# ---- Members for people.

FOR_PEOPLE = {
    "summary.html": b"<html>",
    "tables/calls.csv": b"a,b\r\n",
    "tables/a-b_9.csv": b"",
    f"fhir/{0:013d}.ndjson": b"{}\n",
    f"dicom-audit/{1024:013d}.xml": b"<AuditMessages/>",
    "phi_scan.json": b"{}",
    "reconciliation/pacs.json": b"[]",
}


def test_members_for_people_are_compared_and_nothing_more(tmp_path: Path) -> None:
    """Any bytes pass; other bytes than MANIFEST.json names do not; and the reader is told whose words they are."""
    hospital = Hospital()
    parts = members(packed(hospital, hospital.log.leaves(), tmp_path))
    whole = forged({**FOR_PEOPLE, **parts})
    policy = hospital.policy(tmp_path)
    report = check(whole, policy)
    assert (report.verdict, report.remarks) == ("PASS", []), remarks(report)
    for name, data in FOR_PEOPLE.items():
        digest = json.loads(members(whole)["MANIFEST.json"])["members"][name]
        other = forged(
            {**FOR_PEOPLE, **parts, name: data + b"!"},
            lambda manifest, name=name, digest=digest: manifest["members"].update({name: digest}),  # type: ignore[misc]
        )
        judged(check(other, policy), "FAIL", None, f"{name}: its bytes are not those")
        folder = name.split("/")[0]
        assert any(folder in text for text in verifier.DOES_NOT_PROVE["en"]), folder
        assert any(folder in text for text in verifier.DOES_NOT_PROVE["zh"]), folder


STRANGE = [
    *("summary.htm", "Summary.html", "tables/.csv", "tables/A.csv", "tables/a.b.csv", "tables/a/b.csv", "tables/a.CSV"),
    *("tables/../a.csv", "fhir/0.ndjson", f"fhir/{0:013d}.json", f"dicom-audit/{0:014d}.xml", "phi_scan.json2"),
    *("sm3/checkpoint2", "sm3", f"tables/{'a' * 65}.csv", "summary.html\n"),
]


@pytest.mark.parametrize("name", STRANGE)
def test_members_of_other_names_fail(tmp_path: Path, name: str) -> None:
    """A name is exactly of its form."""
    hospital = Hospital()
    parts = members(packed(hospital, hospital.log.leaves(), tmp_path))
    judged(
        check(forged({name: b"x", **parts}), hospital.policy(tmp_path)), "FAIL", None, "a member that no package has"
    )


@pytest.mark.parametrize("name", [*FOR_PEOPLE, "sm3/checkpoint", "checkpoint", "MANIFEST.json", "README.md"])
def test_members_have_a_size_limit(name: str) -> None:
    """A member that says it is larger is refused before a byte of it is read."""
    raw, size = name.encode(), (1 << 30) + 1
    header = struct.pack("<4s2B4HL2L2H", b"PK\3\4", 20, 0, 0, 0, 0, 33, 0, size, size, len(raw), 0)
    with pytest.raises(verifier.Malformed, match="larger than it can be"):
        verifier.Package(BytesIO(header + raw), verifier.Report())


def test_a_large_member_for_people_is_read_in_pieces(tmp_path: Path) -> None:
    """Its digest is that of the whole, over the edges of what is read at once."""
    hospital = Hospital()
    parts = members(packed(hospital, hospital.log.leaves(), tmp_path))
    policy = hospital.policy(tmp_path)
    table = bytes(verifier.BLOCK + 5)
    whole = forged({"tables/calls.csv": table, **parts})
    assert check(whole, policy).verdict == "PASS"
    edited = bytearray(whole)
    edited[30 + len("tables/calls.csv") + verifier.BLOCK + 2] ^= 1
    judged(check(bytes(edited), policy), "FAIL", None, "tables/calls.csv: its bytes are not those")


# ---- Forms of the envelope.

ENVELOPES: dict[str, tuple[Mapping[str, Any], str]] = {
    "boot": ({"boot": "b0"}, "boot: not"),
    "boot in capitals": ({"boot": "B0" * 16}, "boot: not"),
    "no boot": ({"boot": None}, "boot: not"),
    "tick": ({"tick_us": "1"}, "tick_us"),
    "tick true": ({"tick_us": True}, "tick_us"),
    "negative tick": ({"tick_us": -1}, "tick_us"),
    "fraction": ({"tick_us": 1.5}, "number"),
    "heartbeat of a call": ({"kind": "HEARTBEAT", "call": "c" * 32}, "against the rule"),
    "export of a call": ({"kind": "EXPORT", "call": "c" * 32}, "against the rule"),
    "seal of a call": ({"kind": "SEAL", "call": "c" * 32}, "against the rule"),
}


@pytest.mark.parametrize(("change", "words"), ENVELOPES.values(), ids=ENVELOPES)
def test_the_envelope_has_a_run_and_its_ticks(tmp_path: Path, change: Mapping[str, Any], words: str) -> None:
    """Each of its form, and calls only where calls are."""
    hospital = Hospital()
    hospital.assembled(1)
    leaves = hospital.log.leaves()
    leaves[1] = json.dumps(json.loads(leaves[1]) | change, sort_keys=True, separators=(",", ":")).encode()
    judged(check(packed(hospital, leaves, tmp_path), hospital.policy(tmp_path)), "FAIL", 1, words)
