"""Exports a model as a file for Keras."""

import inspect
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save

from service.errors import Validation
from service.models.cell import Activation
from service.models.cells import CELLS
from service.models.spec import ModelSpec, Weights

KERAS_FILE = "model.keras"

_NOTE = """{summary}

Keras has no layer for {labels}, so there is no .keras file of this model. weights.safetensors
holds its weights by name. x is a layer's input, h its output, W kernel, U recurrent_kernel and
b bias, the reset_after form's b' a second row of bias; σ is the recurrent activation, φ the
activation, and ⊙ the element-wise product. Kernels are (input, gates * units).
"""


def exported(spec: ModelSpec, weights: Weights) -> dict[str, bytes]:
    """Return files by name: model.keras, or the weights and a note if Keras lacks a layer.

    The .keras file is a Sequential of stock layers, tokens (batch, time) in, logits (batch, time,
    vocabulary) out; a model that takes its tokens one-hot has an identity as its embedding. Raises
    Validation where an activation does not exist in Keras 3.
    """
    cells = dict.fromkeys(CELLS[layer.cell] for layer in spec.recurrent_layers)
    if any(cell.keras.layer is None for cell in cells):
        labels = ", ".join(cell.label for cell in cells if cell.keras.layer is None)
        note = _NOTE.format(summary=spec.summary, labels=labels)
        for cell in cells:
            blocks = " ".join(cell.gates)
            note += f"\n{cell.label}, kernels in blocks of units columns: {blocks}\n\n"
            note += f"{inspect.getdoc(cell)}\n"
        return {"weights.safetensors": save(dict(weights)), "README.txt": note.encode()}
    model = _model(spec)
    arrays = list(weights.values())  # canonical order is Keras's: kernel, recurrent kernel, bias
    if spec.embedding_dim is None:
        arrays.insert(0, np.eye(spec.vocabulary_size, dtype=np.float32))
    model.set_weights(arrays)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / KERAS_FILE
        model.save(path)
        return {KERAS_FILE: path.read_bytes()}


def _model(spec: ModelSpec) -> Any:
    layers = keras.layers
    dim = spec.embedding_dim or spec.vocabulary_size
    model = keras.Sequential([keras.Input((None,), dtype="int32")])
    model.add(layers.Embedding(spec.vocabulary_size, dim, name="embedding"))
    for i, layer in enumerate(spec.recurrent_layers):
        options: dict[str, Any] = {
            "activation": _name(layer.activation),
            "recurrent_activation": _name(layer.recurrent_activation),
            "use_bias": layer.use_bias,
            "return_sequences": True,
            "name": f"recurrent_{i}",
        }
        cell = CELLS[layer.cell]
        if cell.has_reset_after:
            options["reset_after"] = layer.reset_after
        model.add(getattr(layers, cell.keras.layer or "")(layer.units, **options))
    model.add(layers.Dense(spec.vocabulary_size, use_bias=spec.output_bias, name="output"))
    return model


def _name(activation: Activation) -> str:
    if activation is Activation.HARD_SIGMOID_02:
        raise Validation(
            "the model uses the hard sigmoid of Keras 2, clip(0.2 x + 0.5, 0, 1), "
            "which Keras 3 does not have: a .keras file cannot represent it"
        )
    return "hard_sigmoid" if activation is Activation.HARD_SIGMOID_6 else activation.value
