"""The process that checks an uploaded text: `python -m service.training.corpus_check UPLOAD TEXT`.

Sixty-four million characters are decoded, composed and counted in calls that let no other thread
run, and take a gigabyte: none of it is for a process that streams. The normalised text goes into
the file TEXT; what is known of it, or why it is refused, to standard output as JSON.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import service
from service.errors import TooLarge, Validation
from service.models.importing.child import limit_process
from service.training.corpus import Corpus

NICENESS = 10
MEMORY_BYTES, CPU_S, FILE_BYTES, WALL_S = 4 * 1024**3, 120, 256 * 1024**2, 900
_MODULE = "service.training.corpus_check"
_log = logging.getLogger(__name__)


def check_text(upload: Path, text: Path) -> dict[str, Any]:
    """Normalise an uploaded file into a new one; what is known of it, by CorpusCard's names.

    Blocks; what takes long is in a process of its own.

    Raises:
        Validation: as `Corpus.decode`.
        TooLarge: it took more memory or time than there is for a text.
        OSError: the disk is full.

    """
    command = [sys.executable, "-m", _MODULE, str(upload.resolve()), str(text.resolve())]
    modules = str(Path(str(service.__file__)).parents[1])
    try:
        done = subprocess.run(  # noqa: S603 (our own module, and no shell)
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WALL_S,
            env={"PYTHONPATH": modules, "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        _log.warning("a text was not checked: %s %s", error, error.stderr)
        raise TooLarge(
            f"checking the text took more than {MEMORY_BYTES} bytes of memory or {CPU_S} seconds; "
            "give it in parts"
        ) from error
    outcome: dict[str, Any] = json.loads(done.stdout)
    if "errno" in outcome:
        raise OSError(outcome["errno"], os.strerror(outcome["errno"]))
    if "refusal" in outcome:
        raise Validation(outcome["refusal"])
    return outcome


def write_new(path: Path, content: bytes) -> None:
    """Write a file that was not there, down to the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    """Check one text within limits."""
    os.nice(NICENESS)
    limit_process(MEMORY_BYTES, CPU_S, FILE_BYTES)
    upload, text = map(Path, sys.argv[1:])
    json.dump(_outcome(upload, text), sys.stdout)


def _outcome(upload: Path, text: Path) -> dict[str, Any]:
    try:
        corpus = Corpus.decode(upload.read_bytes())
        write_new(text, corpus.text.encode())
    except Validation as refusal:
        return {"refusal": str(refusal)}
    except OSError as error:
        return {"errno": error.errno}
    return {
        "sha256": corpus.sha256,
        "bytes": corpus.n_bytes,
        "characters": len(corpus.text),
        "vocabulary_size": len(corpus.vocabulary),
        "vocabulary": "".join(corpus.vocabulary),
        "newlines_replaced": corpus.n_newlines_replaced,
        "was_composed": corpus.was_composed,
    }


if __name__ == "__main__":
    main()
