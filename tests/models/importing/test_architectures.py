"""Real files of many architectures: served probabilities are those of the author's own loop."""

from pathlib import PurePosixPath

import numpy as np
import pytest

from service.models.importing.assumptions import Assumptions
from service.models.importing.canonical_weights import convert
from service.models.importing.detect_format import read_checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.run_import import architecture_of
from service.models.reference import ReferenceModel
from tests.models.importing.conftest import run_script

pytestmark = [pytest.mark.tf, pytest.mark.slow]

TOKENS = [int(token) for token in np.random.default_rng(1).integers(1, 9, size=15)]
NAMES = [
    *("plain", "two_dense", "bidirectional", "bidirectional_mul", "one_hot", "masking"),
    *("left_one_hot", "flatten", "piano", "normalised", "batch_of_steps", "cells", "skip"),
    *("residual", "masking_residual", "rectified", "rescaled"),
    *("masked", "decoder", "unused_states", "many", "markov"),
]
CASES = [(f, n, e) for f in ("keras", "tf_keras") for n in NAMES for e in (".keras", ".h5")]
CASES += [("keras", "reversible", ".keras"), ("keras", "reversible", ".h5")]
ASSUME = {"left_one_hot": {"padding": "left"}, "flatten": {"padding": "left"}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A function: the folder of models that a framework wrote, each once."""
    made = {}

    def of(framework):
        if framework not in made:
            made[framework] = tmp_path_factory.mktemp(framework)
            run_script("architecture_files.py", framework, made[framework])
        return made[framework]

    return of


@pytest.mark.parametrize(("framework", "name", "ending"), CASES)
def test_the_probabilities_are_the_authors(framework, name, ending, files):
    with ImportFolder(files(framework), 1 << 30) as folder:
        checkpoint = read_checkpoint(folder, PurePosixPath(name + ending))
        assumptions = Assumptions(ASSUME.get(name, {}), checkpoint.keras_version)
        spec, layers = architecture_of(checkpoint, assumptions)
        model = ReferenceModel(spec, convert(spec, layers, assumptions))
    expected = np.load(files(framework) / f"{name}.npy")
    model_logits, state = [], model.initial_state()
    for token in TOKENS:
        logits, state = model.step(token, state)
        model_logits.append(logits)
    logits = np.array(model_logits)[-len(expected) :]
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    assert np.abs(probabilities - expected).max() < 1e-4
