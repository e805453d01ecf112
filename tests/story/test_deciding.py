"""A radiologist decides in a real browser: two clicks, in both languages, and one entry with what was said."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from audit.entry import Kind
from models.manifest import parse_manifest
from tests.simulators.desktop import browser, served
from tests.simulators.pacs import COMPREHENSIVE_3D_SR, FakePacs
from tests.simulators.readers import PSEUDONYMS, TOKENS, TRAINING, Door
from tests.simulators.site import Site, write_series
from tests.simulators.small_model import as_json, manifest_fields
from tests.simulators.watched import Ward


@pytest.mark.parametrize(
    ("lang", "accept", "send", "recorded"), [("zh", "采纳", "发送", "已记录"), ("en", "Accept", "Send", "Recorded")]
)
def test_two_clicks_accept(tmp_path: Path, lang: str, accept: str, send: str, recorded: str) -> None:
    """Once the token was given, choose and send: exactly one entry; no script, nothing foreign, no complaint."""
    ward = Ward(tmp_path)
    ward.in_use()
    door = Door(ward, tmp_path)
    door.manifest = parse_manifest(as_json(manifest_fields()))
    first, second = ward.call(), ward.call()
    with served(door.app) as origin, browser() as (page, complaints):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{origin}/decide/{first}?lang={lang}")
        # What an acceptance does not need is out of the way.
        assert not page.locator(".why").is_visible()
        page.get_by_role("radio", name=accept, exact=True).click()
        assert not page.locator(".why").is_visible()
        page.locator("[name=token]").fill(TOKENS["test-li"])
        page.screenshot(path=tmp_path / f"{lang}-empty.png")
        page.get_by_role("button", name=send).click()
        assert recorded in page.locator("#done").inner_text()
        page.screenshot(path=tmp_path / f"{lang}-done.png")
        before = len(ward.decisions())

        page.goto(f"{origin}/decide/{second}?lang={lang}")
        assert page.locator("#as").inner_text() == "test-li"
        page.get_by_role("radio", name=accept, exact=True).click()
        page.get_by_role("button", name=send).click()

        assert recorded in page.locator("#done").inner_text()
        assert complaints == []
        assert all(url.startswith((origin, "data:")) for url in asked)
    entries = ward.decisions()
    ward.log.close()
    assert (before, len(entries)) == (1, 2)
    assert entries[1].call == second
    assert dict(entries[1].body) == {
        "decision": "ACCEPT",
        "reasons": (),
        "significant": "NO",
        "reader": PSEUDONYMS.of("reader", "test-li"),
        "role": "RADIOLOGIST",
        "training": TRAINING,
        "channel": "FORM",
        "seconds": None,
        "blinded": "NO",
        "difference": (),
        "concordance": None,
    }


def test_a_modification_in_the_browser(tmp_path: Path) -> None:
    """What a decision asks for comes up with its choice; a reason left out is said, and what was filled in stays."""
    ward = Ward(tmp_path)
    ward.in_use()
    door = Door(ward, tmp_path)
    door.manifest = parse_manifest(as_json(manifest_fields()))
    call = ward.call()
    with served(door.app) as origin, browser() as (page, _complaints):
        page.goto(f"{origin}/decide/{call}?lang=en")
        page.get_by_role("radio", name="Modify").click()
        assert page.locator(".why").is_visible()
        page.locator("[name='after.0']").fill("1890.0")
        page.get_by_role("radio", name="Yes").click()
        page.locator("[name=token]").fill(TOKENS["test-li"])
        page.get_by_role("button", name="Send").click()
        assert "one or more" in page.locator("#problem").inner_text()
        assert ward.decisions() == []

        page.get_by_label("a measured value is wrong").click()
        page.locator("[name=token]").fill(TOKENS["test-li"])
        page.screenshot(path=tmp_path / "modify.png")
        page.get_by_role("button", name="Send").click()
        assert "Recorded: Modify" in page.locator("#done").inner_text()
    (entry,) = ward.decisions()
    ward.log.close()
    assert (entry.body["reasons"], entry.body["significant"]) == (("MEASURE",), "YES")
    assert entry.body["difference"] == ({"code": "118565006", "before": "1951.3", "after": "1890.0", "unit": "cm3"},)


@pytest.mark.timeout(600)
def test_from_the_report_to_the_decision_and_back(tmp_path: Path) -> None:
    """The link in the report that the PACS got leads to the form of its call; the study then says who decided what."""
    digest = hashlib.sha256(TOKENS["test-li"].encode()).hexdigest()
    reader = f'[[readers]]\nname = "test-li"\nrole = "RADIOLOGIST"\ntoken_sha256 = "{digest}"\ntraining = "{TRAINING}"'
    with FakePacs() as pacs, browser() as (page, complaints):
        site = Site(tmp_path / "site", pacs, decides=True, more=reader)
        site.approve(site.install_model())
        site.start()
        try:
            assert set(site.send(write_series(tmp_path / "images"))) == {0}
            run = site.run_in("RELEASED")
            (report,) = pacs.held(COMPREHENSIVE_3D_SR)
            page.goto(link_in(report))
            page.get_by_role("radio", name="采纳", exact=True).click()
            page.locator("[name=token]").fill(TOKENS["test-li"])
            page.get_by_role("button", name="发送").click()
            assert "已记录" in page.locator("#done").inner_text()

            for lang, accepted in (("zh", "采纳"), ("en", "Accept")):
                page.goto(f"http://127.0.0.1:{site.http_port}/studies/{run.study_uid}?lang={lang}")
                assert page.locator(".decided td").first.inner_text() == accepted
                # Who has just decided is a reader, and sees the outline.
                assert page.locator("img").evaluate("image => image.complete && image.naturalWidth") > 0
                page.screenshot(path=tmp_path / f"study-{lang}.png", full_page=True)
            page.locator("section a").click()
            assert page.url == f"{link_in(report)}?lang=en"
            assert complaints == []
            command = [Path(sys.executable).with_name("zhiying"), "studies", "show", run.study_uid, "--json"]
            done = subprocess.run([*command, "--config", site.config_file], capture_output=True, text=True, check=True)
        finally:
            site.stop()
        entries = [entry for entry in site.entries() if entry.kind is Kind.HUMAN_DECISION]
        (intent,) = (entry for entry in site.entries() if entry.kind is Kind.CALL_INTENT)
        looks = [entry for entry in site.entries() if entry.kind is Kind.VIEWED]
    assert [entry.call for entry in entries] == [run.call]
    # Form, page and picture are one look at one study, under the name that the call has for it.
    assert {(entry.body["reader"], entry.body["study"]) for entry in looks} == {
        (entries[0].body["reader"], intent.body["study"])
    }
    assert len(looks) <= 2  # two where midnight came between
    assert looks[0].index < entries[0].index
    (shown,) = json.loads(done.stdout)["runs"]
    assert [(one["decision"], one["reader"], one["index"]) for one in shown["decisions"]] == [
        ("ACCEPT", entries[0].body["reader"], entries[0].index)
    ]


def link_in(report: Dataset) -> str:
    """The address in a report, found by the name of its item."""
    (statements,) = (item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "C0034375")
    (link,) = (item for item in statements.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "DECIDE_AT")
    return str(link.TextValue)
