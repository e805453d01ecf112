"""`zhiying reports` and the doctor's line: what waits and what is dead is seen, and told again with one command."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.config import load
from service.doctor import FAIL, OK, Finding, _receivers
from service.errors import ConfigInvalid
from service.reporting.book import Book, Row, State
from service.reporting.receivers import receivers_of
from tests.simulators.certificates import Authority
from tests.simulators.fhir_server import Record
from tests.simulators.mllp import LOOPBACK, Ris

RELEASED = datetime(2026, 11, 23, 16, 7, 12, tzinfo=UTC)
CALLS = ("a" * 32, "b" * 32, "c" * 32)


class Desk:
    """A data folder with a book in it, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.data, self.config = folder / "data", folder / "zhiying.toml"
        self.write_config(f'[reports.hl7]\nhost = "{LOOPBACK}"\nport = 1\n')

    def write_config(self, text: str) -> None:
        """With these sections."""
        self.config.write_text(f'[data]\nfolder = "{self.data}"\n{text}', encoding="utf-8")

    def fill(self) -> None:
        """One that waits, one that is dead, one that was taken."""
        book = Book(self.data / "reports")
        for number, (call, state) in enumerate(zip(CALLS, (State.WAITING, State.DEAD, State.DELIVERED), strict=True)):
            at = RELEASED + timedelta(seconds=number)
            book.add(
                Row("ris", call, number, f"AI{number}", at, state, at, code="HL7_AE" if number == 1 else None), "1 x"
            )
        book.close()

    def run(self, *words: str) -> Result:
        """One command."""
        return CliRunner().invoke(app, ["reports", *words, "--config", str(self.config)], env={"COLUMNS": "200"})

    def listed(self, *words: str) -> list[tuple[str, str, str | None]]:
        """What `list` says, by its JSON."""
        result = self.run("list", "--json", *words)
        assert result.exit_code == 0, result.output
        return [(one["call"], one["state"], one["code"]) for one in json.loads(result.stdout)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """One of its own."""
    return Desk(tmp_path)


def test_list_shows_what_waits_and_what_is_dead(desk: Desk) -> None:
    """Oldest first, with its code; what was taken is in the log."""
    desk.fill()
    waiting, dead = (CALLS[0], "WAITING", None), (CALLS[1], "DEAD", "HL7_AE")
    assert desk.listed() == [waiting, dead]
    assert desk.listed("--dead") == [dead]
    assert "HL7_AE" in desk.run("list").stdout


def test_looking_makes_no_book(desk: Desk) -> None:
    """Where nobody was ever to be told there is nothing, and nothing is made."""
    assert desk.listed() == []
    result = desk.run("retry", "ris", CALLS[0])
    assert (result.exit_code, "NOT_FOUND" in result.output) == (1, True)
    assert not desk.data.exists()


def test_retry(desk: Desk) -> None:
    """Only of what is dead, and only to whom the configuration names."""
    desk.fill()
    assert desk.run("retry", "ris", CALLS[1]).exit_code == 0
    assert desk.listed() == [(CALLS[0], "WAITING", None), (CALLS[1], "WAITING", None)]
    for words, code in [
        (("ris", CALLS[0]), "COMMAND_REFUSED"),
        (("ris", "d" * 32), "NOT_FOUND"),
        (("record", CALLS[1]), "COMMAND_REFUSED"),
    ]:
        result = desk.run("retry", *words)
        assert (result.exit_code, code in result.output) == (1, True), result.output


def looked(desk: Desk) -> list[Finding]:
    """The doctor's lines on receivers."""
    return list(_receivers(load(desk.config)))


def test_the_doctor_looks_whether_receivers_answer(desk: Desk) -> None:
    """A connection for MLLP, which can be asked no more; /metadata for FHIR; and no message for either."""
    with Ris() as ris, Record() as record:
        desk.write_config(
            f'[reports.hl7]\nhost = "{LOOPBACK}"\nport = {ris.port}\n[reports.fhir]\nurl = "{record.url}"\n'
        )
        assert [(one.check, one.result) for one in looked(desk)] == [("reports to ris", OK), ("reports to record", OK)]
        assert (ris.messages, record.bundles, record.paths) == ([], [], ["/fhir/metadata"])
    assert [(one.check, one.result) for one in looked(desk)] == [("reports to ris", FAIL), ("reports to record", FAIL)]
    desk.write_config("")
    assert looked(desk) == []


def test_the_doctor_reads_the_tls_files(desk: Desk, tmp_path: Path) -> None:
    """A file that cannot be used is named; a receiver with another authority's certificate fails."""
    papers = Authority(tmp_path / "papers")
    ours = papers.issue("zhiying")
    with Ris(files=papers.issue("ris")) as ris:
        section = f'[reports.hl7]\nhost = "{LOOPBACK}"\nport = {ris.port}\n'
        names = (("certificate", ours.certificate), ("key", ours.key), ("authority", ours.authority))
        tls = "[reports.hl7.tls]\n" + "".join(f'{name} = "{path}"\n' for name, path in names)
        desk.write_config(section + tls)
        assert [one.result for one in looked(desk)] == [OK]
        other = Authority(tmp_path / "other").issue("zhiying")
        desk.write_config(section + tls.replace(str(ours.authority), str(other.authority)))
        assert [one.result for one in looked(desk)] == [FAIL]
        desk.write_config(section + tls.replace(str(ours.key), str(tmp_path / "none")))
        assert all(one.result == FAIL and "TLS_FILE_UNREADABLE" in one.what for one in looked(desk))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[reports.hl7]\nhost = 'ris'\n", "reports.hl7.port"),
        ("[reports.hl7]\nport = 2575\n", "reports.hl7.host"),
        ("[reports.hl7]\nhost = 'ris'\nport = 2575\ncharset = 'UTF-8'\n", "reports.hl7.charset"),
        ("[reports.hl7]\nhost = 'ris'\nport = 2575\nname = 'The RIS'\n", "reports.hl7.name"),
        ("[reports.hl7]\nhost = 'ris'\nport = 2575\nstatus = 'F'\n", "reports.hl7.status"),
        ("[reports.fhir]\nurl = 'ftp://record/fhir'\n", "reports.fhir.url"),
        ("[reports.fhir]\nurl = 'https://user:password@record/fhir'\n", "reports.fhir.url"),
        (
            "[reports.fhir]\nurl = 'http://r/fhir'\n[reports.fhir.tls]\ncertificate='a'\nkey='b'\nauthority='c'\n",
            "https",
        ),
        ("[reports.hl7]\nhost='r'\nport=1\nname='record'\n[reports.fhir]\nurl='http://r/fhir'\n", "same name"),
        ("[reports.mail]\nto = 'x'\n", "reports.mail"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(desk: Desk, text: str, named: str) -> None:
    """By the name of its key, when the file is read."""
    desk.write_config(text)
    with pytest.raises(ConfigInvalid, match=named):
        load(desk.config)


def test_nobody_is_told_by_default(desk: Desk) -> None:
    """Off unless a receiver is named."""
    assert receivers_of(load(None)) == ()
    desk.write_config('[reports.hl7]\nhost = "ris"\nport = 2575\n[reports.fhir]\nurl = "https://record/fhir"\n')
    assert [(one.name, one.form) for one in receivers_of(load(desk.config))] == [
        ("ris", "HL7_ORU_R01"),
        ("record", "FHIR_R4"),
    ]
