"""Layers, windows and masks against Keras: the author's loop `net(row(ids))` written out."""

from dataclasses import replace

import numpy as np
import pytest

from service.models.cell import Activation, LayerSpec
from service.models.compile import compile_program
from service.models.layers import (
    Dense,
    Flatten,
    LayerNormalization,
    Merge,
    MergeMode,
    ScaleShift,
    SelectStep,
    StepOf,
)
from service.models.reference import ReferenceModel
from service.models.spec import ModelSpec, Weights
from service.models.window import Padding, Window

pytestmark = pytest.mark.tf

V, E, N = 13, 6, 8
TOKENS = 20


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request):
    return pytest.importorskip(request.param)


def recurrent(i):
    """The names of a recurrent layer's weights in Keras's order."""
    return [f"layers.{i}.{name}" for name in ("kernel", "recurrent_kernel", "bias")]


def weights_of(spec, net, names):
    """Random weights for a Keras model, and the same as ours, in the order of `names`."""
    rng = np.random.default_rng(5)
    arrays = [(0.5 * rng.standard_normal(w.shape)).astype("float32") for w in net.get_weights()]
    net.set_weights(arrays)
    return Weights(spec, dict(zip(names, arrays, strict=True)))


def row_of(ids, spec):
    """The author's row of token ids, with the pads where they pad; V is a row of zeros."""
    window = spec.window
    pad = V if window.pad is None else window.pad
    ids = list(ids)[-window.length :]
    pads = [pad] * (window.length - len(ids))
    return pads + ids if window.padding is Padding.LEFT else ids + pads


def compare(spec, weights, net, *, is_one_hot=False):
    """Each token's probabilities: Keras's on the author's row, the reference's, the program's."""
    tokens = np.random.default_rng(2).integers(0, V, TOKENS)
    if spec.window is not None:
        rows = np.array([row_of(tokens[: i + 1], spec) for i in range(TOKENS)])
    else:
        rows = tokens[None]
    inputs = np.concatenate([np.eye(V), np.zeros((1, V))])[rows] if is_one_hot else rows
    theirs = np.asarray(net(inputs.astype("float32")))
    theirs = theirs if spec.window is not None else theirs[0]
    assert np.abs(softmax(ReferenceModel(spec, weights).run(tokens)) - theirs).max() < 1e-5
    program = compile_program(spec, weights, "float32")
    batch = program.new_batch(1)
    for token, wanted in zip(tokens, theirs, strict=True):
        batch.tokens[0] = token
        program.step(batch, 1)
        assert np.abs(softmax(batch.logits[0]) - wanted).max() < 1e-5


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


OUTPUT = ["output.kernel", "output.bias"]
LEFT = Window(N, Padding.LEFT, 0)
TWO = (LayerSpec("lstm", 7), LayerSpec("gru", 5), SelectStep())
TWO_NAMES = ["embedding", *recurrent(0), *recurrent(1), *OUTPUT]


@pytest.mark.parametrize("padding", [Padding.LEFT, Padding.RIGHT])
@pytest.mark.parametrize(("is_masked", "pad"), [(False, 0), (True, 0), (False, 4)])
def test_words(keras, padding, is_masked, pad):
    layers = keras.layers
    net = keras.Sequential(
        [
            layers.InputLayer(shape=(N,)) if keras.__name__ == "keras" else layers.Input((N,)),
            layers.Embedding(V, E, mask_zero=is_masked),
            layers.LSTM(7, return_sequences=True),
            layers.GRU(5),
            layers.Dense(V, activation="softmax"),
        ]
    )
    spec = ModelSpec(V, E, TWO, window=Window(N, padding, pad), mask_token=0 if is_masked else None)
    compare(spec, weights_of(spec, net, TWO_NAMES), net)


def test_a_mask_with_carried_state(keras):
    layers = keras.layers
    x = layers.Input((None,))
    y = layers.Embedding(V, E, mask_zero=True)(x)
    y = layers.LSTM(7, return_sequences=True)(y)
    y = layers.GRU(5, return_sequences=True)(y)
    net = keras.Model(x, layers.Dense(V, activation="softmax")(y))
    spec = ModelSpec(V, E, TWO, mask_token=0)
    compare(spec, weights_of(spec, net, TWO_NAMES), net)


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("padding", [Padding.LEFT, Padding.RIGHT])
def test_one_hot_windows(keras, is_masked, padding):
    layers = keras.layers
    x = layers.Input((N, V))
    y = layers.Masking(0.0)(x) if is_masked else x
    net = keras.Model(x, layers.Dense(V, activation="softmax")(layers.LSTM(7)(y)))
    stack = (LayerSpec("lstm", 7), SelectStep())
    spec = ModelSpec(V, None, stack, window=Window(N, padding), mask_zero_input=is_masked)
    compare(spec, weights_of(spec, net, [*recurrent(0), *OUTPUT]), net, is_one_hot=True)


def test_a_masking_layer_after_the_embedding_masks_rows_of_zeros(keras):
    layers = keras.layers
    x = layers.Input((N,))
    y = layers.Masking(0.0)(layers.Embedding(V, E)(x))
    net = keras.Model(x, layers.Dense(V, activation="softmax")(layers.LSTM(7)(y)))
    stack = (LayerSpec("lstm", 7), SelectStep())
    spec = ModelSpec(V, E, stack, window=LEFT, mask_zero_input=True)
    weights = dict(weights_of(spec, net, ["embedding", *recurrent(0), *OUTPUT]))
    weights["embedding"] = weights["embedding"].copy()
    weights["embedding"][[0, 5, 9]] = 0.0
    net.set_weights([weights["embedding"], *net.get_weights()[1:]])
    compare(spec, Weights(spec, weights), net)


MODES = {
    "concat": MergeMode.CONCATENATE,
    "sum": MergeMode.ADD,
    "mul": MergeMode.MULTIPLY,
    "ave": MergeMode.AVERAGE,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("padding", [Padding.LEFT, Padding.RIGHT])
def test_bidirectional(keras, mode, is_masked, padding):
    layers = keras.layers
    x = layers.Input((N,))
    y = layers.Embedding(V, E, mask_zero=is_masked)(x)
    y = layers.Bidirectional(layers.LSTM(7, return_sequences=True), merge_mode=mode)(y)
    y = layers.Bidirectional(layers.GRU(5), merge_mode=mode)(y)
    net = keras.Model(x, layers.Dense(V, activation="softmax")(y))
    stack = (
        LayerSpec("lstm", 7),
        LayerSpec("lstm", 7, go_backwards=True, inputs=(0,)),
        Merge(mode=MODES[mode], inputs=(1, 2)),
        LayerSpec("gru", 5),
        LayerSpec("gru", 5, go_backwards=True, inputs=(3,)),
        SelectStep(inputs=(4,)),
        SelectStep(step=StepOf.FIRST, inputs=(5,)),
        Merge(mode=MODES[mode], inputs=(6, 7)),
    )
    mask = 0 if is_masked else None
    spec = ModelSpec(V, E, stack, window=Window(N, padding, 0), mask_token=mask)
    names = ["embedding", *(name for i in (0, 1, 3, 4) for name in recurrent(i)), *OUTPUT]
    compare(spec, weights_of(spec, net, names), net)


@pytest.mark.parametrize("is_masked", [False, True])
def test_norms_simple_rnn_and_dense_layers(keras, is_masked):
    layers = keras.layers
    x = layers.Input((N,))
    y = layers.Embedding(V, E, mask_zero=is_masked)(x)
    y = layers.SimpleRNN(7, return_sequences=True)(y)
    y = layers.BatchNormalization()(y)
    y = layers.TimeDistributed(layers.Dense(6, activation="relu"))(y)
    y = layers.LayerNormalization()(y)
    y = layers.Dense(4, activation="tanh")(layers.SimpleRNN(5, activation="relu")(y))
    net = keras.Model(x, layers.Dense(V, activation="softmax")(y))
    stack = (
        LayerSpec("simple_rnn", 7),
        ScaleShift(),
        Dense(units=6, activation=Activation.RELU),
        LayerNormalization(),
        LayerSpec("simple_rnn", 5, activation=Activation.RELU),
        SelectStep(),
        Dense(units=4, activation=Activation.TANH),
    )
    spec = ModelSpec(V, E, stack, window=LEFT, mask_token=0 if is_masked else None)
    rng = np.random.default_rng(5)
    stored = {
        w.path if hasattr(w, "path") else w.name: rng.random(w.shape).astype("float32") - 0.3
        for w in net.weights
    }
    arrays = list(stored.values())
    assert len(arrays) == len(net.weights) == 19
    arrays[7] = arrays[7] + 0.5  # the variance is above 0
    net.set_weights(arrays)
    embedding, *others = net.get_weights()
    w1, u1, b1, gamma, beta, mean, variance, *others = others
    dense, dense_bias, gamma2, beta2, w2, u2, b2, head, head_bias, kernel, bias = others
    scale = gamma / np.sqrt(variance + 1e-3)
    weights = Weights(
        spec,
        {"embedding": embedding}
        | dict(zip(recurrent(0), (w1, u1, b1), strict=True))
        | {"layers.1.scale": scale, "layers.1.shift": beta - mean * scale}
        | {"layers.2.kernel": dense, "layers.2.bias": dense_bias}
        | {"layers.3.gamma": gamma2, "layers.3.beta": beta2}
        | dict(zip(recurrent(4), (w2, u2, b2), strict=True))
        | {"layers.6.kernel": head, "layers.6.bias": head_bias}
        | {"output.kernel": kernel, "output.bias": bias},
    )
    compare(spec, weights, net)


def test_flatten_and_skip_connections(keras):
    layers = keras.layers
    x = layers.Input((N,))
    embedded = layers.Embedding(V, E)(x)
    first = layers.LSTM(7, return_sequences=True)(embedded)
    second = layers.LSTM(7, return_sequences=True)(first)
    both = layers.Concatenate()([embedded, layers.Add()([first, second])])
    y = layers.Dense(4)(layers.Flatten()(both))
    net = keras.Model(x, layers.Dense(V, activation="softmax")(y))
    stack = (
        LayerSpec("lstm", 7),
        LayerSpec("lstm", 7),
        Merge(mode=MergeMode.ADD, inputs=(1, 2)),
        Merge(mode=MergeMode.CONCATENATE, inputs=(0, 3)),
        Flatten(),
        Dense(units=4),
    )
    spec = ModelSpec(V, E, stack, window=LEFT)
    names = ["embedding", *recurrent(0), *recurrent(1)]
    names += ["layers.5.kernel", "layers.5.bias", *OUTPUT]
    compare(spec, weights_of(spec, net, names), net)


def test_a_wrong_side_of_the_pads_is_seen(keras):
    layers = keras.layers
    x = layers.Input((N, V))
    net = keras.Model(x, layers.Dense(V, activation="softmax")(layers.LSTM(7)(x)))
    stack = (LayerSpec("lstm", 7), SelectStep())
    spec = ModelSpec(V, None, stack, window=Window(N, Padding.LEFT))
    weights = weights_of(spec, net, [*recurrent(0), *OUTPUT])
    right = replace(spec, window=Window(N, Padding.RIGHT))
    tokens = np.array([1, 2, 3])
    ours = [softmax(ReferenceModel(s, weights).run(tokens)[-1]) for s in (spec, right)]
    inputs = np.zeros((1, N, V), "float32")
    inputs[0, range(3), tokens] = 1.0  # the example's loop fills from the front
    theirs = np.asarray(net(inputs))[0]
    assert np.abs(ours[0] - theirs).max() > 1e-3
    assert np.abs(ours[1] - theirs).max() < 1e-5
