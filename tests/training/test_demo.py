import json
import math
from pathlib import Path

import numpy as np
import pytest

from service.models.bundle import Bundle
from service.models.reference import ReferenceModel
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.training.demo_corpus import ALPHABET, topics_text

DEMO = Path(__file__).parents[2] / "model_store/demo/1"
LARGEST_BYTES = 4_000_000


def bits_per_character(bundle, text):
    tokens = bundle.tokenizer.encode(text)
    logits = ReferenceModel(bundle.spec, bundle.weights).run(tokens[:-1])
    logits -= logits.max(axis=1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -logprobs[np.arange(len(logprobs)), tokens[1:]].mean() / math.log(2)


def test_the_bundled_model_reads_and_is_at_most_4_mb():
    assert Bundle.read(DEMO).ref == ModelRef("demo", 1)
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= LARGEST_BYTES


def test_the_bundled_model_pays_what_its_manifest_says():
    bundle = Bundle.read(DEMO)
    recorded = bundle.manifest.training["validation_bits_per_character"]
    # The last characters are of the validation part, whatever the patch version of Python.
    assert bits_per_character(bundle, topics_text(3)[-2000:]) <= recorded + 0.25


def test_the_card_says_what_the_manifest_says():
    card = (DEMO / "README.md").read_text()
    training = json.loads((DEMO / "manifest.json").read_text())["training"]
    assert f"**{training['validation_bits_per_character']} bits per character**" in card
    assert training["corpus_sha256"] in card


@pytest.mark.tf
@pytest.mark.slow
def test_a_few_steps_make_a_bundle_that_reads_and_has_learnt(tmp_path, capsys):
    # Imported here, since with them comes TensorFlow.
    from service.training.demo import bundle_files, trained_file  # noqa: PLC0415
    from service.training.recipe import Architecture, Hyperparameters, Recipe  # noqa: PLC0415

    text = "def f(x):\n    return x + 1\n\n" * 200
    recipe = Recipe(
        Architecture(embedding_dim=8, units=16, layers=1),
        Hyperparameters(epochs=6, batch_size=4, sequence_length=16, validations_per_epoch=1),
    )
    kept = tmp_path / "trained.safetensors"
    kept.write_bytes(trained_file(text, recipe, tmp_path / "run"))
    ref = ModelRef("tiny", 1)
    store = ModelStore(tmp_path / "store")
    store.write(ref, bundle_files(ref, text, kept))
    bundle = store.read(ref)
    assert bundle.manifest.training["validation_nats"] < 0.7 * math.log(len(ALPHABET))
    assert bits_per_character(bundle, text[:500]) < 0.7 * math.log2(len(ALPHABET))
    assert capsys.readouterr().out.count("epoch ") == recipe.schedule.epochs
