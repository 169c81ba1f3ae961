"""A file of Keras 1: Embedding, GRU, SimpleRNN and TimeDistributedDense, as tf_keras computes."""

import json
from pathlib import Path

import numpy as np
import pytest

from service.models.importing.importer import Importer
from service.models.importing.request import ImportRequest
from service.models.reference import ReferenceModel
from service.models.store import ModelStore
from tests.models.importing.conftest import run_script

pytestmark = [pytest.mark.tf, pytest.mark.slow]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras_1")
    run_script("keras_1_files.py", folder)
    (folder / "vocabulary.json").write_text(json.dumps(list("abcdefghi")))
    return folder


@pytest.mark.parametrize("name", ["parts.h5", "gpu.h5"])
def test_the_probabilities_are_those_of_the_same_numbers(name, files, tmp_path):
    request = ImportRequest(
        Path(name), "m", vocabulary=Path("vocabulary.json"), precision="float32"
    )
    bundle = Importer(files, ModelStore(tmp_path)).run(request)
    logits = ReferenceModel(bundle.spec, bundle.weights).run(np.load(files / "tokens.npy"))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    found = shares / shares.sum(axis=1, keepdims=True)
    assert np.abs(found - np.load(files / "expected.npy")).max() < 1e-5
