"""From a spec, its weights and a precision to the program that is fastest on this machine."""

from llvmlite import binding

from service.models.bundle import Precision
from service.models.spec import ModelSpec, Weights
from service.models.step import StepProgram


def compile_program(
    spec: ModelSpec, weights: Weights, precision: Precision, threads: int = 1
) -> StepProgram:
    """Make the step program that this machine is to serve a model with.

    Each kind is imported only where it is used: both take their share of start and memory.

    Raises:
        Validation: int8 is asked for where an h is not bound to (-1, 1).

    """
    if precision is Precision.INT8 and has_slow_int8():
        from service.models.int8_step import FusedProgram, is_fusible  # noqa: PLC0415

        if is_fusible(spec):
            return FusedProgram(spec, weights)
    from service.models.program import OnnxProgram  # noqa: PLC0415

    return OnnxProgram(spec, weights, precision, threads)


def has_slow_int8() -> bool:
    """Whether this is an x86 processor with AVX2 whose int8 sums saturate: one without VNNI."""
    has_vnni = any(_has(feature) for feature in ("avx512vnni", "avxvnni"))
    return has_avx2() and not has_vnni


def has_avx2() -> bool:
    """Whether this processor runs what `int8_tile.py` is made of."""
    return _has("avx2")


def _has(feature: str) -> bool:
    return bool(binding.get_host_cpu_features().get(feature))
