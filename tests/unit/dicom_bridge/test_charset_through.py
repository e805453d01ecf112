"""Chinese text from the scanner's bytes to the results: every row of the reference's table.

Each row goes through a Part 10 file, the loader, SEG and SR, and is read back by pydicom and DCMTK.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement

from dicom_bridge.candidates import read_series
from dicom_bridge.charset import person_name
from dicom_bridge.errors import CharsetRefused
from dicom_bridge.report import write_sr
from dicom_bridge.validity import check_segmentation
from dicom_bridge.volume import build, read_slices
from tests.simulators import findings as phantom
from tests.simulators import validators
from tests.simulators.series import make_slice, write_file
from tests.simulators.written import write_seg

DIGEST = "sha256:" + "0" * 64
NAME = "测试^幻影"
TRICKY = "乗^誠"
"""In GBK the second bytes of these are 0x5C and 0x5E: a backslash and a caret to whoever splits bytes."""
WORDS = "T1 头颅"


def ir58(text: str) -> bytes:
    """Return text as ISO 2022 IR 58 writes it: an escape before each run of Chinese, ended by delimiters."""
    return b"^".join(b"\x1b$)A" + part.encode("gb2312") for part in text.split("^"))


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what stands in (0008,0005), the bytes of name and description, the site's word, what they mean."""

    terms: list[str] | str | None
    name: bytes
    description: bytes
    assumed: str | None = None
    means: str = NAME


ROWS = {
    "GB18030": Row("GB18030", NAME.encode("gb18030"), WORDS.encode("gb18030")),
    "GB18030, tricky second bytes": Row("GB18030", TRICKY.encode("gb18030"), WORDS.encode("gb18030"), means=TRICKY),
    "GBK": Row("GBK", NAME.encode("gbk"), WORDS.encode("gbk")),
    "GBK, tricky second bytes": Row("GBK", TRICKY.encode("gbk"), WORDS.encode("gbk"), means=TRICKY),
    "UTF-8": Row("ISO_IR 192", NAME.encode(), WORDS.encode()),
    "ISO 2022 IR 58": Row(["", "ISO 2022 IR 58"], ir58(NAME), b"T1 \x1b$)A" + "头颅".encode("gb2312")),
    "GB2312, no defined term": Row("GB2312", NAME.encode("gb2312"), WORDS.encode("gb2312")),
    "ISO_IR 58, no defined term": Row("ISO_IR 58", NAME.encode("gb2312"), WORDS.encode("gb2312")),
    "GBK under no set": Row(None, NAME.encode("gbk"), WORDS.encode("gbk"), "GB18030"),
    "GBK under Latin-1": Row("ISO_IR 100", TRICKY.encode("gbk"), WORDS.encode("gbk"), "GBK", TRICKY),
    "UTF-8 under no set": Row(None, NAME.encode(), WORDS.encode(), "ISO_IR 192"),
    "a proper set from a sender that is known to mislabel": Row("ISO_IR 192", NAME.encode(), WORDS.encode(), "GBK"),
}


def files(folder: Path, row: Row, count: int = 3) -> list[Path]:
    """Write a series as that sender does."""
    out = []
    for index in range(count):
        ds = make_slice(index)
        for keyword in ("PatientName", "SeriesDescription", "SpecificCharacterSet"):
            delattr(ds, keyword)
        if row.terms is not None:
            ds.SpecificCharacterSet = row.terms
        ds.AccessionNumber, ds.StudyTime, ds.ReferringPhysicianName = "TESTACC1", "101500", ""
        # As UN, bytes are written as they stand; the tags' own VRs are put in below.
        ds[0x00100010] = DataElement(0x00100010, "UN", row.name + b" " * (len(row.name) % 2))
        ds[0x0008103E] = DataElement(0x0008103E, "UN", row.description + b" " * (len(row.description) % 2))
        path = write_file(ds, folder / f"{index}.dcm", "1.2.840.10008.1.2")
        out.append(path)
    return out


def results(folder: Path, row: Row, charset: str) -> tuple[Path, Path]:
    """Load the series on the site's word, and write SEG and SR of it."""
    paths = files(folder, row)
    assumed = {} if row.assumed is None else dict.fromkeys(paths, row.assumed)
    loaded = build(read_slices(paths, assumed), DIGEST)
    mask = np.zeros(loaded.volume.shape, dtype=np.bool_)
    mask[1, 4:9, 3:8] = True
    made, context = phantom.findings(mask), phantom.context("zh-CN", charset)
    seg = write_seg(made, phantom.manifest(), phantom.REF, loaded.headers, context)
    reread = check_segmentation(seg, loaded.headers)
    report = write_sr(made, phantom.manifest(), phantom.REF, loaded.headers, reread, context)
    (folder / "seg.dcm").write_bytes(seg)
    (folder / "sr.dcm").write_bytes(report)
    return folder / "seg.dcm", folder / "sr.dcm"


@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
@pytest.mark.parametrize("name", ROWS)
def test_the_name_arrives_in_the_results(tmp_path: Path, name: str, charset: str) -> None:
    """Whatever the scanner wrote, SEG and SR hold the patient's name in the PACS's character set."""
    row = ROWS[name]
    for path in results(tmp_path, row, charset):
        ds = dcmread(path)
        assert ds.SpecificCharacterSet == charset
        assert str(ds.PatientName) == person_name(ds) == row.means


@pytest.mark.parametrize("name", ["GBK under Latin-1", "ISO 2022 IR 58"])
def test_another_reader_finds_the_name_too(tmp_path: Path, name: str) -> None:
    """DCMTK's dsrdump, told to write UTF-8, shows the name and the Chinese marking."""
    _, report = results(tmp_path, ROWS[name], "ISO_IR 192")
    text = validators.dsrdump_text(report)
    assert ROWS[name].means in text
    assert "人工智能输出结果" in text


@pytest.mark.parametrize("name", ROWS)
def test_selection_reads_the_description(tmp_path: Path, name: str) -> None:
    """A rule for 头颅 finds it under every label, by the AE title that sent it."""
    row = ROWS[name]
    paths = files(tmp_path, row)
    charsets = {} if row.assumed is None else {"OLDCT": row.assumed}
    (one,) = read_series(paths, dict.fromkeys(paths, "OLDCT"), charsets).summaries
    assert one.description == WORDS


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.assumed and "proper" not in name])
def test_without_the_sites_word_the_name_is_refused_or_wrong_nowhere(tmp_path: Path, name: str) -> None:
    """Bytes under no set are refused; under Latin-1 they cannot be told from Latin letters, and no rule finds them."""
    row = ROWS[name]
    paths = files(tmp_path, row)
    (one,) = read_series(paths, {}, {}).summaries
    assert "头颅" not in one.description
    if row.terms is None:
        loaded = build(read_slices(paths), DIGEST)
        with pytest.raises(CharsetRefused):
            person_name(loaded.headers[0])


def test_a_word_about_one_sender_is_not_said_of_another(tmp_path: Path) -> None:
    """The mapping is by AE title."""
    paths = files(tmp_path, ROWS["GBK under Latin-1"])
    (one,) = read_series(paths, dict.fromkeys(paths, "OTHER"), {"OLDCT": "GBK"}).summaries
    assert "头颅" not in one.description


def test_attributes_of_a_corrected_header_are_read(tmp_path: Path) -> None:
    """What the gate asks for stands in the corrected header like any other text."""
    paths = []
    for index in range(2):
        ds = make_slice(index)
        ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 100", "TEST"
        ds.Manufacturer = "联影".encode("gbk").decode("latin-1")
        paths.append(write_file(ds, tmp_path / f"{index}.dcm"))
    loaded = build(read_slices(paths, dict.fromkeys(paths, "GBK")), DIGEST)
    assert loaded.attributes.manufacturer == "联影"
    assert build(read_slices(paths), DIGEST).attributes.manufacturer != "联影"


def test_an_identifier_in_chinese_is_the_same_in_results(tmp_path: Path) -> None:
    """The last check before sending compares identifiers with the source: both are read on the site's word."""
    row = ROWS["GBK under Latin-1"]
    paths = files(tmp_path, row)
    for path in paths:
        ds = dcmread(path)
        identifier = "病历1".encode("gbk")
        ds[0x00100020] = DataElement(0x00100020, "UN", identifier + b" ")
        ds[0x00100010] = DataElement(0x00100010, "UN", row.name + b" " * (len(row.name) % 2))
        ds[0x0008103E] = DataElement(0x0008103E, "UN", row.description + b" " * (len(row.description) % 2))
        write_file(ds, path, "1.2.840.10008.1.2")
    loaded = build(read_slices(paths, dict.fromkeys(paths, "GBK")), DIGEST)
    mask = np.zeros(loaded.volume.shape, dtype=np.bool_)
    mask[1, 4:9, 3:8] = True
    seg = write_seg(phantom.findings(mask), phantom.manifest(), phantom.REF, loaded.headers, phantom.context())
    assert check_segmentation(seg, loaded.headers).PatientID == "病历1"
