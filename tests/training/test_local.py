"""The terminal's way: a text file in, a stored model and a Keras file out."""

import subprocess
import sys

import keras
import numpy as np

from service.models.reference import ReferenceModel
from service.models.spec import ModelRef
from service.models.store import ModelStore
from tests.process import ROOT


def carousel(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_file_becomes_a_model_and_a_keras_file(tmp_path):
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
