"""Keras 1's names of options and arrays, converted into those of Keras 2.

Source: Keras 2, `legacy/interfaces.py` and `preprocess_weights_for_loading`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from service.models.importing.checkpoint import (
    Array,
    Checkpoint,
    JsonObject,
    StoredArray,
    StoredLayer,
)

_IGNORED = frozenset(
    f"{name}{kind}"
    for name in ("W_", "U_", "b_", "gamma_", "beta_", "inner_", "")
    for kind in ("init", "regularizer", "constraint")
) | {"consume_less", "forget_bias_init", "dropout_W", "dropout_U"}
"""Options that do not affect a trained model."""
_UNITS = {"output_dim": "units"}
_RECURRENT = {**_UNITS, "inner_activation": "recurrent_activation"}
_DENSE = {**_UNITS, "bias": "use_bias"}
_NAMES: Mapping[str, Mapping[str, str]] = {
    "Dense": _DENSE,
    "TimeDistributedDense": _DENSE,
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "SimpleRNN": _RECURRENT,
    "Dropout": {"p": "rate"},
    "SpatialDropout1D": {"p": "rate"},
    "GaussianDropout": {"p": "rate"},
    "GaussianNoise": {"sigma": "stddev"},
}
_DROPPED = {"Embedding": {"dropout"}}
_GATES = {12: (0, 2, 1, 3), 9: (0, 1, 2)}
"""Places of Keras 2's gates (i, f, c, o; z, r, h) among those of Keras 1, by number of arrays."""
_ARRAYS_OF_GATE = 3  # W, U, b


def as_keras_2(checkpoint: Checkpoint) -> Checkpoint:
    """Return a file of Keras 1 as Keras 2 would have written it, and any other as it is."""
    if not (checkpoint.keras_version or "").startswith("1"):
        return checkpoint
    layers = tuple(map(_layer, checkpoint.layers))
    config = None if checkpoint.config is None else _config(checkpoint.config)
    if layers == checkpoint.layers and config == checkpoint.config:
        return checkpoint
    note = "the file is Keras 1's: its options and arrays are converted into those of Keras 2"
    return replace(checkpoint, layers=layers, config=config, notes=(*checkpoint.notes, note))


def _config(config: JsonObject) -> JsonObject:
    """Return the config of a file of Keras 1 with Keras 2's names of classes and options."""
    inner = config.get("config")
    if isinstance(inner, list):
        return {**config, "config": [_entry(each) for each in inner]}
    if isinstance(inner, dict) and isinstance(inner.get("layers"), list):
        layers = [_entry(each) for each in inner["layers"]]
        return {**config, "config": {**inner, "layers": layers}}
    return config


def _entry(entry: Any) -> Any:
    config = entry.get("config") if isinstance(entry, dict) else None
    if not isinstance(config, dict):
        return entry
    kind = entry.get("class_name")
    names = _NAMES.get(str(kind), {})
    ignored = _IGNORED | _DROPPED.get(str(kind), set())
    converted = {names.get(k, k): value for k, value in config.items() if k not in ignored}
    if kind in ("TimeDistributed", "Bidirectional"):
        converted["layer"] = _entry(config.get("layer"))
    if kind == "GRU":
        converted.setdefault("reset_after", False)
    if kind == "TimeDistributedDense":
        wrapped = {"class_name": "Dense", "config": converted}
        outer = {"name": config.get("name"), "layer": wrapped}
        return {**entry, "class_name": "TimeDistributed", "config": outer}
    return {**entry, "config": converted}


def _layer(layer: StoredLayer) -> StoredLayer:
    """Return a layer of a file of Keras 1 with its gates' arrays joined as in Keras 2.

    An LSTM's twelve are W, U, b of the gates i, c, f, o, a GRU's nine those of z, r, h; a
    Bidirectional has both directions' one after the other. Other layers are as they are.
    """
    arrays = layer.arrays
    for count, order in _GATES.items():
        if len(arrays) not in (count, 2 * count):
            continue
        parts = [arrays[start : start + count] for start in range(0, len(arrays), count)]
        if all(map(_is_of_gates, parts)):
            joined = [_joined(part, order) for part in parts]
            return replace(layer, arrays=tuple(array for part in joined for array in part))
    return layer


def _is_of_gates(arrays: tuple[StoredArray, ...]) -> bool:
    """Whether each three arrays are (d, u), (u, u), (u,) of one d and one u."""
    kernel = arrays[0].shape
    if len(kernel) != 2:
        return False
    shapes = [kernel, (kernel[1], kernel[1]), (kernel[1],)]
    return [array.shape for array in arrays] == shapes * (len(arrays) // _ARRAYS_OF_GATE)


def _joined(arrays: tuple[StoredArray, ...], order: tuple[int, ...]) -> list[StoredArray]:
    return [
        _side_by_side([arrays[gate * _ARRAYS_OF_GATE + role] for gate in order])
        for role in range(_ARRAYS_OF_GATE)
    ]


def _side_by_side(arrays: list[StoredArray]) -> StoredArray:
    *rows, columns = arrays[0].shape

    def read() -> Array:
        return np.concatenate([array.read() for array in arrays], axis=-1)

    return StoredArray((*rows, columns * len(arrays)), arrays[0].dtype, read)
