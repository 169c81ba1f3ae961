"""Matrix products for compiled functions: operands in float32 or bfloat16, sums in float32."""

from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla


class MatMul:
    """One way to multiply: `product(product.operand(a), b)` is a @ b in float32."""

    def __init__(self, operand_type: Any = tf.float32) -> None:
        self._type = operand_type

    def operand(self, matrix: Any) -> Any:
        """The matrix in the operands' type, for a product that is taken many times."""
        return tf.cast(matrix, self._type)

    def __call__(self, a: Any, b: Any, *, transpose_b: bool = False) -> Any:
        """`a @ b` in float32."""
        a, b = self.operand(a), self.operand(b)
        if self._type == tf.float32:
            return tf.matmul(a, b, transpose_b=transpose_b)
        return tf.raw_ops.BatchMatMulV3(x=a, y=b, Tout=tf.float32, adj_y=transpose_b)

    def dense(self, x: Any, kernel: Any) -> Any:
        """`kernelᵀ @ x` over the first axis, differentiable: (in, …) to (out, …)."""

        @tf.custom_gradient
        def multiply(x: Any, kernel: Any) -> tuple[Any, Any]:
            def gradient(dy: Any) -> tuple[Any, Any]:
                return self._over_first(kernel, dy), self.over_columns(x, dy)

            return self._over_first(transposed(kernel), x), gradient

        return multiply(x, kernel)

    def over_columns(self, a: Any, b: Any) -> Any:
        """`a @ bᵀ` summed over all axes but the first: a weight's gradient in one product."""
        return self(_flat(a), _flat(b), transpose_b=True)

    def _over_first(self, matrix: Any, x: Any) -> Any:
        return tf.reshape(self(matrix, _flat(x)), (matrix.shape[0], *x.shape[1:]))


def transposed(matrix: Any) -> Any:
    """The transpose, laid out in memory as it stands.

    XLA would fold it into a product that reads it, and on a CPU a product of transposed operands
    takes up to twice as long. The barrier forbids that. The reshapes, which come to nothing, are
    for bfloat16: without them the transpose has its operand's layout when XLA decides which
    products of bfloat16 its libraries can do, and it turns the others into float32.
    """
    rows, columns = matrix.shape
    flat = tf.reshape(tf.transpose(matrix), (rows * columns,))
    return _fixed(tf.reshape(flat, (columns, rows)))


@tf.custom_gradient
def features_first(x: Any) -> tuple[Any, Any]:
    """(time, lanes, features) as (features, time, lanes), laid out so.

    On the way back nothing is folded into the product that the gradient comes from: of bfloat16
    XLA could not even run it.
    """
    steps, lanes, features = x.shape
    columns = transposed(tf.reshape(x, (steps * lanes, features)))

    def gradient(dy: Any) -> Any:
        rows = tf.transpose(_fixed(_flat(dy)))
        return tf.reshape(rows, (steps, lanes, features))

    return tf.reshape(columns, (features, steps, lanes)), gradient


def _fixed(x: Any) -> Any:
    return xla.optimization_barrier(x)[0]


def _flat(x: Any) -> Any:
    return tf.reshape(x, (x.shape[0], -1))
