"""The identity map: apart from the log, encrypted, found by pseudonym, gone when its month is erased; the log stays."""

import base64
import errno
import json
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from audit import fsck
from audit.entry import Entry, Kind
from audit.errors import AuditUnavailable
from dicom_bridge.patient import Patient
from service import wire
from service.cli import app
from service.config import load
from service.errors import CommandRefused
from service.identity import IdentityMap
from service.keys import PeriodKeys

STUDY, DIGEST = "1.2.840.99999.7.1.20260401.1", "sha256:" + "0" * 64
WHO = Patient("TEST-0001", "TESTHOSP")
OCTOBER, NOVEMBER = datetime(2026, 10, 31, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)
ABOUT = ("--person", "li.m", "--purpose", "PATIENT_REQUEST")


@pytest.fixture
def site(tmp_path: Path) -> IdentityMap:
    """An empty map."""
    return IdentityMap(tmp_path / "identity", PeriodKeys(tmp_path / "keys"))


def again(tmp_path: Path) -> IdentityMap:
    """The same map in another process."""
    return IdentityMap(tmp_path / "identity", PeriodKeys(tmp_path / "keys"))


def test_a_name_leads_back_to_its_patient(site: IdentityMap, tmp_path: Path) -> None:
    """By the study's name and by the patient's, in another process too; a stranger's name leads nowhere."""
    named = site.name(NOVEMBER, STUDY, DIGEST, WHO, now=NOVEMBER)

    for pseudonym in (named.study, named.patient):
        (row,) = again(tmp_path).find(str(pseudonym))
        assert (row.patient_id, row.issuer, row.study_uid) == (WHO.id, WHO.issuer, STUDY)
    assert again(tmp_path).find("0" * 32) == ()


def test_a_retry_gives_the_same_names(site: IdentityMap, tmp_path: Path) -> None:
    """In this process nothing is written twice; after a crash the row may be, and is still one."""
    names = {site.name(NOVEMBER, STUDY, DIGEST, WHO, now=NOVEMBER) for _ in range(3)}
    lines = (tmp_path / "identity" / "2026-11.rows").read_bytes()
    names.add(again(tmp_path).name(NOVEMBER, STUDY, DIGEST, WHO, now=NOVEMBER))

    assert len(names) == 1
    assert lines.count(b"\n") == 1
    assert len(site.find(names.pop().study)) == 1


def test_patients_of_two_issuers_are_two(site: IdentityMap) -> None:
    """One number, two hospitals: two names; and who is not named at all has none."""
    names = [
        site.name(NOVEMBER, f"{STUDY}.{number}", DIGEST, who, now=NOVEMBER).patient
        for number, who in enumerate((WHO, Patient(WHO.id, "OTHER"), Patient(WHO.id, WHO.issuer), None))
    ]

    assert names[0] == names[2] != names[1]
    assert names[3] is None


def test_nothing_can_be_read_from_the_files(site: IdentityMap, tmp_path: Path) -> None:
    """No identifier in any form on the disk, and the files are their owner's alone."""
    site.name(NOVEMBER, STUDY, DIGEST, WHO, now=NOVEMBER)

    path = tmp_path / "identity" / "2026-11.rows"
    held = path.read_bytes()
    for data in (held, base64.b64decode(held.strip())):
        for canary in (WHO.id, WHO.issuer, STUDY):
            assert canary.encode() not in data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", [b"tor", b"not base64\n", base64.b64encode(b"x" * 40) + b"\n", b"\n"])
def test_a_damaged_row_hides_no_other(site: IdentityMap, tmp_path: Path, damage: bytes) -> None:
    """What a crash or a hand left is passed over; rows before and after it are found."""
    first = site.name(NOVEMBER, STUDY, DIGEST, WHO, now=NOVEMBER)
    with (tmp_path / "identity" / "2026-11.rows").open("ab") as file:
        file.write(damage)
    second = site.name(NOVEMBER, f"{STUDY}.9", DIGEST, WHO, now=NOVEMBER)

    assert len(site.find(first.study)) == len(site.find(second.study)) == 1


def test_a_row_of_one_month_is_none_of_another(site: IdentityMap, tmp_path: Path) -> None:
    """A line moved to another month's file does not open: the month is part of what is sealed."""
    named = site.name(OCTOBER, STUDY, DIGEST, WHO, now=NOVEMBER)
    october, november = (tmp_path / "identity" / f"2026-{month}.rows" for month in (10, 11))
    PeriodKeys(tmp_path / "keys").sealing("2026-11")
    november.write_bytes(october.read_bytes())
    october.unlink()

    assert site.find(named.study) == ()


def test_an_erased_month_cannot_even_be_guessed(site: IdentityMap, tmp_path: Path) -> None:
    """Neither the map nor trying the right identifiers leads back; the other month is untouched."""
    old = site.name(OCTOBER, STUDY, DIGEST, WHO, now=NOVEMBER)
    new = site.name(NOVEMBER, STUDY, DIGEST, WHO, now=NOVEMBER)
    assert site.candidates(STUDY) == {old.study, new.study}

    assert site.erase("2026-10", now=NOVEMBER) == 1
    assert site.erase("2026-10", now=NOVEMBER) == 1

    assert site.find(old.study) == ()
    assert site.find(str(new.patient)) != ()
    assert site.candidates(STUDY) == {new.study}
    assert not list(tmp_path.rglob("2026-10.key"))


def test_what_comes_late_goes_under_the_month_of_now(site: IdentityMap) -> None:
    """A run of an erased month goes on: its new entries have a name of this month, and never of a second old key."""
    site.name(OCTOBER, STUDY, DIGEST, WHO, now=OCTOBER)
    site.erase("2026-10", now=NOVEMBER)

    late = site.name(OCTOBER, STUDY, DIGEST, WHO, now=NOVEMBER)

    assert late == site.name(NOVEMBER, STUDY, DIGEST, WHO, now=NOVEMBER)
    assert late.study == site.study(OCTOBER, STUDY, now=NOVEMBER)


@pytest.mark.parametrize("period", ["2026-11", "2026-12"])
def test_a_month_that_goes_on_is_not_erased(site: IdentityMap, period: str) -> None:
    """Its names are still being made."""
    with pytest.raises(CommandRefused):
        site.erase(period, now=NOVEMBER)


def test_a_disk_that_refuses_stops_the_ai_and_names_no_path(site: IdentityMap, tmp_path: Path) -> None:
    """No name is given out whose row is not durable; the step waits, as for the log."""
    (tmp_path / "identity").write_bytes(b"")  # where the folder should be

    with pytest.raises(AuditUnavailable) as refused:
        site.name(NOVEMBER, STUDY, DIGEST, WHO, now=NOVEMBER)

    assert refused.value.errno in (errno.ENOTDIR, errno.EEXIST)
    assert str(tmp_path) not in str(refused.value)


class Desk:
    """A site with a log and one named study of a month that is over."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "zhiying.toml"
        self.config.write_text(f'[site]\nid = "test-site"\n[data]\nfolder = "{folder / "data"}"\n', encoding="utf-8")
        self.settings = load(self.config)
        with wire.offline(self.config):
            pass
        self.named = IdentityMap.of(self.settings.data.folder).name(OCTOBER, STUDY, DIGEST, WHO, now=OCTOBER)

    def run(self, *words: str) -> Result:
        """One command."""
        return CliRunner().invoke(app, ["audit", *words, "--config", str(self.config)], env={"COLUMNS": "240"})

    def logged(self, kind: Kind) -> list[Entry]:
        """The entries of one kind."""
        with wire.offline(self.config) as site:
            return [entry for entry in site.log.entries() if entry.kind is kind]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A site."""
    return Desk(tmp_path)


def test_identify_answers_and_the_log_says_who_asked(desk: Desk) -> None:
    """Name, purpose and pseudonym are an entry; whom it names is in the answer alone."""
    done = desk.run("identify", desk.named.study, *ABOUT, "--json")

    (said,) = json.loads(done.stdout)
    (entry,) = desk.logged(Kind.LOG_READ)
    assert (said["patient_id"], said["issuer"], said["study_uid"]) == (WHO.id, WHO.issuer, STUDY)
    assert dict(entry.body) == {"person": "li.m", "purpose": "PATIENT_REQUEST", "pseudonym": desk.named.study}
    assert WHO.id.encode() not in entry.to_bytes()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("0" * 32, *ABOUT), "NOT_FOUND"),
        (("TEST-0001", *ABOUT), "ENTRY_INVALID"),
        (("0" * 32, "--person", "110101199003078888", "--purpose", "WHY"), "ENTRY_INVALID"),
        (("0" * 32, "--person", "li.m", "--purpose", "because I can"), "ENTRY_INVALID"),
    ],
    ids=["unknown", "no-pseudonym", "number", "free-text"],
)
def test_identify_without_answer(desk: Desk, words: tuple[str, ...], code: str) -> None:
    """Who asks for what is not there is logged all the same; what cannot be logged is not answered."""
    done = desk.run("identify", *words)

    assert done.exit_code == 1
    assert code in done.stderr
    assert done.stdout == ""
    assert len(desk.logged(Kind.LOG_READ)) == (1 if code == "NOT_FOUND" else 0)


def test_identify_does_not_answer_when_the_log_cannot_say_so(desk: Desk) -> None:
    """The log comes first: where it cannot be written, nobody learns anything."""
    with wire.offline(desk.config) as site:
        size = site.log.head().size
    (wire.audit_root(desk.settings) / "head").write_bytes(b"rubbish")

    done = desk.run("identify", desk.named.study, *ABOUT, "--json")

    assert done.exit_code == 1
    assert WHO.id not in done.output
    assert size > 0


def test_erase_is_logged_once_and_the_log_stays_provable(desk: Desk) -> None:
    """The month is gone, the entry says how many rows, a repetition adds nothing, and every entry still proves."""
    assert desk.run("erase", "2026-10").exit_code == 1  # without --yes
    assert desk.run("identify", desk.named.study, *ABOUT).exit_code == 0

    answers: list[Any] = [json.loads(desk.run("erase", "2026-10", "--yes", "--json").stdout) for _ in range(2)]

    (entry,) = desk.logged(Kind.ERASURE)
    assert answers == [{"period": "2026-10", "rows": 1, "erased": True}] * 2
    assert dict(entry.body) == {"period": "2026-10", "rows": 1}
    assert desk.run("identify", desk.named.study, *ABOUT).exit_code == 1
    assert fsck.check(wire.audit_root(desk.settings), wire.log_verifier(desk.settings)).ok


@pytest.mark.parametrize("period", ["2026", "2026-13", "../x", f"{datetime.now(UTC):%Y-%m}"])
def test_erase_refuses(desk: Desk, period: str) -> None:
    """No month, or one that is not over: one line, nothing destroyed, nothing logged."""
    done = desk.run("erase", period, "--yes")

    assert done.exit_code == 1
    assert "COMMAND_REFUSED" in done.stderr
    assert desk.logged(Kind.ERASURE) == []
    assert [path.name for path in (desk.settings.data.folder / "keys" / "identity").iterdir()] == ["2026-10.key"]
