"""Checkpoints of `tf.train.Saver`, TensorFlow 1: variables by name, cells in TensorFlow's layout.

A cell has one kernel whose rows are those of [x; h]. BasicLSTMCell's blocks are i, j, f, o, and it
adds `forget_bias` to f when it runs; GRUCell's are r, u, then the candidate. Both become Keras's
layout. Source: TensorFlow 1, `python/ops/rnn_cell_impl.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import Array, Checkpoint, StoredArray, StoredLayer
from service.models.importing.readers.natural_order import natural_sort_key
from service.models.importing.readers.tensor_bundle import INTEGERS, TensorBundle

FORMAT = "tensorflow-saver"
FORGET_BIAS = 1.0
MAX_VARIABLES = 4096

_SLOT = re.compile(
    r"/(?:Adam|RMSProp|Momentum|Adagrad|Adadelta|Ftrl|ExponentialMovingAverage)(?:_\d+)?$"
)
_LSTM = ("basiclstmcell", "lstmcell", "lstmblockcell")
_GRU = ("grucell",)
_RNN = ("basicrnncell",)
_KERNEL, _BIAS = ("kernel", "weights", "matrix"), ("bias", "biases")
_GATED = {"activation": "tanh", "recurrent_activation": "sigmoid"}


@dataclass(frozen=True, slots=True)
class _Part:
    """A kernel of rows [x; h] with its bias."""

    kernel: StoredArray
    bias: StoredArray

    def columns(self, path: str, blocks: int) -> tuple[int, int]:
        """Return inputs and units. Raises BadCheckpoint unless there are `blocks` blocks."""
        rows, columns = self.kernel.shape if len(self.kernel.shape) == 2 else (0, 1)
        units = columns // blocks
        if columns % blocks or rows <= units or self.bias.shape != (columns,):
            raise BadCheckpoint(
                f"layer {path!r} has a kernel of shape {self.kernel.shape} and a bias of "
                f"{self.bias.shape}; a cell of {blocks} blocks has not"
            )
        return rows - units, units


def read_saver_checkpoint(tensors: TensorBundle) -> Checkpoint:
    """Read the layers of a checkpoint without an object graph. Raises BadCheckpoint."""
    names = _variables(tensors)
    cells: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for name in names:
        path, kind, part = _cell_of(name)
        if kind:
            cells.setdefault(path, {})[part] = name
        else:
            others.append(name)
    if not cells:
        raise BadCheckpoint(
            "the checkpoint has no object graph, so tf.train.Saver wrote it, and none of its "
            "variables is one of a BasicLSTMCell, LSTMCell, GRUCell or BasicRNNCell"
        )
    layers = [_cell(tensors, path, parts) for path, parts in cells.items()]
    notes = []
    if any(_kind(path) in _LSTM for path in cells):
        notes.append(
            f"forget_bias is assumed to be {FORGET_BIAS}, BasicLSTMCell's default: the file does "
            "not state it"
        )
    return Checkpoint(FORMAT, (*layers, *_others(tensors, others)), notes=tuple(notes))


def _variables(tensors: TensorBundle) -> list[str]:
    """Return the names of the weights: no slots of an optimizer, no counters."""
    names = [
        name
        for name, entry in tensors.entries.items()
        if entry.shape and entry.dtype not in INTEGERS
    ]
    if len(names) > MAX_VARIABLES:
        raise BadCheckpoint(f"the checkpoint has {len(names)} variables, over {MAX_VARIABLES}")
    known = set(names)
    kept = [n for n in names if not _SLOT.search(n) and n.rpartition("/")[0] not in known]
    return sorted(kept, key=natural_sort_key)


def _cell_of(name: str) -> tuple[str, str, str]:
    """Return the path of a variable's cell, its kind and the part; "" if it is of no cell."""
    parts = name.split("/")
    for i, part in reversed(list(enumerate(parts))):
        kind = _kind(part)
        if kind in _LSTM + _GRU + _RNN or kind.endswith(("lstmcell", "grucell", "rnncell")):
            inner = "/".join(p.lower() for p in parts[i + 1 :] if p.lower() != "linear")
            return "/".join(parts[: i + 1]), kind, inner
    return "", "", ""


def _cell(tensors: TensorBundle, path: str, names: Mapping[str, str]) -> StoredLayer:
    kind, left = _kind(path), dict(names)

    def part(prefix: str = "") -> _Part:
        kernel = next((left.pop(n) for k in _KERNEL if (n := prefix + k) in left), None)
        bias = next((left.pop(n) for k in _BIAS if (n := prefix + k) in left), None)
        if kernel is None or bias is None:
            raise BadCheckpoint(
                f"layer {path!r} has no {prefix}{'kernel' if kernel is None else 'bias'}"
            )
        return _Part(tensors.array(kernel), tensors.array(bias))

    if kind in _LSTM:
        layer = _lstm(path, part())
    elif kind in _GRU:
        layer = _gru(path, part("gates/"), part("candidate/"))
    elif kind in _RNN:
        layer = _rnn(path, part())
    else:
        raise BadCheckpoint(
            f"layer {path!r} cannot be served: of tf.train.Saver's checkpoints BasicLSTMCell, "
            "LSTMCell, GRUCell and BasicRNNCell are read"
        )
    if left:
        raise BadCheckpoint(
            f"layer {path!r} has a variable {min(left)!r}, which its kind of cell has not"
        )
    return layer


def _lstm(path: str, gates: _Part) -> StoredLayer:
    inputs, units = gates.columns(path, 4)
    order = (0, 2, 1, 3)  # i, j, f, o → Keras's i, f, c, o

    def bias() -> Array:
        blocks = np.split(gates.bias.read(), 4)
        blocks[2] = blocks[2].astype(np.promote_types(blocks[2].dtype, np.float32)) + FORGET_BIAS
        return np.concatenate([blocks[i] for i in order])

    def rows(start: int, stop: int) -> Array:
        blocks = np.split(gates.kernel.read()[start:stop], 4, axis=1)
        return np.hstack([blocks[i] for i in order])

    dtype = gates.kernel.dtype
    arrays = (
        StoredArray((inputs, 4 * units), dtype, lambda: rows(0, inputs)),
        StoredArray((units, 4 * units), dtype, lambda: rows(inputs, inputs + units)),
        StoredArray((4 * units,), gates.bias.dtype, bias),
    )
    return StoredLayer(path, arrays, config=_GATED)


def _gru(path: str, gates: _Part, candidate: _Part) -> StoredLayer:
    inputs, units = gates.columns(path, 2)
    if candidate.columns(path, 1) != (inputs, units):
        raise BadCheckpoint(f"layer {path!r} has gates and a candidate of different sizes")

    def rows(start: int, stop: int) -> Array:
        r, u = np.split(gates.kernel.read()[start:stop], 2, axis=1)
        return np.hstack([u, r, candidate.kernel.read()[start:stop]])

    def bias() -> Array:
        r, u = np.split(gates.bias.read(), 2)
        return np.concatenate([u, r, candidate.bias.read()])

    dtype = gates.kernel.dtype
    arrays = (
        StoredArray((inputs, 3 * units), dtype, lambda: rows(0, inputs)),
        StoredArray((units, 3 * units), dtype, lambda: rows(inputs, inputs + units)),
        StoredArray((3 * units,), gates.bias.dtype, bias),
    )
    return StoredLayer(path, arrays, config={**_GATED, "reset_after": False})


def _rnn(path: str, part: _Part) -> StoredLayer:
    inputs, units = part.columns(path, 1)
    kernel = part.kernel
    arrays = (
        StoredArray((inputs, units), kernel.dtype, lambda: kernel.read()[:inputs]),
        StoredArray((units, units), kernel.dtype, lambda: kernel.read()[inputs:]),
        part.bias,
    )
    return StoredLayer(path, arrays, config={"activation": "tanh"})


def _others(tensors: TensorBundle, names: Sequence[str]) -> list[StoredLayer]:
    """Return embedding and output: each matrix, with the bias that follows it in its scope."""
    arrays = {name: tensors.array(name) for name in names}
    biases = [name for name in names if len(arrays[name].shape) == 1]
    layers = []
    for name in names:
        if len(arrays[name].shape) == 1:
            continue
        is_embedding = "embed" in name.lower()
        array, group = arrays[name], [arrays[name]]
        scope = name.rpartition("/")[0]
        for bias in () if is_embedding else list(biases):
            if bias.rpartition("/")[0] == scope and arrays[bias].shape == array.shape[1:]:
                group.append(arrays[bias])
                biases.remove(bias)
                break
        layers.append(StoredLayer(name, tuple(group), is_embedding=is_embedding))
    if biases:
        raise BadCheckpoint(f"the variable {biases[0]!r} belongs to no layer that is served")
    return layers


def _kind(path: str) -> str:
    """Return the cell's class: `basic_lstm_cell_1` and `BasicLSTMCell` are one."""
    return re.sub(r"_\d+$", "", path.rpartition("/")[2]).replace("_", "").lower()
