"""The look at a package before it leaves: what has the form of a patient's data is found, what is ours is not."""

import hashlib
import json
import random
from base64 import b64encode
from collections.abc import Callable

import pytest

from dicom_bridge.audit_message import to_xml
from dicom_bridge.audit_rules import events_of
from service.errors import PatientDataFound
from service.people import XML_HEAD, XML_TAIL, scan_of
from service.phi_scan import HITS_MAX, RULES, Scan, is_resident_id
from service.phi_words import Dictionary
from tests.simulators.audit_events import REPORTER, entry, every_event
from tests.simulators.audit_log import STUDY, body

# Made up: the check digits are right, the people are not. 11010119900307 is the example of many a textbook.
RESIDENT = ("11010119900307109X", "110101199003070433", "44030419621231001X")


def checked(seventeen: str) -> str:
    """With the check digit of GB 11643-1999, worked out anew: sum of digit times 2**(place) modulo 11 is 1."""
    for digit in "0123456789X":
        digits = [int(d) for d in seventeen] + [10 if digit == "X" else int(digit)]
        if sum(d * pow(2, 17 - place) for place, d in enumerate(digits)) % 11 == 1:
            return seventeen + digit
    raise AssertionError


VALID = tuple(checked(text[:17]) for text in RESIDENT)
FOUND = {
    **dict.fromkeys(VALID, "RESIDENT_ID"),
    VALID[0].lower() if VALID[0].endswith("X") else VALID[1]: "RESIDENT_ID",
    "110101620101123": "RESIDENT_ID",
    "13812345678": "PHONE",
    "+8613812345678": "PHONE",
    "+86 138-1234-5678": "PHONE",
    "138 1234 5678": "PHONE",
    "010-65123456": "PHONE",
    "0755-26123456": "PHONE",
    "19620101": "DATE",
    "1962-01-01": "DATE",
    "1962/1/1": "DATE",
    "1962.01.01": "DATE",
    "20010228": "DATE",
    "1962年1月1日": "DATE",
    "1962年1月": "DATE",
    "1.2.840.113619.2.55.3.604688119.971": "FOREIGN_UID",
    "2.25.1.2.3.4.5": "FOREIGN_UID",
    "2.16.840.1.113883.3.1": "FOREIGN_UID",
    "TEST^Phantom": "NAME",
    "Zhang^San=张^三": "NAME",
    "张^三": "NAME",
    "ZHANG^^SAN": "NAME",
    "测试": "CHINESE_TEXT",
    "李": "CHINESE_TEXT",
    "\U00020000": "CHINESE_TEXT",
}
OURS = (
    f"assembled:{VALID[1]}123456-1",
    "5" * 32,
    "sha256:" + "9" * 64,
    "2.25.0",
    "2.25." + "3" * 39,
    "2026-11-23T16:07:12.123456Z",
    "hospital.example/audit#19620101",
    "2.13.0+cpu",
    "1.6.1",
    "192.0.2.7",
    "TEST-2026-0001",
    "70-74",
    "20011301",
    "19621",
    "1951.3",
    "12345678901",
    "118565006",
    "cm3",
    "110101199003070430" if checked("11010119900307043") != "110101199003070430" else "110101199003070431",
)
"""Times, digests, versions, addresses, codes; and what is nearly a date, a telephone or a resident's number."""


def scan_text(text: str, scan: Scan | None = None, member: str = "entries/0000000000000") -> list[tuple[str, int]]:
    """Rule and offset of each hit."""
    scan = scan or Scan()
    scan.look(member, 0, text.encode())
    return [(hit.rule, hit.offset) for hit in scan.hits]


@pytest.mark.parametrize(("text", "rule"), FOUND.items(), ids=lambda text: str(text).encode("unicode_escape").decode())
def test_what_identifies_a_patient_is_found(text: str, rule: str) -> None:
    """By the rule that is for it, where it stands, alone or between anything that is no part of it."""
    for before, after in (
        ("", ""),
        ('{"observed":"', '"}'),
        ("<td>", "</td>"),
        ("a,", ",b"),
        ("ID: ", " ok"),
        ("_", "_"),
    ):
        found = scan_text(before + text + after)
        assert rule in {name for name, _ in found}, (before, found)
        assert min(at for _, at in found) in range(len(before), len(before) + len(text.encode()))


@pytest.mark.parametrize("text", OURS)
def test_what_is_ours_is_not(text: str) -> None:
    """Digests, pseudonyms, our UIDs, times and the like."""
    assert scan_text(f'{{"a":"{text}"}}') == []


def test_the_check_digit_is_that_of_the_standard() -> None:
    """Of all last digits exactly one fits, the one of the other way to work it out."""
    for text in VALID:
        assert [d for d in "0123456789X" if is_resident_id(text[:17] + d)] == [text[17]]


def test_random_names_of_ours_are_never_taken_for_a_patients() -> None:
    """Twenty thousand digests, pseudonyms and UIDs in entries' own form, whatever digits they happen to have."""
    chance = random.Random(4)
    scan = Scan(["TP00000001", "110101199003070433"])
    for number in range(2000):
        bits = hashlib.sha256(f"{number}".encode()).hexdigest()
        uids = [f"2.25.{chance.getrandbits(128)}" for _ in range(4)]
        own = {"call": bits[:32], "digest": f"sha256:{bits}", "uid": uids, "seq": chance.getrandbits(40)}
        text = json.dumps(own | {"key": f"intent:{bits[:32]}:{bits[32:48]}"}, separators=(",", ":"))
        # A writer's clock and count come by every number.
        text = text[:-1] + ',"tick_us":13812345678,"time":"1962-01-01T01:01:01.000000Z"}'
        scan.look("entries/0000000000000", 0, text.encode())
        scan.look("fhir/0000000000000.ndjson", 0, f'{{"id":"{bits[:16]}-19620101-0"}}'.encode())
    assert scan.hits == []


CANARY = "canary-4711"
PLANTS = {
    "RESIDENT_ID": VALID[0],
    "PHONE": "13812345678",
    "DATE": "19620101",
    "FOREIGN_UID": "1.2.840.113619.2.55.3.604688119.971",
    "NAME": "TEST^Phantom",
    "CHINESE_TEXT": "幻影",
    "DICTIONARY": "TP04711001",
    "CANARY": CANARY,
}


def honest(member: str) -> str:
    """An honest member of the kind, with a place for a plant."""
    if member.startswith("entries/"):
        return entry("DENIED", body("DENIED") | {"observed": "PLANT"}).to_bytes().decode()  # type: ignore[arg-type]
    if member.startswith("fhir/"):
        return (
            json.dumps({"resourceType": "AuditEvent", "id": "1-1-0", "outcomeDesc": "PLANT"}, ensure_ascii=False) + "\n"
        )
    if member.startswith("dicom-audit/"):
        message = to_xml(events_of(entry("DENIED"), REPORTER, STUDY)[0])
        return XML_HEAD + message.replace('originalText="Denied"', 'originalText="PLANT"') + "\n" + XML_TAIL
    if member == "dicom-details":
        return XML_HEAD + '<ParticipantObjectDetail type="code" value="PLANT" />' + XML_TAIL
    if member == "summary.html":
        return "<tr><td>审查方 / Reviewer</td><td>PLANT</td></tr>"
    if member.endswith(".csv"):
        return "call,study,model\r\n" + f"{'c' * 32},{STUDY},PLANT\r\n"
    return '{"filter":{"model":"PLANT"},"note":"x PLANT\\n"}'


MEMBERS = (
    *("entries/0000000000000", "fhir/0000000000000.ndjson", "dicom-audit/0000000000000.xml", "summary.html"),
    *("tables/calls.csv", "reconciliation/pacs.json", "MANIFEST.json", "dicom-details", "checkpoint"),
)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("rule", PLANTS)
def test_every_plant_is_found_in_every_member(rule: str, member: str) -> None:
    """Also where a DICOM audit message writes text in base64; and without a plant nothing is found."""
    plant, text = PLANTS[rule], honest(member)
    name = "dicom-audit/0000000000000.xml" if member == "dicom-details" else member
    filled = b64encode(plant.encode()).decode() if member == "dicom-details" else plant
    scan = scan_of(["TP04711001"], [CANARY])
    clean = b64encode(b"OK").decode() if member == "dicom-details" else "OK"
    scan.look(name, 0, text.replace("PLANT", clean).encode())
    assert scan.hits == []
    scan.look(name, 100, text.replace("PLANT", filled).encode())
    assert rule in {hit.rule for hit in scan.hits}
    assert {hit.member for hit in scan.hits} == {name}
    at = 100 + text.replace("PLANT", filled).encode().index(filled.encode())
    assert min(hit.offset for hit in scan.hits) in range(at, at + len(filled.encode()))
    with pytest.raises(PatientDataFound) as caught:
        scan.refuse_hits()
    assert caught.value.code == "EXPORT_PHI"
    assert name in str(caught.value)
    for told in (str(caught.value), scan.report().decode(), json.dumps(scan.counts)):
        assert plant not in told


@pytest.mark.parametrize("escaped", ["O&#39;Brien", "O'Brien", "O^Brien", "o brien"])
def test_a_name_is_found_however_it_is_escaped(escaped: str) -> None:
    """An entity of HTML is a mark between two words."""
    found = scan_text(f"<td>{escaped}</td>", Scan(["O^Brien"]), "summary.html")
    assert "DICTIONARY" in {rule for rule, _ in found}


@pytest.mark.parametrize(
    ("word", "text", "there"),
    [
        ("ZHANGSAN", "by zhangsan now", True),
        ("ZHANGSAN", "by zhangsanfeng now", False),
        ("ZHANG^SAN", "Zhang San", True),
        ("ZHANG^SAN", "Zhang, San", True),
        ("ZHANG^SAN", "zhang was here, san too", False),
        ("ZHANG^SAN=张^三", "张三", True),
        ("ZHANG^SAN=张^三", "Zhang San", True),
        ("P-00-17", "x P-00-17 y", True),
        ("ACC0012345", '"ACC0012345"', True),
        ("ACC0012345", "ACC00123456", False),
        ("123456", "no 123456.", True),
        ("123456", "1234567", False),
        ("123456", "0.123456", False),
        ("1.2.3.4", "1.2.3.4.5", False),
        ("2100", "2100", False),
        ("AB1", "AB1", False),
        ("李四", "李四", True),
        ("", "anything", False),
        ("Test", "TEST Reviewer", False),
    ],
)
def test_words_are_whole(word: str, text: str, there: bool) -> None:
    """Not as a part of another; short ones, and what stands for no name, are not looked for at all."""
    assert bool(list(Dictionary([word]).find(text))) is there


def test_the_report_says_what_was_not_looked_for() -> None:
    """Short numbers are anybody's, words of our own texts too: how many there were is said, and no word."""
    scan = scan_of(["2100", "12345", "TP04711001", "TP04711001 ", "RELEASED", "test", "ZHANG^SAN"])
    said = json.loads(scan.report())
    assert said["dictionary"] == {"words": 2, "too_short": 2, "words_of_our_own": 2}
    assert tuple(said["rules"]) == RULES
    assert not any(word in scan.report().decode() for word in ("TP04711001", "ZHANG", "12345"))


def test_counts_are_no_patients_numbers() -> None:
    """A whole number of JSON, or a measured value, may be some patient's number by chance; a text may not."""
    words = Scan(["123456", "1951234"])
    assert scan_text('{"instances":123456,"measurements":[{"code":"1","unit":"mm3","value":"1951234"}]}', words) == []
    assert scan_text(f"[118565006] 1951234 mm3,{STUDY}", Scan(["1951234"]), "tables/calls.csv") == []
    assert scan_text('{"observed":"123456"}', Scan(["123456"]))[0][0] == "DICTIONARY"


def test_a_code_that_is_a_date_is_a_code() -> None:
    """SNOMED CT has codes of eight digits."""
    assert scan_text('{"measurements":[{"code":"20010228","unit":"cm3","value":"1"}]}') == []
    assert scan_text('{"code":"20010228"}')[0][0] == "DATE"


def test_what_is_no_text_is_refused() -> None:
    """A name in GBK is nothing that we write."""
    scan = Scan(canaries=["x"])
    scan.look("tables/calls.csv", 7, b"call,\xd5\xc5\xc8\xfd")
    assert (scan.hits[0].rule, scan.hits[0].offset) == ("NOT_TEXT", 12)


def test_a_reviewers_words_are_known_and_their_parts_are_not() -> None:
    """What an approval says may be said again, whole; no other Chinese, and no number of a person in it."""
    scan = scan_of([])
    scan.know("Test Review Centre 测试审查中心")
    scan.know("2026-12-01")
    assert scan_text("测试审查中心 2026-12-01", scan) == []
    assert scan_text("测试", scan)[-1][0] == "CHINESE_TEXT"
    assert scan_text("2026-12-02", scan)[-1][0] == "DATE"
    scan.know("13812345678")
    assert scan_text("13812345678", scan)[-1][0] == "PHONE"


def test_our_own_texts_are_ours_only_where_they_stand() -> None:
    """The page's Chinese in the page; in an entry it would be somebody's."""
    assert scan_text("审查方", scan_of([]), "summary.html") == []
    assert scan_text("审查方", scan_of([]), "entries/0000000000000")[0][0] == "CHINESE_TEXT"


def test_many_hits_are_counted_and_some_are_named() -> None:
    """A log that is full of a mistake does not make a report that is."""
    scan = Scan()
    for number in range(HITS_MAX + 50):
        scan.look("entries/0000000000000", number, b"19620101")
    assert (len(scan.hits), scan.counts["DATE"]) == (HITS_MAX, HITS_MAX + 50)


@pytest.mark.parametrize("form", [to_xml, lambda event: json.dumps({"x": event.log_entry})])
def test_no_event_of_any_kind_looks_like_a_patient(form: Callable[..., str]) -> None:
    """Of all kinds, the largest too."""
    scan = scan_of([])
    for event in every_event():
        scan.look("dicom-audit/0000000000000.xml", 0, form(event).encode())
    assert scan.hits == []
