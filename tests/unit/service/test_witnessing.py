"""The service asks its witnesses by itself; what they prove stops it, what they only say does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from audit import merkle
from audit.checkpoint import Checkpoint
from audit.entry import Draft, Kind
from audit.errors import AuditUnavailable
from audit.log import AuditLog
from audit.note import Signer
from audit.submission import Submission
from audit.witnessing import Reply
from service import doctor, wire, witnessing
from service.config import Config, load
from service.errors import CommandRefused, ConfigInvalid
from service.witnessing import AuditBehindWitness, AuditForked, Guarded, Unwitnessed, Watch
from tests.simulators.audit_log import CALL, body, draft
from tests.simulators.net_of_witnesses import NetOfWitnesses

INTENT = Draft(Kind.CALL_INTENT, "intent:1", body(Kind.CALL_INTENT), CALL)


class Ticks:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.at


class Place:
    """A site with its log open, and two witnesses of whom both must agree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = NetOfWitnesses(folder / "witnesses")
        (folder / "policy").write_text(self.net.policy(), encoding="utf-8")
        self.max_h = 24.0
        self.clock = Ticks()
        self.log = wire.open_log(self.site)
        self.net.add_log(wire.origin(self.site), wire.log_verifier(self.site))
        self.registry = CollectorRegistry()

    @property
    def site(self) -> Config:
        """As the service reads it."""
        policy = json.dumps(str(self.folder / "policy"))
        (self.folder / "zhiying.toml").write_text(
            f"[data]\nfolder = {json.dumps(str(self.data))}\n[audit]\nwitnesses = {policy}\n"
            f"unwitnessed_max_h = {self.max_h}\n",
            encoding="utf-8",
        )
        return load(self.folder / "zhiying.toml")

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def watch(self) -> Watch:
        """As the service makes it at its start."""
        policy = witnessing.policy_of(self.site)
        assert policy is not None
        self.registry = CollectorRegistry()
        return Watch(self.site, self.log, policy, self.registry, self.net.post, self.net.get, self.clock)

    def append(self, count: int) -> None:
        """So many entries more."""
        start = self.log.head().size
        for number in range(start, start + count):
            self.log.append(draft(number))

    def round(self, watch: Watch) -> None:
        """A minute later."""
        self.clock.at += 61
        watch()

    def value(self, name: str) -> float | None:
        """A metric."""
        return self.registry.get_sample_value(name)

    def go_back(self) -> None:
        """Four entries and a round later, the backup of before is put back."""
        self.log.close()
        shutil.copytree(self.data / "audit", self.folder / "backup")
        self.log = wire.open_log(self.site)
        self.append(4)
        self.watch()()
        self.log.close()
        shutil.rmtree(self.data / "audit")
        shutil.move(self.folder / "backup", self.data / "audit")
        self.log = wire.open_log(self.site)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """One for each test."""
    made = Place(tmp_path)
    yield made
    made.log.close()


# ---- rounds ----------------------------------------------------------------------------------------------------------


def test_rounds(place: Place) -> None:
    """The first at once, then once a minute, and only when something is new; the numbers follow."""
    watch = place.watch()
    place.append(4)
    watch()
    assert len(place.net.asked) == 2
    assert place.value("zhiying_witnessed_entries") == 5
    assert place.value("zhiying_unwitnessed_entries") == 0
    place.append(2)
    watch()
    assert len(place.net.asked) == 2
    place.clock.at += 61
    watch()
    place.round(watch)
    assert len(place.net.asked) == 4
    assert place.value("zhiying_witnessed_entries") == 7
    age = place.value("zhiying_witness_age_seconds")
    assert age is not None
    assert age < 60
    assert watch.state() == "ok"


def test_what_was_put_off_is_published_first(place: Place) -> None:
    """A log that publishes late is asked to, so that no round is about yesterday's checkpoint."""
    place.log.close()
    site = place.site
    place.log = AuditLog.open(
        wire.audit_root(site),
        origin=wire.origin(site),
        source="local-site",
        signer=Signer.load(wire.key_path(site, 1)),
        now=wire.now,
        publish_s=1000.0,
    )
    watch = place.watch()
    place.append(3)
    watch()
    assert place.value("zhiying_witnessed_entries") == 4


def test_a_witness_that_is_away_stops_nothing(place: Place) -> None:
    """It is counted, told, and asked again though nothing is new; inference goes on."""
    watch = place.watch()
    place.net.down = {"http://w1.example"}
    watch.look()
    watch()
    assert place.value("zhiying_witnesses_failing") == 1
    assert place.value("zhiying_unwitnessed_entries") == 1
    watch.permit(INTENT)
    assert watch.state() == "ok"
    place.net.down = set()
    place.round(watch)
    assert place.value("zhiying_witnesses_failing") == 0
    assert place.value("zhiying_unwitnessed_entries") == 0


def test_a_witness_that_declines_is_for_a_person(place: Place) -> None:
    """/health and the doctor name it with its code; inference goes on, for the others are a quorum or not by age."""
    watch = place.watch()
    place.net.says["http://w2.example"] = Reply(403, b"no\n")
    watch()
    assert watch.state() == "WITNESS_DECLINED w2.example"
    watch.permit(INTENT)
    found = {one.check: one for one in doctor.witnesses(place.site, place.net.get)}
    assert found["witness w2.example"].result == doctor.FAIL
    assert "WITNESS_DECLINED" in found["witness w2.example"].what
    assert found["witness w1.example"].result == doctor.OK


# ---- alone -----------------------------------------------------------------------------------------------------------


def test_alone_for_too_long(place: Place) -> None:
    """No quorum for the time that is set: no new call, everything else is logged; with a quorum it goes on."""
    place.max_h = 1e-9
    watch = place.watch()
    place.net.down = {"http://w1.example"}
    watch()
    guarded = Guarded(place.log, watch.permit)
    with pytest.raises(Unwitnessed) as refused:
        guarded.append(INTENT)
    assert isinstance(refused.value, AuditUnavailable)
    assert refused.value.code == "AUDIT_UNWITNESSED"
    assert watch.state().startswith("AUDIT_UNWITNESSED")
    guarded.append(draft(1))
    place.max_h = 1.0
    place.watch().permit(INTENT)


def test_age_is_of_the_quorum_not_of_one_witness(place: Place) -> None:
    """Two of two: the older of the two signatures. A log that nobody witnessed is as old as its first entry."""
    watch = place.watch()
    watch()
    desk, policy = witnessing.desk(place.site, None)
    held = desk.witnessed()
    assert held is not None
    one, other = held.cosigned
    apart = replace(held, cosigned=(replace(one, time_s=1000), replace(other, time_s=50)))
    assert witnessing.quorum_at(apart, policy).timestamp() == 50
    place.max_h = 1e-9
    never = place.watch()
    with pytest.raises(Unwitnessed):
        never.permit(INTENT)


# ---- the opening check -----------------------------------------------------------------------------------------------


def test_a_good_log_is_not_frozen(place: Place) -> None:
    """Fresh, witnessed, grown since: nothing is wrong."""
    for _ in range(3):
        watch = place.watch()
        watch.look()
        assert watch.frozen is None
        watch()
        place.append(2)


@pytest.mark.parametrize("forgets", [False, True], ids=["our-copy", "only-theirs"])
def test_a_backup_that_was_put_back(place: Place, *, forgets: bool) -> None:
    """By what we kept, or, when that was put back too, by what the witnesses hold: frozen, and told by its code."""
    place.go_back()
    if forgets:
        shutil.rmtree(place.data / "witnessing")
    else:
        place.net.down = set(place.net.witnesses)
    watch = place.watch()
    watch.look()
    assert isinstance(watch.frozen, AuditBehindWitness)
    assert "zhiying audit succeed" in str(watch.frozen)
    assert watch.state().startswith("AUDIT_BEHIND_WITNESS")
    size = place.log.head().size
    for one in (INTENT, draft(99)):
        with pytest.raises(AuditBehindWitness):
            Guarded(place.log, watch.permit).append(one)
    place.round(watch)
    assert place.log.head().size == size
    (found,) = doctor.witnesses(place.site, place.net.get)
    assert (found.check, found.result) == ("witnesses", doctor.FAIL)
    assert "AUDIT_BEHIND_WITNESS" in found.what


def test_a_backup_that_is_noticed_later(place: Place) -> None:
    """Nobody answered at the start, and our copy was put back too: the first round that reaches somebody freezes."""
    place.go_back()
    shutil.rmtree(place.data / "witnessing")
    place.net.down = set(place.net.witnesses)
    watch = place.watch()
    watch.look()
    watch()
    assert watch.frozen is None
    place.net.down = {"http://w1.example"}
    place.round(watch)
    assert isinstance(watch.frozen, AuditBehindWitness)


def test_another_history(place: Place) -> None:
    """The log was written anew, longer than before: what was witnessed is no beginning of it."""
    place.append(3)
    place.watch()()
    place.log.close()
    shutil.rmtree(place.data / "audit")
    place.log = wire.open_log(place.site)
    place.append(9)
    watch = place.watch()
    watch.look()
    assert isinstance(watch.frozen, AuditForked)
    assert watch.frozen.code == "AUDIT_FORKED"


def test_a_witness_that_only_claims_stops_nothing(place: Place) -> None:
    """It says that it has cosigned more, and serves nothing that we signed: a person is told, the AI goes on."""
    watch = place.watch()
    place.net.says["http://w2.example"] = Reply(409, b"1000000\n")
    watch()
    assert watch.frozen is None
    assert watch.state() == "WITNESS_AHEAD w2.example"


def test_a_stranger_s_checkpoint_is_no_proof(place: Place) -> None:
    """A witness that cosigns a larger log of another key, in our name, freezes nothing."""
    stranger = Signer.generate(wire.origin(place.site))
    hashes = [merkle.leaf_hash(bytes([n])) for n in range(50)]
    head = Checkpoint.sign(stranger, wire.origin(place.site), 50, merkle.root(hashes))
    witness = place.net.witnesses["http://w2.example"]
    witness.answer(Submission(0, (), head).format())
    watch = place.watch()
    watch.look()
    assert watch.frozen is None


# ---- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, b"quorum 1\n", b"\xff\xfe", b"witness x\nquorum 1\n"])
def test_a_policy_that_cannot_be_used(place: Place, text: bytes | None) -> None:
    """Gone, of nobody, no text, no key: refused at the start, by the name of the setting."""
    site = place.site
    (place.folder / "policy").unlink()
    if text is not None:
        (place.folder / "policy").write_bytes(text)
    with pytest.raises(ConfigInvalid, match=r"audit\.witnesses"):
        witnessing.policy_of(site)
    (found,) = doctor.witnesses(site, place.net.get)
    assert (found.check, found.result) == ("witnesses", doctor.FAIL)


def test_a_policy_of_other_logs(place: Place) -> None:
    """It names logs, and ours is not among them."""
    policy = place.folder / "policy"
    policy.write_text(f"log {Signer.generate('other.example').vkey}\n{place.net.policy()}", encoding="utf-8")
    with pytest.raises(CommandRefused):
        place.watch()


def test_without_a_policy_nobody_is_asked(tmp_path: Path) -> None:
    """A site that names no witness is told so by the doctor, and by nothing else."""
    (tmp_path / "c.toml").write_text(f'[data]\nfolder = "{tmp_path / "data"}"\n', encoding="utf-8")
    site = load(tmp_path / "c.toml")
    assert witnessing.policy_of(site) is None
    with pytest.raises(CommandRefused):
        witnessing.desk(site, None)
    (found,) = doctor.witnesses(site, NetOfWitnesses(tmp_path / "w").get)
    assert (found.check, found.result) == ("witnesses", doctor.WARN)


def test_an_old_quorum_is_told(place: Place) -> None:
    """The doctor says how old the last quorum is, and fails where inference waits for one."""
    place.watch()()
    found = {one.check: one for one in doctor.witnesses(place.site, place.net.get)}
    assert found["witnesses"].result == doctor.OK
    place.max_h = 1e-9
    found = {one.check: one for one in doctor.witnesses(place.site, place.net.get)}
    assert found["witnesses"].result == doctor.FAIL
    assert "AUDIT_UNWITNESSED" in found["witnesses"].what
    place.net.down = set(place.net.witnesses)
    found = {one.check: one for one in doctor.witnesses(place.site, place.net.get)}
    assert {found[f"witness {name}.example"].result for name in ("w1", "w2")} == {doctor.WARN}
    assert timedelta(hours=place.max_h) < timedelta(seconds=1)
