"""Conversion of arrays in Keras's layout into the canonical weights of a spec.

All shapes are compared before any number is read, so no memory is taken for an array that declares
more than its architecture needs.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from service.errors import BadCheckpoint
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.importing.assumptions import Assumptions
from service.models.importing.checkpoint import Array, StoredArray, StoredLayer
from service.models.layers import LayerNormalization, ScaleShift
from service.models.spec import AnyLayer, ModelSpec, Weights, layer_weights

_BATCH_ROLES = ("gamma", "beta", "mean", "variance")
_Shapes = Mapping[str, tuple[int, ...]]


def convert(spec: ModelSpec, layers: Sequence[StoredLayer], assumptions: Assumptions) -> Weights:
    """Read embedding, layers with weights and output as canonical weights. Raises BadCheckpoint."""
    shapes = spec.weight_shapes
    stored = iter([_dequantised(layer, assumptions) for layer in layers])
    arrays: dict[str, Array] = {}
    if spec.embedding_dim is not None:
        (arrays["embedding"],) = _read(next(stored), [shapes["embedding"]])
    for i, layer in enumerate(spec.layers):
        parts = layer_weights(shapes, i)
        if parts:
            found = _layer(layer, next(stored), parts, assumptions)
            arrays |= {f"layers.{i}.{name}": array for name, array in found.items()}
    output = [name for name in ("output.kernel", "output.bias") if name in shapes]
    arrays |= zip(output, _read(next(stored), [shapes[name] for name in output]), strict=True)
    dtypes = {array.dtype for layer in layers for array in layer.arrays} - {"float32", "int8"}
    if dtypes:
        assumptions.note(f"weights stored as {', '.join(sorted(dtypes))} are converted to float32")
    return Weights(spec, arrays)


def _layer(
    layer: AnyLayer, stored: StoredLayer, shapes: _Shapes, assumptions: Assumptions
) -> dict[str, Array]:
    if isinstance(layer, LayerSpec):
        return _recurrent(layer, stored, shapes, assumptions)
    if isinstance(layer, ScaleShift):
        return _batch_normalization(stored, shapes["scale"])
    if isinstance(layer, LayerNormalization):
        shape = shapes["gamma"]
        named = _named(stored, ("gamma", "beta"), shape)
        return {"gamma": np.ones(shape, np.float32), "beta": np.zeros(shape, np.float32)} | named
    return dict(zip(shapes, _read(stored, list(shapes.values())), strict=True))


def _batch_normalization(stored: StoredLayer, shape: tuple[int, ...]) -> dict[str, Array]:
    """Fold γ (x - μ) / √(σ² + ε) + β, in float64, into one product and one sum."""
    parts = {
        name: array.astype(np.float64)
        for name, array in _named(stored, _BATCH_ROLES, shape).items()
    }
    epsilon = (stored.config or {}).get("epsilon", 0.001)
    scale = parts.get("gamma", np.ones(shape)) / np.sqrt(parts["variance"] + epsilon)
    return {"scale": scale, "shift": parts.get("beta", np.zeros(shape)) - parts["mean"] * scale}


def _named(stored: StoredLayer, roles: Sequence[str], shape: tuple[int, ...]) -> dict[str, Array]:
    """Read the arrays of a normalisation by name; `scale` and `center` say which it has."""
    config = stored.config or {}
    is_absent = {
        "gamma": config.get("scale") is False,
        "beta": config.get("center") is False,
    }
    names = [name for name in roles if not is_absent.get(name, False)]
    return dict(zip(names, _read(stored, [shape] * len(names)), strict=True))


def _recurrent(
    layer: LayerSpec, stored: StoredLayer, shapes: _Shapes, assumptions: Assumptions
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


def _dequantised(layer: StoredLayer, assumptions: Assumptions) -> StoredLayer:
    """Return the layer with the product of its int8 array and its scale in the array's place.

    Keras 3 stores int8 = round(kernel * scale), and the scale of each column, or of each row of an
    embedding, as the last array.
    """
    if len(layer.arrays) < 2 or layer.arrays[0].dtype != "int8":
        return layer
    first, *others, scale = layer.arrays
    rows, columns = first.shape if len(first.shape) == 2 else (0, 0)
    axis = 1 if layer.is_embedding else 0
    if scale.shape != ((rows,) if axis == 1 else (columns,)):
        raise BadCheckpoint(
            f"layer {layer.path!r} is quantised in an unknown way: int8 {first.shape} with a scale "
            f"of {scale.shape}"
        )

    def read() -> Array:
        divisor = np.expand_dims(scale.read().astype(np.float64), axis)
        return (first.read().astype(np.float64) / divisor).astype(np.float32)

    assumptions.note(
        "weights stored as int8 are converted to float32: the author's model rounds each layer's "
        "input to int8, too, so its text can part from this one"
    )
    arrays = (StoredArray(first.shape, "float32", read), *others)
    return StoredLayer(layer.path, arrays, layer.keras_name, layer.is_embedding, layer.config)


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
