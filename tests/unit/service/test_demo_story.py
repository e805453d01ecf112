"""The parts of the demo that need no server: configuration, terms, evidence, what is shown."""

import io
import json
import os
import stat
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from audit.entry import Entry, Kind
from audit.note import Signer
from dicom_bridge.readback import Number, PictureFacts, ReportFacts, SegmentationFacts
from ethics_review.dossier import draft_approval, load_approval
from ethics_review.parties import parse_trust
from service import config as configuration
from service.demo import main
from service.demo.commands import Zhiying, own_environment, shown
from service.demo.errors import NotHeld, NotInTime, StepFailed
from service.demo.evidence import Results, Trail, promises, trail
from service.demo.hospital import Hospital
from service.demo.parties import SITE, Parties, terms_for
from service.demo.screen import Screen
from service.demo.servers import free_port

DIGEST = "sha256:" + "ab" * 32
NOTE_DIGEST = "sha256:" + "cd" * 32
MODEL = {"name": "brain-extraction-t1", "version": "1", "digest": DIGEST}
CALL = "0f" * 16
NAME = "TEST^Phantom=测试^幻影"
UIDS = {"SR": "2.25.7", "SEG": "2.25.8", "SC": "2.25.10"}
RUN: dict[str, Any] = {"measurements": [{"code": "118565006", "value": "1951.3", "unit": "cm3"}]}
OUTPUTS = {"outputs": [{"kind": kind, "uid": uid} for kind, uid in UIDS.items()]}


def entry(index: int, kind: Kind, body: dict[str, Any] | None = None, call: str | None = CALL) -> Entry:
    """An entry of the log."""
    return Entry(
        index=index,
        source="test",
        seq=index,
        time="2026-11-23T16:07:12.123456Z",
        boot="b0" * 16,
        tick_us=index,
        kind=kind,
        key=f"test:{index}",
        body=body or {},
        call=call,
    )


LOG = [
    entry(0, Kind.LOG_START, call=None),
    entry(1, Kind.DENIED, {"code": "NO_APPROVAL"}),
    entry(2, Kind.APPROVAL, {"note_digest": NOTE_DIGEST}, call=None),
    entry(3, Kind.CALL_INTENT),
    entry(4, Kind.CALL_RESULT, OUTPUTS),
    entry(5, Kind.RELEASED),
    entry(6, Kind.CALL_RESULT, OUTPUTS, call="11" * 16),
]
RESULTS = Results(
    report_path=Path("sr.dcm"),
    mask_path=Path("seg.dcm"),
    picture_path=Path("sc.dcm"),
    overlay_path=Path("overlay.png"),
    report=ReportFacts(
        sop_uid="2.25.7",
        study_uid="2.25.1",
        patient_name=NAME,
        completion="COMPLETE",
        verification="UNVERIFIED",
        preliminary="PRELIMINARY",
        software="0.1.0",
        numbers=(Number("118565006", "Volume", "1951.3", "cm3"),),
    ),
    mask=SegmentationFacts(
        sop_uid="2.25.8", study_uid="2.25.1", patient_name=NAME, kind="BINARY", frames=150, labels=("Brain",)
    ),
    picture=PictureFacts(
        sop_uid="2.25.10", study_uid="2.25.1", patient_name=NAME, comments="Brain. Volume: 1951.3 cm3"
    ),
)


def broken(log: list[Entry], results: Results = RESULTS, run: dict[str, Any] | None = None) -> set[str]:
    """The promises that do not hold."""
    found = trail(log, call=CALL, approval=NOTE_DIGEST)
    return {name for name, held in promises(found, results, run or RUN, NAME).items() if not held}


def test_a_good_story_keeps_every_promise() -> None:
    """Refused, approved, asked, answered, sent once, and the PACS holds it: nothing to complain of."""
    assert broken(LOG) == set()


def test_entries_of_other_calls_are_not_ours() -> None:
    """Only what the log says of this call, and of the approval that allowed it, is evidence."""
    assert trail(LOG, call=CALL, approval=NOTE_DIGEST) == Trail((LOG[1],), LOG[2], (LOG[3],), (LOG[4],), (LOG[5],))
    assert trail(LOG, call="22" * 16, approval="sha256:0") == Trail((), None, (), (), ())


@pytest.mark.parametrize(
    ("log", "promise"),
    [
        ([LOG[0], *LOG[2:]], "refused before the approval"),
        ([*LOG[:1], *LOG[2:], entry(7, Kind.DENIED)], "refused before the approval"),
        ([*LOG[:2], *LOG[3:]], "approved, then asked, answered, sent"),
        ([*LOG[:3], *LOG[4:]], "approved, then asked, answered, sent"),
        ([*LOG[:5], *LOG[6:]], "one result, sent once"),
        ([*LOG, entry(7, Kind.RELEASED)], "one result, sent once"),
        ([*LOG, entry(7, Kind.CALL_RESULT, OUTPUTS)], "one result, sent once"),
        ([*LOG[:4], LOG[5], entry(6, Kind.CALL_RESULT, OUTPUTS)], "approved, then asked, answered, sent"),
    ],
)
def test_a_gap_in_the_log_is_seen(log: list[Entry], promise: str) -> None:
    """An entry that is missing, doubled or out of order breaks its promise."""
    assert promise in broken(log)


@pytest.mark.parametrize(
    ("report", "promise"),
    [
        ({"sop_uid": "2.25.9"}, "the PACS holds what the log names"),
        ({"verification": "VERIFIED"}, "unverified and preliminary"),
        ({"preliminary": "FINAL"}, "unverified and preliminary"),
        ({"numbers": ()}, "the report says what was measured"),
        ({"numbers": (Number("118565006", "Volume", "1951.3", "mm3"),)}, "the report says what was measured"),
        ({"patient_name": "TEST^Phantom=????"}, "the patient's name is readable"),
    ],
)
def test_a_wrong_report_is_seen(report: dict[str, Any], promise: str) -> None:
    """A report in the PACS that is not what the log names, or does not say what it must, breaks its promise."""
    assert broken(LOG, replace(RESULTS, report=replace(RESULTS.report, **report))) == {promise}


@pytest.mark.parametrize("mask", [{"kind": "FRACTIONAL"}, {"labels": ()}])
def test_a_wrong_mask_is_seen(mask: dict[str, Any]) -> None:
    """A segmentation of another kind breaks its promise."""
    assert broken(LOG, replace(RESULTS, mask=replace(RESULTS.mask, **mask))) == {"a binary mask with one segment"}


@pytest.mark.parametrize(
    ("picture", "promise"),
    [
        ({"sop_uid": "2.25.9"}, "the PACS holds what the log names"),
        ({"comments": "Brain. Volume: 1951.2 cm3"}, "the key image says what was measured"),
        ({"patient_name": "TEST^Phantom=????"}, "the patient's name is readable"),
    ],
)
def test_a_wrong_key_image_is_seen(picture: dict[str, Any], promise: str) -> None:
    """A picture in the PACS that is not what the log names, or tells another number, breaks its promise."""
    assert broken(LOG, replace(RESULTS, picture=replace(RESULTS.picture, **picture))) == {promise}


def test_a_run_without_a_measurement_is_seen() -> None:
    """A run that measured nothing holds no promise about what was measured."""
    silent = {"the report says what was measured", "the key image says what was measured"}
    assert broken(LOG, run={"measurements": []}) == silent


def test_terms_are_an_approval() -> None:
    """The terms that the demo's reviewer signs are a whole approval: every condition, this exact model."""
    now = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)  # already the 24th in China
    signer = Signer.generate("demo-reviewer.example")
    approval = load_approval(signer.sign(draft_approval(terms_for(MODEL, DIGEST, now))), [signer.verifier])
    assert approval.model.digest == DIGEST
    assert approval.valid_from == date(2026, 11, 24)
    assert approval.starts_at <= now < approval.ends_at
    assert approval.conditions.site == (SITE,)
    assert approval.conditions.max_autonomy == "A1"
    assert "DEMO" in approval.reviewer_org


def test_configuration_is_understood(tmp_path: Path) -> None:
    """The service reads the file that the demo writes: a PACS that gets the results, a trust policy, loopback only."""
    hospital = Hospital(tmp_path / 'a "quoted" folder', 11113, 8301)
    hospital.configure(site=SITE, pacs_port=14242, trust="organisation demo reviewer\n", key_images=True)
    read = configuration.load(hospital.config)
    assert read.site.id == SITE
    assert read.data.folder == hospital.root / "data"
    assert (read.dicom.port, read.http.port) == (11113, 8301)
    assert {read.dicom.host, read.http.host, *(peer.host for peer in read.peers)} == {"127.0.0.1"}
    assert (read.results.to, read.peers[0].name, read.peers[0].port, read.peers[0].counts) == (
        "pacs",
        "pacs",
        14242,
        True,
    )
    assert read.results.key_images
    assert read.review.trust is not None
    assert parse_trust(read.review.trust.read_text(encoding="utf-8")).organisations == {"demo": "reviewer"}


def test_a_silent_service_is_one_line(tmp_path: Path) -> None:
    """A service that does not answer is not ready, and asking it gives a coded error that names its log."""
    hospital = Hospital(tmp_path, free_port(), free_port())
    assert not hospital.ready()
    with pytest.raises(NotInTime, match=r"zhiying\.log") as refused:
        hospital.study("2.25.1")
    assert refused.value.code == "NOT_IN_TIME"


def test_a_command_that_refuses_is_told(tmp_path: Path) -> None:
    """The error line of a command becomes the demo's own, without a traceback."""
    with pytest.raises(StepFailed, match=r"'zhiying models list' ended with status 1: error CONFIG_INVALID") as refused:
        Zhiying(tmp_path / "no.toml").ask("models", "list")
    assert refused.value.code == "STEP_FAILED"


def test_keygen_runs_as_a_person_would_run_it(tmp_path: Path) -> None:
    """A command's JSON is given back; the reviewer's key is readable by its owner alone."""
    key = tmp_path / "reviewer.key"
    row = Zhiying(tmp_path / "no.toml").ask(
        "review", "keygen", "--name", "demo.example", "--out", key, configured=False
    )
    assert row["public"] == Signer.load(key).vkey
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_commands_are_shown_without_folders() -> None:
    """What is shown of a command names files alone: folders of this machine are nobody's business."""
    assert shown("review", "sign", Path("/somewhere/deep/terms.json")) == "zhiying review sign terms.json"


def test_another_zhiyings_settings_stay_out() -> None:
    """Settings of a real installation in the environment do not reach the demo's commands."""
    assert own_environment({"ZHIYING_DATA__FOLDER": "x", "PATH": "y"}) == {"PATH": "y"}


def test_an_error_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A demo that cannot be told says in one line why, with a code; nothing is left running."""
    os.environ[main.WHEELS] = str(tmp_path / "empty")
    try:
        status = main.run(keep=False, output=tmp_path / "out", workdir=tmp_path / "work")
    finally:
        del os.environ[main.WHEELS]
    assert status == 1
    said = capsys.readouterr()
    assert said.err.startswith("error NOT_HELD: ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "work" / "servers.json").exists()


def test_a_disk_that_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that cannot be made is told with the system's words and a code, not with a traceback."""
    (tmp_path / "file").touch()
    assert main.run(keep=False, output=tmp_path / "out", workdir=tmp_path / "file" / "work") == 1
    assert capsys.readouterr().err.startswith("error IO_ERROR: Not a directory")


REPORT = {
    "study": {"uid": "2.25.1", "images": 197},
    "patient": NAME,
    "model": MODEL,
    "approval": {"approval": "DEMO-1", "key": "demo-reviewer.example", "valid": "2026-11-24 to 2026-12-24"},
    "refused_before": [{"entry": 3, "time": "2026-11-23T16:07:12.123456Z", "code": "NO_APPROVAL"}],
    "findings": [{"concept": "118565006", "meaning": "Volume", "value": "1951.3", "unit": "cm3"}],
    "steps_ms": {"ASSEMBLED": 3, "INFERRED": 11},
    "timing_ms": {"total": 9, "forward": 5, "load": 1},
    "seconds": {"whole demo": 30.0},
    "outputs": UIDS,
    "orthanc": "http://127.0.0.1:18042/app/explorer.html#study?uuid=x",
    "audit": {"entries": 10, "root": "ff"},
    "held": {"the log verifies": True},
}


def test_the_table_says_everything() -> None:
    """Study, model and digest, approval, refusal, finding with unit, times in order, UIDs, where to look, the log."""
    table = main.rows(REPORT)
    assert table["finding: Volume"] == "1951.3 cm3"
    assert table["digest"] == DIGEST
    assert table["refused before it"] == "NO_APPROVAL (entry 3)"
    assert table["time per step"] == "assembled 3 ms, inferred 11 ms"
    assert table["inside the model"] == "load 1 ms, forward 5 ms, total 9 ms"
    assert {kind: table[kind] for kind in UIDS} == UIDS
    assert "18042" in table["in Orthanc"]
    assert json.loads(json.dumps(REPORT)) == REPORT


def test_what_is_shown_is_text_not_markup() -> None:
    """Brackets in what is shown are shown: nothing of a value is taken for a style."""
    console = Console(file=io.StringIO(), width=100)
    with Screen(console) as screen:
        screen.step(2, "pull [red]the model[/]")
        screen.tell("on its [way]")
        screen.panel("DEMO [x]", ['modality ["MR"]'], style="yellow")
        screen.table("end", {"a[b]": "[c]"})
        screen.say("done [1]")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in ("[2/7] pull [red]the model[/]", "on its [way]", "DEMO [x]", '["MR"]', "a[b]", "[c]", "done [1]"):
        assert part in text


def test_local_wheels(tmp_path: Path) -> None:
    """Wheels carried in are known by their package's name; a folder without any is a mistake, not a download."""
    (tmp_path / "deepbet-1.0.2-py3-none-any.whl").touch()
    assert main._local_wheels(str(tmp_path)) == {"deepbet": tmp_path / "deepbet-1.0.2-py3-none-any.whl"}
    assert main._local_wheels(None) == {}
    with pytest.raises(NotHeld):
        main._local_wheels(str(tmp_path / "nowhere"))


# ---- the parties, played ---------------------------------------------------------------------------------------------

LIFE = ["OPEN", "SELF_ASSESS", "SUBMIT", "BEGIN_REVIEW", "APPROVE", "DEPLOY", "GO_LIVE"]
NOW = datetime(2026, 12, 15, 4, tzinfo=UTC)
STATES = [None, "DRAFT", "SELF_ASSESSED", "SUBMITTED", "UNDER_REVIEW", "APPROVED_WITH_CONDITIONS", "SHADOW", "LIVE"]


class Played:
    """Stands for the command line: writes down what is done; each note that is imported moves the dossier on."""

    def __init__(self, state: str | None) -> None:
        self.at, self.done = STATES.index(state), list[str]()

    def ask(self, *words: str | Path, configured: bool = True) -> Any:
        """One command's answer."""
        del configured
        match words[:2]:
            case ("review", "import"):
                self.done.append(LIFE[self.at])
                self.at += 1
            case ("review", "stop") | ("evaluate", _):
                self.done.append("evaluate" if words[0] == "evaluate" else "stop")
        return {"entry": 7}


@pytest.mark.parametrize("state", STATES[:-1])
def test_a_demo_that_was_interrupted_goes_on_where_it_stood(tmp_path: Path, state: str | None) -> None:
    """From every state the parties do what is left, once, and end LIVE."""
    played = Played(state)
    done = Parties(tmp_path).live(played, MODEL, tmp_path, NOW, lambda _: None, state=state)  # type: ignore[arg-type]
    left = LIFE[STATES.index(state) :]
    assert [one for one in played.done if one in LIFE] == left
    assert [event for event, _ in done.steps if event in LIFE] == left
    assert played.done[-3:] == ["evaluate", "stop", "GO_LIVE"]
    assert STATES[played.at] == "LIVE"


def test_a_demo_whose_model_ended_says_so(tmp_path: Path) -> None:
    """Suspended, as when its approval ran out: nothing is signed; a person begins anew."""
    played = Played(None)
    with pytest.raises(NotHeld, match="demo-clean"):
        Parties(tmp_path).live(played, MODEL, tmp_path, NOW, lambda _: None, state="SUSPENDED")  # type: ignore[arg-type]
    assert played.done == []
