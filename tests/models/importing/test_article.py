"""Carousel computes what the article's own code computes from the same checkpoint."""

from pathlib import Path

import numpy as np
import pytest

from service.models.bundle import Precision
from service.models.importing.importer import Importer
from service.models.importing.request import ImportRequest
from service.models.program import OnnxProgram
from service.models.store import ModelStore

pytestmark = [pytest.mark.tf, pytest.mark.slow]


@pytest.fixture(scope="module")
def bundle(article_folder, tmp_path_factory):
    store = ModelStore(tmp_path_factory.mktemp("store"))
    request = ImportRequest(
        Path("training_checkpoints"), "article", vocabulary_text=Path("text.txt")
    )
    Importer(article_folder, store).run(request)
    (ref,) = store.refs()
    return store.read(ref)


@pytest.fixture(scope="module")
def program(bundle):
    return OnnxProgram(bundle.spec, bundle.weights, Precision.FLOAT32)


def test_float32_logits_agree_with_the_articles_model(article_folder, program, feed):
    article = np.load(article_folder / "article.npz")
    assert np.abs(feed(program, article["tokens"]) - article["logits"]).max() < 1e-4


def test_greedy_text_is_the_articles_own_character_for_character(
    article_folder, bundle, program, greedy
):
    text = str(np.load(article_folder / "article.npz")["text"])
    prompt = text[:5]
    written = bundle.tokenizer.decode(greedy(program, bundle.tokenizer.encode(prompt), 200))
    assert len(written) == 200
    assert any("\u4e00" <= character <= "\u9fff" for character in written)
    assert prompt + written == text


def test_the_latest_checkpoint_is_the_one_imported(bundle):
    names = [Path(name).name for name in bundle.manifest.source.files]
    assert names == ["checkpoint", "ckpt_10.index", "ckpt_10.data-00000-of-00001", "text.txt"]


def test_what_the_file_does_not_say_is_in_the_manifest(bundle):
    assert bundle.manifest.source.format == "tensorflow-checkpoint"
    assert any("recurrent_activation" in sentence for sentence in bundle.manifest.assumptions)


def test_parity_is_recorded_for_each_precision(bundle):
    parity = bundle.manifest.parity
    assert parity.tokens == 256
    assert parity.characters == 2000
    assert parity.largest_logit_difference[Precision.FLOAT32] < 1e-4
    assert parity.nats_per_character.keys() == {Precision.FLOAT32, Precision.INT8}
