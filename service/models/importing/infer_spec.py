"""Inference of a model's spec from the shapes of its arrays, for a file without a config.

An LSTM's recurrent kernel is (u, 4u), a GRU's (u, 3u). A GRU's bias is (2, 3u) if its reset gate is
applied after the matrix product, (3u,) if before; CuDNN's biases are (8u,) and (6u,). Shapes do not
determine the activations: see assumptions.py.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Never

from service.errors import BadCheckpoint
from service.models.cell import Activation, KerasNames, LayerSpec
from service.models.cells import CELLS
from service.models.importing.assumptions import Assumptions
from service.models.importing.checkpoint import StoredLayer
from service.models.importing.reading import InputKind, Reading, scaled_input, window_of
from service.models.spec import MAX_LAYERS, ModelSpec

_WITH_BIAS = 3
_KERAS_1_ARRAYS = (9, 12)
_ASK = (
    "and a file of weights alone does not say what it computes: give the architecture as `config` "
    "(--config model.json); in Python, where the model is built: `architecture = model.to_json()` "
    "and `open('model.json', 'w').write(architecture)`"
)
_BIDIRECTIONAL = f"it is a Bidirectional, which reads whole windows, {_ASK}"
_REFUSED_PATHS = {
    "forward_layer": _BIDIRECTIONAL,
    "backward_layer": _BIDIRECTIONAL,
    "cells": f"it is an RNN of several cells, {_ASK}",
}


def _cells_by_shape() -> dict[tuple[int, int], str]:
    """The oldest of Keras's cells by its gates and number of arrays."""
    cells: dict[tuple[int, int], str] = {}
    for name, cell in CELLS.items():
        if cell.keras != KerasNames():
            arrays = len(cell.keras_shapes(cell.weight_shapes(LayerSpec(name, 1), 1)))
            for n in (arrays, arrays - 1) if arrays == _WITH_BIAS else (arrays,):
                cells.setdefault((len(cell.gates), n), name)
    return cells


_CELLS_BY_SHAPE = _cells_by_shape()


def infer_spec(
    stored: Sequence[StoredLayer], assumptions: Assumptions
) -> tuple[ModelSpec, tuple[StoredLayer, ...]]:
    """Return a spec and its layers: embedding if any, recurrent, output. Raises BadCheckpoint."""
    for layer in stored:
        for word, reason in _REFUSED_PATHS.items():
            if word in layer.path.split("/"):
                _refuse(layer, reason)
    recurrent = [layer for layer in stored if _is_recurrent(layer)]
    others = [layer for layer in stored if not _is_recurrent(layer)]
    if not 1 <= len(recurrent) <= MAX_LAYERS:
        raise BadCheckpoint(
            f"the file has {len(recurrent)} layers with the shapes of an LSTM or a GRU; "
            f"1 to {MAX_LAYERS} are served"
        )
    for layer in stored:
        if len(layer.shapes[0]) != 2:
            _refuse(
                layer, f"its first array has shape {layer.shapes[0]}; a kernel has two axes, {_ASK}"
            )
    embedding, output = _embedding_and_output(others)
    size = output.arrays[0].shape[1]
    is_scaled = embedding is None and size > 1 and any(each.shapes[0][0] == 1 for each in recurrent)
    if is_scaled:
        kind, embedding = InputKind.SCALED, scaled_input(size, assumptions)
    else:
        kind = InputKind.ONE_HOT if embedding is None else InputKind.IDS
    ordered = _in_chain(embedding, recurrent, output, assumptions)
    is_masked = assumptions.mask is True and kind is not InputKind.ONE_HOT
    reading = Reading(
        kind, size, ordered[-1].path, is_sequence=not is_scaled, is_masked=assumptions.mask is True
    )
    spec = ModelSpec(
        size,
        None if embedding is None else embedding.shapes[0][1],
        tuple(_layer_spec(layer, assumptions) for layer in ordered),
        len(output.arrays) > 1,
        mask_token=0 if is_masked else None,
        window=window_of(reading, assumptions),
        mask_zero_input=assumptions.mask is True and kind is InputKind.ONE_HOT,
    )
    return spec, (*(() if embedding is None else (embedding,)), *ordered, output)


def _is_recurrent(layer: StoredLayer) -> bool:
    if len(layer.arrays) in _KERAS_1_ARRAYS:
        _refuse(
            layer,
            f"it has {len(layer.arrays)} arrays, as Keras 1 wrote them; load and save "
            "the model with Keras 2 first",
        )
    if len(layer.arrays) not in {1, *(arrays for _, arrays in _CELLS_BY_SHAPE)}:
        _refuse(layer, f"it has {len(layer.arrays)} arrays, {_ASK}")
    if len(layer.arrays) == 1 or len(layer.shapes[1]) < 2:
        return False
    shape = layer.shapes[1]
    if len(shape) != 2 or shape[1] not in {gates * shape[0] for gates, _ in _CELLS_BY_SHAPE}:
        _refuse(layer, f"its recurrent kernel has shape {shape}, not an LSTM's or a GRU's")
    return True


def _embedding_and_output(layers: Sequence[StoredLayer]) -> tuple[StoredLayer | None, StoredLayer]:
    """Find the embedding, if any, and the output layer among the layers that are not recurrent."""
    has_bias = any(len(layer.arrays) > 1 for layer in layers)  # a Dense with bias
    lone = [layer for layer in layers if len(layer.arrays) == 1]
    embeddings = [layer for layer in lone if layer.is_embedding or has_bias]
    outputs = [layer for layer in layers if layer not in embeddings]
    if len(embeddings) > 1 or len(outputs) != 1:
        found = ", ".join(repr(layer.path) for layer in layers) or "none"
        raise BadCheckpoint(
            "beside its recurrent layers and one Embedding the file has more than the one Dense "
            f"layer of the output: {found}; {_ASK}"
        )
    return (embeddings[0] if embeddings else None), outputs[0]


def _in_chain(
    embedding: StoredLayer | None,
    recurrent: Sequence[StoredLayer],
    output: StoredLayer,
    assumptions: Assumptions,
) -> tuple[StoredLayer, ...]:
    """Order the recurrent layers so that the width of each is the input of the next."""
    size = output.shapes[0][1]
    if embedding is not None and embedding.shapes[0][0] != size:
        _refuse(
            embedding, f"it has {embedding.shapes[0][0]} tokens, but the output predicts {size}"
        )
    first = size if embedding is None else embedding.shapes[0][1]

    def fits(order: Sequence[StoredLayer]) -> bool:
        widths = [first, *(layer.shapes[1][0] for layer in order)]
        inputs = [*(layer.shapes[0][0] for layer in order), output.shapes[0][0]]
        return widths == inputs

    if fits(recurrent):
        return tuple(recurrent)
    orders = [order for order in permutations(recurrent) if fits(order)]
    if len(orders) != 1:
        shapes = ", ".join(f"{layer.path!r} {layer.shapes[0]}" for layer in (*recurrent, output))
        raise BadCheckpoint(
            f"the layers' widths do not form one chain from {first} inputs to {size} outputs: "
            f"{shapes}"
        )
    assumptions.note(f"the order of layers is {', '.join(layer.path for layer in orders[0])}")
    return orders[0]


def _layer_spec(layer: StoredLayer, assumptions: Assumptions) -> LayerSpec:
    (units, columns), arrays = layer.shapes[1], len(layer.arrays)
    name = _CELLS_BY_SHAPE.get((columns // units, arrays))
    if name is None:
        _refuse(layer, f"it has {arrays} arrays and a recurrent kernel of {layer.shapes[1]}")
    cell = CELLS[name]
    bias = layer.shapes[2] if arrays >= _WITH_BIAS else None
    is_cudnn = bias == (2 * columns,)
    stated = layer.config or {}
    stated = stated.get("config", stated)
    default = cell.keras_recurrent_activation
    version = assumptions.keras_version or ""
    # The default was a hard sigmoid in Keras 1 to 2.2.5, but not in TensorFlow's copy.
    if version.startswith(("1", "2.0.", "2.1.", "2.2.")) and "tf" not in version:
        default = Activation.HARD_SIGMOID_02
    if is_cudnn:
        stated = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    reset_after = True
    if cell.has_reset_after:
        found = stated.get("reset_after") if bias is None else bias != (columns,)
        reset_after = assumptions.flag("reset_after", layer.path, found, default=True)
    return LayerSpec(
        name,
        units,
        assumptions.activation("activation", layer.path, stated.get("activation"), "tanh"),
        assumptions.activation(
            "recurrent_activation", layer.path, stated.get("recurrent_activation"), default
        ),
        bias is not None,
        reset_after,
    )


def _refuse(layer: StoredLayer, reason: str) -> Never:
    raise BadCheckpoint(f"layer {layer.path!r} cannot be served: {reason}")
