"""A model that learns a window at a time: its weights, its optimiser, its state between windows."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from service.models.spec import ModelSpec, Weights
from service.training.corpus import BPTTChunk, EvaluationBatches
from service.training.network import DropoutRates, Network, cross_entropy, initial_state
from service.training.optimizer import AdamW, ema_decay, learning_rate
from service.training.precision import product
from service.training.recipe import Recipe

Arrays = dict[str, npt.NDArray[np.float32]]


class TrainStep:
    """What changes while a model learns, all of it in `arrays` and nowhere else.

    Everything random is a function of the recipe's seed and the step, so that a learner filled by
    `restore` goes on as the one that `arrays` was taken from, to the bit.
    """

    def __init__(
        self, spec: ModelSpec, recipe: Recipe, n_steps: int, weights: Weights, precision: str
    ) -> None:
        self.step = 0
        self._spec = spec
        self._recipe = recipe
        self._n_steps = n_steps
        self._network = Network(spec, product(precision))
        self._weights = {name: tf.Variable(weight) for name, weight in weights.items()}
        self._average = {name: tf.Variable(weight) for name, weight in weights.items()}
        self._optimizer = AdamW(recipe.schedule, self._weights)
        n_lanes = recipe.schedule.batch_size
        self._state = [tf.Variable(zeros) for zeros in initial_state(spec, n_lanes)]
        self._learn = tf.function(self._learn_window, jit_compile=True, autograph=False)
        self._judge = tf.function(self._judge_window, jit_compile=True, autograph=False)

    def learn(self, window: BPTTChunk, *, is_first: bool) -> float:
        """One step on a window; return what it cost in nats a character.

        The first window of a pass begins in the zero state, every other where the one before
        ended.
        """
        schedule = self._recipe.schedule
        loss = self._learn(
            tf.constant(window.inputs.T),
            tf.constant(window.targets.T),
            tf.constant(0.0 if is_first else 1.0),
            tf.constant([self._recipe.seed, self.step << 8], tf.int32),
            tf.constant(self.step, tf.float32),
            tf.constant(learning_rate(schedule, self.step, self._n_steps), tf.float32),
            tf.constant(ema_decay(schedule, self.step), tf.float32),
        )
        self.step += 1
        return float(loss)

    def judge(self, lanes: EvaluationBatches, should_stop: Callable[[], bool]) -> float | None:
        """What the averaged weights pay for a text, in nats a character; nothing is learnt.

        None where `should_stop`, asked before each window, says so.
        """
        state = initial_state(self._spec, lanes.n_streams)
        total = 0.0
        for window in lanes:
            if should_stop():
                return None
            loss, state = self._judge(
                tf.constant(window.inputs.T),
                tf.constant(window.targets.T),
                tf.constant(window.counted.T),
                state,
            )
            total += float(loss)
        return total / lanes.n_predictions

    def weights(self) -> Weights:
        """The averaged weights: those that are judged, kept and served."""
        return Weights(self._spec, {name: w.numpy() for name, w in self._average.items()})

    def arrays(self) -> Arrays:
        """Everything that the next step depends on, by name; `step` is apart."""
        return {name: variable.numpy() for name, variable in self._variables()}

    def restore(self, arrays: Mapping[str, npt.NDArray[np.float32]], step: int) -> None:
        """Go on from what `arrays` returned after `step` steps."""
        for name, variable in self._variables():
            variable.assign(arrays[name])
        self.step = step

    def _variables(self) -> Iterable[tuple[str, Any]]:
        yield from ((f"weight/{name}", variable) for name, variable in self._weights.items())
        yield from ((f"average/{name}", variable) for name, variable in self._average.items())
        yield from self._optimizer.slots.items()
        yield from ((f"state/{i}", variable) for i, variable in enumerate(self._state))

    def _learn_window(
        self, inputs: Any, targets: Any, keep: Any, seed: Any, step: Any, rate: Any, ema_decay: Any
    ) -> Any:
        schedule, architecture = self._recipe.schedule, self._recipe.architecture
        dropping = DropoutRates(
            schedule.embedding_dropout, architecture.dropout, schedule.recurrent_weight_drop
        )
        weights = {name: variable.read_value() for name, variable in self._weights.items()}
        state = [variable * keep for variable in self._state]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits, after = self._network.logits(weights, inputs, state, dropping, seed)
            loss = tf.reduce_mean(cross_entropy(targets, logits))
        gradients = tape.gradient(loss, weights)
        # An embedding that is not folded has a gradient in slices.
        dense = {name: tf.convert_to_tensor(gradient) for name, gradient in gradients.items()}
        self._optimizer.apply(dense, step, rate)
        for name, average in self._average.items():
            average.assign(ema_decay * average + (1.0 - ema_decay) * self._weights[name])
        for variable, value in zip(self._state, after, strict=True):
            variable.assign(value)
        return loss

    def _judge_window(
        self, inputs: Any, targets: Any, counted: Any, state: list[Any]
    ) -> tuple[Any, list[Any]]:
        seed = tf.zeros((2,), tf.int32)
        weights = {name: variable.read_value() for name, variable in self._average.items()}
        logits, after = self._network.logits(weights, inputs, state, DropoutRates(), seed)
        return tf.reduce_sum(counted * cross_entropy(targets, logits)), after
