"""An order carried out: every way in which it can end becomes an outcome."""

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import BadCheckpoint, CarouselError
from service.models.bundle import content_files
from service.models.importing.folder import ImportFolder
from service.models.importing.pipeline import measure_model, read_model
from service.models.importing.request import ORDERS, ImportReport, Order, Outcome, over_memory


def carry_out(text: str) -> tuple[Path, Outcome]:
    """Import what the order says; the folder for the outcome, and the outcome."""
    order = ORDERS.validate_json(text)
    try:
        report = _import(order)
    except CarouselError as error:
        return order.output, _refusal(error.code, str(error))
    except MemoryError:
        return order.output, _refusal(BadCheckpoint.code, over_memory(order.limits.memory_bytes))
    except Exception as error:  # noqa: BLE001 - no input makes a traceback
        is_memory = "bad_alloc" in str(error) or "emory alloc" in str(error)
        return order.output, _refusal(
            BadCheckpoint.code,
            over_memory(order.limits.memory_bytes)
            if is_memory
            else f"the checkpoint cannot be read: {type(error).__name__}: {error}"[:500],
        )
    return order.output, Outcome(report=report, peak_memory_bytes=_peak_memory_bytes())


def _import(order: Order) -> ImportReport:
    with ImportFolder(order.folder, order.limits.file_bytes) as folder:
        with _killed_after(order.limits.read_cpu_s):
            model = read_model(order.request, folder)
        report = measure_model(model, order.request.precision, folder.digests)
        files = content_files(model.weights, model.tokenizer)
    for name, content in files.items():
        (order.output / name).write_bytes(content)
    return report


@contextmanager
def _killed_after(cpu_s: float) -> Iterator[None]:
    """End the process by SIGPROF, even inside a library, where a block takes longer."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _refusal(code: str, sentence: str) -> Outcome:
    return Outcome(code=code, sentence=sentence, peak_memory_bytes=_peak_memory_bytes())


def _peak_memory_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
