"""The catalogue of controls: sixty rows, none of which names what is not there or is silent about what it lacks."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from ethics_review.controls import Control, Covered, catalogue, page, read

ROOT = Path(__file__).parents[3]
IDS = (
    [f"HO-{n:02d}" for n in range(1, 7)]
    + [f"SP-{n:02d}" for n in range(1, 9)]
    + [f"FA-{n:02d}" for n in range(1, 4)]
    + [f"PR-{n:02d}" for n in range(1, 10)]
    + [f"TR-{n:02d}" for n in range(1, 5)]
    + [f"SE-{n:02d}" for n in range(1, 9)]
    + [f"AL-{n:02d}" for n in range(1, 10)]
    + [f"LC-{n:02d}" for n in range(1, 9)]
    + [f"IR-{n:02d}" for n in range(1, 6)]
)
ROW = """
[[control]]
id = "HO-01"
theme = "t"
demand = "d"
source = "s"
evidence = ""
code = ["a:b"]
tests = ["c.py::d"]
why = ""
"""


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a Python file defines: names, and Class.method. Read, not imported: some modules load a device."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {one.id for one in node.targets if isinstance(one, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return frozenset(found)


def exists(named: str, separator: str) -> bool:
    """Whether "module:symbol" is in the product, or "file::test" below tests/."""
    place, _, name = named.partition(separator)
    path = ROOT / (f"{place.replace('.', '/')}.py" if separator == ":" else f"tests/{place}")
    return path.is_file() and name in names_in(path)


def test_there_are_the_sixty() -> None:
    """Exactly the controls of the catalogue, in its order."""
    assert [control.id for control in catalogue()] == IDS
    assert len(IDS) == 60


@pytest.mark.parametrize("control", catalogue(), ids=lambda control: control.id)
def test_what_is_named_exists(control: Control) -> None:
    """Every symbol is in the product, every test is in tests/, and is one."""
    assert [named for named in control.code if not exists(named, ":")] == []
    assert [named for named in control.tests if not exists(named, "::")] == []
    assert all(named.partition("::")[2].startswith("test_") for named in control.tests)


def test_what_is_not_there_would_be_noticed() -> None:
    """The check above can fail: for a wrong module, symbol, method, file and test."""
    assert exists("ethics_review.gate:decide", ":")
    assert exists("models.library:Library.open", ":")
    for wrong in ("ethics_review.gates:decide", "ethics_review.gate:decides", "models.library:Library.opens", "gate"):
        assert not exists(wrong, ":")
    here = Path(__file__).relative_to(ROOT / "tests").as_posix()
    assert exists(f"{here}::test_there_are_the_sixty", "::")
    assert not exists(f"{here}::test_nothing", "::")
    assert not exists("unit/nowhere.py::test_x", "::")


def test_the_page_is_made_from_the_data() -> None:
    """docs/controls.md is what `zhiying review controls --markdown` prints: the data have one home."""
    assert (ROOT / "docs" / "controls.md").read_text(encoding="utf-8") == page(catalogue())


def test_the_page_names_every_control_and_its_state() -> None:
    """Each once, with what is missing; the counts are those of the rows."""
    text = page(catalogue())
    assert re.findall(r"^\*\*([A-Z]{2}-[0-9]{2})\*\*", text, flags=re.MULTILINE) == sorted(IDS, key=text.index)
    counts = [sum(one.covered is kind for one in catalogue()) for kind in Covered]
    assert "60 controls: {} covered, {} in part, {} not.".format(*counts) in text
    assert all(one.why in text and one.demand in text and one.source in text for one in catalogue())


def test_how_far_a_control_is_covered_follows_from_its_row() -> None:
    """Code and no gap: covered; code and a gap: in part; no code: not."""
    assert read(ROW)[0].covered is Covered.YES
    assert read(ROW.replace('why = ""', 'why = "w"'))[0].covered is Covered.PARTLY
    without = ROW.replace('["a:b"]', "[]").replace('["c.py::d"]', "[]")
    assert read(without.replace('why = ""', 'why = "w"'))[0].covered is Covered.NO
    assert read(ROW)[0].described()["covered"] == "YES"


@pytest.mark.parametrize(
    "text",
    [
        ROW.replace("HO-01", "HO-1"),
        ROW.replace('"t"', '""'),
        ROW.replace('demand = "d"', 'demand = ""'),
        ROW.replace('source = "s"', 'source = ""'),
        ROW.replace('["c.py::d"]', "[]"),
        ROW.replace('["a:b"]', "[]"),
        ROW.replace('["a:b"]', "[]").replace('["c.py::d"]', "[]"),
        ROW + ROW,
    ],
    ids=["id", "theme", "demand", "source", "no-test", "no-code", "silent", "twice"],
)
def test_a_row_that_says_too_little_is_refused(text: str) -> None:
    """No code without a test, no test without code, no gap without a reason."""
    with pytest.raises(ValueError, match=r"HO-1|HO-01|twice"):
        read(text)
