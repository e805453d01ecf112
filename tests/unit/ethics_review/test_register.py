"""The register: the audit log is its only store."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audit.entry import Draft, Kind
from audit.errors import AuditUnavailable
from audit.log import AuditLog
from audit.note import Note, Signer, Verifier, parse_note
from ethics_review.dossier import draft_approval
from ethics_review.errors import (
    ApprovalError,
    ApprovalForged,
    ApprovalInvalid,
    ApprovalReused,
    ApprovalUntrusted,
    SelfApproval,
)
from ethics_review.gate import decide
from ethics_review.register import Register
from tests.simulators.reviewer import DURING, Reviewer, fields, request

OPERATOR = Signer.generate("hospital.example/log")
REVIEWER = Reviewer()


def clock() -> datetime:
    """A clock that stands."""
    return DURING


def open_log(root: Path, now: Callable[[], datetime] = clock) -> AuditLog:
    """The log of the hospital under `root`."""
    return AuditLog.open(root, origin="hospital.example/log", source="test", signer=OPERATOR, now=now)


def register(log: AuditLog, *trusted: Verifier) -> Register:
    """A register that trusts REVIEWER, or whom it is told to trust."""
    return Register(log, trusted or (REVIEWER.verifier,), OPERATOR.verifier)


def count(log: AuditLog) -> int:
    """How many approvals stand in the log."""
    return sum(entry.kind is Kind.APPROVAL for entry in log.entries())


def test_an_empty_log_approves_nothing(tmp_path: Path) -> None:
    """A new hospital has no approvals."""
    with open_log(tmp_path) as log:
        assert register(log).approvals() == ()


def test_a_recorded_approval_is_in_force_at_once(tmp_path: Path) -> None:
    """What record returned, approvals() shows, and the gate permits by it."""
    with open_log(tmp_path) as log:
        one = register(log)
        approval = one.record(REVIEWER.note())
        assert one.approvals() == (approval,)
        assert decide(request(), one.standings(), one.stops(), DURING).approval == approval.id


def test_the_register_replays_from_the_log(tmp_path: Path) -> None:
    """After closing and opening the log, a new register holds the same approvals, by id."""
    with open_log(tmp_path) as log:
        made = [register(log).record(REVIEWER.note(approval=name)) for name in ("TEST-2", "TEST-1", "TEST-3")]
    with open_log(tmp_path) as log:
        assert register(log).approvals() == tuple(sorted(made, key=lambda approval: approval.id))


def test_an_approval_recorded_elsewhere_is_seen(tmp_path: Path) -> None:
    """An approval that another process records while the service runs comes into force without a restart."""
    with open_log(tmp_path) as service, open_log(tmp_path) as tool:
        running = register(service)
        assert running.approvals() == ()
        register(tool).record(REVIEWER.note())
        assert [approval.id for approval in running.approvals()] == ["TEST-2026-0001"]


def test_recording_again_changes_nothing(tmp_path: Path) -> None:
    """The same note twice is one entry."""
    with open_log(tmp_path) as log:
        first, second = register(log).record(REVIEWER.note()), register(log).record(REVIEWER.note())
        assert first == second
        assert count(log) == 1


@pytest.mark.parametrize("name", ["TEST-2026-0001", "test-2026-0001"])
def test_an_id_is_used_once(tmp_path: Path, name: str) -> None:
    """Another text under a recorded id is refused, in whatever case the id is written."""
    with open_log(tmp_path) as log:
        one = register(log)
        one.record(REVIEWER.note())
        with pytest.raises(ApprovalReused) as caught:
            one.record(REVIEWER.note(approval=name, conditions={"max_autonomy": "A4", "sex": ["F", "M", "O"]}))
        assert caught.value.code == "APPROVAL_REUSED"
        assert [approval.conditions.max_autonomy for approval in one.approvals()] == ["A1"]


def test_the_hospital_cannot_approve_itself(tmp_path: Path) -> None:
    """A note signed with the log's own key is refused, and nothing is written."""
    with open_log(tmp_path) as log:
        with pytest.raises(SelfApproval) as caught:
            register(log).record(OPERATOR.sign(draft_approval(fields())))
        assert caught.value.code == "SELF_APPROVAL"
        assert count(log) == 0


def alias(name: str) -> Signer:
    """The operator's key under another name."""
    return Signer(name, OPERATOR._private)


def test_the_hospital_cannot_approve_itself_under_another_name(tmp_path: Path) -> None:
    """The key counts, not its name."""
    with open_log(tmp_path) as log, pytest.raises(SelfApproval):
        register(log).record(alias("reviewer.example/other").sign(draft_approval(fields())))


def test_the_hospital_cannot_sign_beside_the_reviewer(tmp_path: Path) -> None:
    """The operator's signature beside a good one refuses the note: who runs and who reviews stay apart."""
    theirs, ours = parse_note(REVIEWER.note()), parse_note(OPERATOR.sign(draft_approval(fields())))
    for signatures in ((*theirs.signatures, *ours.signatures), (*ours.signatures, *theirs.signatures)):
        with open_log(tmp_path) as log, pytest.raises(SelfApproval):
            register(log).record(Note(theirs.text, signatures).format())


@pytest.mark.parametrize("name", ["hospital.example/log", "reviewer.example/other"])
def test_the_hospitals_key_cannot_be_a_trusted_one(tmp_path: Path, name: str) -> None:
    """A configuration that trusts the hospital's own key, under any name, does not start."""
    with open_log(tmp_path) as log, pytest.raises(SelfApproval):
        register(log, REVIEWER.verifier, alias(name).verifier)


def test_what_does_not_verify_is_not_written(tmp_path: Path) -> None:
    """Forged, untrusted and malformed notes leave no entry."""
    stranger = Reviewer(Signer.generate("stranger.example/key"))
    with open_log(tmp_path) as log:
        one = register(log)
        wrong: tuple[tuple[str, type[ApprovalError]], ...] = (
            (REVIEWER.note().replace('"A1"', '"A2"'), ApprovalForged),
            (stranger.note(), ApprovalUntrusted),
            ("no note", ApprovalInvalid),
            (REVIEWER.signer.sign("hello\n"), ApprovalInvalid),
        )
        for note, error in wrong:
            with pytest.raises(error):
                one.record(note)
        assert count(log) == 0
        assert one.approvals() == ()


def test_a_note_too_long_for_the_log_is_refused(tmp_path: Path) -> None:
    """Signatures of strangers may swell a note beyond an entry; that is the note's fault, not ours."""
    lines = [Signer.generate(f"{n}.example/{'x' * 200}").sign("x\n").rsplit("\n", 2)[1] for n in range(60)]
    with open_log(tmp_path) as log, pytest.raises(ApprovalInvalid):
        register(log).record(REVIEWER.note() + "".join(f"{line}\n" for line in lines))


def test_a_key_taken_out_of_trust_takes_its_approvals_along(tmp_path: Path) -> None:
    """Approvals by a key that is no longer trusted do not count, and are shown as set aside; the others stay."""
    second = Reviewer(Signer.generate("second.example/key"))
    with open_log(tmp_path) as log:
        both = register(log, REVIEWER.verifier, second.verifier)
        both.record(REVIEWER.note(approval="TEST-1"))
        both.record(second.note(approval="TEST-2"))
        assert len(both.approvals()) == 2
        assert both.set_aside() == ()
    with open_log(tmp_path) as log:
        later = register(log, second.verifier)
        assert [approval.id for approval in later.approvals()] == ["TEST-2"]
        assert later.set_aside() == ((1, "APPROVAL_UNTRUSTED"),)


def test_an_entry_that_went_around_the_register_does_not_count(tmp_path: Path) -> None:
    """Notes are verified again at replay: writing to the log, which the hospital can do, approves nothing."""
    own = OPERATOR.sign(draft_approval(fields()))
    with open_log(tmp_path) as log:
        log.append(Draft(Kind.APPROVAL, "approval:own", {"note": own, "note_digest": "sha256:" + "0" * 64}))
        one = register(log)
        assert one.approvals() == ()
        assert one.set_aside() == ((1, "SELF_APPROVAL"),)


def test_of_two_notes_under_one_id_the_first_stays(tmp_path: Path) -> None:
    """Should a second note stand in the log under one id, against the rule, the first remains the approval."""
    with open_log(tmp_path) as log:
        one = register(log)
        first = one.record(REVIEWER.note())
        wider = REVIEWER.note(conditions={"max_autonomy": "A4"})
        log.append(Draft(Kind.APPROVAL, "approval:other", {"note": wider, "note_digest": "sha256:" + "0" * 64}))
        assert one.approvals() == (first,)


def test_the_latest_time_is_the_logs(tmp_path: Path) -> None:
    """The guard against a clock set back is the latest time in the log, and survives a restart."""
    times = iter([DURING, DURING + timedelta(days=1), DURING - timedelta(days=9)])
    with open_log(tmp_path, lambda: next(times)) as log:
        one = register(log)
        assert one.latest_known() is None
        one.record(REVIEWER.note(approval="TEST-1"))
        one.record(REVIEWER.note(approval="TEST-2"))
        one.approvals()
        assert one.latest_known() == DURING + timedelta(days=1)
    with open_log(tmp_path) as log:
        later = register(log)
        later.approvals()
        assert later.latest_known() == datetime(2026, 12, 16, 4, tzinfo=UTC)


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    """The log's own trouble goes through, and the approval does not count until it is in the log."""
    log = open_log(tmp_path)
    one = register(log)
    log.close()
    with pytest.raises(AuditUnavailable):
        one.record(REVIEWER.note())
    with pytest.raises(AuditUnavailable):
        one.approvals()


def test_threads_share_a_register(tmp_path: Path) -> None:
    """Recording and asking from several threads loses nothing and repeats nothing."""
    with open_log(tmp_path) as log:
        one = register(log)
        notes = [REVIEWER.note(approval=f"TEST-{n % 4}") for n in range(8)]
        seen: list[int] = []

        def work(note: str) -> None:
            one.record(note)
            seen.append(len(one.approvals()))

        threads = [threading.Thread(target=work, args=(note,)) for note in notes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 8
        assert [approval.id for approval in one.approvals()] == [f"TEST-{n}" for n in range(4)]
        assert count(log) == 4
