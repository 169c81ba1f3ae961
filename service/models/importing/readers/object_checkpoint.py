"""The layers of a TensorFlow checkpoint that Keras wrote, in the order of the model.

A key is the path from the root object to a variable, `layer_with_weights-1/cell/kernel`, and a
suffix. The order of a model's layers is that of its object graph. An exported model has a list of
variables only: their names have the layers', or else their shapes determine them.
Source: TensorFlow's `trackable_object_graph.proto`; Keras 2, `engine/functional.py`.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import Checkpoint, StoredArray, StoredLayer
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.json_text import read_json_object
from service.models.importing.readers.natural_order import natural_sort_key
from service.models.importing.readers.object_graph import ObjectGraph, read_object_graph
from service.models.importing.readers.saver_checkpoint import read_saver_checkpoint
from service.models.importing.readers.tensor_bundle import INTEGERS, TensorBundle
from service.models.importing.readers.variable_list import layers_of_list

FORMAT = "tensorflow-checkpoint"

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_CONFIG = "/.ATTRIBUTES/OBJECT_CONFIG_JSON"
_OPTIMIZER = re.compile(r"(.+?)/(?:_iterations|_learning_rate|_(?:trainable_)?variables/\d+|iter)$")
_LIST = re.compile(r"(?:.+/)?variables/(\d{1,9})$")
ROLES = (  # in Keras's order of a layer's arrays
    "embeddings",
    "kernel",
    "recurrent_kernel",
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
    "bias",
    "input_gate_peephole_weights",
    "forget_gate_peephole_weights",
    "output_gate_peephole_weights",
    "kernel_scale",
    "embeddings_scale",
)
WRAPPERS = re.compile(r"/(?:cell|layer)$")
_STATES = re.compile(r"(?:^|/)_?states(?:/|$)|keras_api")


def read_object_checkpoint(folder: ImportFolder, prefix: PurePosixPath) -> Checkpoint:
    """Read the shapes of a checkpoint: `prefix.index`, data files. Raises BadCheckpoint."""
    tensors = TensorBundle(folder, prefix)
    if _GRAPH not in tensors.entries:
        return read_saver_checkpoint(tensors)
    (content,) = tensors.strings(_GRAPH)[:1] or [b""]
    graph = read_object_graph(content)
    paths = _paths(tensors, graph)
    layers: dict[str, dict[str, str]] = {}
    for key, path in paths.items():
        owner, _, role = path.rpartition("/")
        role = role.removeprefix("_")
        entry = tensors.entries[key]
        if not entry.shape or _STATES.search(path):  # a scalar is a counter or a metric
            continue
        if entry.dtype in INTEGERS and role not in ROLES:  # the state of a random generator
            continue
        layers.setdefault(WRAPPERS.sub("", owner), {})[role] = key
    if not layers:
        return _of_list(tensors, graph)
    is_keras_3 = any(re.search(r"(?:^|/)_", path) for path in paths.values())
    keras_names = _keras_names(graph, layers)
    found = tuple(_layer(tensors, path, keys, keras_names[path]) for path, keys in layers.items())
    return Checkpoint(FORMAT, found, keras_version="3" if is_keras_3 else "2")


def _paths(tensors: TensorBundle, graph: ObjectGraph) -> dict[str, str]:
    """Return the path of each variable through the model, without optimizers and lists."""
    paths = {key: path for key, path in graph.paths.items() if key in tensors.entries}
    paths = {key: path for key, path in paths.items() if key.endswith(_VALUE)}
    others = [
        key
        for key in sorted(tensors.entries, key=natural_sort_key)
        if key.endswith(_VALUE) and key not in graph.names and ".OPTIMIZER_SLOT" not in key
    ]
    names = [key.removesuffix(_VALUE) for key in others]
    optimizers = {match[1] for name in names if (match := _OPTIMIZER.match(name))}
    for key, name in zip(others, names, strict=True):
        in_optimizer = any(name.startswith(f"{optimizer}/") for optimizer in optimizers)
        if not in_optimizer and not _LIST.match(name):
            paths[key] = name
    return paths


def _layer(
    tensors: TensorBundle, path: str, keys: Mapping[str, str], name: str | None
) -> StoredLayer:
    if unknown := keys.keys() - set(ROLES):
        raise BadCheckpoint(
            f"layer {path!r} has weights named {min(unknown)!r}, which no Embedding, LSTM, "
            "GRU or Dense layer has"
        )
    arrays = {role: tensors.array(key) for role, key in keys.items()}
    config = None
    if path + _CONFIG in tensors.entries:
        (text,) = tensors.strings(path + _CONFIG)[:1] or [b""]
        config = read_json_object(text, f"the config of layer {path!r}")
    ordered = tuple(arrays[role] for role in ROLES if role in arrays)
    return StoredLayer(path, ordered, name, "embeddings" in arrays, config)


def _keras_names(
    graph: ObjectGraph, layers: Mapping[str, Mapping[str, str]]
) -> dict[str, str | None]:
    """Return the name of each layer in its model, from `lstm/lstm_cell/kernel`.

    Keras 3 and subclassed models put the model's name before it.
    """
    names = {
        path: [graph.names.get(key, "").split("/")[:-1] for key in keys.values()]
        for path, keys in layers.items()
    }
    parts = [part for found in names.values() for part in found]
    if any(not part for part in parts):
        return dict.fromkeys(layers)
    place = int(len(layers) > 1 and len({part[0] for part in parts}) == 1)
    first = {path: {"/".join(p[place : place + 1]) for p in found} for path, found in names.items()}
    if any(len(found) > 1 for found in first.values()):  # quantised weights have another scope
        return dict.fromkeys(layers)
    return {path: found.pop() or None for path, found in first.items()}


def _of_list(tensors: TensorBundle, graph: ObjectGraph) -> Checkpoint:
    """Read the layers of an exported model, whose variables are numbered only."""
    numbers = {
        key: int(match[1])
        for key in tensors.entries
        if (match := _LIST.match(key.removesuffix(_VALUE))) and key.endswith(_VALUE)
    }
    variables: list[tuple[str, StoredArray]] = []
    for key in sorted(numbers, key=lambda key: (numbers[key], key)):
        entry = tensors.entries[key]
        if entry.dtype not in INTEGERS and entry.shape:  # a seed generator is of integers
            variables.append((graph.names.get(key, ""), tensors.array(key)))
    layers, notes = layers_of_list(variables, ROLES)
    return Checkpoint(FORMAT, layers, keras_version="3", notes=notes)
