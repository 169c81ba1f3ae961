"""The stored arrays of each layer of a config."""

import re
from collections.abc import Sequence
from dataclasses import replace

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import StoredArray, StoredLayer
from service.models.importing.keras_layer import KerasLayer
from service.models.importing.keras_network import WeightSource

_PART = re.compile(r"/(forward_layer|backward_layer|(?:cell/)?cells/[^/]+)(?:/.*)?$")


def match_layers(
    sources: Sequence[WeightSource | StoredLayer], stored: Sequence[StoredLayer]
) -> tuple[StoredLayer, ...]:
    """Return the stored arrays of each source, with the config of their layer.

    Layers are matched by name or, if the file has no names, by class and order.
    Raises BadCheckpoint if one is missing or left over.
    """
    groups = _by_owner(stored)
    wanted = {id(s.layer.entry): s.layer for s in sources if isinstance(s, WeightSource)}
    layers = sorted(wanted.values(), key=lambda layer: layer.place)
    by_name = {group[0].keras_name: group for group in groups}
    found: dict[str, list[StoredLayer]] = {}
    if None not in by_name:
        left = {str(name): group for name, group in by_name.items()}
        for layer in layers:
            if layer.name not in found and layer.name in left:
                found[layer.name] = left.pop(layer.name)
        names = list(left)
    else:
        for layer in layers:
            if layer.name not in found and (group := _pop_first_of_class(layer, groups)):
                found[layer.name] = group
        names = [_owner(group[0]) for group in groups]
    for layer in layers:
        if layer.name not in found:
            raise BadCheckpoint(f"the file has no weights for layer {layer.name!r}")
    if names:
        raise BadCheckpoint(f"the file has weights for {names[0]!r}, a layer that its config lacks")
    return tuple(
        source if isinstance(source, StoredLayer) else _part(source, found[source.layer.name])
        for source in sources
    )


def _owner(layer: StoredLayer) -> str:
    return _PART.sub("", layer.path)


def _by_owner(stored: Sequence[StoredLayer]) -> list[list[StoredLayer]]:
    """Put the parts of a Bidirectional and of an RNN of several cells together."""
    groups: dict[str, list[StoredLayer]] = {}
    for layer in stored:
        groups.setdefault(_owner(layer), []).append(layer)
    return list(groups.values())


def _pop_first_of_class(
    layer: KerasLayer, groups: list[list[StoredLayer]]
) -> list[StoredLayer] | None:
    """Remove and return the first group whose path ends in the class.

    Keras writes it in snake case and with a number: `layers/lstm_1`, `layers/cu_dnnlstm`.
    """
    snake_case = _snake_case(layer.entry["class_name"])
    for group in groups:
        stem = _owner(group[0]).rpartition("/")[2].rstrip("0123456789").removesuffix("_")
        if stem == snake_case:
            groups.remove(group)
            return group
    return None


def _snake_case(name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _part(source: WeightSource, group: Sequence[StoredLayer]) -> StoredLayer:
    """Return the arrays of a part of a layer, which a format stores in one group or apart."""
    config = source.layer.config
    if len(group) == 1:
        (whole,) = group
        end = None if source.count is None else source.start + source.count
        arrays = whole.arrays[source.start : end]
        is_last = source.count is None or end == len(whole.arrays)
        if not is_last and not source.part:
            arrays = whole.arrays  # of a wrong number: refused by their shapes
        found = replace(whole, arrays=arrays)
    else:
        parts = {
            match[1].removeprefix("cell/"): layer
            for layer in group
            if (match := _PART.search(layer.path))
        }
        if len(parts) < len(group) or source.part not in parts:
            raise BadCheckpoint(
                f"the file has no {source.part or 'single part'} of layer {source.layer.name!r}"
            )
        found = parts[source.part]
    if source.is_transposed:
        found = replace(found, arrays=(*map(_transposed, found.arrays[:1]), *found.arrays[1:]))
    return replace(found, config=config)


def _transposed(array: StoredArray) -> StoredArray:
    return StoredArray(array.shape[::-1], array.dtype, lambda: array.read().T)
