"""Chooses and compiles the fastest step program for this machine."""

from llvmlite import binding

from service.errors import Validation
from service.models.bundle import Precision
from service.models.spec import ModelSpec, Weights
from service.models.step import StepProgram


def compile_program(
    spec: ModelSpec,
    weights: Weights,
    precision: Precision,
    threads: int = 1,
    *,
    spins: bool = True,
) -> StepProgram:
    """Compile a model for this machine; `threads` share one step.

    With `spins` they wait for the next step in a loop, which is faster on cores of their own.

    Programs are imported on use, because each import takes time and memory. Raises Validation if
    precision is int8 and some h is not within (-1, 1), or the model reads a window.
    """
    if precision is Precision.INT8 and has_slow_int8():
        from service.models.int8_step import FusedProgram, is_fusible  # noqa: PLC0415

        if is_fusible(spec):
            return FusedProgram(spec, weights)
    if spec.window is not None:
        if precision is Precision.INT8:
            raise Validation("a model that reads a window is served in float32")
        from service.models.window_program import WindowProgram  # noqa: PLC0415

        return WindowProgram(spec, weights, threads, spins=spins)
    from service.models.program import OnnxProgram  # noqa: PLC0415

    return OnnxProgram(spec, weights, precision, threads, spins=spins)


def has_slow_int8() -> bool:
    """Return whether int8 sums saturate: on x86 processors with AVX2 and without VNNI."""
    features = binding.get_host_cpu_features()
    return has_avx2() and not (features.get("avx512vnni") or features.get("avxvnni"))


def has_avx2() -> bool:
    """Return whether this processor has AVX2, which `int8_gemm` needs."""
    return bool(binding.get_host_cpu_features().get("avx2"))
