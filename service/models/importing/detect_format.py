"""Detection of a file's format by its content, with a reason for each format that is refused."""

import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import BinaryIO

from service.errors import BadCheckpoint, Validation
from service.models.importing.checkpoint import Checkpoint, JsonObject
from service.models.importing.checkpoint_folder import find_checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.keras_1 import as_keras_2
from service.models.importing.readers.hdf5 import SIGNATURE
from service.models.importing.readers.json_text import MAX_BYTES, read_json_object
from service.models.importing.readers.keras_archive import read_keras_archive
from service.models.importing.readers.keras_hdf5 import check_ranks, read_hdf5
from service.models.importing.readers.object_checkpoint import read_object_checkpoint
from service.models.importing.readers.safetensors_file import read_safetensors
from service.models.importing.readers.saved_model import GRAPH_FILE, read_saved_model
from service.models.importing.readers.sharded_weights import (
    INDEX_KEY,
    index_of_shard,
    read_sharded_weights,
)
from service.models.importing.readers.table import MAGIC
from service.models.importing.readers.tensor_bundle import with_suffix
from service.models.importing.unsupported import reason_of

_HEAD_BYTES = 512
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_CHECKPOINT_STATE = re.compile(rb"(?:#.*\n)*\s*model_checkpoint_path:")
_SAFETENSORS = re.compile(rb'.{6}\0\0\s*\{\s*["}]', re.DOTALL)
_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")
_MODELS = ("Sequential", "Functional", "Model")


def read_checkpoint(folder: ImportFolder, source: PurePosixPath) -> Checkpoint:
    """Read the shapes of the checkpoint at `source`.

    `source` is a file, a folder with one checkpoint, a SavedModel or the prefix of a TensorFlow
    checkpoint (`ckpt_10`). Raises BadCheckpoint; Validation if there is no such file.
    """
    checkpoint = as_keras_2(_read(folder, source))
    for layer in checkpoint.layers:
        has_scale = any(len(array.shape) == 1 and array.dtype != "int8" for array in layer.arrays)
        if any(array.dtype == "int8" for array in layer.arrays) and not has_scale:
            raise BadCheckpoint(f"layer {layer.path!r} has the type int8, but no scale beside it")
    return checkpoint


def _read(folder: ImportFolder, source: PurePosixPath) -> Checkpoint:
    kind = folder.kind(source)
    if kind == "folder":
        return _read_folder(folder, source)
    if kind == "absent":
        if folder.kind(with_suffix(source, ".index")) == "file":
            return read_object_checkpoint(folder, source)
        raise Validation(f"source: {source} is not in the import folder")
    return _read_file(folder, source)


def _read_file(folder: ImportFolder, source: PurePosixPath) -> Checkpoint:
    file = folder.open(source)
    head, tail, size = _ends(file)
    found = None
    if head.startswith(SIGNATURE):
        found = _read_hdf5(folder, source, file)
    elif head.startswith(_ZIP):
        found = read_keras_archive(folder, file)
    elif tail.endswith(MAGIC) or _DATA.search(source.name):
        found = _read_part(folder, source)
    elif _CHECKPOINT_STATE.match(head):
        found = _read_folder(folder, source.parent)
    elif source.name == GRAPH_FILE:
        found = read_saved_model(folder, source.parent)
    elif _SAFETENSORS.match(head):
        found = read_safetensors(file)
    elif head.lstrip().startswith(b"{") and source.name.endswith(".json"):
        index = read_json_object(file.read(MAX_BYTES + 1), source.name[:200])
        found = read_sharded_weights(folder, source, index) if INDEX_KEY in index else None
    if found is None:
        reason = reason_of(head, source.name, size)
        raise BadCheckpoint(f"{source.name} cannot be imported: {reason}")
    return found


def _read_part(folder: ImportFolder, source: PurePosixPath) -> Checkpoint | None:
    """Read the checkpoint of which `source` is the index or a data file, if it has an index."""
    prefix = source.with_name(_DATA.sub("", source.name).removesuffix(".index"))
    if folder.kind(with_suffix(prefix, ".index")) == "file":
        checkpoint = read_object_checkpoint(folder, prefix)
        if not _DATA.search(source.name):
            return checkpoint
        note = f"{source.name} is the data of a checkpoint, whose index is beside it"
        return replace(checkpoint, notes=(note, *checkpoint.notes))
    if _DATA.search(source.name):
        return None
    raise BadCheckpoint(
        f"{source.name} cannot be imported: it is a TensorFlow checkpoint in one file, as "
        "TensorFlow 0 wrote it, or an index without the ending .index"
    )


def _read_folder(folder: ImportFolder, path: PurePosixPath) -> Checkpoint:
    found = find_checkpoint(folder, path)
    if found.is_saved_model:
        return read_saved_model(folder, path)
    if found.is_prefix:
        checkpoint = read_object_checkpoint(folder, found.path)
    else:
        checkpoint = _read_file(folder, found.path)
    return replace(checkpoint, notes=(*found.notes, *checkpoint.notes))


def _read_hdf5(folder: ImportFolder, source: PurePosixPath, file: BinaryIO) -> Checkpoint:
    """Read an HDF5 file and, if it has weights only, the architecture or the index beside it."""
    if (index := index_of_shard(folder, source)) is not None:
        content = read_json_object(folder.read(index, MAX_BYTES), index.name[:200])
        note = f"{source.name} is one of several shards: those that {index.name} names are read"
        return replace(read_sharded_weights(folder, index, content), notes=(note,))
    checkpoint = read_hdf5(file)
    if checkpoint.config is not None:
        return checkpoint
    name, config = _architecture_beside(folder, source)
    if config is None:
        check_ranks(checkpoint.layers)
        return checkpoint
    note = f"the file has no architecture: that of {name}, beside it, is taken"
    return replace(checkpoint, config=config, notes=(note,))


def _architecture_beside(
    folder: ImportFolder, source: PurePosixPath
) -> tuple[str, JsonObject | None]:
    """Return the name and the content of `model.to_json()` beside weights, if it is there."""
    stem = re.sub(r"\.(?:h5|hdf5)\Z", "", source.name).removesuffix(".weights")
    names = [f"{stem}.json", f"{re.sub(r'[-_ .]?weights?$', '', stem)}.json", "model.json"]
    for name in dict.fromkeys(names):
        path = source.with_name(name)
        if name == ".json" or folder.kind(path) != "file":
            continue
        file = folder.open(path)
        content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES or b'"class_name"' not in content:
            continue
        config = read_json_object(content, name[:200])
        if config.get("class_name") in _MODELS and isinstance(config.get("config"), dict | list):
            return name, config
    return "", None


def _ends(file: BinaryIO) -> tuple[bytes, bytes, int]:
    """Return the first and the last bytes and the size of a file."""
    head = file.read(_HEAD_BYTES)
    size = file.seek(0, 2)
    file.seek(max(0, size - len(MAGIC)))
    tail = file.read()
    file.seek(0)
    return head, tail, size
