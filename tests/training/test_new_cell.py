"""A new cell is two files: one in `service.models.cells`, one in `service.training.cells`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import service

NEW_CELL = Path(__file__).parent / "new_cell"
SERVICE = Path(service.__file__).parent
MODEL, GRADIENT = "models/cells/coupled_lstm.py", "training/cells/coupled_lstm.py"
FILES = {MODEL: NEW_CELL / "model.py", GRADIENT: NEW_CELL / "gradient.py"}


def link_package(folder: Path, original: Path, added: dict[Path, Path]) -> None:
    """Make a package of links to the original's entries and to the added files."""
    folder.mkdir()
    for entry in original.iterdir():
        if any(entry in new.parents for new in added):
            link_package(folder / entry.name, entry, added)
        elif entry.name != "__pycache__" or not any(new.parent == original for new in added):
            (folder / entry.name).symlink_to(entry)
    for new, source in added.items():
        if new.parent == original:
            (folder / new.name).symlink_to(source)


def run(tmp_path: Path, added: list[str], *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python on a copy of the service with these files in addition."""
    link_package(tmp_path / "service", SERVICE, {SERVICE / name: FILES[name] for name in added})
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = [sys.executable, *command]
    return subprocess.run(
        process, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
    )


@pytest.mark.tf
@pytest.mark.slow
def test_two_files_are_all_that_a_new_cell_takes(tmp_path):
    store = tmp_path / "models"
    store.mkdir()
    ended = run(tmp_path, [MODEL, GRADIENT], str(NEW_CELL / "check.py"), str(store))
    assert ended.returncode == 0, ended.stderr
    generated = ended.stdout.strip()
    assert generated.startswith("abc")
    assert len(generated) == 23
    assert set(generated) <= set("abcdefgh")


@pytest.mark.parametrize("name", [MODEL, GRADIENT])
def test_a_cell_with_only_one_of_its_files_fails_at_import(tmp_path, name):
    ended = run(tmp_path, [name], "-c", "import service.training.cells")
    assert ended.returncode == 1
    assert "ImportError: service.models.cells and service.training.cells must have" in ended.stderr
    assert "only one has coupled_lstm" in ended.stderr
