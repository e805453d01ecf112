"""A hospital with a log in memory, a reviewer, two witnesses; an attacker who has the disk and the operator's key."""

import base64
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from audit.canonical import canonical
from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind
from audit.merkle import leaf_hash, root
from audit.note import Signer
from audit.package import CHUNK, Writer, pack_chunk
from audit.verifier import DOES_NOT_PROVE, FORMAT, Policy, Report, verify
from ethics_review import acts
from ethics_review.dossier import draft_approval
from tests.simulators.audit_log import DIGEST, ORIGIN, STUDY
from tests.simulators.parties import Parties
from tests.simulators.reviewer import MODEL, Reviewer, fields

START = datetime(2026, 12, 10, 1, 0, tzinfo=UTC)
LIFE = (
    *("LOG_START", "OPEN", "SELF_ASSESS", "SUBMIT", "BEGIN_REVIEW", "APPROVAL", "DEPLOY"),
    *("STOP", "RESUME", "ACCEPTANCE", "GO_LIVE"),
)
"""What stands in the log before the first call, in order."""
LIFE_COUNTS = {"LOG_START": 1, "APPROVAL": 1, "STATE_CHANGE": 6, "STOP": 1, "RESUME": 1, "ACCEPTANCE": 1}
"""The same by kind: all of them are in every package."""
APPROVED_AT, FIRST_CALL = LIFE.index("APPROVAL"), len(LIFE)
REVIEWERS = ("reviewer-1", "reviewer-2", "reviewer-3", "other-1", "other-2")
"""Whom the policy names on `reviewer` lines, the first two, or not at all."""
NAMED = {"name": MODEL.name, "version": MODEL.version, "digest": MODEL.digest}
"""The model as entries name it."""
CHECKS = {
    "MODEL_DIGEST": "EQUAL",
    "VALIDITY": "IN_FORCE",
    "STATE": "LIVE",
    "STOP": "NONE",
    "MODALITY": "MR",
    "BODY_PART": "BRAIN",
    "AGE_YEARS": "70-74",
    "SEX": "F",
    "MANUFACTURER": "SIEMENS HEALTHINEERS",
    "SITE": "test-site",
    "SLICE_SPACING_MM": "1.0",
    "MAX_AUTONOMY": "A1",
    "CARE_SETTING": "OP",
    "READING_MODE": "second_reader",
    "MAX_CALLS_DAY": "BELOW 2000",
    "REQUIRE": "ALL",
}
"""What the gate logs when everything holds."""


@dataclass(frozen=True)
class WitnessKey:
    """A witness: cosigns whatever it is given, as tests of the verifier need both good and bad ones."""

    name: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def material(self) -> bytes:
        """Type byte and public key."""
        return b"\x04" + self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def key_id(self) -> bytes:
        """First four bytes of the digest of name and key."""
        return hashlib.sha256(self.name.encode() + b"\n" + self.material).digest()[:4]

    @property
    def vkey(self) -> str:
        """The key as a policy has it."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self.material).decode()}"

    def cosign(self, note: str, time: datetime) -> str:
        """The note with one line more."""
        text = note.rpartition("\n\n")[0] + "\n"
        seconds = int(time.timestamp())
        signature = self.key.sign(f"cosignature/v1\ntime {seconds}\n{text}".encode())
        blob = base64.b64encode(self.key_id + seconds.to_bytes(8, "big") + signature).decode()
        return f"{note}\u2014 {self.name} {blob}\n"


class MemoryLog:
    """What export needs of a log; entries as the real one makes them."""

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self.now = START
        self.began = datetime(2020, 1, 1, tzinfo=UTC)
        self.boot = "b0" * 16
        self.made: list[Entry] = []
        self.seqs: dict[str, int] = {}

    def append(self, draft: Draft, *, source: str = "service", seconds: float = 1) -> Entry:
        """One entry more, so much later."""
        self.now += timedelta(seconds=seconds)
        seq = self.seqs.get(source, 0)
        tick_us = (self.now - self.began) // timedelta(microseconds=1)
        entry = Entry.of(
            draft, index=len(self.made), source=source, seq=seq, now=self.now, boot=self.boot, tick_us=tick_us
        )
        self.seqs[source] = seq + 1
        self.made.append(entry)
        return entry

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """See audit.log."""
        return iter(self.made[start:])

    def head(self) -> Checkpoint:
        """See audit.log."""
        return signed_head(self.signer, self.leaves())

    def leaves(self) -> list[bytes]:
        """The entries' bytes."""
        return [entry.to_bytes() for entry in self.made]


def signed_head(signer: Signer, leaves: Sequence[bytes], origin: str = ORIGIN) -> Checkpoint:
    """A checkpoint over these leaves."""
    return Checkpoint.sign(signer, origin, len(leaves), root([leaf_hash(leaf) for leaf in leaves]))


@dataclass
class Hospital:
    """Everything that an honest package needs."""

    signer: Signer = field(default_factory=lambda: Signer.generate(ORIGIN))
    reviewer: Reviewer = field(default_factory=Reviewer)
    witnesses: tuple[WitnessKey, ...] = field(
        default_factory=lambda: (WitnessKey("commission.example/w"), WitnessKey("university.example/w"))
    )

    start: datetime = START
    parties: Parties = field(default_factory=Parties)
    state: str = "NONE"
    """Of the model's dossier."""
    last: dict[object, str] = field(default_factory=dict)
    """Digests of the newest notes: of the dossier (None), and of each place that was stopped."""

    def __post_init__(self) -> None:
        self.parties = Parties({**self.parties.signers, "reviewer-1": self.reviewer.signer})
        self.log = MemoryLog(self.signer)
        self.log.now = self.start
        self.approval = self.reviewer.approve()
        self.add(Kind.LOG_START, "log-start", {"origin": ORIGIN, "software": "test", "predecessor": None})

    def add(self, kind: Kind, key: str, body: Mapping[str, Any], call: str | None = None, **place: Any) -> Entry:
        """Append."""
        return self.log.append(Draft(kind, key, dict(body), call), **place)

    def approve(self, note: str | None = None) -> Entry:
        """Log the dossier's whole life to LIVE, with two reviewers' approval, or another note as one: that entry."""
        self.reviewed()
        entry = self.approved(note)
        self.act("DEPLOY", "SHADOW", "ops", "owner")
        self.go_live()
        return entry

    def reviewed(self) -> None:
        """From nothing to UNDER_REVIEW."""
        submission = fields()["submission"]
        self.act("OPEN", "DRAFT", "maker")
        self.act("SELF_ASSESS", "SELF_ASSESSED", "maker", "owner", statement={"submission": submission})
        statement = {"submission": submission, "coi": ["test-vendor", "test-hospital"], "documents": {}}
        self.act("SUBMIT", "SUBMITTED", "secretary", statement=statement)
        self.act("BEGIN_REVIEW", "UNDER_REVIEW", "reviewer-1")

    def approved(self, note: str | None = None) -> Entry:
        """The reviewers' approval, or another note as one."""
        note = self.sign(draft_approval(fields()), "reviewer-1", "reviewer-2") if note is None else note
        self.last[None] = acts.digest(note)
        self.state = "APPROVED_WITH_CONDITIONS" if self.state == "UNDER_REVIEW" else self.state
        body = {"note": note, "note_digest": self.last[None]}
        return self.add(Kind.APPROVAL, f"approval:{self.last[None][-8:]}", body)

    def go_live(self, *by: str, **changes: Any) -> Entry:
        """SHADOW to LIVE, with the drill and the local acceptance that it wants."""
        self.switch(Kind.STOP, "reader")
        drill = self.switch(Kind.RESUME, "owner", "safety").index
        statement = {"notice": DIGEST, "training": DIGEST, "drill": drill, "acceptance": self.accepted().index}
        return self.act("GO_LIVE", "LIVE", *(by or ("owner", "safety")), **{"statement": statement} | changes)

    def accepted(self, unmet: int = 0) -> Entry:
        """A local acceptance."""
        told = {"approval": self.approval.id, "dataset": DIGEST, "cases": 120, "rows": [], "report": DIGEST}
        body = {"model": NAMED, "unmet": unmet, "code": DIGEST} | told
        return self.add(Kind.ACCEPTANCE, f"acceptance:{len(self.log.made)}", body)

    def sign(self, text: str, *by: str | Signer) -> str:
        """The text with the signatures of these people; `reviewer` is "reviewer-1"."""
        return acts.sign(text, *(one if isinstance(one, Signer) else self.parties.signers[one] for one in by))

    def act(
        self,
        event: str,
        to: str,
        *by: str | Signer,
        statement: Mapping[str, Any] | None = None,
        reason: str = "TEST",
        after: str | None = "",
        body: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Signed by these people, and done. `after`: in place of the newest note; `body`: the entry says so instead."""
        said: dict[str, Any] = {"event": event, "from": self.state, "to": to, "model": NAMED, "reason": reason}
        act = said | {"after": self.last.get(None) if after == "" else after, "statement": dict(statement or {})}
        note = self.sign(f"{acts.HEADER}\n{canonical(act).decode()}\n", *by)
        restricts = dict(statement or {}) if event == "RESTRICT" else {}
        pair = {name: restricts.get(name) for name in ("condition", "observed")}
        signed = {"evidence": None, "note": note, "note_digest": acts.digest(note)}
        self.state, self.last[None] = to, acts.digest(note)
        key = f"act:{len(self.log.made)}"
        return self.add(Kind.STATE_CHANGE, key, said | pair | signed | dict(body or {}))

    def tightened(self, event: str, reason: str, evidence: int | None, **pair: str) -> Entry:
        """The monitor's SUSPEND or RESTRICT, which nobody signs."""
        to = "SUSPENDED" if event == "SUSPEND" else self.state
        body = {"model": NAMED, "event": event, "from": self.state, "to": to, "reason": reason, "evidence": evidence}
        self.state = to
        empty = dict.fromkeys(("condition", "observed", "note", "note_digest"))
        return self.add(Kind.STATE_CHANGE, f"monitor:{len(self.log.made)}", body | empty | pair)

    def switch(
        self, kind: Kind, *by: str | Signer, site: str | None = None, reason: str = "DRILL", **changes: Any
    ) -> Entry:
        """A signed STOP or RESUME of a site, or of the service; with changes to what the entry says."""
        place = ("SERVICE" if site is None else "SITE", site)
        said = {"level": place[0], "site": site, "reason": reason}
        act = said | {"event": kind.value, "after": self.last.get(place)}
        note = self.sign(f"{acts.HEADER}\n{canonical(act).decode()}\n", *by)
        self.last[place] = acts.digest(note)
        body = said | {"note": note, "note_digest": acts.digest(note)} | changes
        return self.add(kind, f"switch:{len(self.log.made)}", body)

    def intent(self, number: int, observed: Mapping[str, str] | None = None, **changes: Any) -> Entry:
        """One CALL_INTENT; ``observed`` is put over what is good, by condition."""
        body = {
            "site": "test-hospital",
            "requester": None,
            "patient": None,
            "study": STUDY,
            "series": 1,
            "instances": 3,
            "card": DIGEST,
            "input": "1" * 32,
            "model": NAMED,
            "approval": self.approval.id,
            "policy": self.approval.policy,
            "autonomy": "A1",
            "state": "LIVE",
            "checks": [
                {"condition": name, "outcome": "HOLDS", "observed": seen}
                for name, seen in (CHECKS | dict(observed or {})).items()
            ],
            "runtime": {"torch": "2.13.0"},
        }
        return self.add(Kind.CALL_INTENT, f"intent:{number}", body | changes, call_id(number))

    def result(self, number: int) -> Entry:
        """The call's CALL_RESULT."""
        body: dict[str, Any] = {
            "outputs": [{"kind": "SR", "uid": f"2.25.{number + 1}", "digest": DIGEST}],
            "outcome": "FINDINGS",
            "measurements": [],
            "timing_ms": {"total": 1},
            "deadline_ms": 1000,
            "deadline_met": "YES",
            "software": "zhiying 0.1.0",
            "device": "cpu",
        }
        return self.add(Kind.CALL_RESULT, f"result:{number}", body, call_id(number))

    def released(self, number: int) -> Entry:
        """The call's RELEASED."""
        body = {"outputs": [{"uid": f"2.25.{number + 1}", "digest": DIGEST}], "peer": "pacs", "attempts": 1}
        return self.add(Kind.RELEASED, f"released:{number}", body | {"proof": "COMMITTED"}, call_id(number))

    def notified(self, number: int) -> Entry:
        """The call's NOTIFIED."""
        body = {"peer": "ris", "form": "HL7_ORU_R01", "told": "RESULT", "digest": DIGEST, "outcome": "DELIVERED"}
        return self.add(Kind.NOTIFIED, f"notified:{number}", body | {"proof": "AA", "attempts": 1}, call_id(number))

    def viewed(
        self,
        reader: str = "8" * 32,
        *,
        day: str | None = None,
        seconds: float = 1,
        said: Mapping[str, Any] | None = None,
    ) -> Entry:
        """A reader's VIEWED of a study so much later; `day`: its key is of another one; `said`: its body says this."""
        civil = self.log.now + timedelta(seconds=seconds, hours=8)
        named = f"{STUDY}:{reader}:RADIOLOGIST:{civil.date() if day is None else day}"
        key = f"viewed:{hashlib.sha256(named.encode()).hexdigest()[:32]}"
        body = {"study": STUDY, "reader": reader, "role": "RADIOLOGIST"} | dict(said or {})
        return self.add(Kind.VIEWED, key, body, seconds=seconds)

    def assembled(self, number: int, **place: Any) -> Entry:
        """Something that belongs to no call."""
        body = {"study": STUDY, "input": "1" * 32, "instances": number, "series": 1, "trigger": "COUNT_MATCHED"}
        return self.add(Kind.ASSEMBLED, f"assembled:{number}", body, **place)

    def call(self, number: int) -> None:
        """A whole call."""
        self.assembled(number)
        self.intent(number)
        self.result(number)
        self.released(number)

    def witnessed(self, note: str | None = None, *, by: int = 2) -> str:
        """The head, or another note, cosigned now by so many witnesses."""
        note = self.log.head().note if note is None else note
        for witness in self.witnesses[:by]:
            note = witness.cosign(note, self.log.now)
        return note

    def policy_lines(self) -> list[str]:
        """What the reviewer trusts."""
        return [
            f"log {self.signer.vkey}",
            *(f"witness {witness.vkey}" for witness in self.witnesses),
            "quorum 2",
            f"reviewer {self.reviewer.signer.vkey}",
            f"reviewer {self.parties.signers['reviewer-2'].vkey}",
            *self.parties.policy(without=REVIEWERS).splitlines(),
            "window 60",
        ]

    def policy(self, folder: Path, *lines: str, without: str = "-") -> Path:
        """The policy as a file; ``lines`` more, ``without`` those that begin so."""
        path = folder / "policy"
        kept = [line for line in self.policy_lines() if not line.startswith(without)]
        path.write_text("\n".join(["# keys that the reviewer trusts", "", *kept, *lines, ""]))
        return path


def call_id(number: int) -> str:
    """32 hexadecimal digits."""
    return f"{number:032x}"


def check(package: bytes, policy: Path, **options: Any) -> Report:
    """The verifier's report."""
    return verify(BytesIO(package), Policy(policy), **options)


def members(package: bytes) -> dict[str, bytes]:
    """A package taken apart."""
    with zipfile.ZipFile(BytesIO(package)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def forged(parts: Mapping[str, bytes], edit: Callable[[dict[str, Any]], None] = lambda _: None) -> bytes:
    """A package put together again with a manifest that fits: what an attacker hands over."""
    manifest = json.loads(parts["MANIFEST.json"])
    buffer = BytesIO()
    with Writer(buffer) as writer:
        for name, data in parts.items():
            if name != "MANIFEST.json":
                writer.add(name, data)
        manifest["members"] = dict(writer.digests)
        manifest["verifier"] = writer.digests.get("verifier.py", "")
        edit(manifest)
        writer.add("MANIFEST.json", canonical(manifest))
    return buffer.getvalue()


def repacked(parts: Mapping[str, bytes], leaves: Sequence[bytes], checkpoint: str, hidden: Sequence[int] = ()) -> bytes:
    """The package with other entries under another checkpoint, and a manifest that fits both."""
    kept = {name: data for name, data in parts.items() if not name.startswith("entries/")}
    chunks = {}
    for first in range(0, len(leaves), CHUNK):
        records = [
            (index not in hidden, leaf_hash(leaf) if index in hidden else leaf)
            for index, leaf in enumerate(leaves[first : first + CHUNK], first)
        ]
        chunks[f"entries/{first:013d}"] = pack_chunk(records)
    counts: dict[str, int] = {}
    for index, leaf in enumerate(leaves):
        if index not in hidden:
            kind = json.loads(leaf)["kind"]
            counts[kind] = counts.get(kind, 0) + 1

    def edit(manifest: dict[str, Any]) -> None:
        manifest.update(size=len(leaves), counts=counts, first=0, last=len(leaves) - 1)
        assert manifest["format"] == FORMAT
        assert set(manifest["does_not_prove"]) == set(DOES_NOT_PROVE)

    return forged({**chunks, **kept, "checkpoint": checkpoint.encode()}, edit)
