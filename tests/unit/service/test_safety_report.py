"""zhiying review report: of a month that is over the same each time; the digest in the log is the files'."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from audit.entry import Draft, Kind
from ethics_review.safety import Figures, figures
from models.ref import ModelRef
from service import wire
from service.cli import app
from service.errors import CommandRefused
from service.reports.document import LANGUAGES, Language
from service.reports.page import write
from service.reports.safety import About, describe
from service.safety_report import span
from tests.simulators.audit_log import MODEL, body
from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site
from tests.simulators.told_log import Told

THEN = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Site, ModelRef]]:
    """A site whose log has a permitted call of its model, and a refusal."""
    with FakePacs() as pacs:
        site = Site(tmp_path, pacs)
        ref = site.install_model()
        model = {"name": ref.name, "version": ref.version, "digest": ref.digest}
        with wire.offline_of(site.config) as opened:
            opened.log.append(Draft(Kind.CALL_INTENT, "i", {**body(Kind.CALL_INTENT), "model": model}, "c" * 32))
            opened.log.append(Draft(Kind.DENIED, "d", {**body(Kind.DENIED), "model": model}))
        yield site, ref


def run(site: Site, *words: str | Path) -> Result:
    """One command."""
    return CliRunner().invoke(app, ["review", "report", *map(str, words), "--config", str(site.config_file)])


def this_month() -> str:
    """The month of the entries, in China."""
    begin, _ = span("2000-01", 1)
    return f"{wire.now().astimezone(begin.tzinfo):%Y-%m}"


def test_on_record(place: tuple[Site, ModelRef], tmp_path: Path) -> None:
    """The entry names model, period, entries and the digest of SHA256SUMS, which names the files."""
    site, ref = place
    month = this_month()
    done = run(site, ref.name, "--period", month, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    sums = (tmp_path / "out" / "SHA256SUMS").read_bytes()
    assert told["report"] == f"sha256:{hashlib.sha256(sums).hexdigest()}"
    assert (told["calls"], told["over"]) == (1, False)
    entry = site.entries()[-1]
    assert (entry.kind, entry.index) == (Kind.SAFETY_REPORT, told["entry"])
    assert entry.body == {
        "model": {"name": ref.name, "version": ref.version, "digest": ref.digest},
        "period": month,
        "months": 1,
        "first": 0,
        "last": 2,
        "report": told["report"],
    }
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"SHA256SUMS", *(f"safety.{lang}.{kind}" for lang in LANGUAGES for kind in ("html", "pdf"))}


def test_again(place: tuple[Site, ModelRef], tmp_path: Path) -> None:
    """A month that is not over has grown by its own report, and says so; made of the same entries it is the same."""
    site, ref = place
    for name in ("one", "two"):
        assert run(site, ref.name, "--period", this_month(), "--out", tmp_path / name).exit_code == 0
    first, second = (entry.body for entry in site.entries() if entry.kind is Kind.SAFETY_REPORT)
    assert (first["last"], second["last"]) == (2, 3)
    assert "not over" in (tmp_path / "one" / "safety.en.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--period", "2026-13"), "YYYY-MM"),
        (("--period", "2000-01"), "no entry in this period"),
        (("--period", "2199-01"), "has not begun"),
        (("--period", "2026-01", "--months", "0"), "1 to 24 months"),
        (("--period", "0000-01"), "of our time"),
    ],
)
def test_refused(place: tuple[Site, ModelRef], tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    """A month that is none, or of which the log knows nothing: one line, no file, no entry."""
    site, ref = place
    before = len(site.entries())
    done = run(site, ref.name, *words, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert why in done.stderr
    assert not (tmp_path / "out").exists()
    assert len(site.entries()) == before


@pytest.mark.parametrize(
    ("period", "months", "end"), [("2026-11", 1, (2026, 12)), ("2026-11", 2, (2027, 1)), ("2026-12", 12, (2027, 12))]
)
def test_span(period: str, months: int, end: tuple[int, int]) -> None:
    """Civil months of China: the first instant of November is 16:00 UTC of the last day of October."""
    begin, until = span(period, months)
    assert (until.year, until.month, until.day) == (*end, 1)
    assert begin.astimezone(UTC).hour == 16


def test_span_has_an_end() -> None:
    """More months than any follow-up are a mistake."""
    with pytest.raises(CommandRefused):
        span("2026-11", 25)


def counted(log: Told) -> Figures:
    """The figures of November."""
    return figures(log.entries, str(MODEL["digest"]), *THEN, decision_h=24, cases=frozenset())


def text(found: Figures, language: Language, *, over: bool = True) -> str:
    """The page."""
    ref = ModelRef("brain-extraction-t1", "1.0.2", str(MODEL["digest"]))
    return write(describe(found, About(ref, "test-site", "2026-11", 1, over, 24), language)).decode()


@pytest.mark.parametrize("language", LANGUAGES)
def test_says_what_was_counted(language: Language) -> None:
    """Codes and counts stand in the page; what happened too few times says so, and has no share."""
    log = Told()
    for _ in range(3):
        log.result(log.call())
    log.put(Kind.FAILED, log.call(), stage="INFERRED", code="ENGINE_DIED")
    log.put(Kind.EVALUATION, metric="INPUT_DRIFT", outcome="ALERT", model=MODEL)
    page = text(counted(log), language)
    few = {"zh": "1 / 4, 少于 30 次，不给出比例", "en": "1 / 4, fewer than 30, too few for a share"}[language]
    assert few in page
    assert {"zh": "结果过少", "en": "too few results"}[language] in page
    for word in ("ENGINE_DIED", "INFERRED", "INPUT_DRIFT", "ALERT", str(MODEL["digest"])):
        assert word in page


def test_a_share_with_its_interval() -> None:
    """From thirty calls on."""
    log = Told()
    for _ in range(40):
        log.result(log.call())
    found = counted(log)
    assert found.failures.value == "0.000000"
    assert f"Share of failures: 0.000000 [{found.failures.low}, {found.failures.high}] (0 / 40)" in text(found, "en")


def test_over_or_not() -> None:
    """A part of a period is not passed off as the whole."""
    found = counted(Told())
    assert "The period is not over" not in text(found, "en")
    assert "The period is not over" in text(found, "en", over=False)
    assert "期间尚未结束" in text(found, "zh", over=False)
