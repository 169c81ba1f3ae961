"""The object graph of a TensorFlow checkpoint: which variable belongs to which layer.

TensorFlow names a variable by one of the shortest paths to it. In a compiled model, that path may
lead through the optimizer, and in a SavedModel through the list `variables`; so the graph is walked
again here, past both. Source: TensorFlow's `trackable_object_graph.proto`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.errors import BadCheckpoint
from service.models.importing.readers.protobuf import as_bytes, as_int, read_fields

MAX_NODES = 100_000
MAX_DEPTH = 32
MAX_NAME_BYTES = 512

_NOT_LAYERS = {
    "optimizer", "_optimizer", "keras_api", "signatures", "variables", "trainable_variables",
    "non_trainable_variables", "_all_variables", "_compiled_trainable_state", "metrics",
}  # fmt: skip
_OPTIMIZERS = {"_iterations", "_learning_rate", "iter"}  # one of the children of an optimizer


@dataclass(frozen=True, slots=True)
class ObjectGraph:
    """The variables of a checkpoint by their keys."""

    paths: Mapping[str, str]  # through the model's layers, in the order of the model
    names: Mapping[str, str]  # as the variable's creator named it: `sequential/dense/kernel`


@dataclass(frozen=True, slots=True)
class _Node:
    children: Sequence[tuple[str, int]]
    keys: Sequence[tuple[str, str]]  # key, name


def read_object_graph(content: bytes) -> ObjectGraph:
    """Read a `TrackableObjectGraph`, depth first, children in order. Raises BadCheckpoint."""
    nodes = [_node(as_bytes(node)) for number, node in read_fields(content) if number == 1]
    if len(nodes) > MAX_NODES:
        raise BadCheckpoint(f"the checkpoint has {len(nodes)} objects; the limit is {MAX_NODES}")
    paths: dict[str, str] = {}
    waiting, seen = [("", 0, 0)], set[int]()
    while waiting:
        path, number, depth = waiting.pop()
        if number in seen or number >= len(nodes) or depth > MAX_DEPTH:
            continue
        seen.add(number)
        node = nodes[number]
        if not _OPTIMIZERS.isdisjoint(name for name, _ in node.children):
            continue
        for key, _ in node.keys:
            paths.setdefault(key, path)
        waiting += [
            (f"{path}/{name}".removeprefix("/"), child, depth + 1)
            for name, child in reversed(node.children)
            if name not in _NOT_LAYERS
        ]
    return ObjectGraph(paths, {key: name for node in nodes for key, name in node.keys})


def _node(message: bytes) -> _Node:
    children: list[tuple[str, int]] = []
    keys: list[tuple[str, str]] = []
    for number, value in read_fields(message):
        if number not in (1, 2):
            continue
        fields = dict(read_fields(as_bytes(value)))
        if number == 1:
            children.append((_text(fields.get(2, b"")), as_int(fields.get(1, 0))))
        else:  # an attribute: its second field is a name, its third the key
            keys.append((_text(fields.get(3, b"")), _text(fields.get(2, b""))))
    return _Node(children, keys)


def _text(value: int | bytes) -> str:
    content = as_bytes(value)
    if len(content) > MAX_NAME_BYTES:
        raise BadCheckpoint(
            f"the checkpoint has an object's name of {len(content)} bytes; "
            f"the limit is {MAX_NAME_BYTES}"
        )
    return content.decode("utf-8", "replace")
