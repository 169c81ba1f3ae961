"""The import inside the child process: every way in which it can end is a report or an error."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import BadCheckpoint, CarouselError
from service.models.bundle import content_files
from service.models.importing.folder import ImportFolder
from service.models.importing.pipeline import measure_model, read_model
from service.models.importing.request import (
    CHILD_ARGUMENT,
    ImportLimits,
    ImportReport,
    ImportRequest,
)


def run(argument: object) -> object:
    """Import a checkpoint into the working folder; CHILD_ARGUMENT → ImportReport, as JSON values.

    Raises BadCheckpoint, Validation, TooLarge as `read_model` and `measure_model`, MemoryError if
    the limit of memory is too low.
    """
    request, folder, limits = CHILD_ARGUMENT.validate_python(argument)
    return import_into(Path.cwd(), request, folder, limits).model_dump(mode="json")


def import_into(
    output: Path, request: ImportRequest, folder: Path, limits: ImportLimits
) -> ImportReport:
    """Read, convert and measure a checkpoint; write weights and vocabulary to `output`.

    Raises as `run`, whatever the files hold.
    """
    try:
        with ImportFolder(folder, limits.file_bytes) as files:
            with _killed_after(limits.read_cpu_s):
                model = read_model(request, files)
            report = measure_model(model, request.precision, files.digests)
        for name, content in content_files(model.weights, model.tokenizer).items():
            (output / name).write_bytes(content)
    except (CarouselError, MemoryError):
        raise
    except Exception as error:
        if "bad_alloc" in str(error) or "emory alloc" in str(error):
            raise MemoryError from error
        reason = f"{type(error).__name__}: {error}"
        raise BadCheckpoint(f"the checkpoint cannot be read: {reason}"[:500]) from error
    return report


@contextmanager
def _killed_after(cpu_s: float) -> Iterator[None]:
    """End the process by SIGPROF, even inside a library, if the block takes more CPU time."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
