"""Each cell's own gradient against TensorFlow's of the reference equations."""

import re
from functools import cache

import numpy as np
import pytest
import tensorflow as tf

from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.initializers import initial_weights
from service.models.reference import ReferenceModel
from service.models.spec import ModelSpec
from service.training.cells import RECURRENCES
from service.training.matmul import MatMul, resolved
from service.training.network import DropoutRates, Network, initial_state

pytestmark = pytest.mark.tf

UNITS, STEPS, STREAMS = 12, 8, 4
LARGEST_DIFFERENCE = 1e-4


def plain_lstm_step(x, state, kernel, peepholes=(0.0, 0.0, 0.0)):
    h, c = state
    p_i, p_f, p_o = peepholes
    z_i, z_f, z_g, z_o = tf.split(x + h @ kernel, 4, axis=1)
    i, f = tf.sigmoid(z_i + p_i * c), tf.sigmoid(z_f + p_f * c)
    c = f * c + i * tf.tanh(z_g)
    return tf.sigmoid(z_o + p_o * c) * tf.tanh(c), c


def plain_gru_step(x, state, kernel, bias):
    (h,) = state
    x_z, x_r, x_h = tf.split(x, 3, axis=1)
    u_z, u_r, u_h = tf.split(h @ kernel + bias, 3, axis=1)
    z, r = tf.sigmoid(x_z + u_z), tf.sigmoid(x_r + u_r)
    return (z * h + (1.0 - z) * tf.tanh(x_h + r * u_h),)


def plain_rnn_step(x, state, kernel):
    return (tf.tanh(x + state[0] @ kernel),)


PLAIN_STEPS = {
    "simple_rnn": plain_rnn_step,
    "lstm": plain_lstm_step,
    "peephole_lstm": lambda x, state, kernel, p: plain_lstm_step(x, state, kernel, tf.unstack(p)),
    "gru": plain_gru_step,
}
"""One step of each cell's equations, arrays (streams, features), for autodiff."""


def plain(cell, x, kernel, *rest):
    n_extra = len(RECURRENCES[cell].extra_weights)
    extra, state, hs = rest[:n_extra], tuple(tf.transpose(s) for s in rest[n_extra:]), []
    for t in range(STEPS):
        state = PLAIN_STEPS[cell](tf.transpose(x[:, t]), state, kernel, *extra)
        hs.append(tf.transpose(state[0]))
    return tf.stack(hs, axis=1), *(tf.transpose(s) for s in state)


@cache
def compiled(cell, implementation):
    """A function of inputs and pulls: the outputs, and the gradients of outputs · pulls."""
    functions = {
        "float32": RECURRENCES[cell].make(MatMul()),
        "bfloat16": RECURRENCES[cell].make(MatMul(tf.bfloat16)),
        "autodiff": lambda *x: plain(cell, *x),
    }

    @tf.function(jit_compile=implementation != "autodiff", autograph=False)
    def run(inputs, pulls):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = functions[implementation](*inputs)
            pulled = tf.add_n([tf.reduce_sum(o * p) for o, p in zip(outputs, pulls, strict=True)])
        return outputs, tape.gradient(pulled, inputs)

    return run


def inputs_of(cell, rng):
    def normal(*shape):
        return tf.constant(rng.normal(size=shape, scale=0.7), tf.float32)

    weights = CELLS[cell].weight_shapes(LayerSpec(cell, UNITS), 1)
    weights["recurrent_bias"] = weights["bias"][-1:]
    kernel, n_states = weights["recurrent_kernel"], len(CELLS[cell].states)
    extra = [weights[name] for name in RECURRENCES[cell].extra_weights]
    shapes = [(kernel[1], STEPS, STREAMS), kernel, *extra, *[(UNITS, STREAMS)] * n_states]
    pulls = [normal(UNITS, STEPS, STREAMS), *[normal(UNITS, STREAMS) for _ in range(n_states)]]
    return [normal(*shape) for shape in shapes], pulls


def relative_difference(mine, theirs):
    mine, theirs = mine.numpy(), theirs.numpy()
    return np.abs(mine - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_gradients_are_those_of_the_equations(cell):
    inputs, pulls = inputs_of(cell, np.random.default_rng(1))
    mine, theirs = compiled(cell, "float32"), compiled(cell, "autodiff")
    pairs = zip(
        tf.nest.flatten(mine(inputs, pulls)), tf.nest.flatten(theirs(inputs, pulls)), strict=True
    )
    for ours, autodiff in pairs:
        assert relative_difference(ours, autodiff) <= LARGEST_DIFFERENCE


@pytest.mark.parametrize("cell", CELLS)
def test_a_slightly_wrong_gradient_is_seen(cell):
    inputs, pulls = inputs_of(cell, np.random.default_rng(1))
    shorter = tf.constant(np.r_[np.ones(STEPS - 1), 0.999][None, :, None], tf.float32)
    _, mine = compiled(cell, "float32")(inputs, pulls)
    _, theirs = compiled(cell, "autodiff")(inputs, [pulls[0] * shorter, *pulls[1:]])
    pairs = zip(mine, theirs, strict=True)
    assert max(relative_difference(*pair) for pair in pairs) > LARGEST_DIFFERENCE


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_deviates_no_more_than_its_eight_bits(cell):
    inputs, pulls = inputs_of(cell, np.random.default_rng(1))
    half, full = compiled(cell, "bfloat16"), compiled(cell, "float32")
    pairs = zip(
        tf.nest.flatten(half(inputs, pulls)), tf.nest.flatten(full(inputs, pulls)), strict=True
    )
    differences = [relative_difference(*pair) for pair in pairs]
    assert 1e-5 < max(differences) < 0.1


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding_dim", [2, 24])
def test_the_network_computes_what_the_reference_computes(cell, embedding_dim):
    # 11 characters: with 24 dimensions the embedding is folded, with 2 it is not.
    spec = ModelSpec(11, embedding_dim, (LayerSpec(cell, 12), LayerSpec(cell, 7)))
    weights = dict(initial_weights(spec, 3))
    rng = np.random.default_rng(0)
    for name, weight in weights.items():
        weights[name] = weight + rng.normal(size=weight.shape, scale=0.2).astype(np.float32)
    tokens = rng.integers(11, size=(STEPS, STREAMS)).astype(np.int32)
    network = Network(spec, MatMul())

    @tf.function(jit_compile=True, autograph=False)
    def run(weights, tokens, state):
        return network.logits(weights, tokens, state, DropoutRates(), tf.zeros((2,), tf.int32))

    constants = {name: tf.constant(weight) for name, weight in weights.items()}
    state = initial_state(spec, STREAMS)
    pieces = []
    for piece in (tokens[:4], tokens[4:]):
        logits, state = run(constants, piece, state)
        pieces.append(logits.numpy())
    logits = np.concatenate(pieces)
    reference = ReferenceModel(spec, weights)
    for stream in range(STREAMS):
        assert np.abs(logits[:, stream] - reference.run(tokens[:, stream].tolist())).max() < 1e-5


@pytest.mark.parametrize("embedding_dim", [2, 24])
def test_gradients_through_the_embedding_are_autodiffs(embedding_dim):
    spec = ModelSpec(11, embedding_dim, (LayerSpec("lstm", 6),))
    weights = {name: tf.constant(w) for name, w in initial_weights(spec, 3).items()}
    tokens = tf.constant(np.random.default_rng(0).integers(11, size=(STEPS, STREAMS)), tf.int32)
    network = Network(spec, MatMul())

    @tf.function(jit_compile=True, autograph=False)
    def mine(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            seed = tf.zeros((2,), tf.int32)
            state = initial_state(spec, STREAMS)
            logits, _ = network.logits(weights, tokens, state, DropoutRates(), seed)
            loss = tf.reduce_sum(tf.sin(logits))
        return tape.gradient(loss, weights)

    def theirs(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            state, logits = (tf.zeros((STREAMS, 6)),) * 2, []
            for t in range(STEPS):
                x = tf.gather(weights["embedding"], tokens[t]) @ weights["layers.0.kernel"]
                x += weights["layers.0.bias"]
                state = plain_lstm_step(x, state, weights["layers.0.recurrent_kernel"])
                logits.append(state[0] @ weights["output.kernel"] + weights["output.bias"])
            loss = tf.reduce_sum(tf.sin(tf.stack(logits)))
        return tape.gradient(loss, weights)

    ours, autodiff = mine(weights), theirs(weights)
    for name, gradient in autodiff.items():
        pair = (tf.convert_to_tensor(ours[name]), tf.convert_to_tensor(gradient))
        assert relative_difference(*pair) <= LARGEST_DIFFERENCE, name


HAS_BFLOAT16 = resolved("auto") == "bfloat16"


@pytest.mark.skipif(not HAS_BFLOAT16, reason="the machine multiplies no bfloat16")
@pytest.mark.parametrize("cell", CELLS)
def test_products_of_bfloat16_are_compiled_as_such(cell):
    """XLA silently converts those that its libraries lack to float32, at half the speed."""
    spec = ModelSpec(60, 64, (LayerSpec(cell, 256), LayerSpec(cell, 256)))
    weights = {name: tf.constant(weight) for name, weight in initial_weights(spec, 3).items()}
    network, state = Network(spec, MatMul(tf.bfloat16)), initial_state(spec, 64)

    @tf.function(jit_compile=True, autograph=False)
    def learn(weights, tokens):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, _ = network.logits(
                weights, tokens, state, DropoutRates(), tf.zeros(2, tf.int32)
            )
            loss = tf.reduce_sum(logits)
        return tape.gradient(loss, weights)

    tokens = tf.zeros((STEPS, 64), tf.int32)
    program = learn.experimental_get_compiler_ir(weights, tokens)(stage="optimized_hlo")
    types = dict(re.findall(r"(%[\w.-]+) = (\w+)\[", program))
    products = re.findall(r" dot\((%[\w.-]+), (%[\w.-]+)\)", program)
    in_float32 = [names for names in products if "f32" in {types[name] for name in names}]
    assert len(products) >= 12
    # The three products of the folded embedding are in float32.
    assert len(in_float32) <= 3
