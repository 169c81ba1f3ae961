"""Matrix products for compiled functions: operands in float32 or bfloat16, sums in float32."""

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

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


class MatMul:
    """A matrix product: `product(product.operand(a), b)` is a @ b in float32."""

    def __init__(self, operand_type: Any = tf.float32) -> None:
        self._type = operand_type

    def operand(self, matrix: Any) -> Any:
        """Convert a matrix to the type of operands, once for many products."""
        return tf.cast(matrix, self._type)

    def __call__(self, a: Any, b: Any, *, transpose_b: bool = False) -> Any:
        """Compute `a @ b` in float32."""
        a, b = self.operand(a), self.operand(b)
        if self._type == tf.float32:
            return tf.matmul(a, b, transpose_b=transpose_b)
        return tf.raw_ops.BatchMatMulV3(x=a, y=b, Tout=tf.float32, adj_y=transpose_b)

    def dense(self, x: Any, kernel: Any) -> Any:
        """Compute `kernelᵀ @ x` over the first axis, differentiable: (in, …) to (out, …)."""

        @tf.custom_gradient
        def multiply(x: Any, kernel: Any) -> tuple[Any, Any]:
            def gradient(dy: Any) -> tuple[Any, Any]:
                return self._over_first(kernel, dy), self.over_columns(x, dy)

            return self._over_first(transposed(kernel), x), gradient

        return multiply(x, kernel)

    def over_columns(self, a: Any, b: Any) -> Any:
        """Compute `a @ bᵀ` summed over all axes but the first: a weight's gradient."""
        return self(_flat(a), _flat(b), transpose_b=True)

    def _over_first(self, matrix: Any, x: Any) -> Any:
        return tf.reshape(self(matrix, _flat(x)), (matrix.shape[0], *x.shape[1:]))


def transposed(matrix: Any) -> Any:
    """Transpose a matrix in memory.

    The barrier keeps XLA from folding the transpose into a product that reads it: on a CPU a
    product of transposed operands takes up to twice as long. The reshapes, which have no effect on
    the values, are for bfloat16: without them the transpose has its operand's layout when XLA
    decides which products of bfloat16 its libraries support, and it converts the others to float32.
    """
    rows, columns = matrix.shape
    flat = tf.reshape(tf.transpose(matrix), (rows * columns,))
    return _fixed(tf.reshape(flat, (columns, rows)))


@tf.custom_gradient
def features_first(x: Any) -> tuple[Any, Any]:
    """Transpose (time, streams, features) to (features, time, streams) in memory.

    In the gradient no product folds the transpose: with bfloat16 XLA cannot run such a product.
    """
    steps, streams, features = x.shape
    columns = transposed(tf.reshape(x, (steps * streams, features)))

    def gradient(dy: Any) -> Any:
        rows = tf.transpose(_fixed(_flat(dy)))
        return tf.reshape(rows, (steps, streams, features))

    return tf.reshape(columns, (features, steps, streams)), gradient


def _fixed(x: Any) -> Any:
    return xla.optimization_barrier(x)[0]


def _flat(x: Any) -> Any:
    return tf.reshape(x, (x.shape[0], -1))
