"""The operand types of matrix products, and the choice of the fastest."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from service.training.matmul import MatMul
from service.training.recipe import WantedArithmetic

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def resolved(wanted: WantedArithmetic, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return `float32` or `bfloat16`: for `auto` bfloat16 if the hardware multiplies it."""
    if wanted != "auto":
        return wanted
    if tf.config.list_physical_devices("GPU"):
        return "bfloat16"
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return "bfloat16" if flags & _BFLOAT16_FLAGS else "float32"


def product(precision: str) -> MatMul:
    """Return the matrix product of a resolved precision."""
    operand_type: Any = tf.bfloat16 if precision == "bfloat16" else tf.float32
    return MatMul(operand_type)
