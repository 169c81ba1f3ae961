"""The latest checkpoint of a folder: from the text file `checkpoint`, or the highest step."""

import re
from pathlib import PurePosixPath

from service.errors import BadCheckpoint
from service.models.importing.folder import ImportFolder
from service.models.importing.readers.tensor_bundle import with_suffix

STATE_FILE = "checkpoint"
MAX_STATE_BYTES = 1024 * 1024

_LATEST = re.compile(
    r'^model_checkpoint_path:[ \t]*"((?:[^"\\\n]|\\["\'\\])*)"[ \t]*\r?$', re.MULTILINE
)


def latest_prefix(folder: ImportFolder, path: PurePosixPath) -> tuple[PurePosixPath, str | None]:
    """Return the prefix of the latest checkpoint in a folder, and a note if it is a guess.

    The path in the file must stay in the folder; TensorFlow follows an absolute path anywhere.
    Raises BadCheckpoint if there is no checkpoint, or the file names none or one outside the
    folder.
    """
    if folder.kind(path / STATE_FILE) == "file":
        prefix = path / _named(folder.read(path / STATE_FILE, MAX_STATE_BYTES))
        if folder.kind(with_suffix(prefix, ".index")) == "absent":
            raise BadCheckpoint(
                f"the file `checkpoint` names {prefix.name}, but {prefix.name}.index does not exist"
            )
        return prefix, None
    indexes = [
        name.removesuffix(".index") for name in folder.names(path) if name.endswith(".index")
    ]
    if not indexes:
        raise BadCheckpoint("the folder has neither a `checkpoint` file nor any .index file")
    latest = max(indexes, key=_step)
    return (
        path / latest,
        f"the folder has no `checkpoint` file: {latest}, the highest step, is imported",
    )


def _named(content: bytes) -> PurePosixPath:
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
