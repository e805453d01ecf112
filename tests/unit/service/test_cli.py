"""The command line: JSON for programs, exit status for scripts, and one line with a code for whatever goes wrong."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from audit.entry import Draft, Kind
from audit.note import Signer, Verifier
from ethics_review.dossier import draft_approval
from ethics_review.periods import CIVIL_TIME
from models.library import Library
from models.ref import ModelRef
from service import wire
from service.cli import app
from service.config import load
from service.decisions import sent_back_key
from service.store import Run, State, Store, connect
from tests.simulators import reviewer, small_model
from tests.simulators.audit_log import body
from tests.simulators.pacs import COMPREHENSIVE_3D_SR, SEGMENTATION, FakePacs
from tests.simulators.parties import Case, Parties
from tests.simulators.series import write_series

THEN = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
STUDY = "1.2.840.99999.7.1"


class Desk:
    """An operator's desk: a configuration, a data folder, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "zhiying.toml"
        self.parties = Parties()
        self.reviewer = self.parties.signers["reviewer-1"]
        self.policy = folder / "trust.policy"
        self.policy.write_text(self.parties.policy(), encoding="utf-8")
        self.write_config()

    def write_config(self, *, more: str = "") -> None:
        """The file, with the parties' trust policy."""
        self.config.write_text(
            f'[site]\nid = "test-site"\n[data]\nfolder = "{self.data}"\nfree_bytes_min = 0\n'
            f"[dicom]\nport = 0\n[http]\nport = 0\n[review]\ntrust = {json.dumps(str(self.policy))}\n{more}",
            encoding="utf-8",
        )

    def run(self, *arguments: str | Path, config: bool = True) -> Result:
        """One command."""
        words = [str(word) for word in arguments]
        words += ["--config", str(self.config)] if config else []
        return CliRunner().invoke(app, words, env={"COLUMNS": "240"})  # a table wide enough to read cells in

    def json(self, *arguments: str | Path, config: bool = True) -> Any:
        """What a command that must succeed prints with --json."""
        result = self.run(*arguments, "--json", config=config)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def install(self) -> ModelRef:
        """The small model, by the command that a hospital uses."""
        staged = small_model.stage(self.folder / "staged")
        Library(self.folder / "carried").install(staged)
        self.json("models", "pull", self.folder / "carried" / "small-model" / "1.0")
        return Library(self.data / "models").find("small-model")

    def note(self, ref: ModelRef, **changes: object) -> Path:
        """An approval in a file, signed by two reviewers."""
        path = self.folder / "approval.note"
        text = draft_approval(reviewer.fields(ref, **changes))
        path.write_text(self.parties.sign(text, "reviewer-1", "reviewer-2"), encoding="utf-8")
        return path

    def key(self, name: str) -> Path:
        """A person's secret key in a file."""
        path = self.folder / f"{name}.secret"
        if not path.exists():
            self.parties.signers[name].save(path)
        return path

    def case(self, site: wire.Site, ref: ModelRef) -> Case:
        """The dossier of a model, for what is not the test's matter."""
        return Case(self.parties, site.register, site.log, ref)

    def submitted(self, ref: ModelRef = reviewer.MODEL) -> None:
        """A dossier under review."""
        with wire.offline(self.config) as site:
            self.case(site, ref).submitted()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk at a new site; `serve` changes the process's signals and its logging, which are put back."""
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    yield Desk(tmp_path)
    for name, handler in handlers.items():
        signal.signal(name, handler)
    structlog.reset_defaults()


def _refused(result: Result, code: str, *, mentions: str = "") -> str:
    """The one line on standard error of a command whose answer is no."""
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error {code}: ")
    assert mentions in line
    assert "Traceback" not in line
    return str(line)


def _add_run(desk: Desk, call: str | None = None) -> None:
    store = Store(connect(wire.database_url(load(desk.config), "runs")))
    store.add(
        Run(
            run_id="run-1",
            study_uid=STUDY,
            input_digest="sha256:" + "0" * 64,
            attempt=1,
            state=State.RELEASED,
            trigger="COUNT_MATCHED",
            created_at=THEN,
            updated_at=THEN,
            model={"name": "small-model", "version": "1.0", "digest": "sha256:0"},
            measurements=[{"code": "118565006", "value": "1951.3", "unit": "cm3"}],
            outputs=[{"kind": "SR", "uid": "2.25.1", "digest": "sha256:0"}],
            call=call,
        )
    )
    store.close()


# ---- the configuration ----------------------------------------------------------------------------------------------

SHOWING = [
    ("studies", "list"),
    ("studies", "show", STUDY),
    ("models", "list"),
    ("models", "verify"),
    ("models", "pull", "brain-extraction-t1"),
    ("review", "show"),
    ("review", "import", "some.note"),
    ("review", "terms", "small-model"),
    ("audit", "verify"),
    ("audit", "head"),
    ("doctor",),
    ("serve",),
]


@pytest.mark.parametrize("words", SHOWING, ids="-".join)
def test_a_missing_configuration_is_one_line(desk: Desk, words: tuple[str, ...]) -> None:
    """Every command that reads the file says that it is not there, and makes nothing."""
    desk.config.unlink()

    _refused(desk.run(*words), "CONFIG_INVALID", mentions="zhiying.toml")
    assert not desk.data.exists()


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("[site\nid = 1", "not TOML"),
        ("\x00\xff", "not TOML"),
        ('[site]\nname = "x"', "site.name"),
        ('[data]\nfolder = ["a"]', "data.folder"),
        ("[dicom]\nport = 70000", "dicom.port"),
        ('[results]\nto = "nowhere"', "nowhere"),
        ("[review]\ntrust = 5", "review.trust"),
        ("[assembly]\nquiet_s = 0", "assembly.quiet_s"),
        ('site = "x"', "site"),
    ],
)
def test_a_bad_configuration_names_the_key(desk: Desk, text: str, mentions: str) -> None:
    """A typing error is refused by name, never read as the default."""
    desk.config.write_bytes(text.encode("latin-1"))

    _refused(desk.run("models", "list"), "CONFIG_INVALID", mentions=mentions)


def test_a_folder_for_a_configuration_is_one_line(desk: Desk) -> None:
    """What the disk refuses is told as the disk tells it."""
    result = desk.run("models", "list", "--config", str(desk.folder), config=False)

    _refused(result, "IO_ERROR", mentions="directory")


def test_a_bad_trust_policy_is_one_line(desk: Desk) -> None:
    """A policy that is none stops the commands that need it, and names the line."""
    desk.policy.write_text("# parties\nrubbish\n", encoding="utf-8")

    _refused(desk.run("review", "show"), "TRUST_INVALID", mentions="line 2")


def test_the_hospitals_own_key_is_no_reviewers(desk: Desk) -> None:
    """Trusting the key that signs the log would be approving oneself (I3)."""
    line = f"person {wire.log_vkey(load(desk.config))} test-hospital RADIOLOGIST\n"
    desk.policy.write_text(desk.parties.policy() + line, encoding="utf-8")

    _refused(desk.run("review", "show"), "SELF_APPROVAL")


# ---- studies --------------------------------------------------------------------------------------------------------


def test_no_studies_is_an_answer(desk: Desk) -> None:
    """An empty site: an empty list, and a word for people; status 0."""
    assert desk.json("studies", "list") == []
    assert "none" in desk.run("studies", "list").stdout


def test_studies_are_listed_and_shown(desk: Desk) -> None:
    """State and model in the list; runs, outputs and the number that was found in the one."""
    _add_run(desk)

    (listed,) = desk.json("studies", "list")
    shown = desk.json("studies", "show", STUDY)
    assert (listed["study_uid"], listed["state"]) == (STUDY, "RELEASED")
    assert (shown["state"], shown["runs"][0]["outputs"][0]["uid"]) == ("RELEASED", "2.25.1")
    assert STUDY in desk.run("studies", "list").stdout
    assert "1951.3" in desk.run("studies", "show", STUDY).stdout


def test_who_decided_is_shown(desk: Desk) -> None:
    """Decision, role, pseudonym and time of each reader of the configuration, for people and as JSON."""
    token = hashlib.sha256(b"l" * 40).hexdigest()
    desk.write_config(
        more=f'[[readers]]\nname = "test-li"\nrole = "RADIOLOGIST"\ntoken_sha256 = "{token}"\n'
        f'training = "sha256:{"7" * 64}"\n'
    )
    _add_run(desk, "ab" * 16)
    (run,) = desk.json("studies", "show", STUDY)["runs"]
    assert run["decisions"] is None
    assert "the log cannot be read" in desk.run("studies", "show", STUDY).stdout
    assert not (desk.data / "audit").exists()

    config = load(desk.config)
    who = wire.pseudonyms(config).of("reader", "test-li")
    with wire.open_log(config) as log:
        assert desk.json("studies", "show", STUDY)["runs"][0]["decisions"] == []
        said = body(Kind.HUMAN_DECISION) | {"reader": who, "decision": "REJECT", "difference": []}
        entry = log.append(Draft(Kind.HUMAN_DECISION, f"decision:{run['call']}:{who}:0", said, run["call"]))
    (run,) = desk.json("studies", "show", STUDY)["runs"]
    (decided,) = run["decisions"]
    assert (decided["decision"], decided["role"], decided["reader"]) == ("REJECT", "RADIOLOGIST", who)
    assert (decided["reasons"], decided["time"], decided["index"]) == (["MEASURE"], entry.time, entry.index)
    assert f"REJECT RADIOLOGIST {who} {entry.time}" in desk.run("studies", "show", STUDY).stdout
    assert "test-li" not in desk.run("studies", "show", STUDY).stdout
    with wire.open_log(config) as log:
        back = body(Kind.HUMAN_DECISION) | {"reader": None, "role": "ASSERTED", "object": "0f" * 16}
        log.append(Draft(Kind.HUMAN_DECISION, f"{sent_back_key(run['call'])}:0", back, run["call"]))
    assert f"{back['decision']} ASSERTED nobody named" in desk.run("studies", "show", STUDY).stdout


def test_an_unknown_study_is_refused_without_repeating_it(desk: Desk) -> None:
    """NOT_FOUND; the UID that was asked for is not printed again."""
    assert STUDY not in _refused(desk.run("studies", "show", STUDY), "NOT_FOUND")


def test_a_damaged_index_is_one_line(desk: Desk) -> None:
    """A spool's index that is no database: a code and what to do, not a traceback."""
    spool = desk.data / "spool"
    spool.mkdir(parents=True)
    (spool / "index.sqlite").write_bytes(b"rubbish" * 500)

    _refused(desk.run("studies", "list"), "DATABASE_UNAVAILABLE")


def test_a_damaged_table_is_one_line(desk: Desk) -> None:
    """A table of runs that is no database: the same."""
    (desk.data / "db").mkdir(parents=True)
    (desk.data / "db" / "runs.sqlite").write_bytes(b"rubbish" * 500)

    _refused(desk.run("studies", "list"), "DATABASE_UNAVAILABLE")


# ---- models ---------------------------------------------------------------------------------------------------------


def test_a_model_is_taken_in_and_checked(desk: Desk) -> None:
    """pull, list and verify agree on name, version and digest; a second pull changes nothing."""
    ref = desk.install()

    (listed,) = desk.json("models", "list")
    (verified,) = desk.json("models", "verify")
    again = desk.json("models", "pull", desk.folder / "carried" / "small-model" / "1.0")
    assert {row["digest"] for row in (listed, verified, again)} == {ref.digest}
    assert verified["verified"] is True
    assert verified["files"] == 4
    assert desk.json("models", "verify", "small-model") == [verified]
    assert "small-model" in desk.run("models", "list").stdout


def test_no_models_is_an_answer(desk: Desk) -> None:
    """An empty library: an empty list, and all of nothing is verified."""
    assert desk.json("models", "list") == []
    assert desk.json("models", "verify") == []


@pytest.mark.parametrize(
    ("source", "code"),
    [("nonsense", "SOURCE_UNREACHABLE"), (".", "CARD_INVALID"), ("zhiying.toml", "SOURCE_"), ("", "CARD_INVALID")],
)
def test_pulling_nonsense_is_one_line(desk: Desk, source: str, code: str) -> None:
    """Neither a card nor a model: a coded refusal, and nothing is installed."""
    result = desk.run("models", "pull", desk.folder / source if source != "nonsense" else source)

    lines = [line for line in result.stderr.splitlines() if line.startswith("error ")]
    assert result.exit_code == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"error {code}")
    assert desk.json("models", "list") == []


def test_a_changed_file_fails_the_check_by_name(desk: Desk) -> None:
    """verify hashes again: MODEL_FILE_CHANGED names the file."""
    desk.install()
    weights = desk.data / "models" / "small-model" / "1.0" / "models" / "model.pt"
    weights.chmod(0o600)
    weights.write_bytes(b"other")

    _refused(desk.run("models", "verify"), "MODEL_FILE_CHANGED", mentions="models/model.pt")


def test_a_folder_that_is_no_model_fails_the_check(desk: Desk) -> None:
    """A broken model is listed as refused, and verify's status is not 0."""
    (desk.data / "models" / "spoiled" / "1.0").mkdir(parents=True)

    assert desk.json("models", "list")[0]["title"].startswith("REFUSED")
    _refused(desk.run("models", "verify"), "COMMAND_REFUSED", mentions="spoiled")


def test_verifying_an_unknown_model_is_refused(desk: Desk) -> None:
    """Status 0 means that what was asked for is so: nothing of that name is not."""
    desk.install()

    _refused(desk.run("models", "verify", "nobody"), "COMMAND_REFUSED", mentions="nobody")


# ---- review ---------------------------------------------------------------------------------------------------------


def test_a_reviewers_key_is_made_once(desk: Desk) -> None:
    """The secret is its owner's alone, the public line matches it, and a key is never overwritten."""
    key = desk.folder / "reviewer.key"

    made = desk.json("review", "keygen", "--name", "reviewer.example", "--out", key, config=False)

    assert key.stat().st_mode & 0o077 == 0
    assert Verifier.parse(made["public"]).name == "reviewer.example"
    assert made["public"] == Signer.load(key).vkey
    before = key.read_bytes()
    _refused(
        desk.run("review", "keygen", "--name", "x", "--out", key, config=False), "COMMAND_REFUSED", mentions="never"
    )
    assert key.read_bytes() == before
    plain = desk.run("review", "keygen", "--name", "b.example", "--out", desk.folder / "b.key", config=False)
    assert plain.stdout.splitlines()[-1] == Signer.load(desk.folder / "b.key").vkey


@pytest.mark.parametrize("name", ["has space", "has+plus", ""])
def test_a_bad_name_for_a_key_is_one_line(desk: Desk, name: str) -> None:
    """A name that a note cannot carry is refused before a key is made."""
    out = desk.folder / "x.key"

    _refused(desk.run("review", "keygen", "--name", name, "--out", out, config=False), "NOTE_MALFORMED")
    assert not out.exists()


def test_a_key_for_a_folder_that_is_not_there_is_one_line(desk: Desk) -> None:
    """What the disk refuses is told with the disk's words."""
    out = desk.folder / "nowhere" / "x.key"

    _refused(desk.run("review", "keygen", "--name", "x", "--out", out, config=False), "IO_ERROR")


def test_from_terms_to_an_approval_in_the_log(desk: Desk) -> None:
    """terms, sign, approve, show: the approval that the log holds is the one that the reviewer signed."""
    ref = desk.install()
    key = desk.folder / "reviewer.key"
    desk.reviewer.save(key)
    identity = json.loads(desk.run("review", "terms", "small-model").stdout)
    terms = desk.folder / "terms.json"
    terms.write_text(json.dumps(reviewer.fields(ref) | {"model": identity}), encoding="utf-8")
    note = desk.folder / "approval.note"

    signed = desk.json("review", "sign", terms, "--key", key, "--out", note, config=False)

    assert (signed["approval"], signed["signed_by"]) == ("TEST-2026-0001", "reviewer-1.example")
    desk.submitted(ref)
    # One reviewer is not enough.
    _refused(desk.run("review", "import", note), "ACT_SIGNERS", mentions="REVIEWER and REVIEWER")
    recorded = desk.json("review", "import", desk.note(ref))
    assert recorded["digest"] == ref.digest
    assert desk.json("review", "show")["approvals"] == [recorded]
    # Recorded again it is the same approval, not a second one.
    assert desk.json("review", "import", desk.note(ref)) == recorded
    assert desk.json("audit", "head")["size"] == 6
    shown = desk.run("review", "show").stdout
    assert "TEST-2026-0001" in shown
    assert "APPROVED_WITH_CONDITIONS" in shown


def _drafted(desk: Desk, event: str, *by: str, statement: object = None) -> Any:
    """Draft an act by the command, have it signed by these people, import it."""
    text, note, stated = desk.folder / "act.text", desk.folder / "act.note", desk.folder / "statement.json"
    stated.write_text(json.dumps(statement or {}), encoding="utf-8")
    desk.json("review", "draft", event, "small-model", "--statement", stated, "--out", text)
    note.write_text(desk.parties.sign(text.read_text(encoding="utf-8"), *by), encoding="utf-8")
    return desk.json("review", "import", note)


D1 = "sha256:" + "1" * 64


def _live(desk: Desk, ref: ModelRef) -> None:
    """From nothing to LIVE, each act drafted, signed by those who must, and imported."""
    assert _drafted(desk, "OPEN", "maker")["to"] == "DRAFT"
    _drafted(desk, "SELF_ASSESS", "maker", "owner", statement={"submission": D1})
    _drafted(desk, "SUBMIT", "secretary", statement={"submission": D1, "coi": ["test-vendor"], "documents": {}})
    _drafted(desk, "BEGIN_REVIEW", "reviewer-2")
    desk.json("review", "import", desk.note(ref, valid={"from": "2020-01-01", "to": "2099-12-31"}))
    _drafted(desk, "DEPLOY", "ops", "owner")
    stopped = desk.json("review", "stop", "--level", "service", "--reason", "DRILL", "--key", desk.key("reader"))
    assert desk.json("review", "show")["stops"] == [{"level": "SERVICE", "site": None, "index": stopped["entry"]}]
    keys = ("--key", desk.key("owner"), "--key", desk.key("safety"))
    resumed = desk.json("review", "resume", "--level", "service", "--reason", "DRILL", *keys)
    with wire.offline(desk.config) as site:
        accepted = desk.case(site, ref).accept("TEST-2026-0001")
    live = {"notice": D1, "training": D1, "drill": resumed["entry"], "acceptance": accepted}
    assert _drafted(desk, "GO_LIVE", "owner", "safety", statement=live)["to"] == "LIVE"


def test_a_whole_life_by_the_commands(desk: Desk) -> None:
    """Opened, live, suspended, resumed with a reviewer, retired; and all of it is shown."""
    ref = desk.install()
    _live(desk, ref)

    suspended = desk.json("review", "suspend", "small-model", "--cause", "HARM", "--key", desk.key("reader"))
    assert suspended["to"] == "SUSPENDED"
    with wire.offline(desk.config) as site:
        golden = desk.case(site, ref).golden()
    why = desk.folder / "why.json"
    why.write_text(json.dumps({"root_cause": D1, "correction": D1, "golden": golden}), encoding="utf-8")
    keys = ("--key", desk.key("owner"), "--key", desk.key("safety"))
    resume = ("review", "resume", f"small-model@{ref.version}", "--statement", why, *keys)
    _refused(desk.run(*resume), "ACT_SIGNERS", mentions="REVIEWER")
    assert desk.json(*resume, "--key", desk.key("reviewer-1"))["to"] == "LIVE"
    why.write_text(json.dumps({"archive": D1}), encoding="utf-8")
    assert desk.json("review", "retire", ref.digest, "--statement", why, *keys)["to"] == "RETIRED"

    shown = desk.json("review", "show", "small-model")
    assert [one["state"] for one in shown["dossiers"]] == ["RETIRED"]
    assert shown["dossiers"][0]["history"][-1]["by"] == "owner.example, safety.example"
    assert (shown["stops"], shown["set_aside"]) == ([], [])
    assert "RESUME" in desk.run("review", "show", "small-model").stdout


def test_what_ends_soon_is_announced(desk: Desk) -> None:
    """90, 30 and 7 days before an approval's end `review show` says so."""
    ref = desk.install()
    desk.submitted(ref)
    today = wire.now().astimezone(CIVIL_TIME).date().isoformat()
    desk.json("review", "import", desk.note(ref, valid={"from": "2020-01-01", "to": today}))

    (line,) = [line for line in desk.run("review", "show").stdout.splitlines() if line.startswith("WARN")]

    assert "small-model 1.0: approval ends in 0 days (less than 7)" in line


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("draft DANCE small-model --out x", "COMMAND_REFUSED"),
        ("draft OPEN nobody --out x", "COMMAND_REFUSED"),
        ("draft RESUME small-model --out x", "COMMAND_REFUSED"),
        ("draft SUBMIT small-model --out x", "ACT_INVALID"),
        ("suspend small-model --cause WHIM --key reader", "ACT_INVALID"),
        ("suspend small-model --cause HARM --key reader", "ACT_STATE"),
        ("stop --level world --reason DRILL --key reader", "COMMAND_REFUSED"),
        ("stop --level site --reason DRILL --key maker", "ACT_SIGNERS"),
        ("resume --level site --key owner --key safety", "ACT_STATE"),
        ("resume --key owner", "COMMAND_REFUSED"),
        ("retire small-model --key owner --key safety", "ACT_INVALID"),
    ],
)
def test_what_cannot_be_is_one_line(desk: Desk, words: str, code: str) -> None:
    """Each refusal has its code, and leaves no entry."""
    desk.submitted(desk.install())
    size = desk.json("audit", "head")["size"]
    spoken: list[str | Path] = ["review"]
    for word in words.split():
        spoken.append(desk.key(word) if spoken[-1] == "--key" else desk.folder / "x" if word == "x" else word)

    _refused(desk.run(*spoken), code)

    assert desk.json("audit", "head")["size"] == size


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "APPROVAL_INVALID"),
        (b"", "APPROVAL_INVALID"),
        (b"\xff\xfe\x00", "APPROVAL_INVALID"),
        (b"[]", "APPROVAL_INVALID"),
        (b"null", "APPROVAL_INVALID"),
        (b'"text"', "APPROVAL_INVALID"),
        (b"{}", "APPROVAL_INVALID"),
        (b'{"approval": NaN}', "APPROVAL_INVALID"),
        (b"[" * 100_000, "APPROVAL_INVALID"),
    ],
    ids=["cut", "empty", "binary", "list", "null", "text", "no-keys", "nan", "deep"],
)
def test_terms_that_are_none_are_not_signed(desk: Desk, content: bytes, code: str) -> None:
    """A reviewer's signature is only put under what the gate can check."""
    key, terms, out = desk.folder / "k", desk.folder / "terms.json", desk.folder / "out.note"
    desk.reviewer.save(key)
    terms.write_bytes(content)

    _refused(desk.run("review", "sign", terms, "--key", key, "--out", out, config=False), code)
    assert not out.exists()


def test_a_key_that_others_can_read_signs_nothing(desk: Desk) -> None:
    """KEY_UNSAFE: a reviewer's key in the open is no key."""
    key, terms = desk.folder / "k", desk.folder / "terms.json"
    desk.reviewer.save(key)
    key.chmod(0o644)
    terms.write_text(json.dumps(reviewer.fields()), encoding="utf-8")

    _refused(desk.run("review", "sign", terms, "--key", key, "--out", desk.folder / "o", config=False), "KEY_UNSAFE")


def test_signing_without_key_or_terms_is_one_line(desk: Desk) -> None:
    """Files that are not there are told with the disk's words."""
    terms = desk.folder / "terms.json"
    out = desk.folder / "o"
    _refused(desk.run("review", "sign", terms, "--key", terms, "--out", out, config=False), "IO_ERROR")

    terms.write_text(json.dumps(reviewer.fields()), encoding="utf-8")
    result = desk.run("review", "sign", terms, "--key", desk.folder / "no.key", "--out", out, config=False)
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "APPROVAL_"),
        (b"garbage\n", "APPROVAL_"),
        (bytes(range(256)), "COMMAND_REFUSED"),
        (b"zhiying-approval/1\n{}\n\n\xe2\x80\x94 reviewer.example AAAA\n", "APPROVAL_"),
    ],
    ids=["empty", "garbage", "binary", "unsigned"],
)
def test_a_file_that_is_no_approval_is_refused(desk: Desk, content: bytes, code: str) -> None:
    """Whatever is handed over, the log takes only a signed approval."""
    note = desk.folder / "some.note"
    note.write_bytes(content)

    result = desk.run("review", "import", note)

    assert result.exit_code == 1
    assert result.stderr.startswith(f"error {code}")
    assert len(result.stderr.strip().splitlines()) == 1
    assert desk.json("audit", "head")["size"] == 1


def test_an_approval_by_a_stranger_is_refused(desk: Desk) -> None:
    """Signed, but by a key that the site does not trust (I3)."""
    note = desk.note(reviewer.MODEL)
    desk.policy.write_text(desk.parties.policy(without=["reviewer-1", "reviewer-2"]), encoding="utf-8")

    _refused(desk.run("review", "import", note), "APPROVAL_UNTRUSTED")


def test_an_approval_that_was_changed_is_refused(desk: Desk) -> None:
    """One letter of the signed text differs (I3)."""
    note = desk.note(reviewer.MODEL)
    note.write_text(note.read_text().replace("A1", "A2"), encoding="utf-8")

    _refused(desk.run("review", "import", note), "APPROVAL_SIGNATURE")


def test_one_id_is_one_approval(desk: Desk) -> None:
    """Another text under an id that is in the log is refused."""
    desk.submitted()
    desk.json("review", "import", desk.note(reviewer.MODEL))

    changed = desk.note(reviewer.MODEL, criteria_set="OTHER/1")
    _refused(desk.run("review", "import", changed), "APPROVAL_REUSED")


def test_a_missing_note_is_one_line(desk: Desk) -> None:
    """The file's name is repeated, since the operator typed it."""
    _refused(desk.run("review", "import", desk.folder / "no.note"), "IO_ERROR", mentions="no.note")


def test_terms_of_an_unknown_model_are_refused(desk: Desk) -> None:
    """Only an installed model has an identity to approve."""
    _refused(desk.run("review", "terms", "nobody"), "MODEL_NOT_FOUND")


# ---- audit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["verify", "head"])
def test_looking_makes_no_log(desk: Desk, command: str) -> None:
    """A wrong folder has no log: that is the answer, and nothing is made there."""
    _refused(desk.run("audit", command), "NOT_FOUND", mentions="no log")

    assert not (desk.data / "audit").exists()
    assert not (desk.data / "keys").exists()


def test_a_lost_key_is_never_replaced(desk: Desk) -> None:
    """The log is there, its key is not: another key would start another history under the same name."""
    desk.json("review", "show")
    (desk.data / "keys" / "log.key").unlink()

    _refused(desk.run("audit", "verify"), "KEY_MISSING", mentions="backup")
    _refused(desk.run("review", "show"), "KEY_MISSING")

    assert not (desk.data / "keys" / "log.key").exists()


def test_a_whole_log_verifies(desk: Desk) -> None:
    """Size and root of the head, derived from the entries alone."""
    desk.json("review", "show")
    head = desk.json("audit", "head")

    report = desk.json("audit", "verify")

    assert (report["ok"], report["size"], report["root"], report["problems"]) == (True, 1, head["root"], [])
    assert head["origin"] == "test-site.zhiying/audit"
    assert head["note"].startswith("test-site.zhiying/audit\n1\n")
    assert desk.run("audit", "verify").exit_code == 0
    assert "test-site" in desk.run("audit", "head").stdout


def test_a_changed_log_does_not_verify(desk: Desk) -> None:
    """One flipped byte: status 1, the file by name, for people and for programs."""
    desk.submitted()
    (bundle,) = sorted((desk.data / "audit" / "tile" / "entries").rglob("5"))
    data = bytearray(bundle.read_bytes())
    data[-5] ^= 1
    bundle.write_bytes(data)

    plain, asked = desk.run("audit", "verify"), desk.run("audit", "verify", "--json")

    assert plain.exit_code == asked.exit_code == 1
    lines = plain.stderr.strip().splitlines()
    assert lines
    assert all(line.startswith("error AUDIT_CORRUPT: ") for line in lines)
    assert any("tile/entries" in line for line in lines)
    report = json.loads(asked.stdout)
    assert report["ok"] is False
    assert len(report["problems"]) == len(lines)


def test_a_corrupt_log_stops_commands_that_write_to_it(desk: Desk) -> None:
    """Nothing is appended to a log that is not what was signed."""
    desk.json("review", "show")
    (desk.data / "audit" / "head").write_text("rubbish", encoding="utf-8")

    _refused(desk.run("review", "import", desk.note(reviewer.MODEL)), "AUDIT_CORRUPT", mentions="head")
    _refused(desk.run("audit", "head"), "AUDIT_CORRUPT", mentions="head")


# ---- send -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["", "PACS", "PACS@host", "PACS@host:x", "@host:104", "PACS@:104", "P@h:0", "P@h:99999"])
def test_a_bad_address_is_one_line(desk: Desk, to: str) -> None:
    """AET@host:port, or PEER_INVALID."""
    _refused(desk.run("send", desk.folder, "--to", to, config=False), "PEER_INVALID")


def test_nothing_to_send_is_refused(desk: Desk) -> None:
    """A folder without files, or none at all: status 1."""
    empty = desk.folder / "empty"
    _refused(desk.run("send", empty, "--to", "PACS@127.0.0.1:104", config=False), "COMMAND_REFUSED", mentions="empty")
    empty.mkdir()
    _refused(desk.run("send", empty, "--to", "PACS@127.0.0.1:104", config=False), "COMMAND_REFUSED", mentions="empty")


def test_what_is_no_dicom_is_not_sent(desk: Desk) -> None:
    """A file that is none of ours to read: a coded refusal before anything is sent."""
    (desk.folder / "text").mkdir()
    (desk.folder / "text" / "a.txt").write_text("hello")

    _refused(desk.run("send", desk.folder / "text", "--to", "PACS@127.0.0.1:104", config=False), "FILE_UNREADABLE")


def test_sent_means_stored(desk: Desk) -> None:
    """Status 0 only if the peer has stored every file; a warning stores, a failure does not."""
    files = desk.folder / "series"
    write_series(files, 3)
    with FakePacs() as pacs:
        to = f"{pacs.ae_title}@127.0.0.1:{pacs.port}"
        assert desk.json("send", files, "--to", to, config=False) == {
            "peer": to,
            "files": 3,
            "stored": 3,
            "error": None,
        }
        pacs.answer(0xB000)
        assert desk.json("send", sorted(files.iterdir())[0], "--to", to, config=False)["stored"] == 1
        pacs.answer(0xC000)
        refused = desk.run("send", files, "--to", to, "--json", config=False)
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["stored"] < 3


def test_a_peer_that_is_away_is_status_1(desk: Desk) -> None:
    """Nobody listens: nothing stored, and the reason as a code."""
    write_series(desk.folder / "series", 1)
    with FakePacs() as pacs:
        to = f"{pacs.ae_title}@127.0.0.1:{pacs.port}"

    result = desk.run("send", desk.folder / "series", "--to", to, "--json", config=False)

    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert (answer["stored"], answer["error"]) == (0, "PEER_UNREACHABLE")


# ---- doctor and serve -----------------------------------------------------------------------------------------------


def test_the_doctor_of_an_empty_site_finds_nothing_broken(desk: Desk) -> None:
    """Nothing installed, nothing approved, nobody to send to: warnings, and status 0."""
    rows = desk.json("doctor")

    assert {row["result"] for row in rows} == {"ok", "WARN"}
    assert {"models", "approvals", "results"} <= {row["check"] for row in rows if row["result"] == "WARN"}
    assert "WARN" in desk.run("doctor").stdout


def test_the_doctor_fails_with_what_is_broken(desk: Desk) -> None:
    """A log that is not what was signed: FAIL, and status 1."""
    desk.json("review", "show")
    (desk.data / "audit" / "head").write_text("rubbish", encoding="utf-8")

    result = desk.run("doctor", "--json")

    assert result.exit_code == 1
    assert any(row["check"] == "audit log" and row["result"] == "FAIL" for row in json.loads(result.stdout))


def test_the_doctor_of_one_peer_fails_with_what_it_refuses(desk: Desk) -> None:
    """`--peer NAME`: status 1 and the code while it takes no reports, 0 when it does; an unknown name is an error."""
    for classes, status in (((SEGMENTATION,), 1), ((SEGMENTATION, COMPREHENSIVE_3D_SR), 0)):
        with FakePacs(classes=(*classes, "1.2.840.10008.1.1")) as pacs:
            desk.write_config(
                more=f'[[peers]]\nname = "pacs"\nae_title = "TESTPACS"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
            )
            result = desk.run("doctor", "--peer", "pacs", "--json")
        assert result.exit_code == status
        rows = {row["check"]: row for row in json.loads(result.stdout)}
        assert rows["peer pacs SEG"]["result"] == "ok"
        assert rows["peer pacs SR"]["what"].startswith("PEER_NO_CONTEXT" if status else "accepts")
    _refused(desk.run("doctor", "--peer", "nobody"), "NOT_FOUND")


def test_two_services_on_one_folder_are_refused(desk: Desk) -> None:
    """The second one says so and touches nothing."""
    desk.data.mkdir()
    with wire.only_one(desk.data):
        _refused(desk.run("serve"), "ALREADY_RUNNING")


def test_help_names_every_command() -> None:
    """Without arguments the commands are listed; an unknown one is status 2."""
    shown = CliRunner().invoke(app, ["--help"]).stdout

    for name in ("serve", "doctor", "send", "demo", "studies", "models", "review", "audit"):
        assert name in shown
    assert CliRunner().invoke(app, ["nonsense"]).exit_code == 2


@pytest.mark.slow
def test_the_installed_command_keeps_its_files_to_itself(desk: Desk) -> None:
    """`zhiying` itself: what it writes only its own user may read, and errors go to standard error."""
    zhiying = shutil.which("zhiying", path=str(Path(sys.executable).parent))
    assert zhiying is not None

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([zhiying, *words], capture_output=True, text=True, timeout=300, check=False)

    done = run("review", "show", "--config", str(desk.config))

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loose = [path for path in desk.data.rglob("*") if path.stat().st_mode & 0o077]
    assert loose == []
    assert run("studies", "list", "--config", str(desk.folder / "no.toml")).stderr.startswith("error CONFIG_INVALID")
