"""The house keeps its own rules: run over every file that is part of the project."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.house import rules

ROOT = Path(__file__).parents[2]
FOLDERS = ("audit", "models", "ethics_review", "inference", "dicom_bridge", "service")
DEPLOY = "deploy"  # what installs the product: no package, and run before there is one
TEXT_SUFFIXES = frozenset(
    {".py", ".md", ".toml", ".txt", ".json", ".sh", ".html", ".css", ".js", ".cfg", ".yml", ".yaml", ".service", ""}
)
AUDIT_MAY_USE = frozenset({"cryptography"})  # and the standard library: the log must outlive every framework


@cache
def project_files() -> tuple[Path, ...]:
    """Files that are, or would be, in the repository: what git knows and does not ignore."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    paths = (ROOT / name for name in listed.split("\0") if name)
    return tuple(sorted(path for path in paths if path.is_file()))


def modules(*folders: str) -> tuple[rules.Module, ...]:
    """The Python files below the folders, with paths relative to the root."""
    return tuple(
        rules.Module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in project_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    )


def report(broken: list[rules.Broken]) -> str:
    """One line for each place."""
    return "\n" + "\n".join(str(one) for one in broken)


@cache
def found(kept: tuple[rules.Rule, ...], *folders: str) -> dict[rules.Rule, list[rules.Broken]]:
    """Where the modules below the folders break each of the rules; all rules at a module before the next one."""
    broken: dict[rules.Rule, list[rules.Broken]] = {rule: [] for rule in kept}
    for module in modules(*folders):
        for rule in kept:
            broken[rule] += rule(module)
    return broken


@pytest.mark.parametrize("rule", rules.PRODUCT_RULES, ids=lambda rule: rule.__name__)
def test_product(rule: rules.Rule) -> None:
    """Every module of the product keeps the rule, and what packs it."""
    broken = found(rules.PRODUCT_RULES, *FOLDERS, DEPLOY)[rule]
    assert not broken, report(broken)


@pytest.mark.parametrize("rule", rules.TEST_RULES, ids=lambda rule: rule.__name__)
def test_tests(rule: rules.Rule) -> None:
    """Every test keeps the rule; the rules' own planted violations are text, not code."""
    broken = found(rules.TEST_RULES, "tests")[rule]
    assert not broken, report(broken)


@pytest.mark.parametrize("rule", rules.FILE_RULES, ids=lambda rule: rule.__name__)
def test_files(rule: rules.Rule) -> None:
    """Every text file of the project keeps the rule."""
    planted = ROOT / "tests" / "house" / "test_rules.py"
    broken = []
    for path in project_files():
        if path.suffix in TEXT_SUFFIXES and path != planted and path.name != "LICENSE":
            name = path.relative_to(ROOT).as_posix()
            broken += list(rule(rules.Module(name, path.read_text(encoding="utf-8"))))
    assert not broken, report(broken)


def test_walls_stand() -> None:
    """Each wall is still where the list says: a wall that moved leaves a hole in the list."""
    known = {module.path for module in modules(*FOLDERS)}
    assert not set(rules.WALLS) - known
    assert not rules.PURE - known
    assert not {rules.DURABLE, rules.CLOCK, rules.PERMITS, *rules.DOORS} - known


def test_imports_follow_the_line() -> None:
    """The import contract of pyproject.toml holds, and all its contracts were looked at."""
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(command), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    assert f"{len(contracts)} kept, 0 broken" in done.stdout


def test_audit_needs_nothing() -> None:
    """The audit folder uses the standard library and cryptography, so that its proofs can be checked for decades."""
    known = frozenset(sys.stdlib_module_names) | {"audit"}
    foreign = {
        module.path: sorted(rules.undeclared(rules.top_level_imports(module), known, AUDIT_MAY_USE))
        for module in modules("audit")
    }
    assert not {path: names for path, names in foreign.items() if names}


def declared(*extras: str) -> frozenset[str]:
    """Import names that the packages in pyproject.toml bring, those of the extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    wanted = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-") for line in lines}
    brought = importlib.metadata.packages_distributions()
    return frozenset(
        name for name, packages in brought.items() if {p.lower().replace("_", "-") for p in packages} & wanted
    )


@pytest.mark.parametrize(("folders", "extras"), [(FOLDERS, ()), (("tests", "benchmarks"), ("test",))])
def test_imports_are_declared(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    """What is imported is named in pyproject.toml: nothing works by the luck of another package's needs."""
    known = frozenset(sys.stdlib_module_names) | {*FOLDERS, "tests", "benchmarks"}
    names = declared(*extras)
    foreign = {
        module.path: sorted(rules.undeclared(rules.top_level_imports(module), known, names))
        for module in modules(*folders)
    }
    assert not {path: found for path, found in foreign.items() if found}


def test_dependencies_are_pinned() -> None:
    """Each declared package has exactly one version in constraints.txt, so that two hospitals run the same code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    wanted = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-") for line in lines}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    assert wanted <= {pin.split("==")[0].lower().replace("_", "-") for pin in pins}


def test_no_script_hides_a_package() -> None:
    """Python puts a script's own folder first: benchmarks/audit.py would be `audit` to every benchmark beside it."""
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert not scripts & {*FOLDERS, "tests", *sys.stdlib_module_names}


def test_tests_outweigh_code() -> None:
    """There are at least as many lines of tests as of code."""
    code = sum(len(module.text.splitlines()) for module in modules(*FOLDERS, DEPLOY))
    tests = sum(len(module.text.splitlines()) for module in modules("tests"))
    assert tests >= code, f"{tests} lines of tests for {code} lines of code"


@pytest.mark.parametrize("folder", [*FOLDERS, DEPLOY])
def test_each_folder_explains_itself(folder: str) -> None:
    """Each folder has a README of one page."""
    lines = (ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines()
    assert 5 <= len(lines) <= 60
