"""Conversion of arrays in Keras's layout into the canonical weights of a spec.

All shapes are compared before any number is read, so no memory is taken for an array that declares
more than its architecture needs.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from service.errors import BadCheckpoint
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.importing.assumptions import Assumptions
from service.models.importing.checkpoint import Array, StoredLayer
from service.models.importing.keras_config import KerasLayer
from service.models.spec import ModelSpec, Weights, layer_weights


def match_layers(
    layers: Sequence[KerasLayer], stored: Sequence[StoredLayer]
) -> tuple[StoredLayer, ...]:
    """Return the stored layer of each layer of a config.

    They are matched by name or, if the file has no names, by class and order.
    Raises BadCheckpoint if one is missing or left over.
    """
    by_name = {layer.keras_name: layer for layer in stored}
    if None not in by_name:
        matched = [by_name.pop(layer.name, None) for layer in layers]
        left = [str(name) for name in by_name]
    else:
        unmatched = list(stored)
        matched = [_pop_first_of_class(layer, unmatched) for layer in layers]
        left = [layer.path for layer in unmatched]
    for layer, found in zip(layers, matched, strict=True):
        if found is None:
            raise BadCheckpoint(f"the file has no weights for layer {layer.name!r}")
    if left:
        raise BadCheckpoint(f"the file has weights for {left[0]!r}, a layer that its config lacks")
    return tuple(layer for layer in matched if layer is not None)


def _pop_first_of_class(layer: KerasLayer, unmatched: list[StoredLayer]) -> StoredLayer | None:
    """Remove and return the first layer whose path ends in the class.

    Keras writes it in snake case and with a number: `layers/lstm_1`, `layers/cu_dnnlstm`.
    """
    snake_case = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", layer.class_name).lower()
    for candidate in unmatched:
        stem = candidate.path.rpartition("/")[2].rstrip("0123456789").removesuffix("_")
        if stem == snake_case:
            unmatched.remove(candidate)
            return candidate
    return None


def convert(spec: ModelSpec, layers: Sequence[StoredLayer], assumptions: Assumptions) -> Weights:
    """Read embedding, recurrent layers and output as canonical weights. Raises BadCheckpoint."""
    shapes, left = spec.weight_shapes, list(layers)
    arrays: dict[str, Array] = {}
    if spec.embedding_dim is not None:
        (arrays["embedding"],) = _read(left.pop(0), [shapes["embedding"]])
    for i, layer in enumerate(spec.recurrent_layers):
        found = _recurrent(layer, left.pop(0), layer_weights(shapes, i), assumptions)
        arrays |= {f"layers.{i}.{name}": array for name, array in found.items()}
    output = [name for name in ("output.kernel", "output.bias") if name in shapes]
    arrays |= zip(output, _read(left.pop(0), [shapes[name] for name in output]), strict=True)
    dtypes = {array.dtype for layer in layers for array in layer.arrays} - {"float32"}
    if dtypes:
        assumptions.note(f"weights stored as {', '.join(sorted(dtypes))} are converted to float32")
    return Weights(spec, arrays)


def _recurrent(
    layer: LayerSpec,
    stored: StoredLayer,
    shapes: Mapping[str, tuple[int, ...]],
    assumptions: Assumptions,
) -> dict[str, Array]:
    """Read a recurrent layer's arrays by name, from Keras's or CuDNN's layout."""
    cell = CELLS[layer.cell]
    expected = cell.keras_shapes(shapes)
    bias = (2 * shapes["kernel"][1],)  # CuDNN's: one for each product
    is_cudnn = len(stored.arrays) == len(expected) == 3 and stored.shapes[2] == bias
    if is_cudnn and cell.has_cudnn_layout(layer):
        expected[2] = bias
    arrays = _read(stored, expected)
    if is_cudnn:
        assumptions.note(f"layer {stored.path!r} is converted from CuDNN's layout")
        arrays = _from_cudnn(len(cell.gates), len(shapes["bias"]), *arrays)
    return cell.from_keras(list(shapes), arrays)


def _from_cudnn(
    gates: int, bias_rows: int, kernel: Array, recurrent: Array, bias: Array
) -> list[Array]:
    """Convert CuDNN's layout: transposed blocks, and one bias for each matrix product.

    Source: Keras 2, `_convert_rnn_weights`.
    """
    blocks, inner = np.split(kernel, gates, axis=1), np.split(recurrent, gates, axis=1)
    halves = bias.reshape(2, -1)
    return [
        np.hstack([block.T.reshape(block.shape, order="F") for block in blocks]),
        np.hstack([block.T for block in inner]),
        halves if bias_rows == 2 else np.sum(halves, axis=0),
    ]


def _read(layer: StoredLayer, expected: Sequence[tuple[int, ...]]) -> list[Array]:
    """Read the arrays of a layer. Raises BadCheckpoint if a shape is not the expected one."""
    if layer.shapes != tuple(expected):
        raise BadCheckpoint(
            f"layer {layer.path!r} has arrays of shapes {_listed(layer.shapes)}; "
            f"its architecture needs {_listed(expected)}"
        )
    return [array.read() for array in layer.arrays]


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(str(shape) for shape in shapes)
