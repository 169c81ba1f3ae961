"""From a spec, its weights and a precision to the program that is fastest on this machine."""

from functools import cache

from llvmlite import binding

from service.models.bundle import Precision
from service.models.program import OnnxProgram, StepProgram, int8_weight_bits
from service.models.spec import ModelSpec, Weights

EXACT_BITS = 8


def compile_program(
    spec: ModelSpec, weights: Weights, precision: Precision, threads: int = 1
) -> StepProgram:
    """Make the step program that this machine is to serve a model with.

    Raises:
        Validation: int8 is asked for where an h is not bound to (-1, 1).

    """
    if precision is Precision.INT8 and has_slow_int8():
        from service.models.fused import FusedProgram, is_fusible  # noqa: PLC0415 (compiles)

        if is_fusible(spec):
            return FusedProgram(spec, weights)
    return OnnxProgram(spec, weights, precision, threads)


@cache
def has_slow_int8() -> bool:
    """Whether this is an x86 processor with AVX2 whose int8 sums saturate: one without VNNI."""
    return has_avx2() and int8_weight_bits() < EXACT_BITS


@cache
def has_avx2() -> bool:
    """Whether this processor runs what `int8_tile.py` is made of."""
    return bool(binding.get_host_cpu_features().get("avx2"))
