"""Measure the shape of the code: `make measure`, or `make measure BEFORE=<commit>` to compare.

Prints one Markdown table. A commit is measured from `git archive`, so both columns come from the
same script. `--change NAME=RANGE` adds a row that counts the files of a trial change: `RANGE` is
what `git diff` takes, such as `main...try-new-cell`.
"""

import argparse
import ast
import io
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
OWN_PACKAGES = ("service", "carousel_client")
FILE_LIMIT_LINES, CLASS_LIMIT_LINES = 400, 250

_PATCHING = {"setattr", "delattr", "setitem", "delitem"}


@dataclass(frozen=True, slots=True)
class Sized:
    """A file, a class or a function with its number of lines."""

    name: str
    lines: int

    def __str__(self) -> str:
        return f"`{self.name}` {self.lines:,}"


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file: its path below the measured tree, its text and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @classmethod
    def read(cls, root: Path, path: Path) -> "Module":
        """Parse a file."""
        text = path.read_text(encoding="utf-8")
        return cls(path.relative_to(root), text, ast.parse(text))

    @property
    def lines(self) -> int:
        """The number of lines."""
        return self.text.count("\n")


class Tree:
    """The code and the tests of one checkout."""

    def __init__(self, root: Path) -> None:
        service = [root / "service"]
        clients = sorted(root.glob("clients/*/src"))
        tests = [root / "tests", *sorted(root.glob("clients/*/tests"))]
        self.service = [Module.read(root, path) for path in _python_files(service)]
        self.client = [Module.read(root, path) for path in _python_files(clients)]
        self.tests = [Module.read(root, path) for path in _python_files(tests)]

    @property
    def code(self) -> list[Module]:
        """The modules of the service and of the client."""
        return self.service + self.client

    @property
    def generated(self) -> list[Module]:
        """The modules that a script writes: the client's blocking side."""
        return [module for module in self.client if "_sync" in module.path.parts]

    @property
    def written(self) -> list[Module]:
        """The modules that people write."""
        return [module for module in self.code if module not in self.generated]

    @property
    def files(self) -> list[Sized]:
        """Every module of the code."""
        return [Sized(str(module.path), module.lines) for module in self.code]

    @cached_property
    def classes(self) -> list[Sized]:
        """Every class of the code."""
        return list(_definitions(self.code, (ast.ClassDef,)))

    @cached_property
    def functions(self) -> list[Sized]:
        """Every function and method of the code."""
        return list(_definitions(self.code, (ast.FunctionDef, ast.AsyncFunctionDef)))

    def repeated_file_names(self) -> dict[str, list[str]]:
        """File names that occur more than once, with their paths; `__init__.py` aside."""
        found: dict[str, list[str]] = defaultdict(list)
        for module in self.written:
            if module.path.name not in {"__init__.py", "__main__.py"}:
                found[module.path.name].append(str(module.path))
        return _repeated(found)

    def patches(self) -> list[str]:
        """Where the tests replace an attribute of our own code: `file:line`."""
        return [
            f"{module.path}:{line}"
            for module in self.tests
            for line in sorted(_patched_lines(module.tree))
        ]


def repeated_class_names(modules: Iterable[Module]) -> dict[str, list[str]]:
    """Names of public classes that are defined more than once, with the files that define them."""
    found: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(module.path))
    return _repeated(found)


def _repeated(found: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: paths for name, paths in sorted(found.items()) if len(paths) > 1}


def _python_files(folders: Iterable[Path]) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def _definitions(modules: Iterable[Module], kinds: tuple[type[ast.stmt], ...]) -> Iterator[Sized]:
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, kinds):
                name = f"{module.path}:{getattr(node, 'name', '')}"
                yield Sized(name, (node.end_lineno or node.lineno) - node.lineno + 1)


def _patched_lines(tree: ast.Module) -> set[int]:
    """Lines that replace an attribute of our own code for a test.

    Found are `monkeypatch.setattr(target, …)` and its kin, `mock.patch("target")`,
    `patch.object(target, …)` and `module.NAME = …`. A target is ours if it is a dotted string or a
    name that was imported from our packages, a loop variable over such names, or a local value (a
    fixture's object, say). A library's attribute, reached directly or through a module of ours, is
    not.
    """
    own, foreign = _imported_names(tree)
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (target := _patch_target(node)) is not None:
            if _is_own(target, own, foreign):
                lines.add(node.lineno)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and _names_own_module(target.value, own):
                    lines.add(node.lineno)
    return lines


def _imported_names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The names that a file binds to our code, and those it binds to anything else."""
    own: set[str] = set()
    foreign: set[str] = {"builtins"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            is_own = (node.module or "").partition(".")[0] in OWN_PACKAGES
            names = [alias.asname or alias.name for alias in node.names]
            (own if is_own else foreign).update(names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                is_own = alias.name.partition(".")[0] in OWN_PACKAGES
                (own if is_own else foreign).add(name)
        elif isinstance(node, ast.ClassDef):
            foreign.add(node.name)
    return own, foreign - own


def _patch_target(call: ast.Call) -> ast.expr | None:
    """The first argument of a call that replaces an attribute, else None."""
    if not call.args:
        return None
    callee = ast.unparse(call.func)
    head, _, last = callee.rpartition(".")
    is_monkeypatch = last in _PATCHING and ("patch" in head.lower() or head in {"mp", "m"})
    is_mock = last == "patch" or callee.endswith(("patch.object", "patch.dict", "patch.multiple"))
    return call.args[0] if is_monkeypatch or is_mock else None


def _is_own(target: ast.expr, own: set[str], foreign: set[str]) -> bool:
    if isinstance(target, ast.Constant):
        return str(target.value).partition(".")[0] in OWN_PACKAGES
    if isinstance(target, ast.Name):
        return target.id not in foreign
    return _names_own_module(target, own)


def _names_own_module(target: ast.expr, own: set[str]) -> bool:
    """Whether an expression is `name` or `name.attribute…` of our code and of no library in it."""
    *attributes, root = _dotted(target)
    is_library = any(name in sys.stdlib_module_names for name in attributes)
    return root in own and not is_library


def _dotted(target: ast.expr) -> list[str]:
    """The names of a dotted expression, the outermost first; empty strings for anything else."""
    names = []
    while isinstance(target, ast.Attribute):
        names.append(target.attr)
        target = target.value
    return [*names, target.id if isinstance(target, ast.Name) else ""]


def _largest(items: Sequence[Sized]) -> str:
    return str(max(items, key=lambda item: item.lines)) if items else "–"


def _over(items: Sequence[Sized], limit: int) -> str:
    return str(sum(item.lines > limit for item in items))


def _lines(modules: Sequence[Module]) -> str:
    return f"{sum(module.lines for module in modules):,}"


ROWS: dict[str, Callable[[Tree], str]] = {
    "modules": lambda tree: str(len(tree.code)),
    "lines, service and client": lambda tree: _lines(tree.code),
    "of these, generated": lambda tree: _lines(tree.generated),
    "lines, tests": lambda tree: _lines(tree.tests),
    "public class names defined more than once in `service/`": lambda tree: str(
        len(repeated_class_names(tree.service))
    ),
    "the same, with the client": lambda tree: str(len(repeated_class_names(tree.written))),
    "file names that occur more than once": lambda tree: str(len(tree.repeated_file_names())),
    "largest file": lambda tree: _largest(tree.files),
    f"files over {FILE_LIMIT_LINES} lines": lambda tree: _over(tree.files, FILE_LIMIT_LINES),
    "largest class": lambda tree: _largest(tree.classes),
    f"classes over {CLASS_LIMIT_LINES} lines": lambda tree: _over(tree.classes, CLASS_LIMIT_LINES),
    "longest function": lambda tree: _largest(tree.functions),
    "functions, median lines": lambda tree: (
        f"{statistics.median(item.lines for item in tree.functions):g}" if tree.functions else "–"
    ),
    "patches of our own code in tests": lambda tree: str(len(tree.patches())),
}


def measured_commit(revision: str) -> Tree:
    """The tree of a commit."""
    archive = _git("archive", "--format=tar", revision)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        return Tree(Path(folder))


def change_row(revisions: str) -> str:
    """How many files a change touches: code files, then tests and everything else."""
    names = _git("diff", "--name-only", revisions).decode().splitlines()
    kinds = Counter(kind_of_file(name) for name in names)
    return f"{kinds['code']} code, {kinds['test']} test, {kinds['other']} other"


def kind_of_file(name: str) -> str:
    """Whether a changed file is `code` (of the service or a client), a `test` or `other`."""
    first, *rest = Path(name).parts
    if first == "tests" or (first == "clients" and "tests" in rest):
        return "test"
    is_client = first == "clients" and "src" in rest
    return "code" if first == "service" or is_client else "other"


def _git(*arguments: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def table(columns: Mapping[str, Tree], changes: Mapping[str, Mapping[str, str]]) -> str:
    """The Markdown table: a row for each figure and each change, a column for each tree."""
    heads = list(columns)
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    for label, figure in ROWS.items():
        cells = " | ".join(figure(tree) for tree in columns.values())
        lines.append(f"| {label} | {cells} |")
    for name, revisions in changes.items():
        cells = " | ".join(
            change_row(revisions[head]) if head in revisions else "–" for head in heads
        )
        lines.append(f"| files of a change: {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the working tree, and another commit beside it where one is named."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tools.measure")
    parser.add_argument("--rev", metavar="REV", help="a commit to measure as well")
    for option, tree in (("--change", "the working tree"), ("--change-before", "REV")):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="NAME=RANGE",
            help=f"count the files of a trial change to {tree}",
        )
    parser.add_argument(
        "--list", action="store_true", help="also list the repeated names and the patches"
    )
    options = parser.parse_args()
    columns = {options.rev: measured_commit(options.rev)} if options.rev else {}
    columns["now"] = Tree(ROOT)
    changes: dict[str, dict[str, str]] = defaultdict(dict)
    for head, given in (("now", options.change), (options.rev, options.change_before)):
        for item in given:
            name, _, revisions = item.partition("=")
            changes[name][head] = revisions
    print(table(columns, changes))
    if options.list:
        _print_lists(columns["now"])


def _print_lists(tree: Tree) -> None:
    for title, found in (
        ("public class names", repeated_class_names(tree.written)),
        ("file names", tree.repeated_file_names()),
    ):
        print(f"\n{title} that occur more than once:")
        for name, paths in found.items():
            print(f"- {name}: {', '.join(paths)}")
    print("\npatches of our own code in tests:")
    for place in tree.patches():
        print(f"- {place}")


if __name__ == "__main__":
    main()
