"""Who looked: one entry for each reader, study and civil day, before anything is shown; without it nothing is."""

import hashlib
import re
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audit import verifier
from audit.entry import Draft, Entry, Kind
from audit.errors import AuditCorrupt, AuditUnavailable
from service.decisions import Reader
from service.exporting import Asked, selection
from service.identity import IdentityMap
from service.keys import PeriodKeys
from service.looks import Looks, viewed
from service.study_page import PROBLEMS
from tests.simulators.audit_log import STUDY, body
from tests.simulators.readers import PSEUDONYMS, TOKENS, Door, bearer
from tests.simulators.studied import THEN, Studied
from tests.simulators.watched import BEGAN, Ward, opened

HOST = "http://testserver"
BOTH = ("test-li", "test-wang")
NOBODY = {"Authorization": "Bearer " + "x" * 40}


@pytest.fixture
def studied(tmp_path: Path) -> Iterator[Studied]:
    """A study, with its spool, run, call and pages."""
    made = Studied(tmp_path)
    yield made
    made.close()


def name_of(studied: Studied, moment: datetime = THEN) -> str:
    """The study's pseudonym, made without the code under test."""
    return PeriodKeys(studied.root / "keys").names(f"{moment:%Y-%m}").of("study", studied.spool.study_uid)


def who(entries: list[Entry]) -> list[Any]:
    """Of entries, whom they name."""
    return [entry.body["reader"] for entry in entries]


def test_the_entry_of_a_look(studied: Studied) -> None:
    """Reader by the pseudonym of decisions, role, study by the name that its run has in the log; nothing else."""
    studied.read()
    assert studied.look(**bearer("test-li")).status_code == 200
    (entry,) = studied.looked()
    reader = PSEUDONYMS.of("reader", "test-li")
    assert (entry.call, dict(entry.body)) == (
        None,
        {"study": name_of(studied), "reader": reader, "role": "RADIOLOGIST"},
    )
    said = f"{name_of(studied)}:{reader}:RADIOLOGIST:2026-12-01"
    assert entry.key == f"viewed:{hashlib.sha256(said.encode()).hexdigest()[:32]}"
    leaf = entry.to_bytes().decode()
    assert not [one for one in (studied.spool.study_uid, "test-li", TOKENS["test-li"]) if one in leaf]


def test_two_readers_one_study(studied: Studied) -> None:
    """Each is named once, however often they refresh the page or take its pictures."""
    call = studied.read()
    for _ in range(3):
        for name in BOTH:
            assert "<img" in studied.look(**bearer(name)).text
            assert studied.picture(call, **bearer(name)).status_code == 200
    assert who(studied.looked()) == [PSEUDONYMS.of("reader", name) for name in BOTH]


def test_pictures_without_the_page(studied: Studied) -> None:
    """Their address alone is enough to see them, and enough to be named; what is not shown names nobody."""
    call = studied.read()
    assert studied.picture(call, number=2, **bearer("test-li")).status_code == 404
    assert studied.picture("f" * 32, **bearer("test-li")).status_code == 404
    assert studied.looked() == []
    assert studied.picture(call, **bearer("test-li")).status_code == 200
    assert len(studied.looked()) == 1


def test_the_form_and_the_api_show_a_study_as_well(studied: Studied, tmp_path: Path) -> None:
    """Whoever opens the form by cookie, sends it with a token, or asks as a program, is named; of one day, once."""
    call = studied.read()
    ward = studied.ward
    door = Door(ward, tmp_path / "door")
    assert door.look(call).status_code == 200
    (entry,) = studied.looked()
    assert entry.body["study"] == STUDY  # as the call's own entries name it
    assert door.look(call).status_code == 200
    sent = {"token": TOKENS["test-wang"], "decision": "ACCEPT"}
    assert door.client.post(f"/decide/{call}", data=sent, headers={"Origin": HOST}).status_code == 201
    assert door.client.get(f"/decide/{call}").status_code == 200
    assert door.client.get(f"/decide/{call}", headers=bearer("test-li")).status_code == 200
    assert who(studied.looked()) == [PSEUDONYMS.of("reader", name) for name in BOTH]
    kinds = [entry.kind for entry in ward.log.entries() if entry.kind in {Kind.VIEWED, Kind.HUMAN_DECISION}]
    assert kinds == [Kind.VIEWED, Kind.VIEWED, Kind.HUMAN_DECISION]


def test_a_reader_who_asks_for_json_is_named_too(studied: Studied) -> None:
    """The same address gives the same findings to a program."""
    studied.read()
    path = f"/studies/{studied.spool.study_uid}"
    assert studied.client.get(path).status_code == 200
    assert studied.looked() == []
    assert studied.client.get(path, headers=bearer("test-li")).status_code == 200
    assert len(studied.looked()) == 1
    studied.log.full = AuditUnavailable("the disk is full", 28)
    answer = studied.client.get(path, headers=bearer("test-wang"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "AUDIT_UNAVAILABLE")


def test_the_next_day(studied: Studied) -> None:
    """A day is China's: it begins at 16:00 UTC, and a look of the new day is an entry of its own."""
    studied.read()
    for hours, entries in ((0, 1), (15.5, 1), (1, 2), (23, 2), (1, 3)):
        studied.ward.clock.passes(hours=hours)
        assert studied.look(**bearer("test-li")).status_code == 200
        assert len(studied.looked()) == entries


def test_a_restart_adds_nothing(studied: Studied, tmp_path: Path) -> None:
    """Another process, with the log read anew from the disk, knows who was named today."""
    studied.read()
    studied.look(**bearer("test-li"))
    ward = studied.ward
    (before,) = studied.looked()
    ward.log.close()
    log = opened(tmp_path / "audit", ward.clock)
    identities = IdentityMap(tmp_path / "identity", PeriodKeys(tmp_path / "keys"))
    looks = Looks(studied.desk, log, studied.store, identities, ward.clock)
    reader = studied.desk.named("test-li")
    assert reader is not None
    looks.at_study(reader, studied.spool.study_uid)
    assert [entry for entry in log.entries() if entry.kind is Kind.VIEWED] == [before]
    log.close()


@pytest.mark.parametrize("refused", [AuditUnavailable("the disk is full", 28), AuditCorrupt("tile", "changed")])
def test_a_log_that_takes_nothing_shows_nothing(studied: Studied, refused: Exception) -> None:
    """503 with a code, and nothing of the study, by every way; who is nobody to us sees the words, as before."""
    call = studied.read()
    studied.log.full = refused
    for lang in ("en", "zh"):
        answer = studied.look(f"?lang={lang}", **bearer("test-li"))
        assert (answer.status_code, "AUDIT_UNAVAILABLE" in answer.text) == (503, True)
        assert PROBLEMS["AUDIT_UNAVAILABLE"][lang] in answer.text
        for shown in ("cm3", "<img", call, studied.spool.study_uid):
            assert shown not in answer.text
    picture = studied.picture(call, **bearer("test-li"))
    assert (picture.status_code, picture.headers["content-type"]) == (503, "application/json")
    form = studied.client.get(f"/decide/{call}", headers=bearer("test-li"))
    assert (form.status_code, "cm3" in form.text) == (503, False)
    sent = {"token": TOKENS["test-li"], "decision": "ACCEPT"}
    taken = studied.client.post(f"/decide/{call}", data=sent, headers={"Origin": HOST})
    assert (taken.status_code, "cm3" in taken.text) == (503, False)
    assert "cm3" in studied.look().text
    studied.log.full = None
    assert studied.looked() == []
    assert "cm3" in studied.look(**bearer("test-li")).text


def test_a_full_disk_later_in_the_day(studied: Studied) -> None:
    """Who was named this morning is asked for again: an entry that is not durable for sure is none."""
    studied.read()
    assert studied.look(**bearer("test-li")).status_code == 200
    studied.log.full = AuditUnavailable("the disk is full", 28)
    assert studied.look(**bearer("test-li")).status_code == 503


def test_the_program_hears_of_a_log_that_is_full(ward: Ward, tmp_path: Path) -> None:
    """The API answers 503 with the log's own code, and shows nothing."""

    class Full:
        """A log that takes nothing."""

        def append(self, _draft: Draft) -> Entry:
            """See service.looks.Writer."""
            raise AuditUnavailable("the disk is full", 28)

    call = ward.call()
    answer = Door(ward, tmp_path, Full()).look(call)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "AUDIT_UNAVAILABLE")
    assert "measurements" not in answer.text


def test_who_is_nobody_is_not_named(studied: Studied) -> None:
    """A token that is nobody's brings 401, no page and no entry, as bearer and typed; without one there is no name."""
    call = studied.read()
    path = f"/studies/{studied.spool.study_uid}?lang=en"
    for answer in (
        studied.look(**NOBODY),
        studied.client.post(path, data={"token": "x" * 40}),
        studied.client.get(f"/decide/{call}", headers=NOBODY),
    ):
        assert (answer.status_code, "UNAUTHENTICATED" in answer.text) == (401, True)
        assert not re.search(rf"cm3|<img|{studied.spool.study_uid}", answer.text)
    assert 'name="token"' in studied.look(**NOBODY).text  # another try
    assert studied.picture(call, **NOBODY).status_code == 401
    proxy = {"Authorization": "Basic " + TOKENS["test-li"]}
    for headers in ({}, proxy, {"Cookie": "zhiying_reader=test-li.9999999999.x"}):
        assert "cm3" in studied.look(**headers).text
    assert studied.looked() == []


def test_what_is_not_there_is_not_looked_at(studied: Studied) -> None:
    """404 names nobody."""
    for study in ("1.2.840.99999.7.3", "x"):
        assert studied.look(study=study, **bearer("test-li")).status_code == 404
    assert studied.client.get(f"/decide/{'0' * 32}", headers=bearer("test-li")).status_code == 404
    assert studied.looked() == []


def test_a_study_that_no_run_has_seen(studied: Studied) -> None:
    """It has a name of this month, and a row that leads back to it, as no run has written one."""
    assert studied.look(**bearer("test-li")).status_code == 200
    (entry,) = studied.looked()
    assert entry.body["study"] == name_of(studied, BEGAN)
    again = IdentityMap(studied.root / "identity", PeriodKeys(studied.root / "keys"))
    (row,) = again.find(name_of(studied, BEGAN))
    assert (row.study_uid, row.patient, row.patient_id) == (studied.spool.study_uid, None, "")


def test_a_study_whose_month_was_erased(studied: Studied) -> None:
    """The old name is never made again; the look has a name of its own month."""
    studied.read()
    old = name_of(studied)
    identities = IdentityMap(studied.root / "identity", PeriodKeys(studied.root / "keys"))
    identities.erase(f"{THEN:%Y-%m}", now=BEGAN)
    assert studied.look(**bearer("test-li")).status_code == 200
    (entry,) = studied.looked()
    assert entry.body["study"] == name_of(studied, BEGAN) != old
    assert len(identities.find(str(entry.body["study"]))) == 1


def test_keys_that_cannot_be_read_show_nothing(studied: Studied, tmp_path: Path) -> None:
    """Without a name for the study there is no entry: 503, and no error that nobody has given a code."""
    studied.read()
    (tmp_path / "keys").write_text("a file where the folder should be")
    answer = studied.look(**bearer("test-li"))
    assert (answer.status_code, "AUDIT_UNAVAILABLE" in answer.text) == (503, True)


def test_a_call_of_no_known_study_is_not_shown(ward: Ward, tmp_path: Path) -> None:
    """A result whose intent is lost cannot be logged as looked at, so that it is not shown to a reader."""

    call = "a" * 32
    ward.put(Kind.CALL_RESULT, f"result:{call}", body(Kind.CALL_RESULT), call)
    answer = Door(ward, tmp_path).look(call)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "AUDIT_UNAVAILABLE")


def test_the_newest_run_names_the_study(studied: Studied) -> None:
    """Runs of two months have two names; page and pictures take one, so that a look stays one entry."""
    call = studied.read()
    december = datetime(2026, 12, 1, tzinfo=UTC)
    studied.run(created_at=december)
    studied.look(**bearer("test-li"))
    studied.picture(call, **bearer("test-li"))
    (entry,) = studied.looked()
    assert entry.body["study"] == name_of(studied, december)


def test_another_role_is_another_entry(studied: Studied) -> None:
    """A reader whose role was changed at noon is no conflict: both are said."""
    studied.read()
    for role in ("RADIOLOGIST", "CLINICAL_OWNER"):
        studied.looks.at_study(Reader("test-li", role, "0" * 64, "sha256:" + "7" * 64), studied.spool.study_uid)
    assert [entry.body["role"] for entry in studied.looked()] == ["RADIOLOGIST", "CLINICAL_OWNER"]


def test_many_windows_at_once(studied: Studied) -> None:
    """Twenty requests at the same moment are one entry."""
    studied.read()
    reader = studied.desk.named("test-li")
    assert reader is not None
    gate = threading.Barrier(20)

    def look() -> None:
        gate.wait()
        studied.looks.at_study(reader, studied.spool.study_uid)

    threads = [threading.Thread(target=look) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(studied.looked()) == 1


@pytest.mark.parametrize(
    ("moment", "day"),
    [("2026-12-01T15:59:59.999999", "2026-12-01"), ("2026-12-01T16:00:00", "2026-12-02")],
)
def test_the_verifier_makes_the_same_key(moment: str, day: str) -> None:
    """Two programs that share no code agree on the key, also a moment before and after midnight in China."""
    at = datetime.fromisoformat(moment)
    draft = viewed("5" * 32, "8" * 32, "RADIOLOGIST", datetime.fromisoformat(day).date())
    assert draft.key in verifier.looks(at, "5" * 32, "8" * 32, "RADIOLOGIST")
    later = viewed("5" * 32, "8" * 32, "RADIOLOGIST", datetime.fromisoformat(day).date() + timedelta(days=1))
    assert later.key not in verifier.looks(at, "5" * 32, "8" * 32, "RADIOLOGIST")
    # The day is read first, and the log may take a while.
    within = datetime.fromisoformat("2026-12-01T16:09:59"), datetime.fromisoformat("2026-12-01T16:10:00")
    before = viewed("5" * 32, "8" * 32, "RADIOLOGIST", date(2026, 12, 1))
    assert [before.key in verifier.looks(one, "5" * 32, "8" * 32, "RADIOLOGIST") for one in within] == [True, False]


def test_an_export_of_one_study_says_who_looked_at_it(studied: Studied) -> None:
    """A package that is asked for by study holds the looks at it, and those at no other."""
    studied.read()
    studied.look(**bearer("test-li"))
    other = viewed("4" * 32, "8" * 32, "RADIOLOGIST", BEGAN.date())
    studied.ward.log.append(other)
    entries = list(studied.ward.log.entries())
    wanted = selection(entries, Asked(study=name_of(studied)))
    assert [entry for entry in entries if entry.kind is Kind.VIEWED and wanted(entry)] == studied.looked()[:1]
    everything = selection(entries, Asked())
    assert all(everything(entry) for entry in studied.looked())
