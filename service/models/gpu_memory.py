"""The bytes of a GPU's memory that programs may take, and how many a model needs."""

import threading

from service.errors import MemoryBudgetExceeded
from service.models.cells import CELLS
from service.models.spec import ModelSpec

BATCHES = 12
"""The most batches of a model at a time: the engine's, its beam searches', one that reads texts."""


class GpuMemory:
    """Bytes of a GPU's memory that the programs of this process may take. Any thread may use it."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        """Without a limit what the device has is the limit, which a load then runs into."""
        self.limit_bytes, self.used_bytes = limit_bytes, 0
        self._lock = threading.Lock()

    def reserve(self, size_bytes: int) -> None:
        """Reserve bytes for a program. Raises MemoryBudgetExceeded."""
        with self._lock:
            limit = self.limit_bytes
            if limit is not None and self.used_bytes + size_bytes > limit:
                raise MemoryBudgetExceeded(
                    f"on the GPU the model needs about {size_bytes:,} bytes; {self.used_bytes:,} "
                    f"of the {limit:,} of CAROUSEL_GPU_MEMORY are taken: unload another model "
                    "first, or set CAROUSEL_GPU_ROWS to less"
                )
            self.used_bytes += size_bytes

    def free(self, size_bytes: int) -> None:
        """Return the bytes of a program that is gone."""
        with self._lock:
            self.used_bytes -= size_bytes


def gpu_bytes(spec: ModelSpec, rows: int) -> int:
    """Return an upper bound of the memory that a model takes on a GPU."""
    first = spec.recurrent_layers[0]
    table = 4 * spec.vocabulary_size * len(CELLS[first.cell].gates) * first.units
    states = 2 * 4 * rows * sum(spec.state_units)
    # What a step holds at once: of each layer its gates, before and after each operator.
    widths = [len(CELLS[layer.cell].gates) * layer.units for layer in spec.recurrent_layers]
    scratch = 4 * rows * (6 * sum(widths) + 2 * spec.vocabulary_size + 2 * sum(spec.widths))
    return 2 * 4 * spec.parameters + table + BATCHES * states + scratch
