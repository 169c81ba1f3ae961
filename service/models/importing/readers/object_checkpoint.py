"""The layers of a TensorFlow checkpoint that Keras 2 wrote, in the order of the model.

A name is the path from the root object to a variable, `layer_with_weights-1/cell/kernel`, and a
suffix. The order of a model's layers is that of its object graph.
Source: TensorFlow's `trackable_object_graph.proto`; Keras 2, `engine/functional.py`.
"""

import re
from pathlib import PurePosixPath

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import Checkpoint, StoredArray, StoredLayer
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.json_text import read_json_object
from service.models.importing.readers.protobuf import as_bytes, as_int, read_fields
from service.models.importing.readers.tensor_bundle import TensorBundle

FORMAT = "tensorflow-checkpoint"

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_CONFIG = "/.ATTRIBUTES/OBJECT_CONFIG_JSON"
_OPTIMIZER = re.compile(r"([^/]+)/(?:_iterations|_learning_rate|_variables/\d+|iter)$")
_ROLES = (  # in Keras's order of a layer's arrays
    "embeddings",
    "kernel",
    "recurrent_kernel",
    "bias",
    "input_gate_peephole_weights",
    "forget_gate_peephole_weights",
    "output_gate_peephole_weights",
)
WRAPPERS = re.compile(r"/(?:cell|layer)$")
_MAX_NODES = 100_000


def read_object_checkpoint(folder: ImportFolder, prefix: PurePosixPath) -> Checkpoint:
    """Read the shapes of a checkpoint: `prefix.index`, data files. Raises BadCheckpoint."""
    tensors = TensorBundle(folder, prefix)
    names = [name.removesuffix(_VALUE) for name in tensors.entries if name.endswith(_VALUE)]
    if _GRAPH not in tensors.entries:
        raise BadCheckpoint(
            "the checkpoint was not written by Keras 2 (it has no object graph); "
            "checkpoints of tf.train.Saver are not read"
        )
    optimizers = {match[1] for name in names if (match := _OPTIMIZER.match(name))}
    (graph,) = tensors.strings(_GRAPH)[:1] or [b""]
    rank = {name: i for i, name in enumerate(_walk(graph))}  # the others in natural order
    layers: dict[str, dict[str, StoredArray]] = {}
    names.sort(key=lambda name: (rank.get(name + _VALUE, _MAX_NODES), natural_sort_key(name)))
    for name in names:
        if ".OPTIMIZER_SLOT" in name or name.split("/")[0] in optimizers | {"keras_api"}:
            continue
        if tensors.entries[name + _VALUE].shape:  # a scalar is a counter or a metric
            path, _, role = name.rpartition("/")
            layers.setdefault(WRAPPERS.sub("", path), {})[role] = tensors.array(name + _VALUE)
    found = tuple(_layer(tensors, path, arrays) for path, arrays in layers.items())
    return Checkpoint(FORMAT, found, keras_version="2")


def _layer(tensors: TensorBundle, path: str, arrays: dict[str, StoredArray]) -> StoredLayer:
    if unknown := arrays.keys() - set(_ROLES):
        raise BadCheckpoint(
            f"layer {path!r} has weights named {min(unknown)!r}, which no Embedding, LSTM, "
            "GRU or Dense layer has"
        )
    config = None
    if path + _CONFIG in tensors.entries:
        (text,) = tensors.strings(path + _CONFIG)[:1] or [b""]
        config = read_json_object(text, f"the config of layer {path!r}")
    ordered = tuple(arrays[role] for role in _ROLES if role in arrays)
    return StoredLayer(path, ordered, is_embedding="embeddings" in arrays, config=config)


def _walk(graph: bytes) -> list[str]:
    """Return the keys of a `TrackableObjectGraph`, depth first from the root, children in order."""
    nodes = [as_bytes(node) for number, node in read_fields(graph) if number == 1]
    if len(nodes) > _MAX_NODES:
        raise BadCheckpoint(f"the checkpoint has {len(nodes)} objects; the limit is {_MAX_NODES}")
    keys: list[str] = []
    waiting, seen = [0], set[int]()
    while waiting:
        node = waiting.pop()
        if node in seen or node >= len(nodes):
            continue
        seen.add(node)
        children = []
        for number, value in read_fields(nodes[node]):
            if number == 1:
                children += [as_int(v) for n, v in read_fields(as_bytes(value)) if n == 1] or [0]
            elif number == 2:  # an attribute, whose third field is the key
                keys += [
                    as_bytes(v).decode("utf-8", "replace")
                    for n, v in read_fields(as_bytes(value))
                    if n == 3
                ]
        waiting += reversed(children)
    return keys


def natural_sort_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts `lstm_2` before `lstm_10`."""
    parts = re.split(r"(\d{1,9})", name)
    return [(int(part) if part.isdigit() else -1, part) for part in parts]
