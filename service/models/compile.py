"""Chooses and compiles the fastest step program for this machine."""

from enum import StrEnum
from typing import Literal

from llvmlite import binding

from service.errors import Validation
from service.models.bundle import Precision
from service.models.spec import ModelSpec, Weights
from service.models.step import StepProgram


class Int8Kernel(StrEnum):
    """Which kernel computes int8."""

    OWN = "own"
    ONNX_RUNTIME = "onnxruntime"


def compile_program(
    spec: ModelSpec,
    weights: Weights,
    precision: Precision,
    threads: int = 1,
    *,
    spins: bool = True,
    kernel: Int8Kernel = Int8Kernel.OWN,
    weight_bits: Literal[4, 8] = 8,
) -> StepProgram:
    """Compile a model for this machine; `threads` share one step.

    With `spins` they wait for the next step in a loop, which is faster on cores of their own.
    `kernel` computes int8, where it has the model's layers and the processor's instructions. The
    own one with VNNI can have `weight_bits` of 4 in the recurrent layers.

    Programs are imported on use, because each import takes time and memory. Raises Validation if
    precision is int8 and some h is not within (-1, 1), or the model reads a window.
    """
    if precision is Precision.INT8 and kernel is Int8Kernel.OWN and has_avx2():
        from service.models import int4_gemm, int8_gemm, vnni_gemm  # noqa: PLC0415
        from service.models.int8_step import FusedProgram, is_fusible  # noqa: PLC0415

        if is_fusible(spec):
            if not has_vnni():
                return FusedProgram(spec, weights, int8_gemm.pack)
            pack_layer = int4_gemm.pack if weight_bits == 4 else vnni_gemm.pack
            return FusedProgram(spec, weights, vnni_gemm.pack, pack_layer)
    if spec.window is not None:
        if precision is Precision.INT8:
            raise Validation("a model that reads a window is served in float32")
        from service.models.window_program import WindowProgram  # noqa: PLC0415

        return WindowProgram(spec, weights, threads, spins=spins)
    from service.models.program import OnnxProgram  # noqa: PLC0415

    return OnnxProgram(spec, weights, precision, threads, spins=spins)


def has_vnni() -> bool:
    """Return whether this processor has VNNI, in vectors of 512 bits or of 256."""
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512vnni") or features.get("avxvnni"))


def has_avx2() -> bool:
    """Return whether this processor has AVX2, which each own kernel needs."""
    return bool(binding.get_host_cpu_features().get("avx2"))


def own_instructions() -> str:
    """Return the instructions that the own kernel uses on this processor; "" if it cannot run."""
    features = binding.get_host_cpu_features()
    known = {"avx512vnni": "AVX-512 VNNI", "avxvnni": "AVX-VNNI", "avx2": "AVX2"}
    return next((name for feature, name in known.items() if features.get(feature)), "")
