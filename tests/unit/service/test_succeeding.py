"""The ceremony, with real files: a backup is put back, a disk is damaged, a key is lost or exchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from audit import fsck
from audit.entry import Entry, Kind
from audit.errors import AuditError
from audit.note import Signer
from audit.policy import Policy
from audit.succession import (
    End,
    Hands,
    NothingUsable,
    Reason,
    StatementBad,
    StatementOwn,
    StatementStale,
    StatementUnknown,
    Unfinished,
    open_statement,
)
from audit.witnessing import Witnessing
from service import succeeding, wire, witnessing
from service.cli import app
from service.config import Config, load
from service.errors import AlreadyRunning, KeyMissing
from tests.simulators import reviewer
from tests.simulators.audit_log import Died, draft
from tests.simulators.net_of_witnesses import NetOfWitnesses
from tests.simulators.parties import Case, Parties

BASE = "test-site.zhiying/audit"


class Hospital:
    """A site with a log, a reviewer, two witnesses of whom both must agree, and a safety officer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.officer = Signer.generate("officer.example")
        self.parties = Parties()
        (folder / "trust.policy").write_text(self.parties.policy(), encoding="utf-8")
        self.net = NetOfWitnesses(folder / "witnesses")
        (folder / "policy").write_text(self.net.policy(), encoding="utf-8")
        self.write_config([self.officer.vkey])
        self.append(5)
        self.net.add_log(BASE, wire.log_verifier(self.site))

    def write_config(self, restore_keys: list[str]) -> None:
        """The configuration, with those who may let a log end."""
        (self.folder / "zhiying.toml").write_text(
            f"""
[site]
id = "test-site"
[data]
folder = {json.dumps(str(self.data))}
[review]
trust = {json.dumps(str(self.folder / "trust.policy"))}
[audit]
witnesses = {json.dumps(str(self.folder / "policy"))}
restore_keys = {json.dumps(restore_keys)}
""",
            encoding="utf-8",
        )

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def site(self) -> Config:
        """As the service reads it."""
        return load(self.folder / "zhiying.toml")

    def append(self, count: int) -> None:
        """So many entries more."""
        with wire.offline_of(self.site) as opened:
            start = opened.log.head().size
            for number in range(start, start + count):
                opened.log.append(draft(number))

    def push(self) -> None:
        """Have the witnesses cosign what is published."""
        desk, _ = witnessing.desk(self.site, None)
        checkpoint, files = witnessing.published(self.site)
        assert desk.push(files, checkpoint, self.net.post).reached

    def approve(self) -> None:
        """The whole life of a model, in the log."""
        terms = reviewer.fields(valid={"from": "2020-01-01", "to": "2099-12-31"})
        with wire.offline_of(self.site) as opened:
            Case(self.parties, opened.register, opened.log, reviewer.MODEL).live(terms)

    def head(self) -> End:
        """Of today's log."""
        with wire.offline_of(self.site) as opened:
            return End.of(opened.log.head())

    def entries(self) -> list[Entry]:
        """Of today's log, which is whole."""
        assert fsck.check(wire.audit_root(self.site), wire.log_verifier(self.site)).ok
        with wire.offline_of(self.site) as opened:
            return list(opened.log.entries())

    def request(self, reason: Reason) -> str:
        """The text to sign."""
        return succeeding.request(self.site, reason, self.net.get).text

    def ceremony(self, reason: Reason) -> str:
        """All of it; gives the note."""
        note = self.officer.sign(self.request(reason))
        succeeding.take(self.site, note, self.net.get)
        return note

    def put_back(self, what: Callable[[], None]) -> None:
        """A backup of the log is made, something happens, and the backup is put back."""
        shutil.copytree(self.data / "audit", self.folder / "backup")
        what()
        shutil.rmtree(self.data / "audit")
        shutil.move(self.folder / "backup", self.data / "audit")


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    """One for each test."""
    return Hospital(tmp_path)


def run(*words: str | Path, status: int = 0) -> Result:
    """`zhiying audit succeed WORDS`, with its exit status checked."""
    result = CliRunner().invoke(app, ["audit", "succeed", *map(str, words)])
    assert result.exit_code == status, result.output
    return result


def successor_of(hospital: Hospital, old: End, note: str, reason: Reason) -> None:
    """Today's log begins as it should: it commits to the old one's end and holds the signed note; then it goes on."""
    start, restore, *rest = hospital.entries()
    assert rest == []
    assert (start.kind, restore.kind) == (Kind.LOG_START, Kind.RESTORE)
    assert start.body["origin"] == wire.origin(hospital.site) == f"{BASE}/2"
    assert start.body["predecessor"] == old.body
    assert (restore.body["note"], restore.body["reason"]) == (note, reason.value)
    assert (start.seq, restore.seq) == (0, 1)
    hospital.append(3)
    assert hospital.head().size == 5
    hospital.net.add_log(wire.origin(hospital.site), wire.log_verifier(hospital.site))
    hospital.push()


def test_a_backup_that_was_put_back(hospital: Hospital) -> None:
    """Witnesses saw more than the disk has: the statement names both, SEAL ends the old log, RESTORE begins the new."""
    hospital.push()
    hospital.put_back(lambda: (hospital.append(7), hospital.push())[0])
    old_key = wire.log_verifier(hospital.site)
    names = wire.pseudonyms(hospital.site).of("study", "1.2.3")
    note = hospital.ceremony(Reason.BACKUP)

    frozen = hospital.data / "audit.frozen"
    report = fsck.check(frozen / "1", old_key)
    assert (report.ok, report.size) == (True, 7)
    statement = open_statement(note, [hospital.officer.verifier], [])
    assert (statement.predecessor.size, statement.witnessed and statement.witnessed.size) == (6, 13)
    end = wire.generations(hospital.site).end(1)
    assert end.size == 7
    successor_of(hospital, end, note, Reason.BACKUP)
    assert wire.pseudonyms(hospital.site).of("study", "1.2.3") == names
    assert (frozen / "1.witnessing" / "witnessed").exists()


def test_approvals_do_not_come_along(hospital: Hospital) -> None:
    """Default deny: what was approved in the old log is imported again, or does not count."""
    hospital.approve()
    hospital.ceremony(Reason.KEY_ROTATION)
    with wire.offline_of(hospital.site) as opened:
        assert opened.register.approvals() == ()
    hospital.approve()
    with wire.offline_of(hospital.site) as opened:
        assert len(opened.register.approvals()) == 1


def test_a_key_is_exchanged_twice(hospital: Hospital) -> None:
    """Each time another origin and another key; each log commits to the one before."""
    keys, ends = [wire.log_vkey(hospital.site)], []
    for number in (2, 3):
        hospital.ceremony(Reason.KEY_ROTATION)
        keys.append(wire.log_vkey(hospital.site))
        ends.append(hospital.entries()[0].body["predecessor"])
        assert wire.origin(hospital.site) == f"{BASE}/{number}"
    assert len(set(keys)) == 3
    assert [end["origin"] for end in ends] == [BASE, f"{BASE}/2"]  # type: ignore[index, call-overload]


def test_a_damaged_head(hospital: Hospital) -> None:
    """The head is unreadable: sealing is refused, CORRUPTION names the newest that verifies, and the rest goes on."""
    before = hospital.head()
    (hospital.data / "audit" / "head").write_bytes(b"\xff\x00")
    with pytest.raises(AuditError) as refused:
        hospital.request(Reason.BACKUP)
    assert refused.value.code == "AUDIT_CORRUPT"
    note = hospital.ceremony(Reason.CORRUPTION)
    successor_of(hospital, before, note, Reason.CORRUPTION)


def test_nothing_is_left_but_what_the_witnesses_hold(hospital: Hospital) -> None:
    """Log and cosignatures are gone with the disk: the witnesses' own copies say where it ended."""
    hospital.push()
    before = hospital.head()
    shutil.rmtree(hospital.data / "audit")
    shutil.rmtree(hospital.data / "witnessing")
    hospital.net.down = set(hospital.net.witnesses)
    with pytest.raises(NothingUsable):
        hospital.request(Reason.CORRUPTION)
    hospital.net.down = set()
    note = hospital.ceremony(Reason.CORRUPTION)
    successor_of(hospital, before, note, Reason.CORRUPTION)


@pytest.mark.parametrize("public", [True, False], ids=["public-half-left", "both-gone"])
def test_a_lost_key(hospital: Hospital, *, public: bool) -> None:
    """Without the private key nothing opens the log; the public one, from disk or from reviewers, finds its head."""
    before, vkey = hospital.head(), wire.log_verifier(hospital.site)
    (hospital.data / "keys" / "log.key").unlink()
    if not public:
        (hospital.data / "keys" / "log.vkey").unlink()
    with pytest.raises(KeyMissing):
        hospital.request(Reason.KEY_ROTATION) if public else hospital.head()
    if not public:
        with pytest.raises(NothingUsable):
            hospital.request(Reason.KEY_LOST)
    text = succeeding.request(hospital.site, Reason.KEY_LOST, hospital.net.get, vkey).text
    note = hospital.officer.sign(text)
    succeeding.take(hospital.site, note, hospital.net.get, vkey)
    successor_of(hospital, before, note, Reason.KEY_LOST)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_who_may_not_sign(hospital: Hospital) -> None:
    """A stranger, nobody at all, the log's own key, the new log's, the log's own beside the officer's trust."""
    text = hospital.request(Reason.KEY_ROTATION)
    own = Signer.load(wire.key_path(hospital.site, 1))
    new = Signer.load(wire.key_path(hospital.site, 2))
    head = hospital.head()
    for signer, wanted in ((Signer.generate("x.example"), StatementUnknown), (own, StatementOwn), (new, StatementOwn)):
        with pytest.raises(wanted):
            succeeding.take(hospital.site, signer.sign(text), hospital.net.get)
    hospital.write_config([hospital.officer.vkey, own.vkey])
    with pytest.raises(StatementOwn):
        succeeding.take(hospital.site, hospital.officer.sign(text), hospital.net.get)
    hospital.write_config([])
    with pytest.raises(StatementUnknown):
        succeeding.take(hospital.site, hospital.officer.sign(text), hospital.net.get)
    assert hospital.head() == head
    assert not (hospital.data / "audit.frozen").exists()


def test_a_statement_of_another_head(hospital: Hospital) -> None:
    """The log grew since, witnesses saw more since, the statement is of another successor: nothing happens."""
    note = hospital.officer.sign(hospital.request(Reason.KEY_ROTATION))
    hospital.append(1)
    with pytest.raises(StatementStale, match="head"):
        succeeding.take(hospital.site, note, hospital.net.get)
    note = hospital.officer.sign(hospital.request(Reason.KEY_ROTATION))
    hospital.push()
    with pytest.raises(StatementStale, match="witnesses"):
        succeeding.take(hospital.site, note, hospital.net.get)
    text = hospital.request(Reason.KEY_ROTATION)
    for other in (text.replace("audit/2", "audit/3"), text.replace(wire.log_vkey(hospital.site), "x")):
        if other != text:
            with pytest.raises(StatementBad):
                succeeding.take(hospital.site, hospital.officer.sign(other), hospital.net.get)
    assert not (hospital.data / "audit.frozen").exists()


def test_a_statement_of_another_new_key(hospital: Hospital) -> None:
    """The officer's word is for one key: another one cannot be put in its place."""
    text = hospital.request(Reason.KEY_ROTATION)
    note = hospital.officer.sign(text)
    path = wire.key_path(hospital.site, 2)
    for one in (path, path.with_suffix(".vkey")):
        one.unlink()
    wire.make_key(hospital.site, 2)
    with pytest.raises(StatementBad, match="another key"):
        succeeding.take(hospital.site, note, hospital.net.get)
    assert not (hospital.data / "audit.frozen").exists()


def test_not_beside_a_running_service(hospital: Hospital) -> None:
    """Who serves the folder goes first."""
    note = hospital.officer.sign(hospital.request(Reason.KEY_ROTATION))
    with wire.only_one(hospital.data), pytest.raises(AlreadyRunning):
        succeeding.take(hospital.site, note, hospital.net.get)


# ---- killed ----------------------------------------------------------------------------------------------------------


class Dying(Hands):
    """Hands that are cut off before one change."""

    def __init__(self, at: int) -> None:
        self._left = at

    @contextmanager
    def _step(self) -> Iterator[None]:
        if self._left == 0:
            raise Died
        self._left -= 1
        yield

    def create_same(self, path: Path, data: bytes) -> bool:
        """See Mover."""
        with self._step():
            return super().create_same(path, data)

    def make_dirs(self, path: Path) -> None:
        """See Mover."""
        with self._step():
            super().make_dirs(path)

    def move(self, source: Path, target: Path) -> None:
        """See Mover."""
        with self._step():
            super().move(source, target)

    def protect(self, folder: Path) -> None:
        """See Mover."""
        with self._step():
            super().protect(folder)


@pytest.mark.parametrize("at", range(7))
def test_a_killed_ceremony_is_taken_again(hospital: Hospital, at: int) -> None:
    """Wherever it died: no writer opens a log that is told to end, and the same command ends as if nothing had been."""
    hospital.push()
    note = hospital.officer.sign(hospital.request(Reason.KEY_ROTATION))
    with pytest.raises(Died):
        succeeding.take(hospital.site, note, hospital.net.get, hands=Dying(at))
    logs = wire.generations(hospital.site)
    if logs.note(1) is not None and logs.number == 1:
        with pytest.raises(Unfinished):
            wire.open_log(hospital.site)
        with pytest.raises(Unfinished):
            hospital.request(Reason.KEY_ROTATION)
        earlier = note.partition("\n\n")[0].replace('"time":"2', '"time":"1') + "\n"
        with pytest.raises(StatementBad, match="another statement"):
            succeeding.take(hospital.site, hospital.officer.sign(earlier), hospital.net.get)
    succeeding.take(hospital.site, note, hospital.net.get)
    succeeding.take(hospital.site, note, hospital.net.get)
    successor_of(hospital, wire.generations(hospital.site).end(1), note, Reason.KEY_ROTATION)


def test_a_successor_begins_by_itself(hospital: Hospital) -> None:
    """Killed after the old folder moved: whoever opens the log next writes its first two entries, once."""
    note = hospital.officer.sign(hospital.request(Reason.KEY_ROTATION))
    with pytest.raises(Died):
        succeeding.take(hospital.site, note, hospital.net.get, hands=Dying(4))
    assert wire.generations(hospital.site).number == 2
    assert hospital.head() == hospital.head()
    successor_of(hospital, wire.generations(hospital.site).end(1), note, Reason.KEY_ROTATION)


def test_a_planted_statement_begins_no_log(hospital: Hospital) -> None:
    """Who has the disk moves the folder and writes a note: without a trusted signature no log begins."""
    text = hospital.request(Reason.KEY_ROTATION)
    stranger = Signer.generate("stranger.example")
    end = hospital.head()
    wire.generations(hospital.site).freeze(1, stranger.sign(text), lambda: end, Hands())
    with pytest.raises(StatementUnknown):
        wire.open_log(hospital.site)
    assert not (hospital.data / "audit").exists()


# ---- as people do it -------------------------------------------------------------------------------------------------


def test_the_ceremony_by_commands(hospital: Hospital) -> None:
    """Request, sign, take; each file is new; refusals are one line with a code; the old key is told with the new."""
    config, folder = hospital.folder / "zhiying.toml", hospital.folder
    hospital.net.down = set(hospital.net.witnesses)
    (folder / "policy").write_text(
        hospital.net.policy().replace(" http://w", " http://127.0.0.1:1/w"), encoding="utf-8"
    )
    hospital.officer.save(folder / "officer.key")
    Signer.generate("x.example").save(folder / "stranger.key")
    made = json.loads(
        run("request", "--reason", "KEY_ROTATION", "--out", folder / "s", "--config", config, "--json").stdout
    )
    assert (made["entries"], made["successor"]) == (6, f"{BASE}/2")
    run("request", "--reason", "BECAUSE", "--out", folder / "s2", "--config", config, status=2)
    assert "COMMAND_REFUSED" in run("request", "--reason", "BACKUP", "--out", folder / "s", status=1).output
    run("sign", folder / "s", "--key", folder / "stranger.key", "--out", folder / "bad")
    told = run("take", folder / "bad", "--config", config, status=1)
    assert "RESTORE_SIGNER_UNKNOWN" in told.output
    run("sign", folder / "s", "--key", folder / "officer.key", "--out", folder / "good")
    assert "RESTORE_STATEMENT_BAD" in run("take", folder / "s", "--config", config, status=1).output
    told = run("take", folder / "good", "--config", config)
    assert f"{BASE}/2" in told.output
    assert "import the approvals again" in told.output
    assert [entry.kind for entry in hospital.entries()] == [Kind.LOG_START, Kind.RESTORE]


def test_what_was_witnessed_of_the_old_log_does_not_bind_the_new_one(hospital: Hospital) -> None:
    """The folder of cosignatures begins anew: nothing of the old key is read by the new one."""
    hospital.push()
    hospital.ceremony(Reason.KEY_ROTATION)
    trusted = Policy.parse(hospital.net.policy())
    desk = Witnessing(witnessing.folder(hospital.site), trusted, wire.log_verifier(hospital.site))
    assert desk.newest() is None
