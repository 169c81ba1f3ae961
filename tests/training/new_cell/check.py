"""Uses the cell `coupled_lstm` in every way that the service uses a cell; run in a process."""

import sys
from pathlib import Path
from typing import get_args

import numpy as np
import tensorflow as tf

from service.api.training import ArchitectureBody
from service.models.bundle import BundleMetadata, Precision, Provenance, build_files
from service.models.cells import CELLS, CellName
from service.models.initializers import initial_weights
from service.models.parity import measure
from service.models.reference import ReferenceModel
from service.models.spec import ModelRef, ModelSpec, Weights
from service.models.store import ModelStore
from service.models.tokenizers.characters import CharacterTokenizer
from service.offline import write_text
from service.training.cells import RECURRENCES
from service.training.corpus import BPTTChunk
from service.training.export import exported
from service.training.matmul import MatMul
from service.training.network import DropoutRates, Network, initial_state
from service.training.recipe import Architecture, Hyperparameters, Recipe
from service.training.train_step import TrainStep

NAME, TOKENS = "coupled_lstm", "abcdefgh"
UNITS, STEPS, STREAMS = 12, 9, 4
RECIPE = Recipe(
    Architecture(NAME, embedding_dim=6, units=UNITS, layers=2, dropout=0.0),
    Hyperparameters(
        batch_size=STREAMS,
        sequence_length=STEPS,
        learning_rate=3e-2,
        embedding_dropout=0.0,
        recurrent_weight_drop=0.0,
    ),
)
SPEC = RECIPE.architecture.spec(len(TOKENS))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def perturbed_weights() -> Weights:
    rng = np.random.default_rng(5)
    arrays = initial_weights(SPEC, 3).items()
    return Weights(SPEC, {n: w + rng.normal(size=w.shape, scale=0.2) for n, w in arrays})


def check_names() -> None:
    assert get_args(CellName) == tuple(CELLS)
    assert CELLS.keys() >= {"lstm", "peephole_lstm", "gru", NAME}
    assert ArchitectureBody(cell=NAME).cell == NAME
    assert SPEC.summary.startswith("Embedding(8, 6) → CoupledLSTM(12)")
    assert SPEC.state_units == (UNITS,) * 4
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC


def check_reference(weights: Weights, tokens: np.ndarray) -> None:
    """The equations again, written out."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    states, logits = [[np.zeros(UNITS), np.zeros(UNITS)] for _ in range(2)], []
    for token in tokens:
        x = w["embedding"][token]
        for i, (h, c) in enumerate(states):
            z = x @ w[f"layers.{i}.kernel"] + h @ w[f"layers.{i}.recurrent_kernel"]
            f, g, o = np.split(z + w[f"layers.{i}.bias"], 3)
            new_c = sigmoid(f) * c + sigmoid(-f) * np.tanh(g)
            x = sigmoid(o) * np.tanh(new_c)
            states[i] = [x, new_c]
        logits.append(x @ w["output.kernel"] + w["output.bias"])
    assert np.abs(np.stack(logits) - ReferenceModel(SPEC, weights).run(tokens)).max() < 1e-12


def plain(x, kernel, h, c):
    """The equations again in TensorFlow, for autodiff."""
    hs = []
    for t in range(STEPS):
        z_f, z_g, z_o = tf.split(x[:, t] + tf.transpose(kernel) @ h, 3)
        c = tf.sigmoid(z_f) * c + (1.0 - tf.sigmoid(z_f)) * tf.tanh(z_g)
        h = tf.sigmoid(z_o) * tf.tanh(c)
        hs.append(h)
    return tf.stack(hs, axis=1), h, c


def check_gradient() -> None:
    rng = np.random.default_rng(1)
    shapes = [(3 * UNITS, STEPS, STREAMS), (UNITS, 3 * UNITS), *[(UNITS, STREAMS)] * 2]
    inputs = [tf.constant(rng.normal(size=s, scale=0.7), tf.float32) for s in shapes]
    pulls = [tf.constant(rng.normal(size=s), tf.float32) for s in [(UNITS, STEPS, STREAMS)]]
    pulls += [tf.constant(rng.normal(size=(UNITS, STREAMS)), tf.float32) for _ in range(2)]

    def gradients(function):
        @tf.function(jit_compile=True, autograph=False)
        def run(inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                pairs = zip(function(*inputs), pulls, strict=True)
                loss = tf.add_n([tf.reduce_sum(o * p) for o, p in pairs])
            return tape.gradient(loss, inputs)

        return [gradient.numpy() for gradient in run(inputs)]

    mine = gradients(RECURRENCES[NAME].make(MatMul()))
    for ours, autodiff in zip(mine, gradients(plain), strict=True):
        assert np.abs(ours - autodiff).max() <= 1e-4 * np.abs(autodiff).max()


def check_network(weights: Weights, tokens: np.ndarray) -> None:
    network, state = Network(SPEC, MatMul()), initial_state(SPEC, 1)

    @tf.function(jit_compile=True, autograph=False)
    def run():
        constants = {name: tf.constant(weight) for name, weight in weights.items()}
        columns = tf.constant(tokens[:, None], tf.int32)
        return network.logits(constants, columns, state, DropoutRates(), tf.zeros(2, tf.int32))

    logits = run()[0].numpy()[:, 0]
    assert np.abs(logits - ReferenceModel(SPEC, weights).run(tokens)).max() < 1e-5


def trained_weights() -> Weights:
    train_step = TrainStep(SPEC, RECIPE, 60, initial_weights(SPEC, 3), "float32")
    text = np.arange(STREAMS * (STEPS + 1)).reshape(STREAMS, STEPS + 1).astype(np.int32) % 8
    losses = [
        train_step.learn(BPTTChunk(text[:, :-1], text[:, 1:]), is_first=True) for _ in range(60)
    ]
    assert losses[-1] < 0.8 * losses[0]
    return train_step.weights()


def check_bundle(folder: Path, weights: Weights) -> None:
    """Measure, store, read, generate."""
    verdict = measure(SPEC, weights, "auto")
    differences = verdict.parity.largest_logit_difference
    logits = ReferenceModel(SPEC, weights).run(range(len(TOKENS)))
    assert 0.0 < differences[Precision.FLOAT32] < 1e-5 * np.abs(logits).max()
    assert 0.0 < differences[Precision.INT8] < 0.1 * np.abs(logits).max()
    record = BundleMetadata(
        precision=Precision.FLOAT32,
        precision_reason=verdict.reason,
        source=Provenance(format="test", files={}),
        parity=verdict.parity,
    )
    ref, store = ModelRef("new", 1), ModelStore(folder)
    store.write(ref, build_files(ref, SPEC, weights, CharacterTokenizer(TOKENS), record))
    assert store.read(ref).spec == SPEC
    write_text(folder, "new@1", "abc", 20, 1.0, 0)


def check_export(weights: Weights) -> None:
    files = exported(SPEC, weights)
    assert sorted(files) == ["README.txt", "weights.safetensors"]
    assert "c ← f ⊙ c + (1 - f) ⊙ g" in files["README.txt"].decode()


def main() -> None:
    assert list(CELLS) == list(RECURRENCES)
    tokens = np.random.default_rng(2).integers(len(TOKENS), size=30)
    weights = perturbed_weights()
    check_names()
    check_reference(weights, tokens)
    check_gradient()
    check_network(weights, tokens)
    check_export(weights)
    check_bundle(Path(sys.argv[1]), trained_weights())


if __name__ == "__main__":
    main()
