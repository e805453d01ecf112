"""Every acknowledged instance is accounted for, or named."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit import durable
from dicom_bridge import tombstone
from dicom_bridge.inbox import Inbox
from dicom_bridge.spool_index import Instance, StudyRow, instance_path
from service.reconcile import Fate, Finding, Places, Problem, Report, reconcile
from service.store import Run, State
from tests.simulators import series

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
STUDY = "1.2.3"


class World:
    """A spool of empty files, its index, the table of runs and the outbox; what `reconcile` looks at."""

    def __init__(self, root: Path) -> None:
        self.studies = root / "studies"
        self.studies.mkdir(parents=True)
        self.rows: dict[str, StudyRow] = {}
        self.held: dict[str, list[Instance]] = {}
        self.runs: dict[str, list[Run]] = {}
        self.calls: set[str] = set()
        self.delivers = True
        self.quarantined = 0

    def names(self) -> Iterable[tuple[str, str]]:
        """As the index gives them."""
        return [(study, one.sop_uid) for study, held in self.held.items() for one in held]

    def instances(self, study_uid: str) -> Sequence[Instance]:
        """As the index gives them."""
        return tuple(self.held.get(study_uid, ()))

    def study(self, study_uid: str) -> StudyRow | None:
        """As the index gives it."""
        return self.rows.get(study_uid)

    def hold(self, sop_uid: str, *, study: str = STUDY, modality: str = "MR", file: bool = True) -> None:
        """One instance in the index, and its file."""
        path = instance_path(self.studies, study, sop_uid)
        path.parent.mkdir(exist_ok=True)
        if file:
            path.write_bytes(b"")
        one = Instance(
            sop_uid=sop_uid,
            series_uid="1.2.3.4",
            study_uid=study,
            sop_class="1.2.840.10008.5.1.4.1.1.4",
            modality=modality,
            path=path,
            digest="sha256:" + "0" * 64,
            received_at=NOW,
            sender="MODALITY",
            body_part="",
            description="",
            image_type=(),
            series_number=1,
            identity="x",
            pixels=True,
        )
        self.held.setdefault(study, []).append(one)
        self.rows.setdefault(study, StudyRow(study, 1, NOW, 0, None))

    def handed_on(self, study: str = STUDY) -> None:
        """A run was started for what is held."""
        self.rows[study] = StudyRow(study, 1, NOW, 1, "sha")

    def run(
        self, state: State, *, study: str = STUDY, digest: str = "sha", call: str | None = None, beside: bool = False
    ) -> None:
        """A run of the study: the next attempt, or another model `beside` the last."""
        number = len(self.runs.get(study, ())) + 1
        attempt = number - 1 if beside else number
        run = Run(f"r{number}", study, digest, attempt, state, "QUIET_TIMER", NOW, NOW, call=call)
        self.runs.setdefault(study, []).append(run)

    def report(self, acknowledged: Iterable[str] = ()) -> Report:
        """What the command would say."""
        places = Places(
            studies=self.studies,
            index=self,
            runs_of=lambda uid: self.runs.get(uid, ()),
            sending=lambda call: call in self.calls,
            input_digest=lambda _: "sha",
            delivers=self.delivers,
            quarantined=self.quarantined,
        )
        return reconcile(places, acknowledged=acknowledged)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty one."""
    return World(tmp_path)


def test_nothing_is_accounted_for(world: World) -> None:
    """An empty spool has nothing to answer for; without a folder, too."""
    assert world.report().ok
    world.studies.rmdir()
    assert world.report().ok


def test_what_arrives_is_known_to_arrive(world: World) -> None:
    """A study that no run has seen waits, and that is no problem."""
    world.hold("1.1")
    world.hold("1.2")

    assert world.report(["1.1", "1.2"]) == Report({Fate.ARRIVING: 2, Fate.QUARANTINED: 0}, ())


ENDS = {State.RELEASED, State.SHADOWED, State.REFUSED, State.FAILED, State.UNDELIVERED}


@pytest.mark.parametrize("state", sorted(set(State) - {State.WRITTEN}))
def test_a_run_answers_for_its_images(world: World, state: State) -> None:
    """Under way or ended with a state that a person can see: accounted for."""
    world.hold("1.1")
    world.handed_on()
    world.run(state)

    report = world.report()

    assert report.ok
    assert report.fates[Fate.ENDED if state in ENDS else Fate.IN_PROGRESS] == 1


def test_a_written_result_must_be_on_its_way(world: World) -> None:
    """WRITTEN and in the outbox is in progress; WRITTEN and nowhere is a problem, unless results go to nobody."""
    world.hold("1.1")
    world.handed_on()
    world.run(State.WRITTEN, call="c" * 32)

    assert world.report().findings == (Finding(Problem.NOT_IN_OUTBOX, STUDY, None),)
    world.calls.add("c" * 32)
    assert world.report().fates[Fate.IN_PROGRESS] == 1
    assert world.report().ok
    world.calls.clear()
    world.delivers = False
    assert world.report().ok


@pytest.mark.parametrize("other", sorted(ENDS))
def test_each_model_answers_for_its_result(world: World, other: State) -> None:
    """Of two models' runs the one that has ended does not hide that the other's result is nowhere."""
    world.hold("1.1")
    world.handed_on()
    world.run(State.WRITTEN, call="c" * 32)
    world.run(other, call="d" * 32, beside=True)
    assert world.report().findings == (Finding(Problem.NOT_IN_OUTBOX, STUDY, None),)
    world.calls.add("c" * 32)
    assert world.report() == Report({Fate.IN_PROGRESS: 1, Fate.QUARANTINED: 0}, ())
    world.delivers = False
    assert world.report().fates[Fate.ENDED] == 1


def test_images_without_a_run_are_named(world: World) -> None:
    """The inbox has let go of the study, and no run read exactly this input: that would be silence."""
    world.hold("1.1")
    world.handed_on()
    assert world.report().findings == (Finding(Problem.NO_RUN, STUDY, None),)

    world.run(State.RELEASED, digest="of other images")
    assert world.report().findings == (Finding(Problem.NO_RUN, STUDY, None),)

    world.run(State.REFUSED)
    assert world.report().ok


@pytest.mark.parametrize("modality", ["SR", "SEG", "OT"])
def test_results_need_no_run(world: World, modality: str) -> None:
    """Reports, segmentations and key images that the PACS sends back are held, and no model reads them."""
    world.hold("1.1", modality=modality)
    world.handed_on()

    assert world.report() == Report({Fate.RESULT: 1, Fate.QUARANTINED: 0}, ())


def test_a_missing_file_is_named(world: World) -> None:
    """The index knows it, the disk does not."""
    world.hold("1.1", file=False)

    assert world.report().findings == (Finding(Problem.FILE_MISSING, STUDY, "1.1"),)


def test_an_unknown_file_is_named(world: World) -> None:
    """The disk has it, the index does not."""
    world.hold("1.1")
    instance_path(world.studies, STUDY, "1.9").write_bytes(b"")

    assert world.report().findings == (Finding(Problem.FILE_UNKNOWN, STUDY, "1.9"),)


def test_what_was_let_go_is_accounted_for(world: World) -> None:
    """A sender's word about an instance whose pixels left after the result was committed is true."""
    folder = world.studies / STUDY
    folder.mkdir()
    left = tombstone.Gone("1.1", "1.2.3.4", "MR", "sha256:" + "0" * 64, NOW.isoformat())
    tombstone.write(durable, folder, [left])

    report = world.report(["1.1"])

    assert report == Report({Fate.LET_GO: 1, Fate.QUARANTINED: 0}, ())


def test_an_instance_that_came_back_counts_once(world: World) -> None:
    """Let go and sent again: it is held, and only that."""
    world.hold("1.1")
    left = tombstone.Gone("1.1", "1.2.3.4", "MR", "sha256:" + "0" * 64, NOW.isoformat())
    tombstone.write(durable, world.studies / STUDY, [left])

    assert world.report().fates == {Fate.ARRIVING: 1, Fate.QUARANTINED: 0}


def test_a_senders_word_is_checked(world: World) -> None:
    """What a sender was told is held and what nothing here knows is lost, and is named."""
    world.hold("1.1")

    report = world.report(["1.1", "1.2"])

    assert report.findings == (Finding(Problem.UNACCOUNTED, None, "1.2"),)
    assert not report.ok


def test_a_changed_byte_is_found_by_reading_deeply(tmp_path: Path) -> None:
    """The disk changed a pixel after it was acknowledged: the digest says so, the name alone does not."""
    inbox = Inbox(tmp_path / "spool", lambda: NOW)
    for path in series.write_series(tmp_path / "sent", count=2, shape=(8, 8)):
        inbox.store_file(path.read_bytes(), "MODALITY")
    study_uid = inbox.open_studies()[0].study_uid
    inbox.input_digest(study_uid)
    first, second = inbox.instances(study_uid)
    world = World(tmp_path / "other")
    world.studies, world.held[study_uid] = tmp_path / "spool" / "studies", [first, second]
    places = Places(world.studies, world, lambda _: (), lambda _: False, lambda _: "sha", True, 0)
    assert reconcile(places, deep=True).ok

    data = bytearray(second.path.read_bytes())
    data[-1] ^= 1
    second.path.write_bytes(data)

    assert reconcile(places).ok
    assert reconcile(places, deep=True).findings == (Finding(Problem.FILE_CHANGED, study_uid, second.sop_uid),)
    second.path.write_bytes(b"rubbish")
    assert reconcile(places, deep=True).findings == (Finding(Problem.FILE_CHANGED, study_uid, second.sop_uid),)
    inbox.close()
