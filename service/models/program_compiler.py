"""How a bundle becomes a program: on the device of its load, checked on the machine that serves."""

from dataclasses import dataclass, field

from service.models.bundle import Bundle, Precision
from service.models.device import Device, WantedDevice, device_of
from service.models.gpu_memory import GpuMemory
from service.models.kernel_choice import KernelChoices
from service.models.parity import check_here
from service.models.step import StepProgram


@dataclass(frozen=True, slots=True)
class ProgramCompiler:
    """Compiles the models of a server. Any thread may use it."""

    kernels: KernelChoices
    wanted: WantedDevice = "auto"
    threads: int = 1
    spins: bool = True
    gpu_memory: GpuMemory = field(default_factory=GpuMemory)

    def device_of(self, precision: Precision) -> Device:
        """Return the device that computes models in a precision."""
        return device_of(self.wanted, precision)

    def compile(self, bundle: Bundle, precision: Precision, rows: int) -> StepProgram:
        """Compile a model; on a GPU each step computes `rows` rows. Blocks for seconds.

        Raises BadCheckpoint where its numbers are too far from the reference; Validation for what
        the device does not compute, and without the device; MemoryBudgetExceeded of a GPU.
        """
        if self.device_of(precision) is Device.GPU:
            from service.models.gpu import Gpu  # noqa: PLC0415 (it needs ONNX Runtime)

            return Gpu(self.gpu_memory, threads=self.threads).compile(bundle, precision, rows)
        program = self.kernels.compile(bundle, precision, self.threads, spins=self.spins)
        check_here(program, bundle, precision)
        return program
