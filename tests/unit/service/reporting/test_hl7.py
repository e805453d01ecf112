"""ORU^R01 for every outcome, judged by a parser that is not ours; and text that no message may be broken by."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import example, given
from hypothesis import strategies as st

from dicom_bridge.reported import Quantity, Reported
from dicom_bridge.result_context import MARKING
from models.codes import Code
from service.reporting.hl7 import CODECS, Ends, control_id, escape, oru
from service.reporting.items import items_of, subject_of
from tests.simulators.reports import AT, CELLS, of_patient, report_of

ENDS = Ends("ZHIYING", "TESTHOSP", "RIS", "TESTHOSP")
HOSTILE = st.text(st.characters(blacklist_categories=("Cs",)), max_size=40)
DELIMITERS = st.text('|^~\\&\r\n\x0b\x1c\x00\x85\u2028"a测', max_size=20)


def fields(message: bytes, codec: str = "utf-8") -> list[list[str]]:
    """The segments, each as its fields by HL7's numbers: MSH-1 is the separator itself."""
    lines = message.decode(codec).split("\r")
    assert lines.pop() == ""
    return [line.split("|") if not line.startswith("MSH") else ["MSH", "|", *line.split("|")[1:]] for line in lines]


def observations(message: bytes) -> list[list[str]]:
    """The OBX segments, each of 19 fields."""
    return [(one + [""] * 19)[:19] for one in fields(message) if one[0] == "OBX"]


def unescaped(text: str, codec: str) -> str:
    """HL7 2.7, read by nothing of ours."""
    plain = {"F": "|", "S": "^", "R": "~", "T": "&", "E": "\\", ".br": "\n"}

    def one(match: re.Match[str]) -> str:
        return plain[match[1]] if match[1] in plain else bytes.fromhex(match[1][1:]).decode(codec)

    return re.sub(r"\\([^\\]*)\\", one, text)


def judged(message: bytes) -> Any:
    """The message as hl7apy reads it in its strict mode, which knows the tables of 2.5.1; fails where it objects."""
    parsed = parse_message(message.decode(), validation_level=VALIDATION_LEVEL.STRICT)
    assert parsed.validate()
    return parsed


@pytest.mark.parametrize("cell", CELLS, ids=" ".join)
def test_every_outcome_has_its_form(cell: tuple[str, str, str]) -> None:
    """Valid 2.5.1; never final; outcome, presence, numbers and texts are the report's; the marking comes first."""
    report = report_of(*cell)
    message = oru(report, ENDS, "ID-1", AT)
    judged(message)
    rows = observations(message)
    assert rows[0][1:6] == ["1", "HD", "113014^DICOM Study^DCM", "", report.study_uid]
    assert rows[0][11] == "O"
    assert {row[11] for row in rows[1:]} == {"P"}
    assert [row[1] for row in rows] == [str(number) for number in range(1, len(rows) + 1)]
    numbers = [
        *(number for one in report.statements for number in one.numbers),
        *(number for one in report.groups for number in one.numbers),
    ]
    assert [(row[5], row[6]) for row in rows if row[2] == "NM"] == [
        (one.value, f"{one.unit.value}^^UCUM") for one in numbers
    ]
    (outcome,) = (row for row in rows if row[3].startswith("111017^"))
    assert outcome[5].startswith(f"{report.summary.value}^{report.summary.meaning}^DCM")
    for stated in report.statements:
        said = [row[5].split("^")[0] for row in rows if row[3].split("^")[0] == stated.name.value and row[2] == "CWE"]
        assert stated.value.value in said
    texts = [row[5] for row in rows if row[3].startswith("121106^")]
    assert texts[0] == MARKING[cell[2]]
    assert sorted(texts) == sorted(set(report.comments))
    equipment = (
        f"{report.equipment.name} {report.equipment.version}^{report.equipment.vendor}^{report.equipment.uid}^ISO"
    )
    assert {row[18] for row in rows[1:]} == {equipment}
    assert len({(row[3].split("^")[0], row[4]) for row in rows}) == len(rows)


def test_each_field_stands_in_its_place() -> None:
    """Positions of HL7 v2.5.1, counted by hand."""
    report = report_of()
    msh, pid, pv1, orc, obr, *_ = fields(oru(report, ENDS, "ID-1", AT))
    assert msh[:13] == ["MSH", "|", "^~\\&", "ZHIYING", "TESTHOSP", "RIS", "TESTHOSP", "20261123163000+0000", "",
                        "ORU^R01^ORU_R01", "ID-1", "P", "2.5.1"]  # fmt: skip
    assert (msh[15], msh[16], msh[18]) == ("AL", "NE", "UNICODE UTF-8")
    assert (pid[1], pid[3], pid[5], pid[7], pid[8]) == (
        *("1", "TEST-0001^^^TESTHOSP^PI", "测试^幻影^^^^^L^A", "19500101", "F"),
    )
    assert pv1 == ["PV1", "1", "U"]
    assert orc == ["ORC", "RE", "", subject_of(report)]
    assert (obr[1], obr[3], obr[4]) == ("1", subject_of(report), "25056-3^MRI unspecified body region^LN")
    assert (obr[7], obr[18], obr[22]) == (report.studied, report.accession, "20261123163000+0000")
    assert (obr[24], obr[25], len(obr)) == ("NMR", "P", 26)


def test_a_parser_that_is_not_ours_finds_the_number() -> None:
    """As a RIS would: NM, its unit by UCUM, and the name by its code."""
    report = report_of()
    parsed = judged(oru(report, ENDS, "ID-1", AT))
    rows = [one.obx for one in parsed.oru_r01_patient_result.oru_r01_order_observation.oru_r01_observation]
    found = [
        (row.obx_3.obx_3_1.value, row.obx_5.value, row.obx_6.obx_6_1.value, row.obx_11.value)
        for row in rows
        if row.obx_2.value == "NM"
    ]
    assert found == [("118565006", one.numbers[0].value, "cm3", "P") for one in report.groups]


def test_chinese_sites_read_chinese() -> None:
    """What the model says is there in the site's language, beside the code."""
    rows = observations(oru(report_of("classifications", "findings", "zh-CN"), ENDS, "ID-1", AT))
    said = {row[5].split("^")[8] for row in rows if row[2] == "CWE" and len(row[5].split("^")) > 8}
    assert said == {"全部算法成功；有发现", "存在", "不存在"}


@pytest.mark.parametrize("charset", CODECS)
def test_the_character_set_that_is_said_is_the_one_that_is_written(charset: Any) -> None:
    """MSH-18 and the bytes agree, and both say the same."""
    report = report_of("segments", "findings", "zh-CN")
    message = oru(report, replace(ENDS, charset=charset), "ID-1", AT)
    rows = fields(message, CODECS[charset])
    assert rows[0][18] == charset
    usual = fields(oru(report, ENDS, "ID-1", AT))
    assert rows[1:] == usual[1:]


NAMES = {
    "TEST^Phantom": "TEST^Phantom^^^^^L^A",
    "TEST^Phantom=测试^幻影=Ce4shi4^Huan4ying3": "TEST^Phantom^^^^^L^A~测试^幻影^^^^^L^I~Ce4shi4^Huan4ying3^^^^^L^P",
    "=测试^幻影": "测试^幻影^^^^^L^I",
    "TEST^Given^Middle^Dr.^Jr.": "TEST^Given^Middle^Jr.^Dr.^^L^A",
    "TE|ST^Ph&an~to\\m": "TE\\F\\ST^Ph\\T\\an\\R\\to\\E\\m^^^^^L^A",
    "": "",
    "^^^^": "",
    "TEST^a^b^c^d^e^f": "TEST^a^b^d^c^^L^A",
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    """PS3.5's component groups are XPN's repetitions, prefix and suffix change places, and delimiters are text."""
    assert fields(oru(of_patient(report_of(), name=name), ENDS, "ID-1", AT))[1][5] == NAMES[name]


@given(HOSTILE | DELIMITERS, st.sampled_from(sorted(CODECS.values())))
@example('""', "utf-8")
@example("\\F\\", "utf-8")
@example("\r\x1c\r\x0b", "gb18030")
def test_text_comes_back_as_it_was(text: str, codec: str) -> None:
    """Escaped and read again by another's rules, in either character set; without a delimiter of any level."""
    written = escape(text, codec)
    assert unescaped(written, codec) == text
    assert not set(written) & set("|^~&\r\n\x0b\x1c\x00\x85\u2028\u2029")
    assert written != '""'
    assert written.encode(codec).find(b"\x1c") == -1


@given(HOSTILE | DELIMITERS, HOSTILE | DELIMITERS, HOSTILE | DELIMITERS)
def test_no_text_moves_anything(one: str, other: str, third: str) -> None:
    """Whatever patient, request, label or comment hold, the message has the same segments and fields as ever."""
    usual = report_of()
    report = of_patient(usual, name=one, id=other, issuer=third)
    groups = (replace(usual.groups[0], label=third), *usual.groups[1:])
    report = replace(report, accession=one, groups=groups, comments=(usual.comments[0], other))
    message = oru(report, replace(ENDS, receiver=third), "ID-1", AT)
    plain = oru(usual, ENDS, "ID-1", AT)
    assert [(row[0], len(row)) for row in fields(message)] == [(row[0], len(row)) for row in fields(plain)]
    assert [row[1:5] for row in observations(message)] == [row[1:5] for row in observations(plain)]
    assert b"\x0b" not in message
    assert b"\x1c" not in message
    pid, obr = fields(message)[1], fields(message)[4]
    assert unescaped(pid[3].split("^")[0], "utf-8") == other
    assert unescaped(obr[18], "utf-8") == one
    numbers = [row[5] for row in observations(message) if row[2] == "NM"]
    assert numbers == [row[5] for row in observations(plain) if row[2] == "NM"]


def test_lines_stay_lines() -> None:
    """In a text, an end of a line is HL7's own; elsewhere it is escaped."""
    usual = report_of()
    report = replace(usual, comments=(usual.comments[0], "one\r\ntwo\nthree"))
    texts = [row[5] for row in observations(oru(report, ENDS, "ID-1", AT)) if row[2] == "TX"]
    assert texts[-1] == "one\\.br\\two\\.br\\three"


def test_what_is_not_said_any_more_is_deleted() -> None:
    """A newer report repeats OBR-3, OBX-3 and OBX-4; what it lacks is D, and what it has is not."""
    before, now = report_of("detections", "findings"), report_of("detections", "partly failed")
    keys = [item.key for item in items_of(before)]
    first = oru(before, ENDS, "ID-1", AT)
    second = oru(now, ENDS, "ID-2", AT, gone=keys)
    judged(second)
    assert fields(first)[4][3] == fields(second)[4][3]
    held = {(row[3].split("^")[0], row[4]) for row in observations(first)}
    said = {(row[3].split("^")[0], row[4]): row[11] for row in observations(second)}
    assert held - {key for key, status in said.items() if status != "D"} == {
        key for key, status in said.items() if status == "D"
    }
    assert "D" in said.values()
    assert fields(second)[4][25] == "P"


def test_a_result_that_was_wrong_is_withdrawn_whole() -> None:
    """Every row is W; the numbers stay readable as what was wrong."""
    rows = observations(oru(report_of(), ENDS, "ID-1", AT, withdrawn=True))
    assert {row[11] for row in rows} == {"W"}


def test_same_study_and_model_is_the_same_subject() -> None:
    """A newer version replaces; another study or another model is told beside it."""
    report = report_of()
    newer = replace(report, equipment=replace(report.equipment, version="2.0.0"), sop_uid="2.25.1")
    other = replace(report, equipment=replace(report.equipment, name="test-lung"))
    assert subject_of(newer) == subject_of(report)
    assert len({subject_of(report), subject_of(other), subject_of(replace(report, study_uid="2.25.2"))}) == 3
    assert re.fullmatch(r"[A-Za-z0-9]{1,20}", subject_of(report))


def test_control_ids() -> None:
    """The same for the same try, another for whatever is another; of twenty characters, as 2.5.1 wants."""
    ids = {control_id(*one) for one in [("ris", "a", 0), ("ris", "a", 1), ("ris", "b", 0), ("other", "a", 0)]}
    assert len(ids) == 4
    assert all(re.fullmatch(r"[0-9A-F]{20}", one) for one in ids)


@pytest.mark.parametrize(
    ("report", "section"),
    [(report_of(), "NMR"), (replace(report_of(), procedure=Code("25045-6", "LN", "CT")), "CT"),
     (replace(report_of(), procedure=Code("363679005", "SCT", "Imaging procedure")), "RAD")],
)  # fmt: skip
def test_the_section_follows_the_procedure(report: Reported, section: str) -> None:
    """OBR-24 by HL7's own table, not by DICOM's names of modalities."""
    assert fields(oru(report, ENDS, "ID-1", AT))[4][24] == section


def test_the_same_arguments_give_the_same_bytes() -> None:
    """A message that is made anew is the same: its time is the release's."""
    one, other = (
        oru(report_of(), ENDS, "ID-1", at) for at in (AT, datetime.fromisoformat("2026-11-24T00:30:00.25+08:00"))
    )
    assert AT.tzinfo is UTC
    assert one == other


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-99999, max_value=99999))
def test_every_digit_is_the_reports(value: Any) -> None:
    """No rounding, no exponent, no zero lost."""
    usual = report_of()
    number = Quantity(usual.groups[0].numbers[0].name, f"{value:.4f}", usual.groups[0].numbers[0].unit)
    report = replace(usual, groups=(replace(usual.groups[0], numbers=(number,)),))
    (row,) = (row for row in observations(oru(report, ENDS, "ID-1", AT)) if row[2] == "NM")
    assert row[5] == f"{value:.4f}"
