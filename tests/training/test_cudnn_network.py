"""Training by Keras's layers, which are cuDNN's on a GPU: the same numbers, and when it is used."""

import time
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from service.errors import Validation
from service.models.cell import LayerSpec
from service.models.initializers import initial_weights
from service.models.spec import ModelSpec, Weights
from service.training import checkpoint
from service.training.corpus import BPTTChunk, Corpus
from service.training.cudnn_network import CudnnNetwork
from service.training.matmul import MatMul
from service.training.network import DropoutRates, Network, cross_entropy, initial_state
from service.training.recipe import Architecture, Hyperparameters, Recipe
from service.training.recurrence_choice import choose_recurrence, gpu_name
from service.training.result import StopReason
from service.training.train_step import TrainStep
from service.training.trainer import _Training

pytestmark = pytest.mark.tf

STEPS, STREAMS = 6, 4
DROPOUT = DropoutRates(0.2, 0.3, 0.4)
SPECS = {
    "lstm": ModelSpec(11, 24, (LayerSpec("lstm", 12), LayerSpec("lstm", 7))),
    "gru": ModelSpec(11, 2, (LayerSpec("gru", 12), LayerSpec("gru", 7))),
}
RECIPE = Recipe(
    Architecture(embedding_dim=8, units=12, layers=2, dropout=0.2),
    Hyperparameters(epochs=2, batch_size=4, sequence_length=8, validation_fraction=0.2),
    seed=5,
)


def weights_of(spec: ModelSpec) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = dict(initial_weights(spec, 3))
    return {
        name: weight + rng.normal(size=weight.shape, scale=0.2).astype(np.float32)
        for name, weight in found.items()
    }


def learned(network, spec, weights, *, is_compiled):
    """Return the loss of a chunk, the state after it, and the loss's gradients."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(11, size=(STEPS, STREAMS)).astype(np.int32)
    targets = rng.integers(11, size=(STEPS, STREAMS)).astype(np.int32)
    state = [
        tf.constant(rng.uniform(-1, 1, one.shape), tf.float32)
        for one in initial_state(spec, STREAMS)
    ]

    @tf.function(jit_compile=is_compiled, autograph=False)
    def run(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, after = network.logits(weights, tokens, state, DROPOUT, tf.constant([7, 9]))
            loss = tf.reduce_mean(cross_entropy(targets, logits))
        gradients = tape.gradient(loss, weights)
        return [loss, *after, *(tf.convert_to_tensor(gradients[name]) for name in sorted(weights))]

    constants = {name: tf.constant(weight) for name, weight in weights.items()}
    return [one.numpy() for one in run(constants)]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_loss_state_and_gradients_are_those_of_the_own_network(spec):
    weights = weights_of(spec)
    own = learned(Network(spec, MatMul()), spec, weights, is_compiled=True)
    other = learned(CudnnNetwork(spec, "float32"), spec, weights, is_compiled=False)
    assert len(own) == len(other) == 1 + len(spec.state_units) + len(weights)
    for mine, theirs in zip(own, other, strict=True):
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).max() <= 1e-4 * max(1e-2, np.abs(mine).max())


def test_bfloat16_deviates_no_more_than_its_eight_bits():
    spec = SPECS["lstm"]
    weights = weights_of(spec)
    exact, *_ = learned(CudnnNetwork(spec, "float32"), spec, weights, is_compiled=False)
    half, *_ = learned(CudnnNetwork(spec, "bfloat16"), spec, weights, is_compiled=False)
    assert 1e-6 < abs(half - exact) < 0.05


def steps_of(recurrence: str, n: int) -> TrainStep:
    spec = RECIPE.architecture.spec(11)
    weights = Weights(spec, weights_of(spec))
    step = TrainStep(spec, RECIPE, 10, weights, "float32", recurrence)
    rng = np.random.default_rng(3)
    for i in range(n):
        tokens = rng.integers(11, size=(2, 4, 8)).astype(np.int32)
        step.learn(BPTTChunk(tokens[0], tokens[1]), is_first=i == 0)
    return step


def test_a_step_changes_the_weights_as_the_own_one_does():
    """With its dropout masks: XLA's random numbers are not TensorFlow's."""
    own, other = steps_of("own", 3), steps_of("cudnn", 3)
    for name, mine in own.arrays().items():
        theirs = other.arrays()[name]
        if name.startswith(("weight/", "state/")):
            assert np.abs(mine - theirs).max() < 1e-5, name


# -- which one is used


def after(seconds: float):
    return lambda: time.sleep(seconds)


def both(own_s: float, cudnn_s: float):
    return lambda: {"own": after(own_s), "cudnn": after(cudnn_s)}


def unused():
    pytest.fail("nothing is to be measured")


def fails():
    def step() -> None:
        raise tf.errors.NotFoundError(None, None, "no kernel")

    return {"own": after(0), "cudnn": step}


def test_on_a_processor_it_is_the_own_one_without_a_measurement():
    assert choose_recurrence("auto", SPECS["lstm"], "", unused).name == "own"
    assert gpu_name() == "" or tf.config.list_physical_devices("GPU")


def test_on_a_gpu_it_is_the_faster_one_and_the_record_says_so():
    spec = SPECS["lstm"]
    assert choose_recurrence("auto", spec, "GPU X", both(0.02, 0.001)).name == "cudnn"
    slower = choose_recurrence("auto", spec, "GPU X", both(0.001, 0.02))
    assert (slower.name, slower.device) == ("own", "GPU X")
    assert slower.gain is not None
    assert slower.gain < 1
    assert choose_recurrence("auto", spec, "GPU X", fails).name == "own"
    assert choose_recurrence("own", spec, "GPU X", unused).name == "own"
    assert choose_recurrence("cudnn", spec, "GPU X", unused).name == "cudnn"


@pytest.mark.parametrize(
    ("layers", "device", "reason"),
    [
        ((LayerSpec("lstm", 4),), "", "TensorFlow finds no GPU here; leave it out"),
        ((LayerSpec("peephole_lstm", 4),), "GPU X", "cuDNN has no peephole_lstm"),
        ((LayerSpec("gru", 4, reset_after=False),), "GPU X", "a GRU resets after the product"),
    ],
)
def test_cudnn_that_cannot_be_had_is_refused_and_auto_does_without(layers, device, reason):
    spec = ModelSpec(5, 4, layers)
    with pytest.raises(Validation, match=reason):
        choose_recurrence("cudnn", spec, device, unused)
    assert choose_recurrence("auto", spec, device, unused).name == "own"


def test_a_training_goes_on_with_what_it_began_with(tmp_path):
    corpus = Corpus.of("".join(f"{i} times {i} is {i * i}.\n" for i in range(60)))
    recipe = replace(RECIPE, recurrence="cudnn")

    def training(device: str) -> _Training:
        parts = corpus, corpus.vocabulary, recipe, tmp_path, None, lambda _: "float32"
        return _Training(*parts, lambda: device)

    left = iter([False] * 3 + [True] * 99)
    first = training("GPU X").run(lambda _: None, lambda: next(left))
    assert first.stop_reason is StopReason.STOPPED
    last = checkpoint.read(tmp_path / checkpoint.LAST)
    assert last.facts["identity"]["recurrence"]["name"] == "cudnn"
    whole = training("").run(lambda _: None, lambda: False)
    assert whole.stop_reason is StopReason.COMPLETED
    assert whole.recurrence == {"name": "cudnn", "device": "GPU X", "gain": None}


def test_the_recipe_of_a_training_that_began_without_the_choice_is_the_same():
    assert "recurrence" not in RECIPE.to_json()
    assert replace(RECIPE, recurrence="own").to_json()["recurrence"] == "own"
