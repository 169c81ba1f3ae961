"""Which checkpoint of a folder is meant.

Of TensorFlow checkpoints it is the latest: the one that the text file `checkpoint` names or,
without that file, the one of the highest step. Of other files there must be exactly one.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from service.errors import BadCheckpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.saved_model import GRAPH_FILE
from service.models.importing.readers.tensor_bundle import with_suffix

STATE_FILE = "checkpoint"
MAX_STATE_BYTES = 1024 * 1024

_LATEST = re.compile(
    r'^model_checkpoint_path:[ \t]*"((?:[^"\\\n]|\\["\'\\])*)"[ \t]*\r?$', re.MULTILINE
)
_FILES = (".keras", ".h5", ".hdf5", ".safetensors")
_INDEX = ".weights.json"


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """A checkpoint in a folder: a file, a prefix of TensorFlow's, or the folder as SavedModel."""

    path: PurePosixPath
    is_prefix: bool = False
    is_saved_model: bool = False
    notes: tuple[str, ...] = ()


def find_checkpoint(folder: ImportFolder, path: PurePosixPath) -> FoundCheckpoint:
    """Return the checkpoint that a folder holds. Raises BadCheckpoint if it is not clear."""
    names = folder.names(path)
    if GRAPH_FILE in names:
        return FoundCheckpoint(path, is_saved_model=True)
    if "saved_model.pbtxt" in names:
        raise BadCheckpoint(f"the folder is a SavedModel in text; only {GRAPH_FILE} is read")
    if folder.kind(path / STATE_FILE) == "file":
        prefix, notes = _named(path, folder.read(path / STATE_FILE, MAX_STATE_BYTES))
        if folder.kind(with_suffix(prefix, ".index")) == "absent":
            raise BadCheckpoint(
                f"the file `checkpoint` names {prefix.name}, but {prefix.name}.index does not exist"
            )
        return FoundCheckpoint(prefix, is_prefix=True, notes=notes)
    indexes = [name.removesuffix(".index") for name in names if name.endswith(".index")]
    if indexes:
        latest = max(indexes, key=_step)
        note = f"the folder has no `checkpoint` file: {latest}, the highest step, is imported"
        return FoundCheckpoint(path / latest, is_prefix=True, notes=(note,))
    return _only_file(path, names)


def _only_file(path: PurePosixPath, names: list[str]) -> FoundCheckpoint:
    files = [name for name in names if name.endswith(_INDEX)]
    stems = tuple(name.removesuffix(_INDEX) + "_" for name in files)
    files += [n for n in names if n.endswith(_FILES) and not (stems and n.startswith(stems))]
    if not files:
        raise BadCheckpoint(
            f"the folder has no TensorFlow checkpoint: neither a file `{STATE_FILE}` nor any "
            f".index file; nor a file {', '.join(_FILES)}"
        )
    if len(files) > 1:
        raise BadCheckpoint(
            f"the folder has {len(files)} models, give the path of one: "
            f"{', '.join(files[:8])[:300]}"
        )
    note = f"{files[0]} is the only model in the folder"
    return FoundCheckpoint(path / files[0], notes=(note,))


def _named(path: PurePosixPath, content: bytes) -> tuple[PurePosixPath, tuple[str, ...]]:
    """Return the prefix that a file `checkpoint` names, and notes.

    TensorFlow would follow an absolute path anywhere; here it is the file of that name beside it.
    """
    match = _LATEST.search(content.decode("utf-8", "replace"))
    if match is None:
        raise BadCheckpoint('the file `checkpoint` has no line model_checkpoint_path: "…"')
    text = re.sub(r"\\(.)", r"\1", match[1])
    named, windows = PurePosixPath(text), PureWindowsPath(text)
    if named.is_absolute() or windows.is_absolute():
        name = named.name if named.is_absolute() else windows.name
        note = f"the file `checkpoint` names a path of another machine: {name} beside it is read"
        if name and "\0" not in name and name != "..":
            return path / name, (note,)
    if not named.name or "\0" in text or named.is_absolute() or ".." in named.parts:
        raise BadCheckpoint(
            f"the file `checkpoint` points to {text[:200]!r}, outside its own folder; "
            "make the path relative to it, or give the checkpoint itself as the source"
        )
    return path / named, ()


def _step(name: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d{1,18}", name)][::-1], name
