"""The house rules as functions over source text: each gives the places where its rule is broken.

Pure: nothing here reads a file. `test_rules.py` runs each rule on a planted violation, `test_house.py` on the house.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 400
ONE_FILE = {"audit/verifier.py": 1330, "ethics_review/reviewer.py": 530}
"""What must be one file, as strangers run it alone; its own budget."""

# The three walls: where anything may be caught, because it is recorded there and reported upward. One handler each.
WALLS = {"dicom_bridge/listener.py": 1, "inference/worker.py": 1, "service/pipeline.py": 1}
DURABLE = "audit/durable.py"
CLOCK = "service/wire.py"
PERMITS = "ethics_review/gate.py"
DOORS = frozenset({"inference/run.py", "inference/golden.py"})
MUTABLE = frozenset({("audit/state.py", "State")})  # grows with the log; replaced whole, or not at all
PURE = frozenset(
    {
        "audit/merkle.py",
        "dicom_bridge/assembly.py",
        "dicom_bridge/catalogue.py",
        "dicom_bridge/evidence.py",
        "dicom_bridge/selection.py",
        "ethics_review/acceptance.py",
        "ethics_review/acts.py",
        "ethics_review/charts.py",
        "ethics_review/drift.py",
        "ethics_review/evaluation.py",
        "ethics_review/facts.py",
        "ethics_review/gaps.py",
        "ethics_review/gate.py",
        "ethics_review/incident.py",
        "ethics_review/life.py",
        "ethics_review/lookback.py",
        "ethics_review/metrics.py",
        "ethics_review/model_card.py",
        "ethics_review/monitor.py",
        "ethics_review/papers.py",
        "ethics_review/parties.py",
        "ethics_review/questions.py",
        "ethics_review/replay.py",
        "ethics_review/safety.py",
        "ethics_review/sequential.py",
        "ethics_review/signing.py",
        "ethics_review/snapshot.py",
        "ethics_review/states.py",
        "ethics_review/terms.py",
        "service/reporting/fhir.py",
        "service/reporting/hl7.py",
        "service/reporting/items.py",
    }
)

DISK_CALLS = frozenset({"fsync", "fdatasync", "replace", "rename", "renames", "link"})
CLOCK_CALLS = frozenset(
    {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.time_ns"}
)
UNPICKLERS = frozenset({"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"})
IMPURE_MODULES = frozenset({"os", "pathlib", "socket", "sqlite3", "subprocess", "shutil", "tempfile", "threading"})
# Spelled apart, so that this file does not break the rule that it holds.
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.:/-])/(?:work|home|Users|root)/[\w.-]+|(?<![\w.-])/tmp/[\w-]+/")


@lru_cache(maxsize=1)
def _parsed(text: str) -> ast.Module:
    """One tree for all the rules that look at a module one after another: to parse takes longer than to look."""
    return ast.parse(text)


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file: `path` relative to the root with forward slashes."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return _parsed(self.text)


@dataclass(frozen=True, slots=True)
class Broken:
    """One place where a rule is broken."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


Rule = Callable[[Module], Iterator[Broken]]


def _dotted(node: ast.expr) -> str:
    """'datetime.now' for an attribute chain of names; the last part of others, such as 'x().now' -> '.now'."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def _calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield node, _dotted(node.func)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _imports(module: Module) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported, deferred imports too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def short_functions(module: Module) -> Iterator[Broken]:
    """Functions have at most 60 lines, their docstring not counted."""
    for function in _functions(module.tree):
        first = function.body[0]
        documented = ast.get_docstring(function, clean=False) is not None
        lines = (function.end_lineno or 0) - function.lineno + 1
        lines -= (first.end_lineno or 0) - first.lineno + 1 if documented else 0
        if lines > FUNCTION_LINES_MAX:
            what = f"{function.name} has {lines} lines, {FUNCTION_LINES_MAX} allowed"
            yield Broken(module.path, function.lineno, what)


def short_modules(module: Module) -> Iterator[Broken]:
    """Modules have at most 400 lines."""
    lines = len(module.text.splitlines())
    allowed = ONE_FILE.get(module.path, MODULE_LINES_MAX)
    if lines > allowed:
        yield Broken(module.path, lines, f"{lines} lines, {allowed} allowed")


def no_globals(module: Module) -> Iterator[Broken]:
    """No `global`: state is handed over, not reached for."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield Broken(module.path, node.lineno, f"global {', '.join(node.names)}")


def no_code_from_data(module: Module) -> Iterator[Broken]:
    """No eval, exec or compile, nothing unpickled, no edit of sys.path."""
    for call, name in _calls(module):
        if name in {"eval", "exec", "compile", "builtins.eval", "builtins.exec", "__import__"}:
            yield Broken(module.path, call.lineno, f"{name}()")
    for line, name in _imports(module):
        if name.split(".")[0] in UNPICKLERS:
            yield Broken(module.path, line, f"import of {name.split('.')[0]}")
        if name == "sys.path":
            yield Broken(module.path, line, "sys.path")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and _dotted(node) == "sys.path":
            yield Broken(module.path, node.lineno, "sys.path")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not _is_constant(node.value, value=False):
            yield Broken(module.path, node.value.lineno, "allow_pickle")


def errors_are_named(module: Module) -> Iterator[Broken]:
    """`except Exception` only at the three walls. `except BaseException` only to clean up and raise again."""
    broad = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {"BaseException" if kind is None else _dotted(kind).removeprefix("builtins.") for kind in caught}
            last = node.body[-1]
            raises_again = isinstance(last, ast.Raise) and last.exc is None
            if "Exception" in names or ("BaseException" in names and not raises_again):
                broad.append(Broken(module.path, node.lineno, "catches everything"))
        quietly = node.args if isinstance(node, ast.Call) and _dotted(node.func).endswith("suppress") else []
        if {_dotted(kind) for kind in quietly} & {"Exception", "BaseException"}:
            broad.append(Broken(module.path, node.lineno, "suppresses everything"))
    yield from broad[WALLS.get(module.path, 0) :]


def disk_in_one_place(module: Module) -> Iterator[Broken]:
    """fsync, replace and rename only in audit/durable.py, where each is followed by what makes it last."""
    if module.path == DURABLE:
        return
    for call, name in _calls(module):
        owner, _, method = name.rpartition(".")
        of_path = isinstance(call.func, ast.Attribute) and (
            method == "rename" or (method == "replace" and len(call.args) == 1 and not call.keywords)
        )
        if (owner == "os" and method in DISK_CALLS) or name == "shutil.move" or (of_path and owner != "dataclasses"):
            yield Broken(module.path, call.lineno, f"{name}(): use audit.durable")
    for line, name in _imports(module):
        if name.startswith("os.") and name.removeprefix("os.") in DISK_CALLS:
            yield Broken(module.path, line, f"import of {name}: use audit.durable")


def clock_in_one_place(module: Module) -> Iterator[Broken]:
    """The wall clock is read in service/wire.py alone, and handed to everything else."""
    if module.path == CLOCK:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            name = ".".join(_dotted(node).split(".")[-2:])
            if name in CLOCK_CALLS:
                yield Broken(module.path, node.lineno, f"{name}: take the clock as an argument")
    for line, name in _imports(module):
        if name in {"time.time", "time.time_ns"}:
            yield Broken(module.path, line, f"import of {name}: take the clock as an argument")


def permits_from_the_gate(module: Module) -> Iterator[Broken]:
    """Only ethics_review/gate.py makes a Permit, or touches what makes one (I3)."""
    if module.path in {PERMITS, "ethics_review/permit.py"}:
        return
    for call, name in _calls(module):
        if name.split(".")[-1] == "Permit":
            yield Broken(module.path, call.lineno, "makes a Permit")
        copied = name.split(".")[-1] in {"replace", "copy", "deepcopy"}
        if copied and any("permit" in _dotted(given).lower() for given in call.args):
            yield Broken(module.path, call.lineno, "copies a Permit")
    for line, name in _imports(module):
        if name.startswith("ethics_review.permit.") and name.split(".")[-1].startswith("_"):
            yield Broken(module.path, line, f"import of {name}")


def engine_behind_two_doors(module: Module) -> Iterator[Broken]:
    """A model computes for inference/run.py, which asks for a Permit, and for the golden case; for nobody else (I3).

    A golden case is read from its folder in inference/golden.py: no volume that came from elsewhere becomes one.
    """
    if module.path in DOORS:
        return
    for call, name in _calls(module):
        if name.split(".")[-1] == "GoldenCase":
            yield Broken(module.path, call.lineno, "makes a GoldenCase")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr == "infer":
            yield Broken(module.path, node.lineno, "runs a model past inference.run, or hands on what does")


def weights_only(module: Module) -> Iterator[Broken]:
    """torch.load takes weights_only=True, written out."""
    for call, name in _calls(module):
        safe = any(k.arg == "weights_only" and _is_constant(k.value, value=True) for k in call.keywords)
        if name == "torch.load" and not safe:
            yield Broken(module.path, call.lineno, "torch.load without weights_only=True")


def never_verified(module: Module) -> Iterator[Broken]:
    """No code path marks a result VERIFIED (I9): that is a physician's act, never ours. To compare is not to mark."""
    nodes = list(ast.walk(module.tree))
    compared = {id(part) for one in nodes if isinstance(one, ast.Compare) for part in (one.left, *one.comparators)}
    for node in nodes:
        if isinstance(node, ast.Constant) and node.value == "VERIFIED" and id(node) not in compared:
            yield Broken(module.path, node.lineno, "the word VERIFIED")
        if isinstance(node, ast.keyword) and node.arg == "is_verified" and not _is_constant(node.value, value=False):
            yield Broken(module.path, node.value.lineno, "is_verified")


def all_typed(module: Module) -> Iterator[Broken]:
    """Every argument and every result has a type."""
    for function in _functions(module.tree):
        given = function.args
        named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        spread = [one for one in (given.vararg, given.kwarg) if one is not None]
        bare = [one.arg for one in (*named, *spread) if one.annotation is None and one.arg not in {"self", "cls"}]
        if bare or function.returns is None:
            what = f"{function.name}: no type for {', '.join(bare) or 'the result'}"
            yield Broken(module.path, function.lineno, what)


def public_docstrings(module: Module) -> Iterator[Broken]:
    """Modules, public classes and public functions say what they promise."""
    if ast.get_docstring(module.tree) is None:
        yield Broken(module.path, 1, "the module has no docstring")
    for scope in (module.tree, *(node for node in module.tree.body if isinstance(node, ast.ClassDef))):
        for node in scope.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            private = isinstance(scope, ast.ClassDef) and scope.name.startswith("_")
            # What a port's property means is said by the port.
            of_port = isinstance(scope, ast.ClassDef) and any(
                _dotted(base).endswith("Protocol") for base in scope.bases
            )
            obvious = of_port and isinstance(node, ast.FunctionDef) and "property" in map(_dotted, node.decorator_list)
            if not private and not obvious and ast.get_docstring(node) is None:
                yield Broken(module.path, node.lineno, f"{node.name} has no docstring")


def frozen_dataclasses(module: Module) -> Iterator[Broken]:
    """Dataclasses have slots, and those with a public name are frozen: what was verified stays what it was."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            name = _dotted(call.func if call else decorator)
            if name.split(".")[-1] != "dataclass":
                continue
            said = {k.arg for k in call.keywords if _is_constant(k.value, value=True)} if call else set()
            wanted = (
                {"slots"} if node.name.startswith("_") or (module.path, node.name) in MUTABLE else {"slots", "frozen"}
            )
            if wanted - said:
                yield Broken(
                    module.path, node.lineno, f"{node.name}: dataclass without {' and '.join(sorted(wanted - said))}"
                )


def pure_modules(module: Module) -> Iterator[Broken]:
    """Rules that decide over patients see no disk, network, process or thread."""
    if module.path in PURE:
        for line, name in _imports(module):
            if name.split(".")[0] in IMPURE_MODULES:
                yield Broken(module.path, line, f"a pure module imports {name.split('.')[0]}")


def tests_are_sentences(module: Module) -> Iterator[Broken]:
    """Each test's docstring is the rule in one sentence; no test is skipped, none patches what it tests."""
    for function in _functions(module.tree):
        if function.name.startswith("test_") and ast.get_docstring(function) is None:
            yield Broken(module.path, function.lineno, f"{function.name} has no docstring")
        if {"monkeypatch", "mocker"} & {one.arg for one in function.args.args}:
            yield Broken(module.path, function.lineno, f"{function.name} patches; write a fake")
    for line, name in _imports(module):
        if name.startswith(("unittest.mock", "mock.")):
            yield Broken(module.path, line, "a mock; write a fake")
    for node in ast.walk(module.tree):
        name = _dotted(node) if isinstance(node, ast.Attribute) else ""
        if name in {"pytest.skip", "pytest.xfail", "pytest.importorskip", "pytest.mark.skip", "pytest.mark.skipif"} or (
            name in {"pytest.mark.xfail", "unittest.skip"}
        ):
            yield Broken(module.path, node.lineno if isinstance(node, ast.Attribute) else 0, name)


def nothing_unfinished(module: Module) -> Iterator[Broken]:
    """No notes to self: what is not done is not begun."""
    for number, line in enumerate(module.text.splitlines(), 1):
        if UNFINISHED.search(line):
            yield Broken(module.path, number, "unfinished work")
    if module.path.endswith(".py"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.unparse(node.exc):
                yield Broken(module.path, node.lineno, "NotImplementedError")


def no_machine_paths(module: Module) -> Iterator[Broken]:
    """No path of the machine or the account on which somebody worked."""
    for number, line in enumerate(module.text.splitlines(), 1):
        found = MACHINE_PATHS.search(line)
        if found:
            yield Broken(module.path, number, f"the path {found.group()}")


def _is_constant(node: ast.expr, *, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


PRODUCT_RULES: tuple[Rule, ...] = (
    short_functions,
    short_modules,
    no_globals,
    no_code_from_data,
    errors_are_named,
    disk_in_one_place,
    clock_in_one_place,
    permits_from_the_gate,
    engine_behind_two_doors,
    weights_only,
    never_verified,
    all_typed,
    public_docstrings,
    frozen_dataclasses,
    pure_modules,
)
TEST_RULES: tuple[Rule, ...] = (short_functions, no_globals, tests_are_sentences)
FILE_RULES: tuple[Rule, ...] = (nothing_unfinished, no_machine_paths)


def top_level_imports(module: Module) -> frozenset[str]:
    """First names of everything that a module imports."""
    return frozenset(name.split(".")[0] for _, name in _imports(module))


def undeclared(imported: frozenset[str], known: frozenset[str], declared: frozenset[str]) -> frozenset[str]:
    """Imported names that are neither `known` (standard library, our own folders) nor brought by a declared package."""
    return imported - known - declared
