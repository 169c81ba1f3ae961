"""The language model while it learns: tokens and a state in, logits and the next state out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from service.models.spec import Cell, ModelSpec
from service.training.product import Product
from service.training.recurrence import recurrence


@dataclass(frozen=True, slots=True)
class Dropping:
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
    """Zeros for every state tensor, each (lanes, units)."""
    return [tf.zeros((n_lanes, units)) for units in spec.state_units]


class Network:
    """A ModelSpec as a differentiable function of its weights."""

    def __init__(self, spec: ModelSpec, product: Product) -> None:
        self.spec = spec
        self._product = product

    def logits(
        self,
        weights: Mapping[str, Any],
        tokens: Any,
        state: list[Any],
        dropping: Dropping,
        seed: Any,
    ) -> tuple[Any, list[Any]]:
        """Logits (time, lanes, vocabulary) and the state after the last character.

        `tokens` is (time, lanes) int32. `seed`, (2,) int32, fixes what is left out.
        """
        left, after = list(state), []
        embedding = _dropped(weights["embedding"], dropping.embedding, seed, 0)
        x = None
        for i, layer in enumerate(self.spec.layers):
            kernel, bias = weights[f"layers.{i}.kernel"], weights[f"layers.{i}.bias"]
            recurrent_kernel = _dropped(
                weights[f"layers.{i}.recurrent_kernel"], dropping.recurrent_weights, seed, 2 * i + 1
            )
            extras = []
            if layer.cell is Cell.GRU:
                bias, recurrent_bias = tf.unstack(bias)
                extras = [recurrent_bias]
            if layer.cell is Cell.PEEPHOLE_LSTM:
                extras = [weights[f"layers.{i}.peephole"]]
            if x is None:
                entered = self._looked_up(tokens, embedding, kernel, bias)
            else:
                entered = self._product.dense(x, kernel) + bias
            mine = [left.pop(0) for _ in layer.states]
            run = recurrence(layer.cell, self._product)
            x, *mine = run(entered, recurrent_kernel, *extras, *mine)
            after += mine
            x = _locked(x, dropping.output, seed, 2 * i + 2)
        logits = self._product.dense(x, weights["output.kernel"])
        return logits + weights["output.bias"], after

    def _looked_up(self, tokens: Any, embedding: Any, kernel: Any, bias: Any) -> Any:
        """X W + b of the first layer, (time, lanes, columns).

        Folded, it is a row of E W + b for each token, and its gradient one product with the
        one-hot tokens: cheaper than x W while the vocabulary is below three embeddings.
        """
        vocabulary, dim = embedding.shape
        if vocabulary < 3 * dim:
            return self._product.rows(tf.matmul(embedding, kernel) + bias, tokens)
        return self._product.dense(tf.gather(embedding, tokens), kernel) + bias


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
    return x * _mask((1, *x.shape[1:]), rate, seed, place)


def _mask(shape: Any, rate: float, seed: Any, place: int) -> Any:
    chance = tf.random.stateless_uniform(shape, seed + tf.constant([0, place]), alg="philox")
    return tf.cast(chance >= rate, tf.float32) / (1.0 - rate)
