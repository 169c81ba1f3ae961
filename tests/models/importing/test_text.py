"""textgenrnn's weights, and models that read text themselves: as the author's own library reads."""

import json
from pathlib import Path

import numpy as np
import pytest

from service.errors import BadCheckpoint, Validation
from service.models.compile import compile_program
from service.models.importing.importer import Importer
from service.models.importing.request import ImportRequest
from service.models.reference import ReferenceModel
from service.models.spec import ModelSpec
from service.models.store import ModelStore
from service.models.window import Padding
from tests.models.importing.conftest import run_script

pytestmark = [pytest.mark.tf, pytest.mark.slow]

OPTIONS = {
    "rnn_layers": 2, "rnn_size": 6, "rnn_bidirectional": False, "max_length": 9,
    "max_words": 10000, "dim_embeddings": 5, "word_level": False, "single_text": False,
}  # fmt: skip
TOKENS = {character: i for i, character in enumerate("abcdefghij", 1)} | {"<s>": 11}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A function: the folder of files that a framework wrote, each once."""
    made = {}

    def of(framework):
        if framework not in made:
            made[framework] = tmp_path_factory.mktemp(framework)
            run_script("text_files.py", framework, made[framework])
        return made[framework]

    return of


def imported(folder, store, source, **options):
    request = ImportRequest(Path(source), "m", precision="float32", **options)
    return Importer(folder, ModelStore(store)).run(request)


def probabilities(bundle, tokens):
    """The reference model's probabilities after each token."""
    model = ReferenceModel(bundle.spec, bundle.weights)
    rows, state = [], model.initial_state()
    for token in tokens:
        logits, state = model.step(int(token), state)
        rows.append(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
    return np.array(rows)


# -- textgenrnn


@pytest.fixture
def textgenrnn(files, tmp_path):
    """A function: a file, textgenrnn's config, if any, and `assume` → the bundle."""
    folder = files("tf_keras")
    (folder / "vocabulary.json").write_text(json.dumps(TOKENS))

    def of(name, config=None, **assume):
        options = {"vocabulary": Path("vocabulary.json"), "assume": assume}
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
            options["config"] = Path("config.json")
        return imported(folder, tmp_path / "store", f"{name}.hdf5", **options)

    return of


@pytest.mark.parametrize("name", ["plain", "cudnn", "both_ways"])
def test_textgenrnns_weights_alone_give_its_probabilities(name, textgenrnn, files):
    bundle = textgenrnn(name, OPTIONS | {"rnn_bidirectional": name == "both_ways"})
    with np.load(files("tf_keras") / f"{name}.npz") as author:
        found = probabilities(bundle, author["tokens"])
        assert np.abs(found - author["probabilities"]).max() < 1e-5


def test_textgenrnns_config_decides_the_tokens(textgenrnn):
    tokenizer = textgenrnn("plain", OPTIONS).tokenizer
    assert tokenizer.encode_prompt("ab?") == [11, 1, 2, 0]
    assert tokenizer.end_ids == (11,)
    tokenizer = textgenrnn("plain", OPTIONS | {"single_text": True}).tokenizer
    assert tokenizer.encode_prompt("ab") == [1, 2]
    assert tokenizer.encode_prompt("") == [0]
    tokenizer = textgenrnn("plain", OPTIONS | {"word_level": True}).tokenizer
    assert tokenizer.encode_prompt("a B!") == [11, 1, 2, 0]


def test_what_textgenrnn_does_not_state_is_noted(textgenrnn):
    bundle = textgenrnn("plain")
    assert bundle.spec.window.length == 40
    assert any("window is assumed to be 40 tokens" in s for s in bundle.manifest.assumptions)
    assert any("taken to be characters" in s for s in bundle.manifest.assumptions)
    assert textgenrnn("plain", window="9").spec.window.length == 9


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (OPTIONS | {"rnn_size": 128}, "rnn_size is 128, but the weights are made for 6"),
        (OPTIONS | {"rnn_layers": 3}, "rnn_layers is 3, but the weights are made for 2"),
        (OPTIONS | {"rnn_bidirectional": True}, "rnn_bidirectional is True, but"),
        (OPTIONS | {"dim_embeddings": 100}, "dim_embeddings is 100, but"),
        (OPTIONS | {"max_length": "long"}, "max_length is 'long', not a whole number"),
        ({"layers": 3}, "the config is neither the architecture of a Keras model"),
    ],
)
def test_a_config_of_another_model_is_refused(config, sentence, textgenrnn):
    with pytest.raises(BadCheckpoint, match=sentence):
        textgenrnn("plain", config)


# -- text layers

CASES = [
    (framework, name, ".keras")
    for framework in ("keras", "tf_keras")
    for name in ("listed", "adapted", "characters")
]


@pytest.mark.parametrize(("framework", "name", "ending"), [*CASES, ("keras", "listed", ".h5")])
def test_a_model_that_reads_text_needs_no_vocabulary(framework, name, ending, files, tmp_path):
    folder = files(framework)
    bundle = imported(folder, tmp_path, name + ending)
    assert bundle.spec.window.padding is Padding.RIGHT
    with np.load(folder / f"{name}.npz") as author:
        assert list(bundle.tokenizer.tokens) == author["tokens"].tolist()
        texts = json.loads((folder / f"{name}.json").read_text())
        for text, ids, expected in zip(texts, author["ids"], author["probabilities"], strict=True):
            found = bundle.tokenizer.encode(text)
            assert found == ids[: len(found)].tolist()
            assert not ids[len(found) :].any()
            assert np.abs(probabilities(bundle, found)[-1] - expected).max() < 1e-5


@pytest.mark.parametrize("framework", ["keras", "tf_keras"])
def test_a_text_layer_reads_the_first_tokens_of_a_longer_text(framework, files, tmp_path):
    """The author's loop gives the model its whole text, and takes the likeliest word."""
    folder = files(framework)
    bundle = imported(folder, tmp_path / "first", "listed.keras")
    assert any("assume` {" in s and "truncation_side" in s for s in bundle.manifest.assumptions)
    reopened = ModelSpec.from_json(json.loads(json.dumps(bundle.spec.to_json())))
    assert reopened == bundle.spec
    program = compile_program(reopened, bundle.weights, "float32")
    text = json.loads((folder / "listed.json").read_text())[0]
    prompt = bundle.tokenizer.encode(text)
    batch = program.new_batch(1)
    batch.put(0, program.prefill(None, prompt))
    token, tokens = prompt[-1], list(prompt)
    with np.load(folder / "listed.npz") as author:
        for expected in author["loop"]:
            batch.tokens[0] = token
            program.step(batch, 1)
            found = np.exp(batch.logits[0] - batch.logits[0].max())
            assert np.abs(found / found.sum() - expected).max() < 1e-5
            token = int(expected.argmax())
            tokens.append(token)
        assert (author["loop"][-1] == author["loop"][bundle.spec.window.length]).all()
    long = tokens[: 2 * bundle.spec.window.length]
    batch.put(0, program.prefill(None, long))
    batch.tokens[0] = long[-1]
    program.step(batch, 1)
    found = np.exp(batch.logits[0] - batch.logits[0].max())
    assert np.abs(found / found.sum() - expected).max() < 1e-5


def test_the_latest_tokens_are_read_where_the_author_cuts_the_text(files, tmp_path):
    bundle = imported(files("keras"), tmp_path, "listed.keras", assume={"truncation_side": "left"})
    assert not bundle.spec.window.keeps_first
    assert any("as assume.truncation_side has it" in s for s in bundle.manifest.assumptions)


@pytest.mark.parametrize("framework", ["keras", "tf_keras"])
@pytest.mark.parametrize("name", ["lookup", "masked_lookup"])
def test_a_lookup_in_the_model_is_its_vocabulary(framework, name, files, tmp_path):
    folder = files(framework)
    bundle = imported(folder, tmp_path, f"{name}.keras")
    assert bundle.spec.window is None
    with np.load(folder / f"{name}.npz") as author:
        assert list(bundle.tokenizer.tokens) == author["tokens"].tolist()
        texts = json.loads((folder / f"{name}.json").read_text())
        for text, ids, expected in zip(texts, author["ids"], author["probabilities"], strict=True):
            found = bundle.tokenizer.encode(text)
            assert found[:2] == ids.tolist()
            assert np.abs(probabilities(bundle, found)[-1] - expected).max() < 1e-5


def test_the_models_own_vocabulary_is_used_before_another(files, tmp_path):
    folder = files("keras")
    (folder / "other.json").write_text(json.dumps(list("abcdefghijk")))
    bundle = imported(folder, tmp_path, "listed.keras", vocabulary=Path("other.json"))
    assert bundle.tokenizer.tokens[:3] == ("", "[UNK]", "cat")
    assert any("another one, and is not used" in s for s in bundle.manifest.assumptions)


def test_a_model_that_reads_ids_needs_a_vocabulary(files, tmp_path):
    with pytest.raises(Validation, match="give `vocabulary`"):
        imported(files("tf_keras"), tmp_path, "plain.hdf5")
