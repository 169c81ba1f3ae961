"""The check of an uploaded text, in a child process with limits.

Sixty-four million characters are decoded, composed and counted in calls that hold the interpreter's
lock, and take a gigabyte, so none of it is done in a process that streams.
"""

import logging
import os
from pathlib import Path
from typing import Any

from service.errors import TooLarge
from service.sandbox import SandboxError, SandboxLimits, run_sandboxed
from service.training.corpus import Corpus

NICENESS = 10
LIMITS = SandboxLimits(memory_bytes=4 * 1024**3, cpu_s=120, file_bytes=256 * 1024**2, wall_s=900.0)
_log = logging.getLogger(__name__)


def check_text(
    upload: Path, text: Path, limits: SandboxLimits = LIMITS, child: str = __name__
) -> dict[str, Any]:
    """Normalise an uploaded file into the new file `text`; return CorpusCard's fields of it.

    Blocks; the work is done by `run` of the module `child` in a child process.

    Raises:
        Validation: as `Corpus.decode`.
        TooLarge: the check took more memory or time than the limits allow.
        OSError: the disk is full.

    """
    paths = [str(upload.resolve()), str(text.resolve())]
    try:
        found: dict[str, Any] = run_sandboxed(
            child, paths, text.resolve().parent, limits, "checking the text"
        )
    except SandboxError as error:
        _log.warning("a text was not checked: %s", error)
        raise TooLarge(f"{error}; give the text in parts") from error
    return found


def write_new(path: Path, content: bytes) -> None:
    """Write a new file and force it to the disk. Raises FileExistsError."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def run(paths: list[str]) -> dict[str, Any]:
    """Check one text, in the child process: the paths of the upload and of the new file."""
    os.nice(NICENESS)
    upload, text = map(Path, paths)
    corpus = Corpus.decode(upload.read_bytes())
    write_new(text, corpus.text.encode())
    return {
        "sha256": corpus.sha256,
        "bytes": corpus.n_bytes,
        "characters": len(corpus.text),
        "vocabulary_size": len(corpus.vocabulary),
        "vocabulary": "".join(corpus.vocabulary),
        "newlines_replaced": corpus.n_newlines_replaced,
        "was_composed": corpus.was_composed,
    }
