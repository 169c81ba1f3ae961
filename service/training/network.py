"""A model as a differentiable TensorFlow function of its weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from service.models.cells import CELLS
from service.models.spec import ModelSpec, layer_weights
from service.training.cells import RECURRENCES
from service.training.matmul import MatMul, features_first

DrawMask = Callable[[Any, float, Any, int], Any]
"""From a shape, a rate, a seed and a place of the network to what a value is multiplied with."""


@dataclass(frozen=True, slots=True)
class DropoutRates:
    """The dropout rates of a training; all zero in evaluation.

    Every mask is the same for all steps of a chunk ("locked dropout"). The embedding's mask is over
    its entries, one for all streams, so that it can still be folded into the first kernel.

    Source: Gal & Ghahramani 2016; Merity, Keskar & Socher 2018, "Regularizing and optimizing LSTM
    language models", for the recurrent weights.
    """

    embedding: float = 0.0
    output: float = 0.0
    recurrent_weights: float = 0.0


def initial_state(spec: ModelSpec, n_streams: int) -> list[Any]:
    """Return zeros for every state tensor, each (units, streams)."""
    return [tf.zeros((units, n_streams)) for units in spec.state_units]


class Network:
    """The layers of a ModelSpec over a chunk of time. Arrays are (features, time, streams)."""

    def __init__(self, spec: ModelSpec, product: MatMul) -> None:
        self.spec, self._product = spec, product

    def logits(
        self,
        weights: Mapping[str, Any],
        tokens: Any,
        state: Sequence[Any],
        dropout: DropoutRates,
        seed: Any,
    ) -> tuple[Any, list[Any]]:
        """Compute the logits (time, streams, vocabulary) and the state after the last token.

        `tokens` is (time, streams) int32. `seed`, (2,) int32, determines the dropout masks.
        """
        remaining, after = list(state), []
        x: Any = None
        for i, layer in enumerate(self.spec.recurrent_layers):
            parts = layer_weights(weights, i)
            bias, recurrence = parts["bias"], RECURRENCES[layer.cell]
            if len(bias.shape) == 2:
                bias, parts["recurrent_bias"] = tf.unstack(bias)
            if x is None:
                embedding = weights["embedding"]
                embedding = dropped(embedding, embedding.shape, dropout.embedding, seed, 0)
                x = self._embedded(embedding, tokens, parts["kernel"], bias)
            else:
                x = self._product.dense(x, parts["kernel"]) + bias[:, None, None]
            kernel = parts["recurrent_kernel"]
            kernel = dropped(kernel, kernel.shape, dropout.recurrent_weights, seed, 2 * i + 1)
            extra = [parts[name] for name in recurrence.extra_weights]
            before = [remaining.pop(0) for _ in CELLS[layer.cell].states]
            x, *last = recurrence.make(self._product)(x, kernel, *extra, *before)
            after += last
            units, _, streams = x.shape
            x = dropped(x, (units, 1, streams), dropout.output, seed, 2 * i + 2)
        logits = self._product.dense(x, weights["output.kernel"])
        return tf.transpose(logits, (1, 2, 0)) + weights["output.bias"], after

    def _embedded(self, embedding: Any, tokens: Any, kernel: Any, bias: Any) -> Any:
        """Compute x W + b of the first layer.

        For a small vocabulary it is the product of the one-hot tokens and the table E W + b, which
        takes no longer than gathering its columns and adding to them in the gradient.
        """
        vocabulary, dim = embedding.shape
        if vocabulary < 3 * dim:
            one_hot = tf.one_hot(tokens, vocabulary, axis=0)  # (vocabulary, time, streams)
            return self._product.dense(one_hot, tf.matmul(embedding, kernel) + bias)
        x = features_first(tf.gather(embedding, tokens))
        return self._product.dense(x, kernel) + bias[:, None, None]


def cross_entropy(targets: Any, logits: Any) -> Any:
    """Compute the cross-entropy of each prediction in nats, (time, streams)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)


def dropout_mask(shape: Any, rate: float, seed: Any, place: int) -> Any:
    """Return what a value of a `shape` is multiplied with, at one place of the network."""
    uniform = tf.random.stateless_uniform(shape, seed + tf.constant([0, place]), alg="philox")
    return tf.cast(uniform >= rate, tf.float32) / (1.0 - rate)


def dropped(
    x: Any, shape: Any, rate: float, seed: Any, place: int, draw: DrawMask = dropout_mask
) -> Any:
    """Set a share `rate` of the entries to zero and scale the others up, by a mask of `shape`.

    `draw` computes the mask, as `dropout_mask` does.
    """
    return x * draw(shape, rate, seed, place) if rate else x
