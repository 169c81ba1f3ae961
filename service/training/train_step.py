"""One training step: weights, optimizer and the recurrent state between chunks."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from service.models.spec import ModelSpec, Weights
from service.training.corpus import BPTTChunk, EvaluationBatches
from service.training.cudnn_network import CudnnNetwork
from service.training.matmul import MatMul
from service.training.network import DropoutRates, Network, cross_entropy, initial_state
from service.training.optimizer import AdamW, ema_decay, learning_rate
from service.training.recipe import Recipe

Arrays = dict[str, npt.NDArray[np.float32]]


class TrainStep:
    """The variables of a training and the compiled functions that update them.

    Everything random is a function of the recipe's seed and the step, so that a training resumed
    with `restore` has the same results as the one that `arrays` came from, bit for bit.
    """

    def __init__(
        self,
        spec: ModelSpec,
        recipe: Recipe,
        n_steps: int,
        weights: Weights,
        precision: str,
        recurrence: str = "own",
    ) -> None:
        """`recurrence` is `own`, or `cudnn`: Keras's layers, which XLA does not compile."""
        self.step = 0
        self._spec, self._recipe, self._n_steps = spec, recipe, n_steps
        is_own = recurrence == "own"
        self._network = (
            Network(spec, MatMul(tf.as_dtype(precision)))
            if is_own
            else CudnnNetwork(spec, precision)
        )
        self._weights = {name: tf.Variable(weight) for name, weight in weights.items()}
        self._average = {name: tf.Variable(weight) for name, weight in weights.items()}
        self._optimizer = AdamW(recipe.schedule, self._weights)
        zeros = initial_state(spec, recipe.schedule.batch_size)
        self._state = [tf.Variable(tensor) for tensor in zeros]
        self._learn = tf.function(self._learn_chunk, jit_compile=is_own, autograph=False)
        self._evaluate = tf.function(self._evaluate_chunk, jit_compile=is_own, autograph=False)

    def learn(self, chunk: BPTTChunk, *, is_first: bool) -> float:
        """Take one step on a chunk; return its loss in nats per character.

        It starts from the state after the chunk before, or from the zero state if `is_first`.
        """
        schedule = self._recipe.schedule
        loss = self._learn(
            tf.constant(chunk.inputs.T),
            tf.constant(chunk.targets.T),
            tf.constant(0.0 if is_first else 1.0),
            tf.constant([self._recipe.seed, self.step << 8], tf.int32),
            tf.constant(self.step, tf.float32),
            tf.constant(learning_rate(schedule, self.step, self._n_steps), tf.float32),
            tf.constant(ema_decay(schedule, self.step), tf.float32),
        )
        self.step += 1
        return float(loss)

    def evaluate(self, batches: EvaluationBatches, should_stop: Callable[[], bool]) -> float | None:
        """Compute the averaged weights' loss in nats per character; None if it should stop."""
        state = initial_state(self._spec, batches.n_streams)
        total = 0.0
        for chunk in batches:
            if should_stop():
                return None
            loss, state = self._evaluate(
                tf.constant(chunk.inputs.T),
                tf.constant(chunk.targets.T),
                tf.constant(chunk.counted.T),
                state,
            )
            total += float(loss)
        return total / batches.n_predictions

    def weights(self) -> Weights:
        """Return the averaged weights, which are evaluated, saved and served."""
        return Weights(self._spec, {name: w.numpy() for name, w in self._average.items()})

    def arrays(self) -> Arrays:
        """Return everything that the next step depends on, by name, apart from `step`."""
        return {name: variable.numpy() for name, variable in self._variables()}

    def restore(self, arrays: Mapping[str, npt.NDArray[np.float32]], step: int) -> None:
        """Resume from what `arrays` returned after `step` steps."""
        for name, variable in self._variables():
            variable.assign(arrays[name])
        self.step = step

    def _variables(self) -> Iterable[tuple[str, Any]]:
        yield from ((f"weight/{name}", variable) for name, variable in self._weights.items())
        yield from ((f"average/{name}", variable) for name, variable in self._average.items())
        yield from self._optimizer.slots.items()
        yield from ((f"state/{i}", variable) for i, variable in enumerate(self._state))

    def _learn_chunk(
        self, inputs: Any, targets: Any, keep: Any, seed: Any, step: Any, rate: Any, ema_decay: Any
    ) -> Any:
        schedule, architecture = self._recipe.schedule, self._recipe.architecture
        dropout = DropoutRates(
            schedule.embedding_dropout, architecture.dropout, schedule.recurrent_weight_drop
        )
        weights = {name: variable.read_value() for name, variable in self._weights.items()}
        state = [variable * keep for variable in self._state]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits, after = self._network.logits(weights, inputs, state, dropout, seed)
            loss = tf.reduce_mean(cross_entropy(targets, logits))
        gradients = tape.gradient(loss, weights)
        # The gradient of an embedding that is not folded is in slices.
        dense = {name: tf.convert_to_tensor(gradient) for name, gradient in gradients.items()}
        self._optimizer.apply(dense, step, rate)
        for name, average in self._average.items():
            average.assign(ema_decay * average + (1.0 - ema_decay) * self._weights[name])
        for variable, value in zip(self._state, after, strict=True):
            variable.assign(value)
        return loss

    def _evaluate_chunk(
        self, inputs: Any, targets: Any, counted: Any, state: list[Any]
    ) -> tuple[Any, list[Any]]:
        seed = tf.zeros((2,), tf.int32)
        weights = {name: variable.read_value() for name, variable in self._average.items()}
        logits, after = self._network.logits(weights, inputs, state, DropoutRates(), seed)
        return tf.reduce_sum(counted * cross_entropy(targets, logits)), after
