"""Detection of a file's format by its content, with a reason for each format that is refused.

Of a folder of TensorFlow checkpoints the latest is read: the one that the text file `checkpoint`
names or, without that file, the one of the highest step.
"""

import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import BinaryIO

from service.errors import BadCheckpoint, Validation
from service.models.importing.checkpoint import Checkpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.hdf5 import SIGNATURE
from service.models.importing.readers.keras_archive import read_keras_archive
from service.models.importing.readers.keras_hdf5 import read_hdf5
from service.models.importing.readers.object_checkpoint import read_object_checkpoint
from service.models.importing.readers.table import MAGIC
from service.models.importing.readers.tensor_bundle import with_suffix

STATE_FILE = "checkpoint"
MAX_STATE_BYTES = 1024 * 1024

_HEAD_BYTES = 512
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_CHECKPOINT_STATE = re.compile(rb"(?:#.*\n)*\s*model_checkpoint_path:")
_LATEST = re.compile(
    r'^model_checkpoint_path:[ \t]*"((?:[^"\\\n]|\\["\'\\])*)"[ \t]*\r?$', re.MULTILINE
)

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


def read_checkpoint(folder: ImportFolder, source: PurePosixPath) -> Checkpoint:
    """Read the shapes of the checkpoint at `source`.

    `source` is a file, a folder of TensorFlow checkpoints or the prefix of one (`ckpt_10`).
    Raises BadCheckpoint; Validation if there is no such file.
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
    if folder.kind(path / STATE_FILE) == "file":
        prefix = path / _named(folder.read(path / STATE_FILE, MAX_STATE_BYTES))
        if folder.kind(with_suffix(prefix, ".index")) == "absent":
            raise BadCheckpoint(
                f"the file `checkpoint` names {prefix.name}, but {prefix.name}.index does not exist"
            )
        return read_object_checkpoint(folder, prefix)
    indexes = [name.removesuffix(".index") for name in names if name.endswith(".index")]
    if not indexes:
        raise BadCheckpoint(
            f"the folder has no TensorFlow checkpoint: neither a file `{STATE_FILE}` nor any "
            ".index file; for a .keras or .h5 file, give the path of the file"
        )
    latest = max(indexes, key=_step)
    note = f"the folder has no `checkpoint` file: {latest}, the highest step, is imported"
    return replace(read_object_checkpoint(folder, path / latest), notes=(note,))


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
    reasons.append(
        "it has none of the supported formats: a TensorFlow checkpoint, or a .keras, "
        ".weights.h5 or .h5 file of Keras"
    )
    return reasons[0]


def _named(content: bytes) -> PurePosixPath:
    """Return the path in a file `checkpoint`. TensorFlow would follow an absolute one anywhere."""
    match = _LATEST.search(content.decode("utf-8", "replace"))
    if match is None:
        raise BadCheckpoint('the file `checkpoint` has no line model_checkpoint_path: "…"')
    text = re.sub(r"\\(.)", r"\1", match[1])
    path = PurePosixPath(text)
    if not text or "\0" in text or path.is_absolute() or ".." in path.parts:
        raise BadCheckpoint(
            f"the file `checkpoint` points to {text[:200]!r}, outside its own folder; "
            "make the path relative to it, or give the checkpoint itself as the source"
        )
    return path


def _step(name: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d{1,18}", name)][::-1], name
