"""PyTorch's LSTM, GRU and RNN in a safetensors file, converted to Keras's layout.

The file is the size of a JSON header, the header, and raw numbers. PyTorch's kernels are transposed
and have two biases; an LSTM's blocks are i, f, g, o, as Keras's, a GRU's r, z, n for Keras's
z, r, h. Source: the format's README; PyTorch's documentation of `LSTM` and `GRU`.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import BinaryIO, TypeGuard

import numpy as np

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import Array, Checkpoint, StoredArray, StoredLayer
from service.models.importing.readers.json_text import MAX_BYTES, read_json_object
from service.models.importing.readers.natural_order import natural_sort_key
from service.models.importing.readers.tensor_bundle import from_bytes

FORMAT = "pytorch-safetensors"
MAX_TENSORS = 4096
MAX_RANK = 8

_SIZE_BYTES = 8
_DTYPES = {
    "F16": ("float16", 2), "BF16": ("bfloat16", 2), "F32": ("float32", 4), "F64": ("float64", 8),
}  # fmt: skip
_RECURRENT = re.compile(
    r"(.*?)(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(?:_l(\d+))?(_reverse)?"
)
_GATED = {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}
_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_COUNTERS = re.compile(r"(?:^|\.)num_batches_tracked$")


def read_safetensors(file: BinaryIO) -> Checkpoint:
    """Read the shapes of a file of PyTorch's weights. Raises BadCheckpoint."""
    tensors = _tensors(file)
    cells: dict[tuple[str, str], dict[str, StoredArray]] = {}
    others: dict[str, dict[str, StoredArray]] = {}
    for name in sorted(tensors, key=natural_sort_key):
        if match := _RECURRENT.fullmatch(name):
            prefix, part, layer, reverse = match.groups()
            if reverse or part == "weight_hr":
                raise BadCheckpoint(
                    f"{name} cannot be served: it belongs to "
                    + ("a bidirectional layer, which reads the text from its end" if reverse
                       else "an LSTM with proj_size, which no layer of Keras has")
                )  # fmt: skip
            cells.setdefault((prefix, layer or ""), {})[part] = tensors[name]
        else:
            owner, _, role = name.rpartition(".")
            others.setdefault(owner, {})[role] = tensors[name]
    found = [_cell(f"{prefix}{layer}", parts) for (prefix, layer), parts in cells.items()]
    if not found:
        raise BadCheckpoint(
            "the safetensors file has no weight_ih and weight_hh of an LSTM, GRU or RNN: it has "
            + ", ".join(list(tensors)[:4] or ["nothing"])[:200]
        )
    notes: tuple[str, ...] = ()
    if len(prefixes := {prefix for prefix, _ in cells}) > 1:
        notes = (f"layers are in the order of their names: {', '.join(sorted(prefixes))[:200]}",)
    has_bias = any("bias" in arrays for arrays in others.values())
    layers = [_other(owner, arrays, has_bias=has_bias) for owner, arrays in others.items()]
    return Checkpoint(FORMAT, (*found, *layers), notes=notes)


def _tensors(file: BinaryIO) -> dict[str, StoredArray]:
    """Read the header and check that its tensors fill the file, one after the other."""
    total = os.fstat(file.fileno()).st_size
    size = int.from_bytes(file.read(_SIZE_BYTES), "little")
    if size > min(MAX_BYTES, total - _SIZE_BYTES):
        raise BadCheckpoint(
            f"the safetensors file declares a header of {size} bytes; it has {total} bytes, and "
            f"the limit is {MAX_BYTES}"
        )
    header = read_json_object(file.read(size), "the header of the safetensors file")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(entries) > MAX_TENSORS:
        raise BadCheckpoint(f"the safetensors file has {len(entries)} tensors, over {MAX_TENSORS}")
    start = _SIZE_BYTES + size
    places = {name: _place(name, entry) for name, entry in entries.items()}
    end = 0
    for name, (_, _, first, last) in sorted(places.items(), key=lambda item: item[1][2:]):
        if first != end:
            raise BadCheckpoint(f"tensor {name[:200]!r} begins at byte {first}, not at {end}")
        end = last
    if end != total - start:
        raise BadCheckpoint(
            f"the safetensors file's tensors take {end} bytes, but it has {total - start}"
        )
    return {
        name: StoredArray(shape, dtype, _reader(file, dtype, shape, start + first, last - first))
        for name, (dtype, shape, first, last) in places.items()
        if not _COUNTERS.search(name)
    }


def _place(name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """Return a tensor's type, shape, first byte and end. Raises BadCheckpoint."""
    shown = name[:200]
    if not isinstance(entry, dict):
        raise BadCheckpoint(f"tensor {shown!r} is not described by an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise BadCheckpoint(f"tensor {shown!r} has no shape and data_offsets of whole numbers")
    if _COUNTERS.search(name) and dtype == "I64":
        known = ("int64", 8)
    elif not isinstance(dtype, str) or dtype not in _DTYPES:
        raise BadCheckpoint(
            f"tensor {shown!r} has the type {str(dtype)[:40]!r}; read are {', '.join(_DTYPES)}"
        )
    else:
        known = _DTYPES[dtype]
    first, last = offsets
    if len(shape) > MAX_RANK or last - first != math.prod(shape) * known[1]:
        raise BadCheckpoint(
            f"tensor {shown!r} has {last - first} bytes; its shape {str(shape)[:80]} takes others"
        )
    return known[0], tuple(shape), first, last


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**62 for n in value)


def _reader(
    file: BinaryIO, dtype: str, shape: tuple[int, ...], start: int, size: int
) -> Callable[[], Array]:
    def read() -> Array:
        file.seek(start)
        content = file.read(size)
        if len(content) != size:
            raise BadCheckpoint("the safetensors file became shorter while it was read")
        return from_bytes(content, dtype).reshape(shape)

    return read


def _cell(path: str, parts: Mapping[str, StoredArray]) -> StoredLayer:
    """Convert a layer. Raises BadCheckpoint if its shapes are no LSTM's, GRU's or RNN's."""
    if "weight_ih" not in parts or "weight_hh" not in parts:
        raise BadCheckpoint(f"layer {path!r} has only one of weight_ih and weight_hh")
    shapes = {part: parts[part].shape for part in _PARTS if part in parts}
    rows, units = shapes["weight_hh"] if len(shapes["weight_hh"]) == 2 else (0, 0)
    gates = rows // units if units else 0
    inputs = shapes["weight_ih"][-1] if len(shapes["weight_ih"]) == 2 else 0
    wanted: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, inputs),
        "weight_hh": (gates * units, units),
    }
    wanted |= dict.fromkeys(_PARTS[2:], (rows,)) if len(shapes) > 2 else {}
    if gates not in (1, 3, 4) or shapes != wanted:
        raise BadCheckpoint(
            f"layer {path!r} has the shapes {', '.join(map(str, shapes.values()))}, which are no "
            "LSTM's, GRU's or RNN's"
        )
    order = (1, 0, 2) if gates == 3 else range(gates)

    def blocks(part: str) -> Array:
        pieces = np.split(parts[part].read(), gates)
        return np.concatenate([pieces[i] for i in order])

    dtype = parts["weight_ih"].dtype
    arrays = [
        StoredArray((inputs, rows), dtype, lambda: blocks("weight_ih").T),
        StoredArray((units, rows), dtype, lambda: blocks("weight_hh").T),
    ]
    if len(shapes) > 2 and gates == 3:
        arrays.append(
            StoredArray((2, rows), dtype, lambda: np.stack([blocks("bias_ih"), blocks("bias_hh")]))
        )
    elif len(shapes) > 2:
        arrays.append(
            StoredArray((rows,), dtype, lambda: _sum(blocks("bias_ih"), blocks("bias_hh")))
        )
    return StoredLayer(path, tuple(arrays), config=_GATED if gates > 1 else None)


def _sum(a: Array, b: Array) -> Array:
    total: Array = np.add(a, b, dtype=np.promote_types(a.dtype, np.float32))
    return total


def _other(owner: str, arrays: Mapping[str, StoredArray], *, has_bias: bool) -> StoredLayer:
    """Convert an embedding, whose rows are tokens, or a linear layer, whose rows are outputs.

    If any linear layer has a bias, those without one are embeddings.
    """
    weight, bias = arrays.get("weight"), arrays.get("bias")
    left = arrays.keys() - {"weight", "bias"}
    if weight is None or left or len(weight.shape) != 2:
        raise BadCheckpoint(
            f"layer {owner[:200]!r} cannot be served: of PyTorch, Embedding, LSTM, GRU, RNN and "
            f"Linear are read, but it has {', '.join(sorted(arrays))[:200]}"
        )
    if bias is None and (has_bias or "emb" in owner.lower()):
        return StoredLayer(owner, (weight,), is_embedding=True)
    kernel = StoredArray(weight.shape[::-1], weight.dtype, lambda: weight.read().T)
    return StoredLayer(owner, (kernel,) if bias is None else (kernel, bias))
