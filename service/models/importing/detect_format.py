"""Detection of a file's format by its content, with a reason for each format that is refused."""

import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import BinaryIO

from service.errors import BadCheckpoint, Validation
from service.models.importing.checkpoint import Checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.checkpoint_state import STATE_FILE, latest_prefix
from service.models.importing.readers.hdf5 import SIGNATURE
from service.models.importing.readers.keras_archive import read_keras_archive
from service.models.importing.readers.keras_hdf5 import read_hdf5
from service.models.importing.readers.object_checkpoint import read_object_checkpoint
from service.models.importing.readers.table import MAGIC
from service.models.importing.readers.tensor_bundle import with_suffix

_HEAD_BYTES = 512
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_CHECKPOINT_STATE = re.compile(rb"(?:#.*\n)*\s*model_checkpoint_path:")

_SAVED_MODEL = (
    "it is a SavedModel, whose graph is a program, and nothing in a file is ever executed; "
    "load it in your own TensorFlow and call model.save_weights"
)
_PICKLE = (
    "it is a pickle, which is a program, and nothing in a file is ever executed; "
    "save the model with Keras, and a vocabulary as JSON or text"
)
_REFUSALS = (  # a pattern of the first bytes, and what such a file is
    (rb"\Z", "it is empty"),
    (rb"\x80[\x02-\x05]", _PICKLE),
    (
        rb".{4}TFL3",
        "it is a TensorFlow Lite model, whose recurrent state cannot be kept between steps",
    ),
    (
        rb"\s*(?:backend|class_name|config|keras_version): ",
        "it is a model in YAML, which is an architecture without weights",
    ),
    (rb"\s*\{", "it is JSON, which is at most an architecture without weights"),
    (rb'.{6}\0\0\{\s*"', "it is a safetensors file, which does not describe its layers"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ", "it is compressed; unpack it first"),
)
_NAMED = (  # a pattern of the name, if the content is not enough
    (r"saved_model\.pb\Z", _SAVED_MODEL),
    (
        r"\.data-\d{5}-of-\d{5}\Z",
        "it is the data of a TensorFlow checkpoint; give its .index file or its folder",
    ),
)
_READ = "a TensorFlow checkpoint, or a .keras, .weights.h5 or .h5 file of Keras"


def read_checkpoint(folder: ImportFolder, source: PurePosixPath) -> Checkpoint:
    """Read the shapes of the checkpoint at `source`.

    `source` is a file, a folder of TensorFlow checkpoints or the prefix of one (`ckpt_10`). Raises
    BadCheckpoint if the file has no supported format, or is damaged; Validation if there is no such
    file.
    """
    kind = folder.kind(source)
    if kind == "folder":
        return _read_folder(folder, source)
    if kind == "absent":
        if folder.kind(with_suffix(source, ".index")) == "file":
            return read_object_checkpoint(folder, source)
        raise Validation(f"source: {source} is not in the import folder")
    file = folder.open(source)
    head, tail = _ends(file)
    if head.startswith(SIGNATURE):
        return read_hdf5(file)
    if head.startswith(_ZIP):
        return read_keras_archive(folder, file)
    if tail.endswith(MAGIC):
        return read_object_checkpoint(folder, source.with_name(source.name.removesuffix(".index")))
    if _CHECKPOINT_STATE.match(head):
        return _read_folder(folder, source.parent)
    raise BadCheckpoint(f"{source.name} cannot be imported: {_refusal(head, source.name)}")


def _read_folder(folder: ImportFolder, path: PurePosixPath) -> Checkpoint:
    names = folder.names(path)
    if "saved_model.pb" in names or "saved_model.pbtxt" in names:
        raise BadCheckpoint(f"{path.name or 'the folder'} cannot be imported: {_SAVED_MODEL}")
    if STATE_FILE not in names and not any(name.endswith(".index") for name in names):
        raise BadCheckpoint(
            f"the folder has no TensorFlow checkpoint: neither a file `{STATE_FILE}` nor any "
            ".index file; for a .keras or .h5 file, give the path of the file"
        )
    prefix, note = latest_prefix(folder, path)
    checkpoint = read_object_checkpoint(folder, prefix)
    return replace(checkpoint, notes=(note,)) if note else checkpoint


def _ends(file: BinaryIO) -> tuple[bytes, bytes]:
    head = file.read(_HEAD_BYTES)
    size = file.seek(0, 2)
    file.seek(max(0, size - len(MAGIC)))
    tail = file.read()
    file.seek(0)
    return head, tail


def _refusal(head: bytes, name: str) -> str:
    """Return the most specific reason why a file is refused."""
    reasons = [why for pattern, why in _NAMED if re.search(pattern, name)]
    reasons += [why for pattern, why in _REFUSALS if re.match(pattern, head, re.DOTALL)]
    return reasons[0] if reasons else f"it has none of the supported formats: {_READ}"
