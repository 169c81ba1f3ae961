"""A model written back as a file that Keras loads by itself."""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save

from service.errors import Validation
from service.models.spec import Activation, Cell, ModelSpec, Weights

KERAS_FILE = "model.keras"

_NOTE = """{summary}

Keras has no layer with peepholes, so there is no .keras file of this model. weights.safetensors
holds its weights by name; kernels are (input, 4 * units) with the blocks i, f, g, o, and
`peephole` is (3, units): input, forget and output gate. With h and c the state and x the input:

    z = x W + h U + b = [z_i z_f z_g z_o]
    i = sigmoid(z_i + p_i * c)    f = sigmoid(z_f + p_f * c)    c = f * c + i * tanh(z_g)
    o = sigmoid(z_o + p_o * c)    h = o * tanh(c)

(both c in the second line are those before the step, that in the third is the new one).
"""


def exported(spec: ModelSpec, weights: Weights) -> dict[str, bytes]:
    """Files by name: model.keras, or for a peephole LSTM its weights and a note.

    The .keras file is a Sequential of stock layers, tokens (batch, time) in, logits (batch, time,
    vocabulary) out; a model that takes its tokens one-hot gets an identity as its embedding.

    Raises:
        Validation: an activation has no name in Keras 3.

    """
    if any(layer.cell is Cell.PEEPHOLE_LSTM for layer in spec.layers):
        note = _NOTE.format(summary=spec.summary)
        return {"weights.safetensors": save(dict(weights)), "README.txt": note.encode()}
    model = _model(spec)
    model.set_weights(_in_keras_order(spec, weights))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / KERAS_FILE
        model.save(path)
        return {KERAS_FILE: path.read_bytes()}


def _model(spec: ModelSpec) -> Any:
    layers = keras.layers
    dim = spec.embedding_dim or spec.vocabulary_size
    model = keras.Sequential([keras.Input((None,), dtype="int32")])
    model.add(layers.Embedding(spec.vocabulary_size, dim, name="embedding"))
    for i, layer in enumerate(spec.layers):
        options: dict[str, Any] = {
            "activation": _name(layer.activation),
            "recurrent_activation": _name(layer.recurrent_activation),
            "use_bias": layer.use_bias,
            "return_sequences": True,
            "name": f"recurrent_{i}",
        }
        if layer.cell is Cell.GRU:
            model.add(layers.GRU(layer.units, reset_after=layer.reset_after, **options))
        else:
            model.add(layers.LSTM(layer.units, **options))
    model.add(layers.Dense(spec.vocabulary_size, use_bias=spec.output_bias, name="output"))
    return model


def _in_keras_order(spec: ModelSpec, weights: Weights) -> list[Any]:
    arrays = list(weights.values())  # canonical order is Keras's: kernel, recurrent kernel, bias
    if spec.embedding_dim is None:
        arrays.insert(0, np.eye(spec.vocabulary_size, dtype=np.float32))
    return arrays


def _name(activation: Activation) -> str:
    if activation is Activation.HARD_SIGMOID_02:
        raise Validation(
            "the model uses the hard sigmoid of Keras 2, clip(0.2 x + 0.5, 0, 1), "
            "which Keras 3 does not have; a .keras file cannot say it"
        )
    return "hard_sigmoid" if activation is Activation.HARD_SIGMOID_6 else activation.value
