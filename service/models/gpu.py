"""The GPU of a server: it compiles models, and refuses those that it has no room for."""

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.errors import CarouselError, MemoryBudgetExceeded
from service.models.bundle import Bundle, Precision
from service.models.device import Device
from service.models.gpu_memory import GpuMemory, gpu_bytes
from service.models.gpu_program import GpuProgram, check_gpu_model, check_rows_are_independent
from service.models.onnx_device import OnnxDevice
from service.models.parity import check_here

LEAST_ROWS = 64
"""A beam search and a group of texts that are read have so many rows at most."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Compiles models for the GPU. `device` is the processor in tests."""

    memory: GpuMemory = field(default_factory=GpuMemory)
    device: Device = Device.GPU
    threads: int = 1

    def compile(self, bundle: Bundle, precision: Precision, rows: int) -> GpuProgram:
        """Compile a model for `rows` rows, and compare it with the reference. Blocks for seconds.

        Its memory is free again when nothing refers to the program. Raises Validation without a
        GPU and for a model that it does not compute, MemoryBudgetExceeded, BadCheckpoint.
        """
        check_gpu_model(bundle.spec, precision)
        rows = max(rows, LEAST_ROWS)
        size_bytes = gpu_bytes(bundle.spec, rows)
        self.memory.reserve(size_bytes)
        try:
            with _refusals(size_bytes):
                device = OnnxDevice(self.device, self.threads)
                limit = None if self.memory.limit_bytes is None else size_bytes
                program = GpuProgram(bundle.spec, bundle.weights, precision, device, rows, limit)
                check_rows_are_independent(program)
                check_here(program, bundle, precision)
        except BaseException:
            self.memory.free(size_bytes)
            raise
        weakref.finalize(program, self.memory.free, size_bytes)
        return program


@contextlib.contextmanager
def _refusals(size_bytes: int) -> Iterator[None]:
    """Name the condition of a device whose memory is full."""
    try:
        yield
    except CarouselError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common class
        if "memory" not in str(error).lower():
            raise
        raise MemoryBudgetExceeded(
            f"the GPU's memory has no room for the model, which needs about {size_bytes:,} bytes: "
            "unload another model first, or set CAROUSEL_GPU_ROWS to less"
        ) from error
