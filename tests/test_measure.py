"""`make measure` counts what its rows say."""

import ast

import pytest

from tools.measure import (
    Module,
    Tree,
    _patched_lines,
    kind_of_file,
    repeated_class_names,
    table,
)


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Tree(root)


def test_service_and_client_are_counted_wherever_the_client_is(tmp_path):
    tree = write(
        tmp_path,
        {
            "service/a.py": "class Job:\n    x = 1\n\n\nclass _Own:\n    pass\n",
            "service/package/a.py": "class Job:\n    pass\n",
            "clients/python/src/carousel_client/b.py": "class _Own:\n    pass\n",
            "clients/python/tests/test_b.py": "import service\n",
            "tests/test_a.py": "x = 1\n",
        },
    )
    assert sum(module.lines for module in tree.code) == 10
    assert len(tree.tests) == 2
    assert list(repeated_class_names(tree.code)) == ["Job"]
    assert list(tree.repeated_file_names()) == ["a.py"]
    assert "| largest class | `service/a.py:Job` 2 |" in table({"now": tree}, {})


@pytest.mark.parametrize(
    "patch",
    [
        "monkeypatch.setattr(engine, 'LIMIT', 1)",
        "monkeypatch.setattr(Engine, 'run', None)",
        "monkeypatch.setattr(engine.Engine, 'run', None)",
        "monkeypatch.setattr('service.generation.engine.LIMIT', 1)",
        "monkeypatch.setattr(made, 'open', None)",
        "mock.patch('service.generation.engine.LIMIT')",
        "mock.patch.object(Engine, 'run')",
        "engine.LIMIT = 1",
        "for module in (engine,): monkeypatch.setattr(module, 'LIMIT', 1)",
    ],
)
def test_a_patch_of_our_own_code_is_found(patch):
    assert _patched_lines(parsed(patch)) == {6}


@pytest.mark.parametrize(
    "patch",
    [
        "monkeypatch.setattr(Path, 'open', None)",
        "monkeypatch.setattr(engine.subprocess, 'run', None)",
        "monkeypatch.setattr('tempfile.tempdir', None)",
        "monkeypatch.setattr(Fake, 'open', None)",
        "monkeypatch.setenv('CAROUSEL_SECRET', 'x')",
        "monkeypatch.setattr(made.connection, 'execute', None)",
        "made.limit = 1",
    ],
)
def test_a_patch_of_anything_else_is_not(patch):
    assert _patched_lines(parsed(patch)) == set()


def parsed(patch):
    lines = [
        "from pathlib import Path",
        "from unittest import mock",
        "from service.generation import engine",
        "from service.generation.engine import Engine",
        "class Fake: pass",
        patch,
    ]
    return ast.parse("\n".join(lines))


def test_a_modules_lines_are_counted(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 2\n")
    assert Module.read(tmp_path, tmp_path / "a.py").lines == 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("service/sessions/scripts/begin.lua", "code"),
        ("clients/python/src/carousel_client/client.py", "code"),
        ("clients/python/tests/test_client.py", "test"),
        ("clients/python/README.md", "other"),
        ("tests/api/test_generate.py", "test"),
        ("docs/reference/http.md", "other"),
    ],
)
def test_files_of_a_change_are_of_three_kinds(name, kind):
    assert kind_of_file(name) == kind
