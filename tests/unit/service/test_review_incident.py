"""`zhiying review incident` and `lookback`: one action each, logged, beside a running service or without one."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner, Result

from audit.entry import Draft, Entry, Kind
from dicom_bridge.patient import Patient
from ethics_review import incident
from ethics_review.errors import ReviewError
from ethics_review.incident import Category
from ethics_review.states import Cause
from models.library import Library
from models.ref import ModelRef
from service import wire
from service.cli import app
from service.commands import review_incident
from service.config import load
from service.doctor import FAIL, OK, examine
from service.errors import ConfigInvalid
from service.identity import IdentityMap
from service.incidents import Incidents, OverdueClocks
from tests.simulators import audit_log, small_model
from tests.simulators.parties import Case, Parties
from tests.simulators.reviewer import fields

STUDIES = ("1.2.840.99999.7.1.20260401.1", "1.2.840.99999.7.1.20260401.2")
ABOUT = ("--person", "TEST Officer", "--purpose", "RECALL")
OPEN = ("review", "incident", "open")


class Hospital:
    """A log, an installed model, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.data, self.file = folder / "data", folder / "zhiying.toml"
        self.parties = Parties()
        (folder / "trust.policy").write_text(self.parties.policy(), encoding="utf-8")
        self.configure()
        self.ref = Library(self.data / "models").install(small_model.stage(folder / "staged"))
        with wire.offline_of(self.config) as site:
            case = Case(self.parties, site.register, site.log, self.ref)
            case.live(fields(self.ref, valid={"from": "2020-01-01", "to": "2099-12-31"}))
            self.lived = site.log.head().size

    def configure(self, more: str = "") -> None:
        """With further lines of the [review] section."""
        text = f'[site]\nid = "test-site"\n[data]\nfolder = "{self.data}"\nfree_bytes_min = 0\n[review]\n'
        text += f'trust = "{self.file.parent / "trust.policy"}"\n{more}\n'
        self.file.write_text(text, encoding="utf-8")

    @property
    def config(self) -> Any:
        """As `zhiying` reads it."""
        return load(self.file)

    def run(self, *words: str) -> Result:
        """One command."""
        return CliRunner().invoke(app, [*words, "--config", str(self.file)], env={"COLUMNS": "240"})

    def told(self, *words: str, status: int = 0) -> Any:
        """What it prints with --json."""
        done = self.run(*words, "--json")
        assert done.exit_code == status, done.output
        return json.loads(done.stdout)

    def open(self, category: str = "DEVICE_DEATH", *more: str) -> Any:
        """An incident of the installed model."""
        return self.told(*OPEN, "--category", category, "--model", "small-model", *more)

    def entries(self, *kinds: Kind) -> list[Entry]:
        """Of these kinds, since the model was live."""
        with wire.offline_of(self.config) as site:
            return [entry for entry in site.log.entries(self.lived) if entry.kind in kinds]

    def write(self, *drafts: Draft) -> None:
        """Into the log."""
        with wire.offline_of(self.config) as site:
            for draft in drafts:
                site.log.append(draft)

    def write_overdue(self, category: Category = Category.CYBER) -> str:
        """An incident that was opened a year ago and never told to anybody; its id."""
        name = "c" * 32
        body = incident.opened(name, category, None, wire.now() - timedelta(days=365), {})
        self.write(Draft(Kind.INCIDENT, f"incident:{name}:opened", body))
        return name


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    """With nothing in its log but the start."""
    return Hospital(tmp_path)


# ---- open ------------------------------------------------------------------------------------------------------------


def test_open_is_one_action(hospital: Hospital) -> None:
    """The incident is in the log, its model is suspended on its evidence, and the officer reads whom to tell when."""
    said = hospital.open()
    opened, change = hospital.entries(Kind.INCIDENT, Kind.STATE_CHANGE)
    assert (opened.body["event"], opened.body["incident"]) == ("OPENED", said["incident"])
    assert (change.body["event"], change.body["to"], change.body["reason"]) == ("SUSPEND", "SUSPENDED", "HARM")
    assert change.body["evidence"] == opened.index
    assert change.body["model"] == opened.body["model"]
    assert said["model_state"] == "SUSPENDED"
    assert [clock["clock"] for clock in said["clocks"]] == ["REGISTRANT", "DEVICE_EVENT_DEATH"]
    due = [datetime.fromisoformat(clock["by"]) - datetime.fromisoformat(opened.time) for clock in said["clocks"]]
    assert abs(due[0] - timedelta(hours=24)) < timedelta(seconds=5)
    assert abs(due[1] - timedelta(days=7)) < timedelta(seconds=5)
    assert all(clock["tell"] and clock["source"] for clock in said["clocks"])


def test_the_log_is_frozen_at_that_moment(hospital: Hospital) -> None:
    """The checkpoint that is printed is that of the incident's entry: what was in the log then can be proven later."""
    said = hospital.open()
    (opened,) = hospital.entries(Kind.INCIDENT)
    with wire.offline_of(hospital.config) as site:
        receipt = site.log.receipt(opened.index)
    assert said["checkpoint"] == {"size": receipt.size, "root": receipt.root.hex()}


def test_people_read_whom_to_tell(hospital: Hospital) -> None:
    """Without --json: a table with a line for each clock."""
    done = hospital.run(*OPEN, "--category", "CYBER")
    assert done.exit_code == 0
    assert "网信" in done.stdout
    assert "CYBER_CAC" in done.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--category", "DEVICE_DEATH"), "COMMAND_REFUSED"),
        (("--category", "EARTHQUAKE"), "COMMAND_REFUSED"),
        (("--category", "CYBER", "--model", "no-such-model"), "MODEL_NOT_FOUND"),
    ],
)
def test_what_is_no_incident_writes_nothing(hospital: Hospital, words: tuple[str, ...], code: str) -> None:
    """A device without a model, a category that is none, a model that is not here: refused by code."""
    done = hospital.run(*OPEN, *words)
    assert done.exit_code == 1
    assert done.stderr.startswith("error ")
    assert code in done.stderr
    assert hospital.entries(Kind.INCIDENT, Kind.STATE_CHANGE) == []


def test_looking_makes_no_log(tmp_path: Path) -> None:
    """A wrong configuration is said, and leaves nothing behind."""
    file = tmp_path / "zhiying.toml"
    file.write_text(f'[data]\nfolder = "{tmp_path / "data"}"\n', encoding="utf-8")
    done = CliRunner().invoke(app, [*OPEN, "--category", "CYBER", "--config", str(file)])
    assert (done.exit_code, (tmp_path / "data").exists()) == (1, False)


class Unused:
    """A register in which nothing of the model is in use."""

    class Refused(ReviewError):
        """As the register refuses."""

        code = "ACT_STATE"

    def suspend(self, model: ModelRef, cause: Cause, evidence: int | None) -> Entry:
        """See Suspends."""
        assert (cause, evidence is not None) == (Cause.HARM, True)
        raise self.Refused(str(model))


def test_a_model_that_is_not_in_use_has_its_incident_all_the_same(hospital: Hospital) -> None:
    """Suspended already, or retired: the case is open, the clocks run, and the officer reads why nothing changed."""
    with wire.offline_of(hospital.config) as site:
        said = review_incident.begin(
            *(site.log, Unused(), Category.DEVICE_OTHER, hospital.ref, wire.now(), hospital.config)
        )
    assert said["model_state"] == "ACT_STATE"
    assert [clock["clock"] for clock in said["clocks"]] == ["REGISTRANT"]
    assert len(hospital.entries(Kind.INCIDENT)) == 1


def test_a_cyber_incident_suspends_for_integrity(hospital: Hospital) -> None:
    """With a model named, the model is suspended too; without one nothing is."""
    hospital.open("CYBER")
    (change,) = hospital.entries(Kind.STATE_CHANGE)
    assert change.body["reason"] == "INTEGRITY"
    assert hospital.told(*OPEN, "--category", "PI_BREACH")["model_state"] is None
    assert len(hospital.entries(Kind.STATE_CHANGE)) == 1


def test_the_sites_hours_count(hospital: Hospital) -> None:
    """[review] clocks_h: shorter, or a foreign law's."""
    hospital.configure("clocks_h = { REGISTRANT = 1.5, EU_DEATH = 240 }")
    said = hospital.open()
    assert [clock["clock"] for clock in said["clocks"]] == ["REGISTRANT", "DEVICE_EVENT_DEATH", "EU_DEATH"]


@pytest.mark.parametrize(
    "hours", ["{ NO_SUCH = 1 }", "{ REGISTRANT = 0 }", "{ REGISTRANT = -1 }", "{ REGISTRANT = 1e9 }"]
)
def test_hours_that_are_none_are_refused_at_the_start(hospital: Hospital, hours: str) -> None:
    """A typing error must not be a clock that never runs."""
    hospital.configure(f"clocks_h = {hours}")
    with pytest.raises(ConfigInvalid, match=r"review\.clocks_h"):
        load(hospital.file)


# ---- notify, close, list ---------------------------------------------------------------------------------------------


def test_a_notice_is_recorded_on_time_or_late(hospital: Hospital) -> None:
    """By the first digits of the id; the entry's own time decides."""
    said = hospital.open()
    told = hospital.told("review", "incident", "notify", said["incident"][:8], "--clock", "REGISTRANT")
    assert (told["was"], told["clock"]) == ("ON_TIME", "REGISTRANT")
    late = hospital.told("review", "incident", "notify", hospital.write_overdue(), "--clock", "CYBER_CAC")
    assert late["was"] == "LATE"
    assert [entry.body["event"] for entry in hospital.entries(Kind.INCIDENT)] == [
        *("OPENED", "NOTIFIED", "OPENED", "NOTIFIED")
    ]


def test_what_cannot_be_told_is_refused(hospital: Hospital) -> None:
    """Another incident's clock, one that was answered, an incident that is not there, an id that is too short."""
    case = hospital.open()["incident"]
    notify = ("review", "incident", "notify")
    hospital.told(*notify, case, "--clock", "REGISTRANT")
    for words, code in (
        ((case, "--clock", "REGISTRANT"), "CLOCK_STOPPED"),
        ((case, "--clock", "CYBER_CAC"), "CLOCK_UNKNOWN"),
        (("f" * 32, "--clock", "REGISTRANT"), "NOT_FOUND"),
        ((case[:3], "--clock", "REGISTRANT"), "NOT_FOUND"),
    ):
        done = hospital.run(*notify, *words)
        assert (done.exit_code, code in done.stderr) == (1, True), done.output
    assert len(hospital.entries(Kind.INCIDENT)) == 2


def test_it_is_closed_and_leaves_the_list(hospital: Hospital) -> None:
    """Not before everybody was told; the model stays suspended."""
    case = hospital.open("DEVICE_OTHER")["incident"]
    done = hospital.run("review", "incident", "close", case)
    assert (done.exit_code, "INCIDENT_UNTOLD" in done.stderr) == (1, True)
    hospital.told("review", "incident", "notify", case, "--clock", "REGISTRANT")
    hospital.told("review", "incident", "close", case)
    assert hospital.told("review", "incident", "list") == []
    (closed,) = hospital.told("review", "incident", "list", "--all")
    assert closed["closed"]
    assert len(hospital.entries(Kind.STATE_CHANGE)) == 1


def test_the_list_shows_what_runs_and_what_is_overdue(hospital: Hospital) -> None:
    """Exit status 1 as long as a clock of an open incident is overdue: a script can wait on it."""
    hospital.open("DEVICE_SERIOUS")
    (running,) = hospital.told("review", "incident", "list")
    assert {clock["is"] for clock in running["clocks"]} == {"RUNNING"}
    name = hospital.write_overdue()
    found = hospital.told("review", "incident", "list", status=1)
    assert [clock["is"] for clock in found[1]["clocks"]] == ["OVERDUE"]
    assert "OVERDUE" in hospital.run("review", "incident", "list").stdout
    hospital.told("review", "incident", "notify", name, "--clock", "CYBER_CAC")
    assert hospital.run("review", "incident", "list").exit_code == 0


def test_the_doctor_and_the_metrics_see_it(hospital: Hospital) -> None:
    """An overdue clock is a FAIL and a number; told, it is neither."""

    def findings() -> dict[str, str]:
        return {f.check: f.result for f in examine(hospital.config) if f.check.startswith("incident")}

    assert findings() == {"incidents": OK}
    name = hospital.write_overdue()
    assert findings() == {"incidents": OK, f"incident {name[:8]}": FAIL}
    registry = CollectorRegistry()
    with wire.offline_of(hospital.config) as site:
        chore = OverdueClocks(Incidents(site.log), wire.now, registry)
        chore()
        values = [registry.get_sample_value(f"zhiying_incident{one}") for one in ("s_open", "_clocks_overdue")]
        assert values == [1, 1]
        hospital.told("review", "incident", "notify", name, "--clock", "CYBER_CAC")
        chore()
        assert registry.get_sample_value("zhiying_incident_clocks_overdue") == 0
    assert findings() == {"incidents": OK}


# ---- look-back -------------------------------------------------------------------------------------------------------


@pytest.fixture
def after(hospital: Hospital) -> Hospital:
    """Two studies of two patients were read by one model, and one of them was released; another model read one."""
    now = wire.now()
    drafts = []
    for number, study in enumerate(STUDIES):
        who = Patient(f"TEST-000{number}", "TESTHOSP")
        named = IdentityMap.of(hospital.config.data.folder).name(now, study, "sha256:" + "0" * 64, who, now=now)
        call = f"{number}" * 32
        names: dict[str, Any] = {"study": named.study, "patient": named.patient}
        intent: dict[str, Any] = {**audit_log.body(Kind.CALL_INTENT), **names}
        drafts.append(Draft(Kind.CALL_INTENT, f"intent:{number}", intent, call))
    released = audit_log.body(Kind.RELEASED)
    drafts += [
        Draft(Kind.CALL_RESULT, "result:0", audit_log.body(Kind.CALL_RESULT), "0" * 32),
        Draft(Kind.RELEASED, "released:0", released, "0" * 32),
    ]
    other: Any = audit_log.body(Kind.CALL_INTENT)
    other = {**other, "model": {**other["model"], "digest": "sha256:" + "e" * 64}, "approval": "OTHER-1"}
    drafts.append(Draft(Kind.CALL_INTENT, "intent:other", other, "e" * 32))
    hospital.write(*drafts)
    return hospital


def digest_of(hospital: Hospital) -> str:
    """Of the model that read both."""
    model: Any = hospital.entries(Kind.CALL_INTENT)[0].body["model"]
    return str(model["digest"])


def test_everyone_whom_a_model_touched(after: Hospital) -> None:
    """By digest: both studies by their pseudonyms, released or not, and the question is in the log."""
    digest = digest_of(after)
    found = after.told("review", "lookback", *ABOUT, "--model", digest)
    assert [one["state"] for one in found] == ["RELEASED", "NO_END"]
    assert len({one["study"] for one in found}) == 2
    (asked,) = after.entries(Kind.LOOKBACK)
    assert (asked.body["calls"], asked.body["person"], asked.body["purpose"]) == (2, "TEST Officer", "RECALL")
    model: Any = asked.body["model"]
    assert model["digest"] == digest
    assert after.entries(Kind.LOG_READ) == []
    assert not any(study in json.dumps(found) for study in STUDIES), "nobody is named who was not asked for"


def test_names_are_read_only_when_asked_for_and_logged_first(after: Hospital) -> None:
    """--identify: one LOG_READ for each study, and then whose they are."""
    found = after.told("review", "lookback", *ABOUT, "--model", digest_of(after), "--identify")
    assert [one["study_uid"] for one in found] == list(STUDIES)
    assert [one["patient_id"] for one in found] == ["TEST-0000", "TEST-0001"]
    read = after.entries(Kind.LOG_READ)
    assert {entry.body["pseudonym"] for entry in read} == {one["study"] for one in found}
    assert {(entry.body["person"], entry.body["purpose"]) for entry in read} == {("TEST Officer", "RECALL")}


def test_a_name_that_several_models_have_is_asked_for_once_more(after: Hospital) -> None:
    """The entry names one model: with two of one name the officer chooses; nothing is logged or shown meanwhile."""
    model: Any = after.entries(Kind.CALL_INTENT)[0].body["model"]
    done = after.run("review", "lookback", *ABOUT, "--model", model["name"])
    assert done.exit_code == 1
    assert model["digest"] in done.stderr
    assert "sha256:" + "e" * 64 in done.stderr
    assert after.entries(Kind.LOOKBACK) == []


@pytest.mark.parametrize(
    ("words", "calls", "recorded"),
    [
        ((), 3, {"model": None, "approval": None, "condition": None, "from": None}),
        (("--approval", "OTHER-1"), 1, {"approval": "OTHER-1"}),
        (("--condition", "NO_SUCH=X"), 0, {"condition": "NO_SUCH", "observed": "X"}),
        (("--from", "2020-01-01"), 3, {"from": "2020-01-01T00:00:00.000000Z"}),
        (("--to", "2020-01-01"), 0, {"to": "2020-01-01T00:00:00.000000Z"}),
    ],
)
def test_what_was_asked_is_what_is_recorded(
    after: Hospital, words: tuple[str, ...], calls: int, recorded: dict[str, Any]
) -> None:
    """Each filter is in the entry as it was given, also where nothing was touched."""
    assert len(after.told("review", "lookback", *ABOUT, *words)) == calls
    (asked,) = after.entries(Kind.LOOKBACK)
    assert asked.body["calls"] == calls
    assert {name: asked.body[name] for name in recorded} == recorded


def test_a_look_back_belongs_to_its_incident(after: Hospital) -> None:
    """By the first digits of its id."""
    case = after.open()["incident"]
    after.told("review", "lookback", *ABOUT, "--model", digest_of(after), "--incident", case[:6])
    (asked,) = after.entries(Kind.LOOKBACK)
    assert asked.body["incident"] == case


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--condition", "SEX"), "COMMAND_REFUSED"),
        (("--condition", "=F"), "COMMAND_REFUSED"),
        (("--model", "no-such-model"), "NOT_FOUND"),
        (("--incident", "abcdef"), "NOT_FOUND"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(after: Hospital, words: tuple[str, ...], code: str) -> None:
    """By code, and without an entry."""
    done = after.run("review", "lookback", *ABOUT, *words)
    assert (done.exit_code, code in done.stderr) == (1, True), done.output
    assert after.entries(Kind.LOOKBACK) == []


def test_who_asks_must_not_be_a_number(after: Hospital) -> None:
    """The log takes no personal number, and without an entry nothing is shown."""
    done = after.run("review", "lookback", "--person", "110101199001011234", "--purpose", "RECALL")
    assert done.exit_code == 1
    assert "RELEASED" not in done.stdout


def test_an_erased_month_leaves_the_pseudonyms(after: Hospital) -> None:
    """What nobody can read any more is null, and the calls are all there."""
    period = wire.now().strftime("%Y-%m")
    (after.data / "keys" / "identity" / f"{period}.key").unlink()
    found = after.told("review", "lookback", *ABOUT, "--model", digest_of(after), "--identify")
    assert [(one["study_uid"], one["patient_id"]) for one in found] == [(None, None)] * 2
