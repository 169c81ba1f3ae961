"""The variables and the config of a SavedModel. Its graph is a program and is never executed.

tf_keras writes the config of each layer as JSON into `keras_metadata.pb`; TensorFlow 2.0 to 2.4
wrote it into `saved_model.pb` itself. Source: `saved_metadata.proto`, `saved_object_graph.proto`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from service.errors import BadCheckpoint
from service.models.importing.checkpoint import Checkpoint, JsonObject
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.json_text import read_json_object
from service.models.importing.readers.object_checkpoint import read_object_checkpoint
from service.models.importing.readers.protobuf import as_bytes, read_fields

FORMAT = "tensorflow-savedmodel"
GRAPH_FILE = "saved_model.pb"
MAX_FILE_BYTES = 64 * 1024 * 1024

_METADATA_FILE = "keras_metadata.pb"
_MODELS = ("Sequential", "Functional", "Model")
_NOTE = "of the SavedModel only the variables are read; its graph is a program, never executed"


def read_saved_model(folder: ImportFolder, path: PurePosixPath) -> Checkpoint:
    """Read the variables of the SavedModel in a folder. Raises BadCheckpoint."""
    if folder.kind(path / "variables") != "folder":
        raise BadCheckpoint(f"{path.name or 'the folder'} is a SavedModel without variables/")
    if folder.kind(path / "variables" / "variables.index") != "file":
        raise BadCheckpoint("it is a SavedModel, but variables/variables.index is missing")
    checkpoint = read_object_checkpoint(folder, path / "variables" / "variables")
    config = _config(folder, path)
    has_names = all(layer.keras_name for layer in checkpoint.layers)
    return replace(
        checkpoint,
        format=FORMAT,
        config=config if has_names else None,
        notes=(_NOTE, *checkpoint.notes),
    )


def _config(folder: ImportFolder, path: PurePosixPath) -> JsonObject | None:
    """Return the model's config if it is one of layers, not of a class of the author's."""
    for file, texts in ((_METADATA_FILE, _of_metadata), (GRAPH_FILE, _of_graph)):
        if folder.kind(path / file) == "file":
            for text in texts(folder.read(path / file, MAX_FILE_BYTES)):
                metadata = _plain(read_json_object(text, f"the model's config in {file}"))
                if isinstance(metadata, dict) and metadata.get("class_name") in _MODELS:
                    return metadata
                break  # the first is the root object
    return None


def _of_metadata(content: bytes) -> Iterator[bytes]:
    """Yield the JSON of each node of a `SavedMetadata` whose path is `root`."""
    for number, node in read_fields(content):
        if number == 1:
            fields = dict(read_fields(as_bytes(node)))
            if fields.get(3) == b"root":
                yield as_bytes(fields.get(5, b""))


def _of_graph(content: bytes) -> Iterator[bytes]:
    """Yield the JSON of the first object of a `SavedModel`, if it has any."""
    message = content
    for wanted in (2, 7, 1, 4):  # meta_graphs, object_graph_def, nodes, user_object
        found = next((v for number, v in read_fields(message) if number == wanted), b"")
        message = as_bytes(found)
    for number, text in read_fields(message):
        if number == 3 and text:
            yield as_bytes(text)


def _plain(value: Any) -> Any:
    """Return JSON in which tuples and shapes, objects with `items`, are lists."""
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return _plain(value["items"])
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
