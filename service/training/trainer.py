"""A language model learnt from a text: plain Keras and TensorFlow, states handed in and out."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from service.errors import Validation
from service.models.spec import Cell, LayerSpec, ModelSpec, Weights
from service.training.corpus import Corpus, Lanes, Window

Arrays = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is trained and how: everything but the text that decides the outcome."""

    embedding_dim: int
    units: tuple[int, ...]
    epochs: int
    lanes: int = 32
    window_characters: int = 64
    learning_rate: float = 3e-3
    warm_up_share: float = 0.03
    final_rate_share: float = 0.01
    weight_decay: float = 1e-2
    gradient_norm: float = 1.0
    embedding_dropout: float = 0.1
    output_dropout: float = 0.3
    recurrent_weight_drop: float = 0.3
    validation_lanes: int = 8
    seed: int = 0

    def spec(self, vocabulary_size: int) -> ModelSpec:
        """The architecture that this recipe trains."""
        layers = tuple(LayerSpec(Cell.LSTM, units) for units in self.units)
        return ModelSpec(vocabulary_size, self.embedding_dim, layers)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the text came to. Losses are nats a character."""

    number: int
    training_nats: float
    validation_nats: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Trained:
    """The weights of the epoch that did best on the validation text."""

    weights: Weights
    best: Epoch
    seconds: float


def train(
    corpus: Corpus, vocabulary_size: int, recipe: Recipe, report: Callable[[Epoch], None]
) -> Trained:
    """Train for `recipe.epochs` passes, each reported, and return the best of them.

    Blocks. Two runs agree up to rounding, not bit for bit: TensorFlow's threads add in any order.

    Raises:
        Validation: the text is too short for its lanes, or the loss is no longer a number.

    """
    rng = np.random.default_rng(recipe.seed)
    starts = rng.integers(recipe.window_characters, size=recipe.epochs)
    epochs = [_training_lanes(corpus, recipe, int(start)) for start in starts]
    checks = Lanes(corpus.validation, recipe.validation_lanes, recipe.window_characters)
    learner = Learner(recipe, vocabulary_size, sum(lanes.n_windows for lanes in epochs))
    began = time.monotonic()
    best: Epoch | None = None
    for number, lanes in enumerate(epochs, start=1):
        training_nats = learner.learn(lanes)
        validation_nats = learner.judge(checks)
        if not math.isfinite(training_nats + validation_nats):
            raise Validation(f"the loss of epoch {number} is not a number; lower the learning rate")
        epoch = Epoch(number, training_nats, validation_nats, time.monotonic() - began)
        report(epoch)
        if best is None or validation_nats < best.validation_nats:
            best, arrays = epoch, learner.arrays()
    if best is None:
        raise Validation("epochs is 0; it must be at least 1")
    weights = Weights(recipe.spec(vocabulary_size), arrays)
    return Trained(weights, best, time.monotonic() - began)


def framework_versions() -> dict[str, str]:
    """Which TensorFlow and Keras trained, for the record."""
    return {"tensorflow": tf.__version__, "keras": keras.__version__}


def _training_lanes(corpus: Corpus, recipe: Recipe, start: int) -> Lanes:
    return Lanes(corpus.training, recipe.lanes, recipe.window_characters, start)


class Learner:
    """A Keras model and its optimiser; `learn` changes the weights, `judge` does not."""

    def __init__(self, recipe: Recipe, vocabulary_size: int, n_steps: int) -> None:
        keras.utils.set_random_seed(recipe.seed)
        self._recipe = recipe
        self._model = _build(recipe, vocabulary_size)
        self._optimizer = _optimizer(recipe, n_steps)
        self._optimizer.build(self._model.trainable_variables)
        self._learn_window = tf.function(self._learn_eagerly, reduce_retracing=True)
        self._judge_window = tf.function(self._judge_eagerly, reduce_retracing=True)

    def learn(self, lanes: Lanes) -> float:
        """One pass over a text, from the zero state; return the mean loss on the way."""
        return self._read(lanes, self._recipe.lanes, self._learn_window)

    def judge(self, lanes: Lanes) -> float:
        """The mean loss on a text, nothing dropped out and nothing learnt."""
        return self._read(lanes, self._recipe.validation_lanes, self._judge_window)

    def arrays(self) -> Arrays:
        """A copy of the weights by their canonical names (see `ModelSpec.weight_shapes`)."""
        # Keras calls them embedding/embeddings, layers.0/lstm_cell/kernel, output/bias.
        arrays = {}
        for variable in self._model.trainable_variables:
            layer, *_, weight = variable.path.split("/")
            name = layer if weight == "embeddings" else f"{layer}.{weight}"
            arrays[name] = variable.value.numpy().copy()
        return arrays

    def _read(self, lanes: Lanes, n_lanes: int, window_loss: Callable[..., Any]) -> float:
        state = [tf.zeros((n_lanes, units)) for units in self._recipe.units for _ in "hc"]
        total = tf.zeros(())
        for window in lanes:
            loss, state = window_loss(*_tensors(window), state)
            total += loss  # stays a tensor: asking for its value would wait for the step
        return float(total) / lanes.n_windows

    def _learn_eagerly(self, inputs: Any, targets: Any, state: list[Any]) -> tuple[Any, list[Any]]:
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            dropped = [self._weight_drop(variable) for variable in variables]
            (logits, *state), others = self._model.stateless_call(
                dropped, self._model.non_trainable_variables, [inputs, *state], training=True
            )
            loss = _cross_entropy(targets, logits)
        self._optimizer.apply(tape.gradient(loss, variables), variables)
        # Among them the dropout layers' seeds, which must move on.
        for variable, value in zip(self._model.non_trainable_variables, others, strict=True):
            variable.assign(value)
        return loss, state

    def _judge_eagerly(self, inputs: Any, targets: Any, state: list[Any]) -> tuple[Any, list[Any]]:
        logits, *state = self._model([inputs, *state], training=False)
        return _cross_entropy(targets, logits), state

    def _weight_drop(self, variable: Any) -> Any:
        """Recurrent weights leave by chance for one window: the only dropout h → h bears well.

        Source: Merity, Keskar & Socher 2018, "Regularizing and optimizing LSTM language models".
        """
        rate = self._recipe.recurrent_weight_drop
        if not rate or not variable.path.endswith("recurrent_kernel"):
            return variable.value
        return tf.nn.dropout(variable.value, rate)


def _build(recipe: Recipe, vocabulary_size: int) -> Any:
    layers = keras.layers
    tokens = keras.Input((None,), dtype="int32")  # (lanes, characters)
    state = [keras.Input((units,)) for units in recipe.units for _ in "hc"]  # each (lanes, units)
    x = layers.Embedding(vocabulary_size, recipe.embedding_dim, name="embedding")(tokens)
    x = layers.Dropout(recipe.embedding_dropout)(x)
    after = []
    for i, units in enumerate(recipe.units):
        lstm = layers.LSTM(units, return_sequences=True, return_state=True, name=f"layers.{i}")
        x, h, c = lstm(x, initial_state=state[2 * i : 2 * i + 2])
        x = layers.Dropout(recipe.output_dropout)(x)
        after += [h, c]
    logits = layers.Dense(vocabulary_size, name="output")(x)  # (lanes, characters, vocabulary)
    return keras.Model([tokens, *state], [logits, *after])


def _optimizer(recipe: Recipe, n_steps: int) -> Any:
    warm_up = max(1, round(recipe.warm_up_share * n_steps))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, n_steps - warm_up),
        alpha=recipe.final_rate_share,
        warmup_target=recipe.learning_rate,
        warmup_steps=warm_up,
    )
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=recipe.weight_decay, global_clipnorm=recipe.gradient_norm
    )
    optimizer.exclude_from_weight_decay(var_names=["embedding", "bias"])
    return optimizer


def _tensors(window: Window) -> tuple[Any, Any]:
    return tf.constant(window.inputs), tf.constant(window.targets)


def _cross_entropy(targets: Any, logits: Any) -> Any:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    return tf.reduce_mean(losses)
