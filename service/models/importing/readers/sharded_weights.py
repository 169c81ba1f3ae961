"""Keras 3's sharded weights: `model.weights.json` names the `.weights.h5` files beside it."""

import re
from pathlib import PurePosixPath

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import Checkpoint, JsonObject
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.hdf5 import damage_is_refused, open_hdf5
from service.models.importing.readers.keras_hdf5 import check_ranks, variables_layers

FORMAT = "keras-3-sharded-weights"
INDEX_KEY = "weight_map"
MAX_SHARDS = 256

_SHARD = re.compile(r"(.+)_(\d{5})(\.weights)\.h5")


@damage_is_refused()
def read_sharded_weights(
    folder: ImportFolder, source: PurePosixPath, index: JsonObject
) -> Checkpoint:
    """Read the shapes of all shards of an index, the content of `source`. Raises BadCheckpoint."""
    weight_map = index.get(INDEX_KEY)
    if not isinstance(weight_map, dict):
        raise BadCheckpoint(f"{source.name} has no {INDEX_KEY} of names")
    names: dict[str, None] = {}
    for value in weight_map.values():
        for name in value if isinstance(value, list) else [value]:
            names[_checked(name)] = None
    if len(names) > MAX_SHARDS:
        raise BadCheckpoint(f"the model has {len(names)} shards; the limit is {MAX_SHARDS}")
    roots = []
    for name in names:
        path = source.with_name(name)
        if folder.kind(path) != "file":
            raise BadCheckpoint(f"{source.name} names {name[:200]}, which is not beside it")
        roots.append(open_hdf5(folder.open(path)))
    layers = variables_layers(roots)
    check_ranks(layers)
    return Checkpoint(FORMAT, layers, keras_version="3")


def index_of_shard(folder: ImportFolder, source: PurePosixPath) -> PurePosixPath | None:
    """Return the index beside a file that is named as a shard, None if it is no shard.

    Raises BadCheckpoint if there are shards without an index.
    """
    if (match := _SHARD.fullmatch(source.name)) is None:
        return None
    index = source.with_name(f"{match[1]}{match[3]}.json")
    if folder.kind(index) == "file":
        return index
    if folder.kind(source.with_name(f"{match[1]}_00000{match[3]}.h5")) == "file":
        raise BadCheckpoint(
            f"{source.name} is one shard of several: give {index.name}, which is not beside it"
        )
    return None


def _checked(name: object) -> str:
    """Return the name of a file in the same folder. Raises BadCheckpoint."""
    if not isinstance(name, str) or not name or "\0" in name or name in (".", ".."):
        raise BadCheckpoint(f"{INDEX_KEY} has {str(name)[:80]!r}, which is no file's name")
    if PurePosixPath(name).name != name or len(name) > 255:
        raise BadCheckpoint(f"{INDEX_KEY} names {name[:200]!r}, which is in another folder")
    return name
