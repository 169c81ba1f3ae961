"""Training in the terminal: a text file in, a stored model and a Keras file out."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from service.models.reference import ReferenceModel
from service.models.spec import ModelRef
from service.models.store import ModelStore
from tests.process import ROOT


def carousel(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.tf
@pytest.mark.slow
def test_a_file_becomes_a_model_and_a_keras_file(tmp_path):
    import keras  # noqa: PLC0415 (TensorFlow)

    file, store = tmp_path / "text.txt", tmp_path / "models"
    file.write_text("the owl and the cat\n" * 400)
    small = ("--units", 12, "--layers", 1, "--embedding-dim", 6, "--epochs", 2)
    small += ("--batch-size", 8, "--sequence-length", 20, "--data-dir", tmp_path / "data")
    done = carousel("train", file, "--name", "owl", *small, "--model-store", store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "owl@1"
    assert "in validation" in done.stderr
    assert (store / "owl" / "1" / "loss.png").read_bytes().startswith(b"\x89PNG")

    out = carousel("export", "owl@1", tmp_path / "keras", "--model-store", store)
    assert out.returncode == 0, out.stderr
    bundle = ModelStore(store).read(ModelRef("owl", 1))
    tokens = bundle.tokenizer.encode("the cat and the owl")
    model = keras.models.load_model(tmp_path / "keras" / "model.keras")
    logits = model(np.array([tokens])).numpy()[0]
    expected = ReferenceModel(bundle.spec, bundle.weights).run(tokens)
    assert np.abs(logits - expected).max() < 1e-4


def test_a_file_that_is_not_text_is_one_sentence(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"ab\xff")
    done = carousel("train", file, "--name", "x")
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1].startswith("carousel: the text is not UTF-8: byte 2")
    )


@pytest.mark.tf
@pytest.mark.slow
def test_a_model_is_trained_further_by_its_name_alone(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the with statement and the class\n" * 400)
    few = ("--epochs", 1, "--batch-size", 8, "--sequence-length", 20)
    few += ("--data-dir", tmp_path / "data", "--model-store", tmp_path / "models")
    put_demo(tmp_path / "models")
    done = carousel("train", file, "--name", "more", "--initial-model", "demo@1", *few)
    assert done.returncode == 0, done.stderr
    store = ModelStore(tmp_path / "models")
    more, demo = store.read(ModelRef("more", 1)), store.read(ModelRef("demo", 1))
    assert (more.spec, more.tokenizer.tokens) == (demo.spec, demo.tokenizer.tokens)
    assert list((tmp_path / "data" / "training").iterdir()) == []  # nothing is left to go on from
    wider = carousel("train", file, "--name", "x", "--initial-model", "demo@1", "--units", 9, *few)
    assert "`units` is 9, but demo@1 has 448; leave it out" in wider.stderr


def put_demo(store) -> None:
    shutil.copytree(ROOT / "model_store" / "demo", store / "demo")


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_is_none_is_one_sentence(tmp_path, name):
    done = carousel("train", tmp_path / name, "--name", "x")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_no_time_is_refused(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the owl and the cat\n" * 400)
    done = carousel("train", file, "--name", "x", "--max-seconds", 0)
    assert done.returncode == 2
    assert "`max_seconds` is 0" in done.stderr
