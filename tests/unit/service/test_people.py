"""What a package holds for people and other systems: every number is of its own entries, and nobody's data is in it."""

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from audit import verifier
from audit.entry import Draft, Entry, Kind
from audit.export import Evidence, ExportInvalid, Scope, export
from audit.note import parse_note
from audit.package import CHUNK
from dicom_bridge.audit_rules import events_of
from inference.errors import EngineDied
from service.call_book import STATES, Call, CallBook, Told
from service.errors import PatientDataFound
from service.fhir_audit import to_fhir
from service.people import People, scan_of
from service.phi_scan import Scan
from service.summary import About, render
from service.tables import safe
from service.tally import Approved, Tally
from tests.simulators.audit_events import CANARIES, REPORTER
from tests.simulators.audit_log import MODEL, body
from tests.simulators.audit_package import NAMED, START, Hospital, call_id, check, members
from tests.simulators.reviewer import Reviewer
from tests.simulators.story import SERIES, STUDY, World, install, loaded

PLANTED = tuple(word for word in CANARIES if word != "测试")  # that one is in the name of the tests' reviewer
TO = {"recipient": "TEST Reviewer", "purpose": "YEARLY_REVIEW", "contract": "=1+1"}
ABOUT = About("hospital.example/audit", {"from": None, "to": None}, {}, TO)

BOOT = "b0" * 16


@pytest.fixture(scope="module")
def hospital() -> Hospital:
    """Every end that a call can have, over more than one chunk of the log."""
    made = Hospital()
    made.approve()
    for number in range(40):
        made.log.now += timedelta(seconds=number)
        made.call(number)
    made.intent(100)
    made.intent(101, model=dict(MODEL) | {"name": "lung", "version": "2.0"})
    made.result(101)
    made.log.now += timedelta(hours=3)
    for number, code in enumerate(("NO_APPROVAL", "CONDITION_NOT_MET", "CONDITION_NOT_MET")):
        made.add(Kind.DENIED, f"denied:{number}", body(Kind.DENIED) | {"code": code}, call_id(200 + number))
    made.intent(300)
    made.add(Kind.FAILED, "failed:0", body(Kind.FAILED), call_id(300))
    made.add(Kind.FAILED, "failed:1", body(Kind.FAILED) | {"stage": "READ", "fault": "SENDER"})
    for number in range(CHUNK + 20):
        made.add(Kind.HEARTBEAT, f"beat:{number}", {"interval_s": 60})
    made.add(Kind.EXPORT, "export:1", body(Kind.EXPORT))
    for number, decision in enumerate(("ACCEPT", "ACCEPT", "MODIFY", "NOT_USED")):
        content = body(Kind.HUMAN_DECISION) | {"decision": decision}
        made.add(Kind.HUMAN_DECISION, f"decision:{number}", content, call_id(number))
    for number, outcome in enumerate(("OK", "TOO_FEW", "SUSPEND")):
        content = body(Kind.EVALUATION) | {"outcome": outcome, "model": NAMED}
        evidence = made.add(Kind.EVALUATION, f"evaluation:{number}", content).index
    made.tightened("SUSPEND", "SUBGROUP_GAP", evidence)
    return made


def package(hospital: Hospital, folder: Path, scope: Scope | None = None, words: tuple[str, ...] = ()) -> Path:
    """The whole export."""
    about = ABOUT if scope is None else replace(ABOUT, filter=scope.filter)
    companion = People(hospital.log, REPORTER, about, scan_of(words, PLANTED))
    out = folder / "package.zip"
    export(hospital.log, out, scope, Evidence(checkpoint=hospital.witnessed(), companion=companion))
    return out


@pytest.fixture(scope="module")
def parts(hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The members of a package of all."""
    return members(package(hospital, tmp_path_factory.mktemp("package")).read_bytes())


def entries_in(parts: Mapping[str, bytes]) -> list[tuple[int, dict[str, Any]]]:
    """Index and JSON of every entry that the package has as bytes, by the verifier's own reader."""
    size, found = json.loads(parts["MANIFEST.json"])["size"], []
    for name, data in sorted(parts.items()):
        if name.startswith("entries/"):
            first = int(name[8:])
            leaves = verifier.leaves_of(data, min(CHUNK, size - first))
            found += [(first + at, json.loads(leaf)) for at, (known, leaf) in enumerate(leaves) if known]
    return found


class Page(HTMLParser):
    """The tables of a page by their ids, all its tags and attributes; tags must be closed in order."""

    VOID = frozenset({"meta"})

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(data.decode())
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(str(dict(attrs)["id"]), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in {"td", "th"}:
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        if self._open and self._open[-1] in {"td", "th"}:
            self._rows[-1][-1] += data

    def counts(self, name: str) -> Counter[tuple[str, ...]]:
        """A table's rows but the head: all cells but the last, and the number in the last."""
        return Counter({tuple(row[:-1]): int(row[-1].replace(",", "")) for row in self.tables.get(name, [[]])[1:]})


def rows(parts: Mapping[str, bytes], name: str) -> list[dict[str, str]]:
    """A table as a reader of RFC 4180 reads it."""
    data = parts[f"tables/{name}.csv"]
    assert data.startswith(b"\xef\xbb\xbf")
    assert data.count(b"\n") == data.count(b"\r\n")
    assert data.endswith(b"\r\n")
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))


def moment(text: str) -> datetime:
    """A time of an entry."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def test_the_verifier_takes_it(tmp_path: Path) -> None:
    """With all members, also when a filter leaves some out; one byte of them changed is seen."""
    hospital = Hospital()
    hospital.approve()
    for number in range(3):
        hospital.call(number)
    hospital.add(Kind.DENIED, "denied:0", body(Kind.DENIED))
    for scope in (None, Scope(filter={"decision": "denied"}, selects=lambda entry: entry.kind is Kind.DENIED)):
        data = package(hospital, tmp_path, scope).read_bytes()
        (tmp_path / "package.zip").unlink()
        report = check(data, hospital.policy(tmp_path))
        assert (report.verdict, report.totals["FAIL"]) == ("PASS", 0)
        for name in ("summary.html", "phi_scan.json", "tables/calls.csv", "fhir/0000000000000.ndjson"):
            content = members(data)[name]
            spoiled = data.replace(content, content[:-2] + b"x" + content[-1:])
            assert check(spoiled, hospital.policy(tmp_path)).verdict == "FAIL"


@pytest.mark.parametrize(
    ("state", "kinds", "came_to"),
    [
        ("SHADOW", ("CALL_RESULT",), "SHADOW"),
        ("SHADOW", (), "NO_END"),
        ("SHADOW", ("FAILED",), "FAILED"),
        ("LIVE", ("CALL_RESULT",), "NOT_RELEASED"),
        ("LIVE", ("CALL_RESULT", "RELEASED"), "RELEASED"),
        ("SHADOW", ("CALL_RESULT", "RELEASED"), "RELEASED"),
    ],
)
def test_a_shadow_run_is_no_result_that_was_forgotten(state: str, kinds: tuple[str, ...], came_to: str) -> None:
    """A result that was not to be released is told apart from one that was not; what was released is told as such."""
    told = {kind: Told(1, kind, "", "c" * 32, {}) for kind in kinds}
    call = Call("c" * 32, {"CALL_INTENT": Told(0, "CALL_INTENT", "", "c" * 32, {"state": state}), **told})
    assert call.state == came_to
    assert came_to in STATES


def test_a_reviewers_requirements_are_no_patients_data() -> None:
    """A registration number in Chinese, an id with a date, a maker's Chinese name: signed words, known to the scan."""
    require = ["registration:国械注准20253210001", "pia:PIA-2026-03-01", "opt_out_check"]
    note = Reviewer().note(conditions={"manufacturer": ["联影"], "require": require})
    entry = Entry.of(
        Draft(Kind.APPROVAL, "a", {"note": note, "note_digest": "sha256:" + "0" * 64}),
        index=0, source="s", seq=0, now=datetime(2026, 1, 1, tzinfo=UTC), boot="b0" * 16, tick_us=0,
    )  # fmt: skip
    approved = Approved.of(entry)
    assert {"联影", *require} <= set(approved.texts)
    for known, hits in ((approved.texts, 0), ((), 1)):
        scan = Scan()
        for text in known:
            scan.know(text)
        scan.look("entries/0", 0, note.encode())
        assert bool(scan.hits) is bool(hits)


def test_every_number_of_the_page_is_of_the_packages_entries(parts: dict[str, bytes]) -> None:
    """Counted again here from the entries' bytes, by other means."""
    page, entries = Page(parts["summary.html"]), [entry for _, entry in entries_in(parts)]

    def counted(kind: str, *names: str) -> Counter[tuple[str, ...]]:
        return Counter(tuple(e["body"][name] for name in names) for e in entries if e["kind"] == kind)

    kinds = {call: {e["kind"] for e in entries if e["call"] == call} for call in {e["call"] for e in entries} - {None}}
    states: Counter[str] = Counter()
    for has in (has for has in kinds.values() if "CALL_INTENT" in has):
        ends = [end for end in ("RELEASED", "DENIED", "FAILED") if end in has]
        states[ends[0] if ends else "NOT_RELEASED" if "CALL_RESULT" in has else "NO_END"] += 1
    assert page.counts("kinds") == Counter((e["kind"],) for e in entries)
    assert page.counts("models") == Counter(
        (e["body"]["model"]["name"], e["body"]["model"]["version"]) for e in entries if e["kind"] == "CALL_INTENT"
    )
    assert (
        {row[0]: int(row[-1]) for row in page.tables["states"][1:]}
        == states
        == Counter(RELEASED=40, NOT_RELEASED=1, FAILED=1, NO_END=1)
    )
    assert page.counts("outcomes") == counted("CALL_RESULT", "outcome")
    assert page.counts("denials") == counted("DENIED", "stage", "code")
    assert page.counts("failures") == counted("FAILED", "stage", "code", "fault")
    assert page.counts("releases") == counted("RELEASED", "peer", "proof")
    results = {e["call"]: moment(e["time"]) for e in entries if e["kind"] == "CALL_RESULT"}
    delays = sorted(
        (moment(e["time"]) - results[e["call"]]).total_seconds() for e in entries if e["kind"] == "RELEASED"
    )
    wanted = [f"{value:.3f}" for value in (delays[19], delays[37], delays[39])]
    assert page.tables["delays"][1][1:] == wanted
    silence = {row[0].partition(" / ")[2]: row[1] for row in page.tables["silence"]}
    gap, begin, end = max((moment(b["time"]) - moment(a["time"]), a["time"], b["time"]) for a, b in pairwise(entries))
    assert silence["Heartbeats"] == f"{CHUNK + 20:,}"
    assert silence["Promised interval (s)"] == "60"
    assert float(silence["Largest silence (s)"].replace(",", "")) == gap.total_seconds() == 3 * 3600 + 1
    assert silence["From, to"] == f"{begin} – {end}"
    assert [row[1:3] for row in page.tables["exports"][1:]] == [["TEST Reviewer", "YEARLY_REVIEW"]]
    (approval,) = page.tables["approvals"][1:]
    assert approval[0] == "TEST-2026-0001"
    assert approval[1] == "test-review-centre"
    assert approval[3] == "2026-12-01 – 2027-05-31"


def test_the_page_tells_the_reviews_life(parts: dict[str, bytes]) -> None:
    """Where the dossier is, why it was suspended, stops, what physicians did, what was evaluated; in both languages."""
    page, entries = Page(parts["summary.html"]), [entry for _, entry in entries_in(parts)]
    last = next(e for e in reversed(entries) if e["kind"] == "STATE_CHANGE")
    said = ["small-model", "1.0", "SUSPENDED", "已暂停 / suspended", "SUSPEND", last["time"]]
    assert page.tables["dossiers"][1:] == [said]
    assert page.counts("suspensions") == Counter({("small-model", "1.0", "SUBGROUP_GAP"): 1})
    wanted = [[e["time"], e["kind"], "SERVICE", "–", "DRILL"] for e in entries if e["kind"] in {"STOP", "RESUME"}]
    assert page.tables["stops"][1:] == wanted
    assert page.counts("decisions") == Counter(
        {("ACCEPT", "采纳 / accepted"): 2, ("MODIFY", "修改后采纳 / modified"): 1, ("NOT_USED", "未使用 / not used"): 1}
    )
    metrics = Counter((e["body"]["metric"], e["body"]["outcome"]) for e in entries if e["kind"] == "EVALUATION")
    assert {row[:2]: count for row, count in page.counts("evaluations").items()} == metrics


def test_a_dossier_is_where_its_last_entry_leaves_it() -> None:
    """An approval ends a review, and renews what is in use; one of a model without a dossier is no dossier."""
    hospital, tally = Hospital(), Tally()
    hospital.reviewed()
    hospital.approved()
    seen = []
    for entry in [*hospital.log.entries(), replace(hospital.log.made[-1], index=99)]:
        tally.entry(entry)
        seen += [(one.state, one.event) for one in tally.dossiers.values()]
    assert seen[-3:] == [
        ("UNDER_REVIEW", "BEGIN_REVIEW"),
        ("APPROVED_WITH_CONDITIONS", "APPROVE"),
        ("APPROVED_WITH_CONDITIONS", "RENEW"),
    ]
    alone = Tally()
    alone.entry(hospital.log.made[-1])
    assert alone.dossiers == {}
    everywhere = {"site": ["*"], "manufacturer": ["*"]}
    assert Approved(1, "", "", (), {"conditions": everywhere}).grants == "APPROVED"


def test_the_states_and_decisions_tables_are_of_the_packages_entries(parts: dict[str, bytes]) -> None:
    """One row for each change of a dossier, stop and resumption, with who signed; one for each human decision."""
    entries = entries_in(parts)
    states = [(index, e) for index, e in entries if e["kind"] in {"STATE_CHANGE", "STOP", "RESUME"}]
    table = rows(parts, "states")
    assert [(row["index"], row["time"], row["kind"]) for row in table] == [
        (f"{index:013d}", e["time"], e["kind"]) for index, e in states
    ]
    for row, (_, e) in zip(table, states, strict=True):
        for name in ("event", "from", "to", "reason", "level", "site", "note_digest", "condition", "evidence"):
            value = e["body"].get(name)
            assert row[name] == ("" if value is None else str(value))
    live = next(row for row in table if row["event"] == "GO_LIVE")
    assert (live["signed_by"], table[-1]["signed_by"]) == ("owner.example; safety.example", "")
    made = rows(parts, "decisions")
    assert [(row["call"], row["decision"]) for row in made] == [
        (e["call"], e["body"]["decision"]) for _, e in entries if e["kind"] == "HUMAN_DECISION"
    ]
    assert (made[0]["reasons"], made[0]["seconds"], made[0]["concordance"]) == ("MEASURE", "41", "")


def test_the_page_needs_nothing_from_elsewhere(parts: dict[str, bytes]) -> None:
    """No script, no link, no image, no font; both languages; and it says what proves, and how."""
    page, text = Page(parts["summary.html"]), parts["summary.html"].decode()
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert page.attributes <= {"charset", "class", "id", "lang"}
    assert not any(word in text for word in ("http:", "https:", "url(", "@import"))
    assert "python3 -I verifier.py PACKAGE --policy FILE" in text
    assert "the proof is verifier.py" in text
    assert "证明是 verifier.py" in text
    assert "size: A4" in text


def test_what_an_entry_says_cannot_become_a_part_of_the_page() -> None:
    """Every text is escaped: in the head, in cells of every table."""
    evil = "<script>alert('x')</script>&amp;"
    tally = Tally()
    for name in (tally.kinds, tally.outcomes, tally.promised_s):
        name[evil if name is not tally.promised_s else 60] += 1  # type: ignore[index]
    tally.models[evil, evil] += 1
    tally.denials[evil, evil] += 1
    tally.failures[evil, evil, evil] += 1
    tally.peers[evil, evil] += 1
    tally.approvals.append(Approved(1, evil, evil, (evil,), {"approval": evil, "reviewer_org": evil}))
    page = Page(render(tally, About(evil, {"from": evil, "to": evil}, {evil: evil}, dict.fromkeys(TO, evil))))
    assert "script" not in page.tags
    assert page.tables["models"][1][:2] == [evil, evil]
    assert page.tables["scope"][0][1] == evil


def test_the_calls_table_is_of_the_packages_entries(parts: dict[str, bytes]) -> None:
    """One row a call, in the order of their beginnings, with all that the entries say of it."""
    table, entries = rows(parts, "calls"), [entry for _, entry in entries_in(parts)]
    assert [row["call"] for row in table] == list(dict.fromkeys(e["call"] for e in entries if e["call"]))
    for row in table:
        own = {e["kind"]: e for e in entries if e["call"] == row["call"]}
        said = {kind: e["body"] for kind, e in own.items()}
        assert row["intent_time"] == (own["CALL_INTENT"]["time"] if "CALL_INTENT" in own else "")
        assert row["outcome"] == said.get("CALL_RESULT", {}).get("outcome", "")
        assert row["proof"] == said.get("RELEASED", {}).get("proof", "")
        if "RELEASED" in own:
            spent = moment(own["RELEASED"]["time"]) - moment(own["CALL_RESULT"]["time"])
            assert row["result_to_release_s"] == f"{spent.total_seconds():.3f}"
            assert row["approval"] == said["CALL_INTENT"]["approval"]
            checks = said["CALL_INTENT"]["checks"]
            assert row["checks"] == "; ".join(f"{c['condition']}={c['outcome']} ({c['observed']})" for c in checks)
            assert row["outputs"] == "SR " + said["CALL_RESULT"]["outputs"][0]["uid"]
            assert row["total_s"] == "0.001"
    assert Counter(row["state"] for row in table) == {
        "RELEASED": 40,
        "DENIED": 3,
        "NOT_RELEASED": 1,
        "FAILED": 1,
        "NO_END": 1,
    }


def test_the_other_tables_are_of_the_packages_entries(parts: dict[str, bytes]) -> None:
    """Denials and failures with their places in the log, approvals, kinds."""
    entries = entries_in(parts)
    for name, kind in (("denials", "DENIED"), ("failures", "FAILED"), ("approvals", "APPROVAL")):
        wanted = [(f"{index:013d}", entry["time"]) for index, entry in entries if entry["kind"] == kind]
        assert [(row["index"], row["time"]) for row in rows(parts, name)] == wanted
    assert [row["code"] for row in rows(parts, "denials")] == ["NO_APPROVAL", "CONDITION_NOT_MET", "CONDITION_NOT_MET"]
    assert [(row["stage"], row["fault"]) for row in rows(parts, "failures")] == [("INFER", "MODEL"), ("READ", "SENDER")]
    (approval,) = rows(parts, "approvals")
    assert (approval["valid_from"], approval["signed_by"]) == (
        "2026-12-01",
        "reviewer.example/test; reviewer-2.example",
    )
    counts = json.loads(parts["MANIFEST.json"])["counts"]
    assert {row["kind"]: int(row["entries"]) for row in rows(parts, "kinds")} == counts


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_is_a_formula(begin: str) -> None:
    """What a spreadsheet would compute is text to it; anything else is left as it is."""
    assert safe(f"{begin}1+1") == f"'{begin}1+1"
    assert safe(f"1{begin}1") == f"1{begin}1"


def test_a_formula_in_an_entry_stays_text() -> None:
    """From a field of every table."""
    book, tally, hospital = CallBook(), Tally(), Hospital()
    evil = '@SUM(1+1)*cmd|"/C calc"!A0'
    for kind in (Kind.CALL_INTENT, Kind.CALL_RESULT, Kind.DENIED, Kind.FAILED):
        poison = {name: evil if isinstance(value, str) else value for name, value in body(kind).items()}
        call = None if kind is Kind.FAILED else "c" * 32
        entry = Entry(hospital.log.head().size, "s", 0, "2026-12-10T01:00:00.000000Z", BOOT, 0, kind, "k", poison, call)
        hospital.log.made.append(replace(entry, index=len(hospital.log.made)))
    companion = People(hospital.log, REPORTER, ABOUT, scan_of([]))
    book.close()
    assert tally.kinds == Counter()
    found = {name: b"".join(pieces) for name, pieces in companion.members(hospital.log.entries())}
    for name in ("calls", "denials", "failures"):
        (row,) = rows(found, name)
        assert f"'{evil}" in row.values()
        assert not any(cell.startswith(tuple("=+-@")) for cell in row.values())


def test_fhir_and_dicom_have_the_same_events_in_the_entries_chunks(hospital: Hospital, parts: dict[str, bytes]) -> None:
    """One member for each chunk that has an event; every event of every entry, in order; each document well formed."""
    names = {name for name in parts if name.startswith("fhir/")}
    assert names == {"fhir/0000000000000.ndjson", "fhir/0000000001024.ndjson"}
    for name in sorted(names):
        first = int(name[5:18])
        events = [
            event
            for entry in hospital.log.made[first : first + CHUNK]
            for event in events_of(entry, REPORTER, str(body(Kind.DENIED)["study"]) if entry.call else None)
        ]
        resources = [json.loads(line) for line in parts[name].decode().splitlines()]
        assert resources == [json.loads(json.dumps(to_fhir(event))) for event in events]
        document = ET.fromstring(parts[name.replace("fhir", "dicom-audit").replace("ndjson", "xml")])  # noqa: S314 - ours
        assert document.tag == "AuditMessages"
        assert {child.tag for child in document} == {"AuditMessage"}
        times = [child.find("EventIdentification").get("EventDateTime") for child in document]  # type: ignore[union-attr]
        assert times == [resource["recorded"] for resource in resources]


def test_no_patients_data_is_in_an_honest_package(parts: dict[str, bytes]) -> None:
    """All rules were used, all members looked at, nothing was found; no canary is in any byte."""
    said = json.loads(parts["phi_scan.json"])
    assert set(said["rules"].values()) == {0}
    assert (said["hits"], said["canaries"]) == ([], len(PLANTED))
    unseen = {"README.md", "verifier.py", "phi_scan.json"}
    assert said["members"] == len(set(parts) - unseen)
    scanned = [data for name, data in parts.items() if name not in unseen and not name.startswith("entries/")]
    assert said["bytes"] > sum(map(len, scanned)) * 0.99
    assert not any(word.encode() in data for word in PLANTED for name, data in parts.items() if name not in unseen)


PLANTS = ("13812345678", "19620101", "TEST^Phantom", "测试", "TP04711001")


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("field", ["observed", "device", "unit", "peer", "model", "source", "recipient"])
def test_a_log_that_holds_a_patient_gives_no_package(field: str, plant: str, tmp_path: Path) -> None:
    """Put into the log past every rule: the export is refused with the place, and no file is left."""
    hospital = Hospital()
    hospital.approve()
    hospital.call(0)
    kinds = {"observed": Kind.DENIED, "device": Kind.CALL_RESULT, "unit": Kind.CALL_RESULT, "peer": Kind.RELEASED}
    kind = kinds.get(field, Kind.EXPORT if field == "recipient" else Kind.SELECTED)
    content = json.loads(json.dumps(body(kind)))
    if field == "unit":
        content["measurements"][0]["unit"] = plant
    elif field == "model":
        content["model"]["name"] = plant
    elif field != "source":
        content[field] = plant
    call = call_id(0) if kind in {Kind.CALL_RESULT, Kind.RELEASED} else None
    entry = Entry.of(
        Draft(kind, "k:1", body(kind), call),
        index=len(hospital.log.made),
        source="s",
        seq=0,
        now=START,
        boot=BOOT,
        tick_us=0,
    )
    hospital.log.made.append(replace(entry, body=content, source=plant if field == "source" else "s"))
    with pytest.raises(PatientDataFound) as caught:
        package(hospital, tmp_path, words=("TP04711001",))
    assert caught.value.code == "EXPORT_PHI"
    assert "entries/0000000000000, byte " in str(caught.value)
    assert plant not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    leaves = [leaf.to_bytes() for leaf in hospital.log.made]
    at = caught.value.hits[0][2] - sum(2 + len(leaf) for leaf in leaves[:-1]) - 2
    assert leaves[-1][at:].startswith(plant.encode()[:3])


def test_what_is_out_of_scope_is_not_looked_at(tmp_path: Path) -> None:
    """It leaves as a hash only; the words of who asks are looked at."""
    hospital = Hospital()
    hospital.add(Kind.FAILED, "f:1", body(Kind.FAILED))
    hospital.log.made[1] = replace(hospital.log.made[1], source="TEST^Phantom")
    package(hospital, tmp_path, Scope(selects=lambda _: False)).unlink()
    with pytest.raises(PatientDataFound, match=r"summary\.html.* and \d+ more"):
        package(hospital, tmp_path, Scope(filter={"model": "TEST^Phantom"}, selects=lambda _: False))


def test_the_storys_own_log_is_no_patients(tmp_path: Path) -> None:
    """Calls told by the real pipeline, released, denied and failed, with foreign UIDs all around it."""
    world = World(tmp_path, install(tmp_path))
    world.tell(world.run())
    world.approve()
    for number in range(2, 5):
        world.tell(world.run(number, digest=f"{number}"))
    world.engine.failures.extend(EngineDied("ENGINE_DIED", "the child ended") for _ in range(5))
    world.tell(world.run(9, digest="9"))
    world.reading.series_of = lambda run: loaded(digest=run.input_digest, age_years=7.0)
    world.tell(world.run(8, digest="8"))
    out, log = tmp_path / "out.zip", world.log.inner
    words = (STUDY, SERIES, "TEST^Phantom=测试^幻影", "TP04711001", "19620101")
    companion = People(log, REPORTER, ABOUT, scan_of(words, ["TEST^Phantom", STUDY]))
    made = export(log, out, evidence=Evidence(companion=companion))
    world.close()
    assert {"CALL_INTENT", "CALL_RESULT", "DENIED", "FAILED"} <= set(made.counts)
    said = json.loads(members(out.read_bytes())["phi_scan.json"])
    assert (said["hits"], said["dictionary"]["words"]) == ([], 5)


class Stubborn:
    """A companion with members of names that no package has."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def look(self, member: str, offset: int, data: bytes) -> None:
        """See Companion."""

    def members(self, _: Iterator[Entry]) -> Iterator[tuple[str, list[bytes]]]:
        """See Companion."""
        return ((name, [b"x"]) for name in self._names)

    def verdict(self) -> bytes:
        """See Companion."""
        return b"{}"


@pytest.mark.parametrize(
    "names",
    [
        ("entries/0000000000000",),
        ("verifier.py",),
        ("tables/../x.csv",),
        ("tables/A.csv",),
        ("fhir/1.ndjson",),
        ("summary.html", "summary.html"),
        ("phi_scan.json",),
    ],
)
def test_a_companion_adds_its_own_members_alone(names: tuple[str, ...], tmp_path: Path) -> None:
    """What proves cannot be put in its place, nor anything the verifier would refuse."""
    with pytest.raises(ExportInvalid):
        export(Hospital().log, tmp_path / "p.zip", evidence=Evidence(companion=Stubborn(*names)))
    assert list(tmp_path.iterdir()) == []


def test_the_second_trees_head_goes_along(hospital: Hospital, tmp_path: Path) -> None:
    """As it is."""
    export(hospital.log, tmp_path / "p.zip", evidence=Evidence(sm3=b"a note\n"))
    assert members((tmp_path / "p.zip").read_bytes())["sm3/checkpoint"] == b"a note\n"


def endless(make: Callable[[int], Entry], taken: list[int]) -> Iterator[Entry]:
    """Entries without end, and how many were taken."""
    for index in count():
        taken.append(index)
        yield make(index)


def test_entries_are_not_held(hospital: Hospital) -> None:
    """A chunk's members come as soon as the next chunk begins: a log of any length goes through."""
    taken: list[int] = []
    whole = hospital.log.made[2]
    coming = endless(lambda index: replace(whole, index=index, key=f"k:{index}"), taken)
    made = People(hospital.log, REPORTER, ABOUT, scan_of([])).members(coming)
    for round_number in (1, 2, 3):
        assert next(made)[0].startswith("fhir/")
        assert next(made)[0].startswith("dicom-audit/")
        assert len(taken) == round_number * CHUNK + 1


def test_an_approval_that_is_none_is_shown_without_words() -> None:
    """The verifier names what is wrong with it; here nothing is guessed."""
    for note in ("no note", body(Kind.APPROVAL)["note"]):
        made = Draft(Kind.APPROVAL, "a", body(Kind.APPROVAL))
        entry = Entry.of(made, index=1, source="s", seq=1, now=START, boot=BOOT, tick_us=0)
        approved = Approved.of(replace(entry, body={"note": note, "note_digest": "sha256:" + "0" * 64}))
        assert approved.text("reviewer_org") == approved.text("valid", "from") == ""
    assert parse_note(str(body(Kind.APPROVAL)["note"]))
