"""Each house rule, run on a planted violation: a rule that finds nothing protects nothing."""

import pytest

from tests.house import rules

SOMEWHERE = "service/anything.py"

# rule, path of the module, text that breaks it, how often
PLANTED: list[tuple[rules.Rule, str, str, int]] = [
    (rules.short_functions, SOMEWHERE, "def f():\n" + "    x = 1\n" * 60, 1),
    (rules.short_functions, SOMEWHERE, "async def f():\n" + "    x = 1\n" * 60, 1),
    (rules.short_functions, SOMEWHERE, "class A:\n    def f(self):\n" + "        x = 1\n" * 60, 1),
    (rules.short_modules, SOMEWHERE, "x = 1\n" * 401, 1),
    (rules.no_globals, SOMEWHERE, "def f():\n    global x\n    x = 1\n", 1),
    (rules.no_code_from_data, SOMEWHERE, "eval('1')", 1),
    (rules.no_code_from_data, SOMEWHERE, "exec('1')", 1),
    (rules.no_code_from_data, SOMEWHERE, "import pickle", 1),
    (rules.no_code_from_data, SOMEWHERE, "def f():\n    from marshal import loads", 1),
    (rules.no_code_from_data, SOMEWHERE, "import sys\nsys.path.insert(0, 'x')", 1),
    (rules.no_code_from_data, SOMEWHERE, "from sys import path", 1),
    (rules.no_code_from_data, SOMEWHERE, "np.load(x, allow_pickle=True)", 1),
    (rules.no_code_from_data, SOMEWHERE, "np.load(x, allow_pickle=flag)", 1),
    (rules.errors_are_named, SOMEWHERE, "try:\n    f()\nexcept Exception:\n    g()", 1),
    (rules.errors_are_named, SOMEWHERE, "try:\n    f()\nexcept Exception:\n    raise", 1),
    (rules.errors_are_named, SOMEWHERE, "try:\n    f()\nexcept (OSError, Exception):\n    g()", 1),
    (rules.errors_are_named, SOMEWHERE, "try:\n    f()\nexcept:\n    g()", 1),
    (rules.errors_are_named, SOMEWHERE, "try:\n    f()\nexcept BaseException:\n    g()", 1),
    (rules.errors_are_named, SOMEWHERE, "with contextlib.suppress(Exception):\n    g()", 1),
    (rules.errors_are_named, "service/pipeline.py", "try:\n    f()\nexcept Exception:\n    g()\n" * 2, 1),
    (rules.disk_in_one_place, SOMEWHERE, "import os\nos.fsync(3)", 1),
    (rules.disk_in_one_place, SOMEWHERE, "import os\nos.replace(a, b)", 1),
    (rules.disk_in_one_place, SOMEWHERE, "from os import rename", 1),
    (rules.disk_in_one_place, SOMEWHERE, "path.rename(other)", 1),
    (rules.disk_in_one_place, SOMEWHERE, "path.replace(other)", 1),
    (rules.disk_in_one_place, SOMEWHERE, "Path('x').replace(other)", 1),
    (rules.disk_in_one_place, SOMEWHERE, "shutil.move(a, b)", 1),
    (rules.clock_in_one_place, SOMEWHERE, "datetime.now(UTC)", 1),
    (rules.clock_in_one_place, SOMEWHERE, "datetime.datetime.utcnow()", 1),
    (rules.clock_in_one_place, SOMEWHERE, "time.time()", 1),
    (rules.clock_in_one_place, SOMEWHERE, "from time import time", 1),
    (rules.clock_in_one_place, SOMEWHERE, "f(clock=time.time)", 1),
    (rules.clock_in_one_place, SOMEWHERE, "date.today()", 1),
    (rules.permits_from_the_gate, SOMEWHERE, "Permit(call='x')", 1),
    (rules.permits_from_the_gate, "inference/run.py", "permit.Permit(call='x')", 1),
    (rules.permits_from_the_gate, SOMEWHERE, "dataclasses.replace(permit, expires_at=later)", 1),
    (rules.permits_from_the_gate, SOMEWHERE, "from ethics_review.permit import _GATE", 1),
    (rules.engine_behind_two_doors, SOMEWHERE, "self._p.engine.infer(model, volume, 60.0)", 1),
    (rules.engine_behind_two_doors, SOMEWHERE, "later = partial(engine.infer, model)", 1),
    (rules.engine_behind_two_doors, "service/golden.py", "golden.GoldenCase(digest, loaded.volume, {}, 0.1)", 1),
    (rules.engine_behind_two_doors, "inference/checks.py", "GoldenCase(digest, volume, {}, 0.1)", 1),
    (rules.weights_only, SOMEWHERE, "torch.load(path)", 1),
    (rules.weights_only, SOMEWHERE, "torch.load(path, weights_only=False)", 1),
    (rules.weights_only, SOMEWHERE, "torch.load(path, weights_only=flag)", 1),
    (rules.never_verified, SOMEWHERE, "ds.VerificationFlag = 'VERIFIED'", 1),
    (rules.never_verified, SOMEWHERE, "x = {'VERIFIED': a == b}['VERIFIED' if a != 'VERIFIED' else '']", 2),
    (rules.never_verified, SOMEWHERE, "Comprehensive3DSR(is_verified=True)", 1),
    (rules.all_typed, SOMEWHERE, "def f(x) -> int: ...", 1),
    (rules.all_typed, SOMEWHERE, "def f(*args, **kwargs) -> int: ...", 1),
    (rules.all_typed, SOMEWHERE, "def f(x: int): ...", 1),
    (rules.public_docstrings, SOMEWHERE, "x = 1", 1),
    (rules.public_docstrings, SOMEWHERE, '"""M."""\ndef f(): ...', 1),
    (rules.public_docstrings, SOMEWHERE, '"""M."""\nclass A:\n    """A."""\n    def f(self): ...', 1),
    (rules.frozen_dataclasses, SOMEWHERE, "@dataclass\nclass A: ...", 1),
    (rules.frozen_dataclasses, SOMEWHERE, "@dataclass\nclass _A: ...", 1),
    (rules.frozen_dataclasses, SOMEWHERE, "@dataclass(slots=True)\nclass State: ...", 1),
    (rules.frozen_dataclasses, SOMEWHERE, "@dataclasses.dataclass(frozen=True)\nclass A: ...", 1),
    (rules.frozen_dataclasses, SOMEWHERE, "@dataclass(slots=True, frozen=False)\nclass A: ...", 1),
    (rules.pure_modules, "ethics_review/gate.py", "from pathlib import Path", 1),
    (rules.pure_modules, "dicom_bridge/assembly.py", "def f():\n    import os", 1),
    (rules.tests_are_sentences, "tests/x.py", "def test_a() -> None: ...", 1),
    (rules.tests_are_sentences, "tests/x.py", 'def test_a(monkeypatch: object) -> None:\n    """A."""', 1),
    (rules.tests_are_sentences, "tests/x.py", "from unittest.mock import Mock", 1),
    (rules.tests_are_sentences, "tests/x.py", "pytest.skip('later')", 1),
    (rules.tests_are_sentences, "tests/x.py", "@pytest.mark.skipif(True)\ndef f(): ...", 1),
    (rules.nothing_unfinished, "a.md", "we do it later, TODO", 1),
    (rules.nothing_unfinished, "a.py", "# FIXME\nx = 1  # XXX", 2),
    (rules.nothing_unfinished, "a.py", "raise NotImplementedError", 1),
    (rules.nothing_unfinished, "a.py", "raise NotImplementedError('x')", 1),
    (rules.no_machine_paths, "a.md", "see /work/notes.md", 1),
    (rules.no_machine_paths, "a.md", "cd /home/somebody/zhiying", 1),
    (rules.no_machine_paths, "a.sh", "cp /tmp/w/x .", 1),
]

# rule, path, text that keeps it though it looks alike
HARMLESS: list[tuple[rules.Rule, str, str]] = [
    (rules.short_functions, SOMEWHERE, 'def f():\n    """\n' + "    words\n" * 80 + '    """\n' + "    x = 1\n" * 59),
    (rules.short_modules, SOMEWHERE, "x = 1\n" * 400),
    (
        rules.no_code_from_data,
        SOMEWHERE,
        "model.eval()\nre.compile('x')\nnp.load(x, allow_pickle=False)\nos.path.join()",
    ),
    (rules.errors_are_named, "service/pipeline.py", "try:\n    f()\nexcept Exception:\n    g()"),
    (rules.errors_are_named, SOMEWHERE, "try:\n    f()\nexcept BaseException:\n    g()\n    raise"),
    (rules.errors_are_named, SOMEWHERE, "try:\n    f()\nexcept (OSError, ValueError):\n    g()"),
    (rules.disk_in_one_place, "audit/durable.py", "os.replace(a, b)\nos.fsync(3)"),
    (rules.disk_in_one_place, SOMEWHERE, "'x'.replace('a', 'b')\nreplace(item, a=1)\nwhen.replace(tzinfo=UTC)"),
    (rules.disk_in_one_place, SOMEWHERE, "dataclasses.replace(item)"),
    (rules.clock_in_one_place, "service/wire.py", "datetime.now(UTC)"),
    (rules.clock_in_one_place, SOMEWHERE, "time.monotonic()\nself.now()\ndatetime.combine(a, b)"),
    (rules.permits_from_the_gate, "ethics_review/gate.py", "Permit(call='x')"),
    (rules.permits_from_the_gate, SOMEWHERE, "isinstance(x, Permit)\nreplace(run, state=1)"),
    (rules.engine_behind_two_doors, "inference/run.py", "engine.infer(model, volume, 60.0)"),
    (rules.engine_behind_two_doors, "inference/golden.py", "engine.infer(model, case.volume, 60.0)"),
    (rules.engine_behind_two_doors, SOMEWHERE, "class E:\n    def infer(self): ...\ninferred = run(permit)"),
    (rules.weights_only, SOMEWHERE, "torch.load(path, weights_only=True)\njson.load(path)"),
    (rules.never_verified, SOMEWHERE, "ds.VerificationFlag = 'UNVERIFIED'\nSR(is_verified=False)"),
    (rules.never_verified, SOMEWHERE, "accepted = theirs.VerificationFlag == 'VERIFIED'"),
    (rules.all_typed, SOMEWHERE, "class A:\n    def f(self, x: int, *y: str, **z: str) -> None: ..."),
    (rules.public_docstrings, SOMEWHERE, '"""M."""\ndef _f(): ...\nclass _A:\n    def f(self): ...'),
    (
        rules.public_docstrings,
        SOMEWHERE,
        '"""M."""\nclass A(Protocol):\n    """A."""\n    @property\n    def f(self): ...',
    ),
    (rules.frozen_dataclasses, SOMEWHERE, "@dataclass(frozen=True, slots=True)\nclass A: ..."),
    (rules.frozen_dataclasses, SOMEWHERE, "@dataclass(slots=True)\nclass _A: ..."),
    (rules.frozen_dataclasses, "audit/state.py", "@dataclass(slots=True)\nclass State: ..."),
    (rules.pure_modules, SOMEWHERE, "import os"),
    (rules.tests_are_sentences, "tests/x.py", 'def test_a() -> None:\n    """A rule."""\n\ndef helper() -> None: ...'),
    (rules.nothing_unfinished, "a.md", "mastodons, prefixes"),
    (rules.no_machine_paths, "a.md", "https://example.org/home/page docs/work/x /usr/share/orthanc /var/lib/zhiying"),
]


@pytest.mark.parametrize(("rule", "path", "text", "times"), PLANTED, ids=lambda x: getattr(x, "__name__", None))
def test_planted(rule: rules.Rule, path: str, text: str, times: int) -> None:
    """A planted violation is found, as often as it was planted, and named with its file."""
    found = list(rule(rules.Module(path, text)))
    assert len(found) == times, found
    assert all(str(one).startswith(f"{path}:") for one in found)


@pytest.mark.parametrize(("rule", "path", "text"), HARMLESS, ids=lambda x: getattr(x, "__name__", None))
def test_harmless(rule: rules.Rule, path: str, text: str) -> None:
    """What only looks like a violation is left alone: a rule that cries wolf gets switched off."""
    assert list(rule(rules.Module(path, text))) == []


def test_every_rule_is_planted() -> None:
    """No rule exists without a violation that shows it at work."""
    shown = {rule for rule, *_ in PLANTED}
    assert shown == {*rules.PRODUCT_RULES, *rules.TEST_RULES, *rules.FILE_RULES}


def test_undeclared_import_is_found() -> None:
    """An import that nothing declared brings is named; the standard library and declared packages are not."""
    module = rules.Module(SOMEWHERE, "import os\nimport pydicom.uid\nfrom yaml import safe_load\nfrom . import x")
    imported = rules.top_level_imports(module)
    assert imported == {"os", "pydicom", "yaml"}
    assert rules.undeclared(imported, frozenset({"os"}), frozenset({"pydicom"})) == {"yaml"}
