"""Every format of every network gives the logits of the Keras that wrote it."""

import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from service.models.bundle import Precision
from service.models.cell import Activation
from service.models.importing.assumptions import Assumptions
from service.models.importing.canonical_weights import convert
from service.models.importing.detect_format import read_checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.importer import Importer
from service.models.importing.request import ImportRequest
from service.models.importing.run_import import architecture_of
from service.models.program import OnnxProgram
from service.models.store import ModelStore

pytestmark = [pytest.mark.tf, pytest.mark.slow]

NETWORKS = ["lstm", "gru_after", "gru_before", "two_lstm", "one_hot", "functional", "unusual"]
FORMATS = {
    "tf_keras": [
        "save_weights", "train_checkpoint", "weights_only.h5", "whole.h5", "model.keras",
        "model.weights.h5", "saved_model", "compiled", "compiled_alone",
    ],
    "keras": [
        "whole.h5", "model.keras", "model.weights.h5", "train_checkpoint", "exported",
        "sharded.weights.json", "sharded_00000.weights.h5", "compiled", "compiled_alone",
    ],
}  # fmt: skip
CASES = [
    (framework, network, file)
    for framework, files in FORMATS.items()
    for network in NETWORKS + ["peephole"] * (framework == "tf_keras")
    for file in files
] + [("tf_keras", "lstm", "cudnn.h5"), ("tf_keras", "gru_after", "cudnn.h5")]
HAS_CONFIG = ("whole.h5", "model.keras", "saved_model")


@pytest.fixture(scope="module")
def read(keras_files):
    """A function: (framework, network, file) → (spec, weights, assumptions' sentences)."""

    def imported(framework, network, file):
        assume = {}
        if network == "unusual" and file not in HAS_CONFIG:
            slope = "hard_sigmoid_02" if framework == "tf_keras" else "hard_sigmoid_6"
            assume = {"recurrent_activation": slope}
        if network == "peephole" and file not in HAS_CONFIG:
            assume = {"recurrent_activation": "hard_sigmoid_02"}
        with ImportFolder(keras_files(framework), 1 << 30) as folder:
            checkpoint = read_checkpoint(folder, PurePosixPath(network, file))
            assumptions = Assumptions(assume, checkpoint.keras_version)
            spec, layers = architecture_of(checkpoint, assumptions)
            return spec, convert(spec, layers, assumptions), assumptions.sentences

    return imported


@pytest.mark.parametrize(("framework", "network", "file"), CASES)
def test_logits_and_greedy_text_are_those_of_keras(
    framework, network, file, read, keras_files, feed, greedy
):
    expected = np.load(keras_files(framework) / network / "expected.npz")
    spec, weights, _ = read(framework, network, file)
    program = OnnxProgram(spec, weights, Precision.FLOAT32)
    logits, wanted = feed(program, expected["tokens"]), expected["logits"]
    if network in ("one_hot", "functional"):  # Keras gives probabilities
        logits = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        wanted = np.log(wanted)
    assert np.abs(logits - wanted).max() < 1e-4
    assert greedy(program, [3], 200) == expected["greedy"].tolist()


@pytest.mark.parametrize("framework", ["tf_keras", "keras"])
def test_all_formats_of_one_network_give_the_same_weights(framework, read):
    first, *others = [read(framework, "two_lstm", file)[1] for file in FORMATS[framework]]
    for other in others:
        assert all((first[name] == other[name]).all() for name in first)


def test_a_hard_sigmoid_has_the_slope_of_the_keras_that_wrote_it(read):
    keras_2, _, _ = read("tf_keras", "unusual", "whole.h5")
    keras_3, _, _ = read("keras", "unusual", "whole.h5")
    assert keras_2.layers[0].recurrent_activation is Activation.HARD_SIGMOID_02
    assert keras_3.layers[0].recurrent_activation is Activation.HARD_SIGMOID_6


def test_peepholes_are_found_by_their_names(read):
    spec, _, _ = read("tf_keras", "peephole", "save_weights")
    assert spec.layers[0].cell == "peephole_lstm"


@pytest.mark.parametrize("file", ["whole.h5", "model.keras"])
def test_a_file_with_a_config_leaves_nothing_to_assume(file, read):
    assert read("tf_keras", "gru_before", file)[2] == []
    assert read("keras", "gru_before", file)[2] == []


@pytest.mark.parametrize("file", ["save_weights", "weights_only.h5", "model.weights.h5"])
def test_what_a_file_without_a_config_leaves_open_is_written_down(file, read):
    sentences = read("tf_keras", "gru_before", file)[2]
    assert [sentence.split()[0] for sentence in sentences] == ["activation", "recurrent_activation"]


@pytest.mark.parametrize(
    ("framework", "file", "format_name"),
    [
        ("tf_keras", "save_weights", "tensorflow-checkpoint"),
        ("tf_keras", "weights_only.h5", "keras-2-hdf5-weights"),
        ("tf_keras", "whole.h5", "keras-2-hdf5"),
        ("keras", "model.keras", "keras-archive"),
        ("keras", "model.weights.h5", "keras-3-weights-hdf5"),
    ],
)
def test_every_format_becomes_a_bundle_under_any_name(
    framework, file, format_name, keras_files, tmp_path
):
    source = keras_files(framework) / "two_lstm" / file
    folder = tmp_path / "imports"
    folder.mkdir()
    if source.is_dir():
        (folder / "anything").mkdir()
        for part in source.iterdir():
            (folder / "anything" / part.name).write_bytes(part.read_bytes())
    else:
        (folder / "anything").write_bytes(source.read_bytes())
    vocabulary = json.loads((keras_files(framework) / "vocabulary.json").read_text())
    (folder / "tokens").write_text("\n".join(token.replace("\n", "\\n") for token in vocabulary))
    store = ModelStore(tmp_path / "store")
    bundle = Importer(folder, store).run(
        ImportRequest(Path("anything"), "m", vocabulary=Path("tokens"))
    )
    assert store.read(bundle.ref).manifest.source.format == format_name
    assert bundle.tokenizer.tokens == tuple(vocabulary)
