"""Whoever has the database and the operator's key does what they like: nothing of it passes, and an honest log does.

The witnesses are real ones, asked for each forged head too. Elsewhere, in tests/unit/service: the attack that no log
can show, a call that was never logged (test_audit_reconcile.py); a swapped certificate of a time-stamp authority,
in a whole package (test_stamp_story.py).
"""

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from audit import verifier
from audit.canonical import canonical
from audit.cosignature import Cosigner
from audit.export import Evidence, export
from audit.merkle import consistency_proof, leaf_hash
from audit.submission import Submission
from audit.witness import KEY, LOGS, STATE, Witness, origin_hash
from tests.simulators.audit_log import ORIGIN
from tests.simulators.audit_package import FIRST_CALL, Hospital, check, members, repacked, signed_head

CALL_ENTRIES = 4
"""How many entries a call has."""
BOTH = (0, 1)


class Taken:
    """Three calls, witnessed; an hour later three more, witnessed. Then all but the witnesses is the attacker's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hospital = folder, Hospital()
        self.witnesses = [self._witness(folder / name) for name in ("w1.example", "w2.example")]
        self.held = 0
        self.hospital.approve()
        self.older = self.cosigned(self._grown(range(3)))
        self.snapshot = self.hospital.log.leaves()
        self.held = len(self.snapshot)
        self.hospital.log.now += timedelta(hours=1)
        self.newest = self.cosigned(self._grown(range(3, 6)))
        self.leaves = self.hospital.log.leaves()
        self.held = len(self.leaves)
        export(self.hospital.log, folder / "honest.zip", evidence=Evidence(checkpoint=self.newest))
        self._parts = members((folder / "honest.zip").read_bytes())

    def _witness(self, folder: Path) -> Witness:
        folder.mkdir()
        Cosigner.generate(folder.name).save(folder / KEY)
        made = Witness(folder, Cosigner.load(folder / KEY), lambda: int(self.hospital.log.now.timestamp()))
        made.add_log(ORIGIN, self.hospital.signer.verifier)
        return made

    def _grown(self, numbers: Sequence[int]) -> list[bytes]:
        for number in numbers:
            self.hospital.call(number)
        return self.hospital.log.leaves()

    def cosigned(
        self, leaves: Sequence[bytes], by: Sequence[int] = BOTH, more: Sequence[bytes] = (), *, empty: bool = False
    ) -> str:
        """A head over these leaves by the operator's key, with the lines that these witnesses give for it.

        `more`: hashes behind the proof; `empty`: none at all.
        """
        head = signed_head(self.hospital.signer, leaves)
        grows = 0 < self.held < len(leaves) and not empty
        proof = consistency_proof(self.held, [leaf_hash(leaf) for leaf in leaves]) if grows else ()
        answers = [self.witnesses[n].answer(Submission(self.held, (*proof, *more), head).format()) for n in by]
        return head.note + "".join(answer.body.decode() for answer in answers if answer.status == 200)

    def package(self, leaves: Sequence[bytes], note: str, *, older: bool = False) -> bytes:
        """What the attacker hands over, with a manifest that fits; the older witnessed head in it, if that helps."""
        beside = {f"checkpoints/{len(self.snapshot):013d}": self.older.encode()} if older else {}
        return repacked(self._parts | beside, leaves, note)

    def report(self, package: bytes) -> verifier.Report:
        """What the reviewer's laptop says, with keys that came another way."""
        keys = [line for line in self.hospital.policy_lines() if not line.startswith("witness")]
        path = self.folder / "policy"
        path.write_text("\n".join([*keys, *(f"witness {one.vkey}" for one in self.witnesses), ""]), encoding="utf-8")
        return check(package, path, period_end=f"{self.hospital.log.now:%Y-%m-%dT%H:%M:%S.%fZ}")

    def changed(self, index: int, **fields: object) -> list[bytes]:
        """The leaves, one of them with another body."""
        entry = json.loads(self.leaves[index])
        edited = canonical(entry | {"body": entry["body"] | fields})
        return [*self.leaves[:index], edited, *self.leaves[index + 1 :]]

    def replayed(self) -> list[bytes]:
        """The snapshot put back, and clean calls since then in place of what was."""
        other = Hospital(self.hospital.signer, self.hospital.reviewer)
        other.log.made, other.log.seqs = self.hospital.log.made[: len(self.snapshot)], {"service": len(self.snapshot)}
        other.log.now = self.hospital.log.now - timedelta(minutes=10)
        for number in range(100, 103):
            other.call(number)
        return other.log.leaves()


def _renumbered(leaves: Sequence[bytes], gone: int) -> list[bytes]:
    return [canonical(entry | {"seq": entry["seq"] - gone}) for entry in map(json.loads, leaves)]


def untouched(taken: Taken) -> bytes:
    """Nothing at all."""
    return taken.package(taken.leaves, taken.newest, older=True)


def edit(taken: Taken) -> bytes:
    """An entry says something else, and everything above it is computed again."""
    leaves = taken.changed(FIRST_CALL + 1, series=2)
    return taken.package(leaves, taken.cosigned(leaves))


def edit_beside_the_old_head(taken: Taken) -> bytes:
    """The same, with the head that witnesses did cosign thrown in."""
    leaves = taken.changed(FIRST_CALL + 1, series=2)
    return taken.package(leaves, taken.cosigned(leaves), older=True)


def delete(taken: Taken) -> bytes:
    """A whole call goes, and everything is computed again."""
    leaves = [*taken.leaves[:FIRST_CALL], *taken.leaves[FIRST_CALL + CALL_ENTRIES :]]
    return taken.package(leaves, taken.cosigned(leaves))


def delete_and_renumber(taken: Taken) -> bytes:
    """A whole call goes, and the rest closes up: nothing inside the log can show it."""
    rest = _renumbered(taken.leaves[FIRST_CALL + CALL_ENTRIES :], CALL_ENTRIES)
    leaves = [*taken.leaves[:FIRST_CALL], *rest]
    return taken.package(leaves, taken.cosigned(leaves))


def truncate(taken: Taken) -> bytes:
    """An older state, genuine and witnessed, handed over as all there is."""
    return taken.package(taken.snapshot, taken.older)


def rollback(taken: Taken) -> bytes:
    """A snapshot put back, and a clean history played on it."""
    leaves = taken.replayed()
    return taken.package(leaves, taken.cosigned(leaves), older=True)


def rollback_with_an_empty_proof(taken: Taken) -> bytes:
    """The witnesses are told that nothing needs a proof."""
    leaves = taken.replayed()
    return taken.package(leaves, taken.cosigned(leaves, empty=True), older=True)


def rollback_with_an_over_long_proof(taken: Taken) -> bytes:
    """The witnesses are given more hashes than a proof of these sizes has."""
    leaves = taken.replayed()
    return taken.package(leaves, taken.cosigned(leaves, more=[leaf_hash(b"more")]), older=True)


def growth_with_an_over_long_proof(taken: Taken) -> bytes:
    """Even for an honest growth: a proof has one form."""
    leaves = [*taken.leaves, taken.hospital.assembled(200).to_bytes()]
    return taken.package(leaves, taken.cosigned(leaves, more=[leaf_hash(b"more")]), older=True)


def rollback_before_witnesses_without_memory(taken: Taken) -> bytes:
    """Their state is lost: what they knew of this log is gone, and that they knew it is not."""
    for name in ("w1.example", "w2.example"):
        (taken.folder / name / LOGS / origin_hash(ORIGIN) / STATE).unlink()
    taken.held = 0
    leaves = taken.replayed()
    return taken.package(leaves, taken.cosigned(leaves), older=True)


def split_view(taken: Taken) -> bytes:
    """Two histories that begin alike: one witness was shown the first, the other the second."""
    ours, theirs = ([*taken.leaves, taken.hospital.assembled(number).to_bytes()] for number in (200, 201))
    theirs[-1:] = _renumbered(theirs[-1:], 1)
    taken.cosigned(ours, by=(0,))
    return taken.package(theirs, taken.cosigned(theirs), older=True)


def backdate(taken: Taken) -> bytes:
    """An entry of yesterday, written today: the log grows honestly, and the witnesses cosign."""
    log = taken.hospital.log
    now, log.now = log.now, log.now - timedelta(days=1)
    entry = taken.hospital.assembled(200, source="other")
    log.now = now
    leaves = [*taken.leaves, entry.to_bytes()]
    note = taken.cosigned(leaves)
    assert note.count("\u2014 w") == len(taken.witnesses)
    return taken.package(leaves, note, older=True)


def edit_on_disk(taken: Taken) -> bytes:
    """The entry's bytes change where they lie; every head stays as it was."""
    return taken.package(taken.changed(FIRST_CALL + 1, series=2), taken.newest, older=True)


def drop_rows(taken: Taken) -> bytes:
    """The export leaves the last call out, under the genuine head."""
    return taken.package(taken.leaves[:-CALL_ENTRIES], taken.newest, older=True)


ATTACKS: dict[Callable[[Taken], bytes], tuple[str, str]] = {
    untouched: ("PASS", ""),
    edit: ("INCOMPLETE", "no checkpoint has cosignatures of 2 witnesses"),
    edit_beside_the_old_head: ("FAIL", "do not make this checkpoint's root; the first bad one is among 0 to 22"),
    delete: ("FAIL", f"entry {FIRST_CALL}: seq {FIRST_CALL + 4} of its source where {FIRST_CALL} is due"),
    delete_and_renumber: ("INCOMPLETE", "no checkpoint has cosignatures of 2 witnesses"),
    truncate: ("INCOMPLETE", "nothing witnessed at or after the period's end"),
    rollback: ("INCOMPLETE", "12 newest entries without a quorum of witnesses"),
    rollback_with_an_empty_proof: ("INCOMPLETE", "12 newest entries without a quorum of witnesses"),
    rollback_with_an_over_long_proof: ("INCOMPLETE", "12 newest entries without a quorum of witnesses"),
    growth_with_an_over_long_proof: ("INCOMPLETE", "13 newest entries without a quorum of witnesses"),
    rollback_before_witnesses_without_memory: ("INCOMPLETE", "12 newest entries without a quorum of witnesses"),
    split_view: ("INCOMPLETE", "13 newest entries without a quorum of witnesses"),
    backdate: ("FAIL", f"entry {FIRST_CALL + 24}: its time is outside its checkpoint's window"),
    edit_on_disk: ("FAIL", "do not make this checkpoint's root; the first bad one is among 0 to 22"),
    drop_rows: ("FAIL", "holds fewer entries than its place says"),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_no_attack_passes_and_an_honest_log_does(tmp_path: Path, attack: Callable[[Taken], bytes]) -> None:
    """The verdict, and the reason: an attack that is caught for another reason was not tried."""
    taken = Taken(tmp_path)
    report = taken.report(attack(taken))
    verdict, words = ATTACKS[attack]
    said = "\n".join(f"{one.where}: {one.what}" for one in report.remarks)
    assert report.verdict == verdict, said
    assert words in said
