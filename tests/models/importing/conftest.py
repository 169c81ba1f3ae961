import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.models.importing.importer import Importer
from service.models.importing.request import ImportLimits
from service.models.importing.run_import import import_into
from service.models.store import ModelStore

HERE = Path(__file__).parent

# Two lines that a small model learns quickly.
ARTICLE_TEXT = "ROMEO: good night! 再见。\nJULIET: 学而时习之 - what's in a name?\n" * 240


def run_script(name, *arguments):
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="session")
def article_folder(tmp_path_factory):
    """text.txt, training_checkpoints/ and article.npz, made by the article's code."""
    folder = tmp_path_factory.mktemp("article")
    (folder / "text.txt").write_text(ARTICLE_TEXT, encoding="utf-8")
    run_script("article.py", folder)
    return folder


@pytest.fixture(scope="session")
def keras_files(tmp_path_factory):
    """A function: the folder of networks that a framework wrote, each once."""
    made = {}

    def files(framework):
        if framework not in made:
            made[framework] = tmp_path_factory.mktemp(framework)
            run_script("keras_files.py", framework, made[framework])
        return made[framework]

    return files


@pytest.fixture
def imports(tmp_path):
    """An empty import folder with a vocabulary of three characters."""
    folder = tmp_path / "imports"
    folder.mkdir()
    (folder / "vocabulary.json").write_text(json.dumps(["a", "b", "c"]))
    return folder


@pytest.fixture
def importer(imports, tmp_path):
    return Importer(imports, ModelStore(tmp_path / "store"))


@pytest.fixture
def import_here(imports, tmp_path):
    """A function: a request → the child's report or error, but in this process."""
    return lambda request: import_into(tmp_path, request, imports, ImportLimits())


@pytest.fixture(scope="session")
def feed():
    """A function: tokens from the zero state → logits after each, (tokens, vocabulary)."""

    def logits_of(program, tokens):
        batch, rows = program.new_batch(1), []
        for token in tokens:
            batch.tokens[0] = token
            program.step(batch, 1)
            rows.append(batch.logits[0].copy())
        return np.stack(rows)

    return logits_of


@pytest.fixture(scope="session")
def greedy():
    """A function: a prompt's tokens → the most likely next ones, one after the other."""

    def tokens_of(program, prompt, count):
        batch, written = program.new_batch(1), []
        for token in prompt:
            batch.tokens[0] = token
            program.step(batch, 1)
        for _ in range(count):
            batch.tokens[0] = batch.logits[0].argmax()
            written.append(int(batch.tokens[0]))
            program.step(batch, 1)
        return written

    return tokens_of
