"""A run reads exactly the instances that it was started for, whatever arrives meanwhile."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_bridge.charset import person_name
from dicom_bridge.errors import VolumeRefused
from dicom_bridge.inbox import Inbox, InboxLimits
from dicom_bridge.rules import Rule
from dicom_bridge.spool_index import Instance
from models.library import Library
from service.errors import ImagesGone, InputSuperseded, NothingFits
from service.faults import explain
from service.reading import Reading
from service.store import Run, State
from tests.simulators import small_model
from tests.simulators.received import Clock, received
from tests.simulators.series import make_slice

SLICES = 4
THEN = datetime(2026, 4, 1, 8, 0, tzinfo=UTC)
STUDY = str(make_slice(0).StudyInstanceUID)
SERIES = str(make_slice(0).SeriesInstanceUID)


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """A spool that holds one series of four slices."""
    made = Inbox(tmp_path / "spool", Clock(), limits=InboxLimits(free_bytes_min=0))
    for index in range(SLICES):
        made.store(received(index), "MODALITY")
    yield made
    made.close()


def _run(inbox: Inbox, run_id: str = "run-1") -> Run:
    return Run(
        run_id=run_id,
        study_uid=STUDY,
        input_digest=inbox.input_digest(STUDY),
        attempt=1,
        state=State.ASSEMBLED,
        trigger="QUIET_TIMER",
        created_at=THEN,
        updated_at=THEN,
    )


def _library(folder: Path, **contract: object) -> Library:
    fields = small_model.manifest_fields()["input"] | contract
    library = Library(folder / "library")
    library.install(small_model.stage(folder / "staged", input=fields))
    return library


def _report(index: int = 90) -> Dataset:
    """A dose report of the same study, as it arrives some seconds after the images."""
    ds = make_slice(index)
    for keyword in ("PixelData", "Rows", "Columns", "PixelSpacing", "SamplesPerPixel"):
        del ds[keyword]
    ds.Modality = "SR"
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.22"
    ds.SeriesInstanceUID = SERIES + ".7"
    return ds


class Arriving:
    """An inbox into which one more image comes just after the `nth` question, as a thread of the listener brings it."""

    def __init__(self, inbox: Inbox, nth: int) -> None:
        self._inbox = inbox
        self._left = nth

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inbox, name)

        def asked(*arguments: Any) -> Any:
            answer = method(*arguments)
            self._left -= 1
            if self._left == 0:
                self._inbox.store(received(SLICES), "MODALITY")
            return answer

        return asked


def test_the_input_is_what_is_held(inbox: Inbox) -> None:
    """While nothing more has come, a run reads every instance."""
    assert len(Reading(inbox).instances(_run(inbox))) == SLICES


def test_a_late_image_ends_the_run(inbox: Inbox) -> None:
    """One more image makes another input, which another run reads: this one is INPUT_SUPERSEDED."""
    run = _run(inbox)
    inbox.store(received(SLICES), "MODALITY")
    reading = Reading(inbox)

    with pytest.raises(InputSuperseded):
        reading.instances(run)
    with pytest.raises(InputSuperseded):
        reading.series(run, SERIES)


def test_the_same_image_again_changes_nothing(inbox: Inbox) -> None:
    """Sent again unchanged, the input is the same."""
    run = _run(inbox)
    inbox.store(received(0), "MODALITY")

    assert len(Reading(inbox).instances(run)) == SLICES


def test_a_report_is_no_part_of_the_input(inbox: Inbox) -> None:
    """Reports come late and our own come back: they neither supersede the input nor count in its entry."""
    run = _run(inbox)
    before = Reading(inbox).instances(run)
    inbox.store(received(ds=_report()), "PACS")

    assert Reading(inbox).instances(run) == before


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_an_image_that_comes_while_reading_is_never_half_seen(inbox: Inbox, nth: int) -> None:
    """Whenever it comes: either the run's exact instances are given, or it is INPUT_SUPERSEDED."""
    run = _run(inbox)
    held: tuple[Instance, ...] | None = None
    with suppress(InputSuperseded):
        held = Reading(Arriving(inbox, nth)).instances(run)  # type: ignore[arg-type]

    assert held is None or len(held) == SLICES


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_the_volume_is_named_by_the_digest_of_its_own_instances(inbox: Inbox, nth: int) -> None:
    """An image that comes while the series is loaded never gets into the digest of voxels that lack it (I3, I6)."""
    run = _run(inbox)
    wanted = inbox.input_digest(STUDY, SERIES)
    try:
        loaded = Reading(Arriving(inbox, nth)).series(run, SERIES)  # type: ignore[arg-type]
    except InputSuperseded:
        return

    assert loaded.volume.shape[0] == SLICES
    assert loaded.volume.source_digest == wanted


def test_the_series_that_fits_is_chosen(inbox: Inbox, tmp_path: Path) -> None:
    """Series, model and modality are named; reports of the study are passed over."""
    inbox.store(received(ds=_report()), "PACS")
    library = _library(tmp_path)

    (chosen,) = Reading(inbox).choose(_run(inbox), library)

    assert chosen.series_uid == SERIES
    assert chosen.ref == library.find("small-model")
    assert chosen.modality == "MR"


@pytest.mark.parametrize(
    ("contract", "condition"),
    [
        ({"modality": ["CT"]}, "MODALITY"),
        ({"sop_classes": ["1.2.840.10008.5.1.4.1.1.2"]}, "SOP_CLASS"),
        ({"image_type_excludes": ["ORIGINAL"]}, "IMAGE_TYPE"),
        ({"body_part": ["CHEST"]}, "BODY_PART"),
        ({"description_any": ["FLAIR"]}, "DESCRIPTION"),
        ({"slices": [5, 400]}, "SLICES"),
    ],
)
def test_what_decided_against_every_series_is_told(
    inbox: Inbox, tmp_path: Path, contract: dict[str, object], condition: str
) -> None:
    """NO_MODEL_FITS names the predicate that stopped the series."""
    with pytest.raises(NothingFits) as refused:
        Reading(inbox).choose(_run(inbox), _library(tmp_path, **contract))

    assert refused.value.condition == condition


def test_the_series_that_came_farthest_explains(inbox: Inbox, tmp_path: Path) -> None:
    """Of two series the reason of the one that nearly fitted is told, not of the one that never could."""
    for index in range(5):
        scout = make_slice(20 + index)
        scout.SeriesInstanceUID = SERIES + ".2"
        scout.BodyPartExamined = "CHEST"
        inbox.store(received(ds=scout), "MODALITY")

    with pytest.raises(NothingFits) as refused:
        Reading(inbox).choose(_run(inbox), _library(tmp_path, slices=[100, 400]))

    assert refused.value.condition == "SLICES"


def test_without_a_model_nothing_fits(inbox: Inbox, tmp_path: Path) -> None:
    """An empty library is said plainly, not as a predicate of some series."""
    with pytest.raises(NothingFits) as refused:
        Reading(inbox).choose(_run(inbox), Library(tmp_path / "empty"))

    assert refused.value.condition == "NO_MODEL_OR_NO_SERIES"


def test_a_broken_model_is_not_chosen(inbox: Inbox, tmp_path: Path) -> None:
    """A folder that is no usable model is passed over."""
    library = _library(tmp_path)
    manifest = tmp_path / "library" / "small-model" / "1.0" / "manifest.json"
    manifest.chmod(0o600)
    manifest.write_text("{}")

    with pytest.raises(NothingFits):
        Reading(inbox).choose(_run(inbox), library)


def test_a_series_is_loaded_as_one_volume(inbox: Inbox) -> None:
    """Voxels in slice order, and the digest of exactly these instances, not of the whole study."""
    other = make_slice(20)
    other.SeriesInstanceUID = SERIES + ".2"
    inbox.store(received(ds=other), "MODALITY")

    loaded = Reading(inbox).series(_run(inbox), SERIES)

    assert loaded.volume.shape == (SLICES, 16, 12)
    assert np.array_equal(loaded.volume.voxels[:, 0, 0], [0, 100, 200, 300])
    assert loaded.volume.source_digest == inbox.input_digest(STUDY, SERIES) != inbox.input_digest(STUDY)


def test_a_loaded_series_is_kept_for_its_run_alone(inbox: Inbox) -> None:
    """The steps of one run share one volume; another run and a forgotten one read anew."""
    reading = Reading(inbox)
    run = _run(inbox)
    first = reading.series(run, SERIES)

    assert reading.series(run, SERIES) is first
    assert reading.series(_run(inbox, "run-2"), SERIES) is not first
    reading.forget(run.run_id)
    reading.forget("never-read")
    assert reading.series(run, SERIES) is not first


def test_a_gap_is_refused(inbox: Inbox) -> None:
    """Geometry decides at once: a missing slice is VolumeRefused, and nothing is kept for the run."""
    inbox.store(received(SLICES + 1), "MODALITY")
    reading, run = Reading(inbox), _run(inbox)

    for _ in range(2):
        with pytest.raises(VolumeRefused) as refused:
            reading.series(run, SERIES)
        assert refused.value.code == "SLICE_MISSING"


# -- rules, volumes, character sets


def _rule(name: str = "one", **wanted: object) -> Rule:
    return Rule.of({"name": name, "model": "small-model"} | wanted)


def test_each_model_that_fits_is_named(inbox: Inbox, tmp_path: Path) -> None:
    """Both, each with the series; of a run that was made for one of them that one alone, and none once it is gone."""
    library = _library(tmp_path)
    small = library.find("small-model")
    other = library.install(small_model.stage(tmp_path / "other", name="other"))
    run = _run(inbox)
    assert [one.ref for one in Reading(inbox).choose(run, library)] == [other, small]
    for ref in (small, other):
        assert [one.ref for one in Reading(inbox).choose(replace(run, for_model=ref.digest), library)] == [ref]
    with pytest.raises(NothingFits):
        Reading(inbox).choose(replace(run, for_model="sha256:" + "0" * 64), library)


def test_a_rule_decides_and_is_named(inbox: Inbox, tmp_path: Path) -> None:
    """The rule of the sender takes the study; its name and its urgency come with the choice."""
    rules = [_rule("ward", sender=["WARD"]), _rule("mr", sender=["MODALITY"], urgent=True)]
    reading = Reading(inbox, rules=rules)

    (chosen,) = reading.choose(_run(inbox), _library(tmp_path))

    assert (chosen.rule, chosen.urgent, chosen.part) == ("mr", True, "")
    assert reading.urgent(STUDY)
    assert not Reading(inbox).urgent(STUDY)


def test_a_study_that_no_rule_matches_says_so(inbox: Inbox, tmp_path: Path) -> None:
    """NO_RULE_MATCHES with the rule's predicate, as code and condition of the refusal."""
    with pytest.raises(NothingFits) as refused:
        Reading(inbox, rules=[_rule(orientation=["SAGITTAL"])]).choose(_run(inbox), _library(tmp_path))

    assert (refused.value.code, refused.value.condition) == ("NO_RULE_MATCHES", "ORIENTATION")
    assert explain(refused.value).code == "NO_RULE_MATCHES"


def _second_echo(inbox: Inbox) -> None:
    for index in range(SLICES):
        ds = make_slice(index)
        ds.EchoTime, ds.SOPInstanceUID = "9.2", f"2.25.{index + 1}"
        inbox.store(received(ds=ds), "MODALITY")


@pytest.fixture
def echoes(tmp_path: Path) -> Iterator[Inbox]:
    """A spool that holds one series of two echoes."""
    made = Inbox(tmp_path / "spool", Clock(), limits=InboxLimits(free_bytes_min=0))
    for index in range(SLICES):
        ds = make_slice(index)
        ds.EchoTime = "4.6"
        made.store(received(ds=ds), "MODALITY")
    _second_echo(made)
    yield made
    made.close()


def test_several_volumes_are_refused_unless_one_is_picked(echoes: Inbox, tmp_path: Path) -> None:
    """No rule: chosen, told no part, and refused when read. A rule's part: that volume, under a digest of its own."""
    library, run = _library(tmp_path), _run(echoes)
    reading = Reading(echoes)
    (chosen,) = reading.choose(run, library)
    with pytest.raises(VolumeRefused) as refused:
        reading.series(run, chosen.series_uid, chosen.part)
    assert refused.value.code == "AMBIGUOUS_VOLUMES"

    digests = set()
    for part, number in (("first", 1), ("last", 2), ("ECHO_TIME=9.2", 2)):
        picking = Reading(echoes, rules=[_rule(part=part)])
        (chosen,) = picking.choose(run, library)
        loaded = picking.series(run, chosen.series_uid, chosen.part)
        assert (chosen.part, loaded.part) == (f"ECHO_TIME-{number}", f"ECHO_TIME-{number}")
        assert loaded.volume.shape[0] == SLICES
        digests.add(loaded.volume.source_digest)
    assert len(digests) == 2
    assert echoes.input_digest(STUDY, SERIES) not in digests


def test_the_part_is_found_again_after_a_crash(echoes: Inbox, tmp_path: Path) -> None:
    """Another process is told the part alone, and reads the same volume."""
    run = _run(echoes)
    first = Reading(echoes, rules=[_rule(part="last")])
    (chosen,) = first.choose(run, _library(tmp_path))
    one = first.series(run, chosen.series_uid, chosen.part)
    other = Reading(echoes).series(run, chosen.series_uid, chosen.part)

    assert np.array_equal(one.volume.voxels, other.volume.voxels)
    assert one.volume.source_digest == other.volume.source_digest


def test_headers_are_read_once(inbox: Inbox, tmp_path: Path) -> None:
    """What choosing has read is not read again: the files may even be gone but for their pixels' names."""
    run = _run(inbox)
    reading = Reading(inbox)
    reading.choose(run, _library(tmp_path))
    for one in inbox.instances(STUDY):
        data = one.path.read_bytes()
        # The header is overwritten, the pixels are left: were it read again, it would be refused.
        one.path.chmod(0o600)
        one.path.write_bytes(b"\0" * (len(data) - 16 * 12 * 2) + data[-16 * 12 * 2 :])

    assert reading.series(run, SERIES).volume.shape[0] == SLICES


def test_a_series_that_no_model_takes_is_not_read(inbox: Inbox, tmp_path: Path) -> None:
    """Its modality is known from the index: thousands of such images cost nothing."""
    for one in inbox.instances(STUDY):
        one.path.unlink()

    with pytest.raises(NothingFits) as refused:
        Reading(inbox).choose(_run(inbox), _library(tmp_path, modality=["CT"]))
    assert refused.value.condition == "MODALITY"


def test_text_of_a_sender_that_mislabels_is_read_on_the_sites_word(tmp_path: Path) -> None:
    """GBK bytes under ISO_IR 100: description and name are Chinese where the site says what its scanner writes."""
    spool = Inbox(tmp_path / "spool", Clock(), limits=InboxLimits(free_bytes_min=0))
    for index in range(SLICES):
        ds = make_slice(index)
        ds.SpecificCharacterSet = "ISO_IR 100"
        for tag, vr, text in ((0x00100010, "PN", "测试^幻影"), (0x0008103E, "LO", "T1 头颅")):
            ds[tag] = DataElement(tag, vr, text.encode("gbk").decode("latin-1"))
        spool.store(received(ds=ds), "OLDCT")
    run, library = _run(spool), _library(tmp_path, description_any=["头颅"])

    with pytest.raises(NothingFits):
        Reading(spool).choose(run, library)
    reading = Reading(spool, charsets={"OLDCT": "GBK", "OTHER": "ISO_IR 192"})
    loaded = reading.series(run, reading.choose(run, library)[0].series_uid)

    assert person_name(loaded.headers[0]) == "测试^幻影"
    spool.close()


def test_half_a_study_is_not_read_as_a_whole_one(inbox: Inbox, tmp_path: Path) -> None:
    """A late image of a study that was let go is refused with its code; the whole study sent again is read."""
    inbox.let_go(STUDY)
    inbox.store(received(SLICES), "MODALITY")

    with pytest.raises(ImagesGone) as caught:
        Reading(inbox).choose(_run(inbox), _library(tmp_path))
    assert (explain(caught.value).code, explain(caught.value).side) == ("IMAGES_GONE", "INPUT")

    for index in range(SLICES):
        inbox.store(received(index), "MODALITY")
    assert len(Reading(inbox).instances(_run(inbox))) == SLICES + 1
