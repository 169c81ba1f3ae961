"""A model as Keras's layers, which use cuDNN on a GPU: the same function as `Network`'s.

On a processor Keras computes the same equations in a loop of its own; so it is tested there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from service.models.cells import CELLS
from service.models.spec import ModelSpec, layer_weights
from service.training.network import DropoutRates, dropout_mask, dropped

CUDNN_CELLS = ("lstm", "gru")


class CudnnNetwork:
    """The layers of a ModelSpec over a chunk of time, without XLA. States are (units, streams)."""

    def __init__(self, spec: ModelSpec, precision: str) -> None:
        """`precision` is float32, or bfloat16 for the operands of products."""
        self.spec = spec
        dtype = "float32" if precision == "float32" else "mixed_bfloat16"
        self._type = tf.as_dtype(precision)
        self._layers = [
            (keras.layers.LSTM if layer.cell == "lstm" else keras.layers.GRU)(
                layer.units, return_sequences=True, return_state=True, dtype=dtype
            )
            for layer in spec.recurrent_layers
        ]
        widths = [spec.embedding_dim, *(layer.units for layer in spec.recurrent_layers)]
        for layer, width in zip(self._layers, widths, strict=False):
            layer.build((None, None, width))

    def logits(
        self,
        weights: Mapping[str, Any],
        tokens: Any,
        state: Sequence[Any],
        dropout: DropoutRates,
        seed: Any,
    ) -> tuple[Any, list[Any]]:
        """As `Network.logits`, with its dropout masks."""
        remaining, after = list(state), []
        embedding = weights["embedding"]
        embedding = dropped(embedding, embedding.shape, dropout.embedding, seed, 0, _mask)
        x = tf.gather(embedding, tf.transpose(tokens))  # (streams, time, features)
        for i, (spec, layer) in enumerate(
            zip(self.spec.recurrent_layers, self._layers, strict=True)
        ):
            parts = layer_weights(weights, i)
            kernel = parts["recurrent_kernel"]
            rate = dropout.recurrent_weights
            kernel = dropped(kernel, kernel.shape, rate, seed, 2 * i + 1, _mask)
            before = [tf.transpose(remaining.pop(0)) for _ in CELLS[spec.cell].states]
            (x, *last), _ = layer.stateless_call(
                [parts["kernel"], kernel, parts["bias"]],
                [variable.value for variable in layer.non_trainable_variables],
                x,
                initial_state=before,
            )
            after += [tf.transpose(tf.cast(one, tf.float32)) for one in last]
            shape = (spec.units, 1, tokens.shape[1])
            x = tf.cast(x, tf.float32)
            x = dropped(x, shape, dropout.output, seed, 2 * i + 2, _transposed_mask)
        output = tf.cast(weights["output.kernel"], self._type)
        logits = tf.cast(tf.tensordot(tf.cast(x, self._type), output, 1), tf.float32)
        return tf.transpose(logits, (1, 0, 2)) + weights["output.bias"], after


def _mask(shape: Any, rate: float, seed: Any, place: int) -> Any:
    """Return a mask as `Network` has it: XLA draws other random numbers than TensorFlow."""
    draw = tf.function(
        lambda given: dropout_mask(shape, rate, given, place), jit_compile=True, autograph=False
    )
    return draw(seed)


def _transposed_mask(shape: Any, rate: float, seed: Any, place: int) -> Any:
    return tf.transpose(_mask(shape, rate, seed, place), (2, 1, 0))
