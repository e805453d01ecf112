"""What readers send back becomes one decision each: of whom it is believed, once for ever, and nothing is lost."""

import hashlib
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom import dcmread
from pydicom.dataset import Dataset

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable, EntryInvalid
from dicom_bridge.inbox import Inbox
from dicom_bridge.rejection import Reason, write_rejection
from dicom_bridge.verdict_match import Base, VerdictUnmatched, judge
from ethics_review.facts import Decision
from service.decisions import AGAIN_MAX, REASONS, Desk, parse_decision
from service.results import SEG, SR
from service.sections import PeerSection
from service.store import Run, State
from service.verdicts import Verdicts, believed
from tests.simulators import edited
from tests.simulators import findings as phantom
from tests.simulators.audit_log import body
from tests.simulators.readers import PSEUDONYMS, readers
from tests.simulators.watched import Ward
from tests.unit.dicom_bridge.test_report import SHAPE, Results

READING_ROOM, STRANGER = "READINGROOM", "MODALITY"
VOLUME = "118565006"


class Died(BaseException):
    """The process is gone."""


class Attempts:
    """The runs of a room, by call."""

    def __init__(self, room: "Room") -> None:
        self._room = room

    def of_call(self, call: str) -> tuple[Run, ...]:
        """See service.store.Store."""
        return tuple(run for runs in self._room.runs.values() for run in runs if run.call == call)


class Room:
    """A reading room beside a log: a call with results, a spool, and whoever looks at what comes back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ward = Ward(root)
        self.ward.in_use()
        self.inbox = Inbox(root / "spool", self.ward.clock)
        self.runs: dict[str, list[Run]] = {}
        self.writer: Any = self.ward.log
        self.told: list[str] = []
        self.seen: list[str] = []
        self.chore = self.started()

    def started(self) -> Verdicts:
        """As a service's start makes it."""
        chore = Verdicts(
            spool=self.inbox,
            runs=self,
            log=self.ward.log,
            writer=self.writer,
            pseudonyms=PSEUDONYMS,
            results=self.root / "results",
            titles=frozenset({READING_ROOM}),
            decided=self.told.append,
            seen=self.seen.append,
        )
        self.inbox.listen(chore.heard)
        self.chore = chore
        return chore

    def of_study(self, study_uid: str) -> list[Run]:
        """See service.store.Store."""
        return self.runs.get(study_uid, [])

    def call(self, number: int = 1, *, released: bool = True, **options: Any) -> Results:
        """A call whose report and segmentation were made, logged and, if so, released."""
        name = f"{number:032x}"
        made = Results(phantom.ellipsoid(SHAPE), phantom.ellipsoid(SHAPE, size=0.15), call=name, **options)
        folder = self.root / "results" / name
        folder.mkdir(parents=True)
        outputs = []
        for kind, file, ds in (("SR", SR, made.sr), ("SEG", SEG, made.seg)):
            assert ds is not None
            data = made.data if kind == "SR" else edited.file_of(ds)
            (folder / file).write_bytes(data)
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            outputs.append({"kind": kind, "uid": str(ds.SOPInstanceUID), "digest": digest})
        self.ward.put(Kind.CALL_INTENT, f"intent:{name}:{'0' * 16}", body(Kind.CALL_INTENT), name)
        said = body(Kind.CALL_RESULT) | {"outputs": outputs}
        self.ward.put(Kind.CALL_RESULT, f"result:{name}", said, name)
        if released:
            self.release(number)
        now = datetime(2026, 11, 29, tzinfo=UTC)
        study = str(made.sr.StudyInstanceUID)
        run = Run(f"{number}-1", study, "sha256:" + "0" * 64, 1, State.RELEASED, "COUNT_MATCHED", now, now, call=name)
        self.runs.setdefault(study, []).append(run)
        return made

    def release(self, number: int = 1) -> None:
        """The PACS has committed it."""
        name = f"{number:032x}"
        self.ward.put(Kind.RELEASED, f"released:{name}", body(Kind.RELEASED), name)

    def send(self, ds: Dataset, sender: str = READING_ROOM) -> None:
        """C-STORE."""
        self.inbox.store_file(edited.file_of(ds), sender)

    def returned(self, ds: Dataset, sender: str = READING_ROOM) -> list[Entry]:
        """C-STORE, and a look at it; all decisions."""
        self.send(ds, sender)
        self.chore()
        return self.decisions()

    def decisions(self) -> list[Entry]:
        """The HUMAN_DECISION entries."""
        return self.ward.decisions()

    def close(self) -> None:
        """Give everything back."""
        self.inbox.close()
        self.ward.log.close()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A room without a call."""
    made = Room(tmp_path)
    yield made
    made.close()


def verified(results: Results) -> Dataset:
    """Our report, verified by a reader and otherwise unchanged."""
    return edited.verify(edited.copied(results.sr))


def remeasured(results: Results, value: str = "7.25") -> Dataset:
    """Our report with another volume, verified."""
    ds = verified(results)
    edited.measure(ds, value)
    return ds


def redrawn(results: Results) -> Dataset:
    """Our segmentation with another outline."""
    assert results.seg is not None
    ds = edited.copied(results.seg)
    edited.shrink(ds)
    return ds


# ---- what is logged --------------------------------------------------------------------------------------------------


def test_a_verified_report_is_an_acceptance(room: Room) -> None:
    """All fields; who said so is a pseudonym of the name in the object, asserted and not proven."""
    came = verified(room.call())
    (entry,) = room.returned(came)
    assert entry.call == f"{1:032x}"
    assert dict(entry.body) == {
        "decision": "ACCEPT",
        "reasons": (),
        "significant": "NO",
        "reader": PSEUDONYMS.of("observer", "invented^phantomreader=测试^阅片幻影"),
        "role": "ASSERTED",
        "training": None,
        "channel": "SR",
        "seconds": None,
        "blinded": "NO",
        "difference": (),
        "concordance": None,
        "object": PSEUDONYMS.of("verdict", str(came.SOPInstanceUID)),
    }
    assert (room.told, room.seen) == (["ACCEPT"], ["LOGGED"])


def test_another_number_is_a_modification(room: Room) -> None:
    """Old and new by concept and tracking; of its weight nobody has said anything."""
    ours = room.call()
    (entry,) = room.returned(remeasured(ours))
    track = str(edited.items(ours.sr, "112040")[0].UID)
    before = str(edited.items(ours.sr, VOLUME)[0].MeasuredValueSequence[0].NumericValue)
    assert (entry.body["decision"], entry.body["reasons"], entry.body["channel"]) == ("MODIFY", ("MEASURE",), "SR")
    assert entry.body["significant"] == "UNKNOWN"
    assert entry.body["difference"] == (
        {"code": f"{VOLUME} {track}", "before": before, "after": "7.25", "unit": "cm3"},
    )


def test_another_outline_is_a_modification(room: Room) -> None:
    """By its Dice coefficient; a segmentation without a creator is nobody's."""
    ours = room.call()
    (entry,) = room.returned(redrawn(ours))
    assert (entry.body["decision"], entry.body["reasons"], entry.body["channel"]) == ("MODIFY", ("OUTLINE",), "SEG")
    (one,) = entry.body["difference"]  # type: ignore[misc]
    assert str(one["code"]) == f"DICE {ours.seg.SegmentSequence[0].TrackingUID}"  # type: ignore[union-attr,index,call-overload]
    assert 0 < float(one["after"]) < 1  # type: ignore[arg-type,index,call-overload]
    assert entry.body["reader"] is None


def test_a_rejection_note(room: Room) -> None:
    """A key object document that rejects our report and nothing else."""
    ours = room.call()
    ds = edited.new_document(("113001", "DCM", "Rejected"), ours.sr, "KO", "1.2.840.10008.5.1.4.1.1.88.59")
    ds.CurrentRequestedProcedureEvidenceSequence = [edited.hierarchy(ours.sr)]
    (entry,) = room.returned(ds)
    assert (entry.body["decision"], entry.body["reasons"], entry.body["channel"]) == ("REJECT", ("OTHER",), "KO")


def test_report_and_segmentation_are_two_entries_of_one_call(room: Room) -> None:
    """Each object is a decision of its own."""
    ours = room.call()
    room.send(remeasured(ours))
    entries = room.returned(redrawn(ours))
    assert {str(one.body["channel"]) for one in entries} == {"SR", "SEG"}
    assert {one.call for one in entries} == {f"{1:032x}"}


def test_words_and_reasons_are_those_of_the_form() -> None:
    """No decision and no reason that the monitor and the form do not know."""
    from dicom_bridge import verdict, verdict_segments

    text = "".join(Path(str(one.__file__)).read_text(encoding="utf-8") for one in (verdict, verdict_segments))
    for reason in ("MEASURE", "OUTLINE", "LOCATION", "FALSE_POSITIVE", "MISSED_FINDING", "OTHER"):
        assert f'"{reason}"' in text
        assert reason in REASONS
    for word in ("ACCEPT", "MODIFY", "REJECT"):
        assert word in {one.value for one in Decision}


def test_what_nobody_said_counts_as_significant(room: Room) -> None:
    """The monitor takes UNKNOWN for a disagreement: what nobody said is not taken for harmless."""
    from ethics_review.facts import fact_of

    ours = room.call()
    (changed,) = room.returned(remeasured(ours))
    _, accepted = room.returned(verified(ours))
    assert fact_of(changed).significant  # type: ignore[union-attr]
    assert not fact_of(accepted).significant  # type: ignore[union-attr]


# ---- once, whatever happens ------------------------------------------------------------------------------------------


def test_the_same_object_again_changes_nothing(room: Room) -> None:
    """Sent again, after a restart, after it has left the spool: one entry."""
    ours = room.call()
    ds = remeasured(ours)
    room.returned(ds)
    size = room.ward.log.head().size
    for _ in range(2):
        assert len(room.returned(ds)) == 1
        room.started()()
    room.inbox.let_go(str(ds.StudyInstanceUID))
    assert len(room.returned(ds)) == 1
    room.started()
    assert len(room.returned(ds)) == 1
    assert room.ward.log.head().size == size
    assert room.told == ["MODIFY"]


def test_the_same_instance_with_other_content_changes_nothing(room: Room) -> None:
    """The first is kept, and was decided on; the newcomer is in quarantine, for a person."""
    ours = room.call()
    ds = remeasured(ours)
    room.returned(ds)
    edited.measure(ds, "9.5")
    assert len(room.returned(ds)) == 1
    assert len(room.inbox.conflicts()) == 1


def test_received_before_the_end_of_the_last_process(room: Room) -> None:
    """Acknowledged and never looked at: the next start does, once."""
    ours = room.call()
    room.send(remeasured(ours))
    assert room.decisions() == []
    room.started()()
    room.started()()
    assert len(room.decisions()) == 1


class Mortal:
    """A log whose process dies before or after the entry is in it."""

    def __init__(self, log: Any, *, after: bool) -> None:
        self._log, self._after = log, after

    def append(self, draft: Draft) -> Entry:
        """See AuditLog."""
        if self._after:
            self._log.append(draft)
        raise Died


@pytest.mark.parametrize("after", [False, True])
def test_killed_around_the_entry(room: Room, after: bool) -> None:
    """Before it, the verdict is logged by the next start; after it, not again."""
    ours = room.call()
    room.writer = Mortal(room.ward.log, after=after)
    room.started()
    with pytest.raises(Died):
        room.returned(remeasured(ours))
    room.writer = room.ward.log
    room.started()()
    assert len(room.decisions()) == 1


def test_while_the_log_is_away(room: Room) -> None:
    """Nothing is lost: the next round logs it."""

    class Away:
        def append(self, _draft: Draft) -> Entry:
            raise AuditUnavailable("away")

    ours = room.call()
    room.writer = Away()
    room.started()
    with pytest.raises(AuditUnavailable):
        room.returned(remeasured(ours))
    room.chore._writer = room.ward.log
    room.chore()
    assert len(room.decisions()) == 1


def test_what_no_entry_can_hold_is_not_tried_for_ever(room: Room) -> None:
    """A code that a person sees, and the next object has its turn."""

    class Strict:
        def append(self, _draft: Draft) -> Entry:
            raise EntryInvalid("no")

    ours = room.call()
    room.writer = Strict()
    room.started()
    assert room.returned(remeasured(ours)) == []
    assert room.seen == ["ENTRY_INVALID"]
    room.chore()
    assert room.seen == ["ENTRY_INVALID"]


def test_before_the_pacs_has_committed(room: Room) -> None:
    """The reader was quicker than the commitment: the verdict waits for the release, and is not read again before."""
    ours = room.call(released=False)
    assert room.returned(remeasured(ours)) == []
    assert room.seen == []
    for path in (room.root / "spool" / "studies").rglob("*.dcm"):
        path.rename(path.with_suffix(".away"))
    room.chore()
    for path in (room.root / "spool" / "studies").rglob("*.away"):
        path.rename(path.with_suffix(".dcm"))
    room.release()
    room.chore()
    assert len(room.decisions()) == 1


def test_a_program_that_runs_wild(room: Room) -> None:
    """As many as one reader may decide; then the rest is held and not logged."""
    ours = room.call()
    for number in range(AGAIN_MAX + 1):
        room.send(remeasured(ours, str(number)))
    room.chore()
    assert len(room.decisions()) == AGAIN_MAX
    assert room.seen[AGAIN_MAX:] == ["DECISIONS_TOO_MANY"]
    room.started()()
    assert len(room.decisions()) == AGAIN_MAX, "the log counts, not the process"


def test_whoever_asks_of_a_call_is_told_of_them(room: Room) -> None:
    """Beside what readers said by other ways, in the log's order; each object once, whatever came between."""
    ours, other = room.call(), room.call(2)
    desk = Desk(room.ward.log, room.ward.log, Attempts(room), readers(), PSEUDONYMS)
    first, second = remeasured(ours), redrawn(ours)
    room.returned(first)
    desk.decide(f"{1:032x}", readers()[0], parse_decision(b'{"decision": "ACCEPT", "reasons": []}'))
    room.returned(second)
    room.returned(first)
    room.returned(verified(other))
    told = desk.look(f"{1:032x}").decisions
    assert [entry.body["channel"] for entry in told] == ["SR", "API", "SEG"]
    assert [entry.body["channel"] for entry in desk.on(f"{2:032x}")] == ["SR"]
    assert room.seen == ["LOGGED", "LOGGED", "LOGGED_BEFORE", "LOGGED"]


# ---- what is no decision ---------------------------------------------------------------------------------------------


def test_from_anybody_else_it_is_held_and_no_more(room: Room) -> None:
    """Also after a restart: who sent it stands in the file."""
    ours = room.call()
    assert room.returned(remeasured(ours), STRANGER) == []
    room.started()()
    assert room.decisions() == []
    assert room.seen == []
    assert len(room.inbox.instances(str(ours.sr.StudyInstanceUID))) == 1


def test_first_from_anybody_then_from_a_reader(room: Room) -> None:
    """The same bytes from whom we believe are a verdict, whoever sent them first."""
    ours = room.call()
    ds = remeasured(ours)
    assert room.returned(ds, STRANGER) == []
    assert len(room.returned(ds)) == 1


def test_our_own_come_back(room: Room) -> None:
    """A PACS that sends us what we sent it says nothing."""
    ours = room.call()
    assert ours.seg is not None
    room.send(ours.sr)
    assert room.returned(ours.seg) == []
    assert room.seen == ["OWN_OBJECT", "OWN_OBJECT"]


@pytest.mark.parametrize("allowed", [True, False])
def test_our_own_note_of_a_withdrawal_is_nobody_s_rejection(room: Room, *, allowed: bool) -> None:
    """It rejects all that we sent, by its title; under our UID it is ours. A reader's own note is a decision."""
    ours = room.call()
    assert ours.seg is not None
    call = f"{1:032x}"
    note = write_rejection(ours.sr, [ours.sr, ours.seg], Reason.QUALITY, None, phantom.context(call=call))
    ds = dcmread(io.BytesIO(note))
    if not allowed:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.840.99999.8.7"
    decided = [str(one.body["decision"]) for one in room.returned(ds)]
    assert (decided, room.seen) == (([], ["OWN_OBJECT"]) if allowed else (["REJECT"], ["LOGGED"]))


def test_our_own_instance_with_changes(room: Room) -> None:
    """Under our own UID there is only our own object, whatever it says now."""
    ours = room.call()
    ds = remeasured(ours)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = ours.sr.SOPInstanceUID
    assert room.returned(ds) == []
    assert room.seen == ["OWN_OBJECT"]


def _of_another_study(ds: Dataset) -> None:
    ds.StudyInstanceUID = "1.2.840.99999.8.1"


def _of_another_patient(ds: Dataset) -> None:
    ds.PatientID = "TEST-0002"


def _dose_report(ds: Dataset) -> None:
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"


def _garbled_number(ds: Dataset) -> None:
    edited.measure(ds, "99999999")


@pytest.mark.parametrize(
    ("edit", "outcome"),
    [
        (_of_another_study, "NO_MATCH"),
        (_of_another_patient, "PATIENT_DIFFERS"),
        (_dose_report, "CLASS_UNSUPPORTED"),
        (_garbled_number, "VALUE_INVALID"),
    ],
)
def test_what_is_no_decision(room: Room, edit: Callable[[Dataset], None], outcome: str) -> None:
    """A code, nothing logged, and the object is held all the same."""
    ds = remeasured(room.call())
    edit(ds)
    assert room.returned(ds) == []
    assert room.seen == [outcome]
    assert room.inbox.class_of(str(ds.SOPInstanceUID)) is not None


def test_saved_again_says_nothing(room: Room) -> None:
    """Unverified and unchanged."""
    ours = room.call()
    assert room.returned(edited.copied(ours.sr)) == []
    assert room.seen == ["NOTHING_SAID"]


def test_the_tracking_uid_of_another_study(room: Room) -> None:
    """A report of this study with groups of that one is nobody's: only calls of its own study are looked at."""
    mine, other = room.call(1), room.call(2)
    study = "1.2.840.99999.8.1"
    room.runs[study] = [room.runs[str(mine.sr.StudyInstanceUID)].pop()]
    ds = remeasured(other)
    edited.measure(ds, "1")
    assert room.returned(ds) == []
    assert room.seen == ["NO_MATCH"]


def test_which_of_two_calls(room: Room) -> None:
    """The one whose tracking it has; a document with groups of both is about neither."""
    first, second = room.call(1), room.call(2)
    (entry,) = room.returned(remeasured(second))
    assert entry.call == f"{2:032x}"
    both = remeasured(first)
    edited.group_list(both).extend(edited.groups(second.sr))
    assert len(room.returned(both)) == 1
    assert room.seen[-1] == "AMBIGUOUS"


@pytest.mark.parametrize("file", [SR, SEG])
def test_results_that_are_not_those_of_the_log(room: Room, file: str) -> None:
    """Changed or lost here: there is nothing to compare with, and nobody's bytes take their place."""
    ours = room.call()
    path = room.root / "results" / f"{1:032x}" / file
    path.write_bytes(path.read_bytes() + b"\0\0")
    ds = remeasured(ours) if file == SR else redrawn(ours)
    assert room.returned(ds) == []
    path.unlink()
    room.started()
    assert room.returned(ds) == []
    assert set(room.seen) == {"NO_MATCH"}


def test_an_object_that_has_left_the_spool(room: Room) -> None:
    """Let go between the two looks: nothing to look at, and no harm."""
    ours = room.call()
    room.send(remeasured(ours))
    for path in (room.root / "spool" / "studies").rglob("*.dcm"):
        path.unlink()
    room.chore()
    assert (room.decisions(), room.seen) == ([], ["GONE"])


def test_images_are_not_looked_at(room: Room) -> None:
    """What a modality sends is nobody's verdict, from whomever."""
    room.call()
    image = phantom.series()[0]
    assert room.returned(image) == []
    assert room.seen == []


def test_no_name_gets_out(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the reader's name nor the patient's is in an entry, a log line or an error; nor a foreign UID."""
    ours = room.call()
    name = "<script>alert(1)</script>^EVIL"
    good = edited.verify(edited.copied(ours.sr), name)
    bad = edited.verify(edited.copied(ours.sr), name)
    edited.measure(bad, "99999999")
    extra = remeasured(ours)
    edited.track(edited.groups(extra)[1], "1.2.840.99999.6.6.6")
    for ds in (good, bad, extra):
        ds.PatientName = name
        room.returned(ds)
    text = "".join(str(dict(entry.body)) + entry.key for entry in room.ward.log.entries()) + "".join(
        capsys.readouterr()
    )
    assert "verdict_not_taken" in text
    for word in ("script", "EVIL", "evil", phantom.NAME_ZH, "测试", "1.2.840.99999", str(good.SOPInstanceUID)):
        assert word not in text


# ---- who is believed -------------------------------------------------------------------------------------------------


def peer(name: str, title: str, **more: Any) -> PeerSection:
    """A peer as a configuration has it."""
    return PeerSection(name=name, ae_title=title, host="127.0.0.1", port=104, **more)


def test_nobody_is_believed_by_default() -> None:
    """Off unless the site says so; a title that is another peer's as well is nobody's."""
    here = {"verdicts": True, "addresses": ("192.0.2.7/32",)}
    assert believed([peer("a", "ONE"), peer("b", "TWO", **here)]) == {"TWO"}
    assert believed([peer("a", "ONE"), peer("b", "ONE", **here)]) == frozenset()


@pytest.mark.parametrize("more", [{"addresses": ("192.0.2.7/32",)}, {"certificate": "a" * 64}, {"tls": True}])
def test_a_name_alone_is_not_believed(more: dict[str, Any]) -> None:
    """An AE title anybody can write: an address, a certificate or TLS has to go with it."""
    assert peer("a", "ONE", verdicts=True, **more).verdicts
    with pytest.raises(ValidationError, match="an AE title anybody can write"):
        peer("a", "ONE", verdicts=True)


def test_a_study_without_results(tmp_path: Path) -> None:
    """The file is not even opened."""
    with pytest.raises(VerdictUnmatched, match="NO_MATCH"):
        judge(tmp_path / "none.dcm", "1.2.840.10008.5.1.4.1.1.88.34", [])
    base = Base("0" * 32, tmp_path / "none.dcm", None, frozenset())
    with pytest.raises(VerdictUnmatched, match="CLASS_UNSUPPORTED"):
        judge(tmp_path / "none.dcm", "1.2.3", [base])
