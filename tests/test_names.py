"""Names are used once, files stay small, and the glossary names what is there."""

import ast
import re
from functools import cache

import pytest

from tests.process import ROOT
from tools.measure import (
    CLASS_LIMIT_LINES,
    FILE_LIMIT_LINES,
    Tree,
    repeated_class_names,
)


@cache
def tree() -> Tree:
    return Tree(ROOT)


def test_a_public_class_name_is_defined_once_in_the_service():
    assert repeated_class_names(tree().service) == {}


def test_no_file_is_over_its_limit():
    assert [str(file) for file in tree().files if file.lines > FILE_LIMIT_LINES] == []


def test_no_class_is_over_its_limit():
    assert [str(one) for one in tree().classes if one.lines > CLASS_LIMIT_LINES] == []


def test_no_test_patches_our_own_code():
    assert tree().patches() == []


@cache
def defined() -> set[str]:
    """Names of all classes and functions of the service and the client."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name
        for module in tree().code
        for node in ast.walk(module.tree)
        if isinstance(node, kinds)
    }


PAGES = ("*.md", "docs/*.md", "docs/adr/*.md", "docs/explanation/*.md")


@pytest.mark.parametrize(
    "page", sorted(str(path.relative_to(ROOT)) for page in PAGES for path in ROOT.glob(page))
)
def test_a_page_names_classes_and_files_that_are_there(page):
    """In the last column of the glossary, and wherever a record has the path of a file."""
    text = (ROOT / page).read_text()
    if page.endswith("glossary.md"):
        rows = [line.split("|")[-2] for line in text.splitlines() if line.startswith("| ")]
        text = "\n".join(rows)
    missing = [
        name
        for name in re.findall(r"`([^`\s]+)`", text)
        if not (is_file(name) if "/" in name or "." in name else is_known(name, page))
    ]
    assert missing == []


def is_file(name: str) -> bool:
    """Whether a path is there, from the root or a package's folder; a bare name anywhere."""
    if not re.fullmatch(r"[\w./-]+\.(py|md)|\w+/[\w/]+/", name):
        return True  # a call, a header, a key
    folders = (ROOT, ROOT / "service", *ROOT.glob("clients/*/src/*"))
    places = [folder / name for folder in folders]
    if "/" not in name:
        places += [path for top in ("service", "tests") for path in (ROOT / top).rglob(name)]
    return any(place.exists() for place in places)


def is_known(name: str, page: str) -> bool:
    """Whether a name of the glossary is one of a class or a function."""
    return not page.endswith("glossary.md") or name in defined()
