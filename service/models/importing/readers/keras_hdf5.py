"""The three layouts of weights that Keras writes in HDF5.

* Keras 2, whole model: `model_config` at the root, the weights under `model_weights`.
* Keras 2, weights only: `layer_names` at the root; each layer's group has `weight_names`.
* Keras 3 (and `.keras` files of Keras 2.12 on): groups by attribute path, arrays in `vars`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import h5py  # type: ignore[import-untyped,unused-ignore]

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import Checkpoint, StoredLayer
from service.models.importing.readers.hdf5 import (
    damage_is_refused,
    dataset_at,
    group_at,
    open_hdf5,
    stored_array,
    text_of,
    texts_of,
)
from service.models.importing.readers.json_text import read_json_object
from service.models.importing.readers.natural_order import natural_sort_key
from service.models.importing.readers.object_checkpoint import WRAPPERS

WHOLE_MODEL = "keras-2-hdf5"
WEIGHTS_ONLY = "keras-2-hdf5-weights"
KERAS_3_WEIGHTS = "keras-3-weights-hdf5"

MAX_RANK = 2

_NOT_LAYERS = {"optimizer", "metrics", "seed_generator"}
_NESTED = re.compile(r"/(?:forward_layer|backward_layer|(?:cell/)?cells/).*$")
"""The parts of a Bidirectional, of an RNN of several cells: their name is that of the whole."""


@damage_is_refused()
def read_hdf5(file: BinaryIO) -> Checkpoint:
    """Read the shapes of an HDF5 file that Keras wrote. Raises BadCheckpoint."""
    root = open_hdf5(file)
    config = text_of(root, "model_config")
    weights = group_at(root, "model_weights") if "model_weights" in root else root
    if config is not None or not {"layer_names", "layer_names0"}.isdisjoint(weights.attrs):
        return Checkpoint(
            WEIGHTS_ONLY if config is None else WHOLE_MODEL,
            tuple(_named_layers(weights)),
            None if config is None else read_json_object(config.encode(), "model_config"),
            text_of(weights, "keras_version") or text_of(root, "keras_version") or "1",
        )
    layers = variables_layers([root])
    if not layers:
        raise BadCheckpoint(
            "the HDF5 file was not written by Keras: it has no model_config, no layer_names "
            "and no groups named vars"
        )
    # Keras stores layer names since 3.6; earlier files look like those of tf_keras.
    is_keras_3 = any(layer.keras_name is not None for layer in layers)
    return Checkpoint(KERAS_3_WEIGHTS, layers, keras_version="3" if is_keras_3 else None)


def check_ranks(layers: Sequence[StoredLayer]) -> None:
    """Refuse arrays that no layer has which is inferred from shapes. Raises BadCheckpoint."""
    for layer in layers:
        for shape in layer.shapes:
            if len(shape) > MAX_RANK:
                raise BadCheckpoint(
                    f"layer {layer.path!r} has an array of shape {shape}; "
                    f"weights have at most {MAX_RANK} axes"
                )


def variables_layers(roots: Sequence[h5py.Group]) -> tuple[StoredLayer, ...]:
    """Return the layers of Keras 3's layout: a group `vars` with arrays 0, 1, … in each object.

    A path ends in the class's name and a counter. The counter may skip numbers, so only the order
    is used. `roots` are the shards of one model; the arrays of a layer may be in several.
    """
    found: dict[str, dict[str, h5py.Dataset]] = {}
    names: dict[str, str] = {}
    for root in roots:
        for path, variables in _variables(root, ""):
            if name := text_of(variables, "name"):
                names.setdefault(path, name)
            arrays = found.setdefault(path, {})
            for key in variables:
                if key in arrays:
                    raise BadCheckpoint(f"two files have the array {path}/vars/{key}"[:300])
                arrays[key] = dataset_at(variables, key)
    layers = []
    for path, arrays in found.items():
        if not arrays:
            continue
        numbers = [str(i) for i in range(len(arrays))]
        if missing := [number for number in numbers if number not in arrays]:
            raise BadCheckpoint(f"{path[:200]}/vars has {len(arrays)} arrays, but no {missing[0]}")
        owner = WRAPPERS.sub("", path)
        name = names.get(_NESTED.sub("", owner))
        stored = tuple(stored_array(arrays[number]) for number in numbers)
        is_embedding = "embed" in f"{owner}/{name}"
        layers.append(StoredLayer(owner.removeprefix("/"), stored, name, is_embedding))
    return tuple(sorted(layers, key=lambda layer: natural_sort_key(layer.path)))


def _variables(group: h5py.Group, path: str) -> Iterator[tuple[str, h5py.Group]]:
    for name, child in group.items():
        if name in _NOT_LAYERS or not isinstance(child, h5py.Group):
            continue
        if name == "vars":
            yield path, child
        else:
            yield from _variables(child, f"{path}/{name}")


def _named_layers(weights: h5py.Group) -> Iterator[StoredLayer]:
    for name in texts_of(weights, "layer_names"):
        group = group_at(weights, name)
        paths = texts_of(group, "weight_names")
        if paths:
            arrays = tuple(stored_array(dataset_at(group, path)) for path in paths)
            is_embedding = "/embeddings" in f"/{paths[0]}"
            yield StoredLayer(name, arrays, name, is_embedding)
