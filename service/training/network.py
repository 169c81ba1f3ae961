"""The language model while it learns: tokens and a state in, logits and the next state out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from service.models.spec import Cell, ModelSpec
from service.training.matmul import MatMul, features_first
from service.training.recurrence import recurrence


@dataclass(frozen=True, slots=True)
class DropoutRates:
    """What is left out by chance while learning; all zero while judging.

    Every mask holds for a whole window ("locked"): noise that changed with each character would
    only blur the state. The embedding's mask is over its entries, one for all lanes, so that it
    can still be folded into the first kernel.

    Source: Gal & Ghahramani 2016; Merity, Keskar & Socher 2018, "Regularizing and optimizing LSTM
    language models", for the recurrent weights.
    """

    embedding: float = 0.0
    output: float = 0.0
    recurrent_weights: float = 0.0


def initial_state(spec: ModelSpec, n_lanes: int) -> list[Any]:
    """Zeros for every state tensor, each (units, lanes)."""
    return [tf.zeros((units, n_lanes)) for units in spec.state_units]


class Network:
    """A ModelSpec as a differentiable function of its weights. Arrays: (features, time, lanes)."""

    def __init__(self, spec: ModelSpec, product: MatMul) -> None:
        self.spec = spec
        self._product = product

    def logits(
        self,
        weights: Mapping[str, Any],
        tokens: Any,
        state: Sequence[Any],
        dropping: DropoutRates,
        seed: Any,
    ) -> tuple[Any, list[Any]]:
        """Logits (time, lanes, vocabulary) and the state after the last character.

        `tokens` is (time, lanes) int32. `seed`, (2,) int32, fixes what is left out.
        """
        left, after = list(state), []
        x: Any = None
        for i, layer in enumerate(self.spec.layers):
            mine: dict[str, Any] = {part: weights.get(f"layers.{i}.{part}") for part in _PARTS}
            bias, extras = mine["bias"], []
            if layer.cell is Cell.GRU:
                bias, recurrent_bias = tf.unstack(bias)
                extras = [recurrent_bias]
            elif layer.cell is Cell.PEEPHOLE_LSTM:
                extras = [mine["peephole"]]
            if x is None:
                embedding = _dropped(weights["embedding"], dropping.embedding, seed, 0)
                x = self._looked_up(embedding, tokens, mine["kernel"], bias)
            else:
                x = self._product.dense(x, mine["kernel"]) + bias[:, None, None]
            kernel = _dropped(mine["recurrent_kernel"], dropping.recurrent_weights, seed, 2 * i + 1)
            before = [left.pop(0) for _ in layer.states]
            x, *last = recurrence(layer.cell, self._product, x, kernel, *extras, *before)
            after += last
            x = _locked(x, dropping.output, seed, 2 * i + 2)
        logits = self._product.dense(x, weights["output.kernel"])
        return tf.transpose(logits, (1, 2, 0)) + weights["output.bias"], after

    def _looked_up(self, embedding: Any, tokens: Any, kernel: Any, bias: Any) -> Any:
        """X W + b of the first layer.

        Folded, it is the one-hot tokens times the table E W + b, as cheap as looking its columns
        up and adding to them in the gradient, while the vocabulary is below three embeddings.
        """
        vocabulary, dim = embedding.shape
        if vocabulary < 3 * dim:
            one_hot = tf.one_hot(tokens, vocabulary, axis=0)  # (vocabulary, time, lanes)
            return self._product.dense(one_hot, tf.matmul(embedding, kernel) + bias)
        x = features_first(tf.gather(embedding, tokens))
        return self._product.dense(x, kernel) + bias[:, None, None]


_PARTS = ("kernel", "recurrent_kernel", "bias", "peephole")


def cross_entropy(targets: Any, logits: Any) -> Any:
    """What each prediction costs in nats, (time, lanes)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)


def _dropped(weight: Any, rate: float, seed: Any, place: int) -> Any:
    """The weight with a share `rate` of its entries zero and the others made up for it."""
    if not rate:
        return weight
    return weight * _mask(weight.shape, rate, seed, place)


def _locked(x: Any, rate: float, seed: Any, place: int) -> Any:
    if not rate:
        return x
    units, _, lanes = x.shape
    return x * _mask((units, 1, lanes), rate, seed, place)


def _mask(shape: Any, rate: float, seed: Any, place: int) -> Any:
    chance = tf.random.stateless_uniform(shape, seed + tf.constant([0, place]), alg="philox")
    return tf.cast(chance >= rate, tf.float32) / (1.0 - rate)
