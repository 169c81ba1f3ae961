"""Matrix products with operands in float32 or bfloat16, always summed into float32."""

from typing import Any

import tensorflow as tf


class Product:
    """One way to multiply: `product(a, product.operand(b))` is a @ b in float32."""

    def __init__(self, operand_type: Any = tf.float32) -> None:
        self._type = operand_type

    def operand(self, matrix: Any) -> Any:
        """The matrix in the operands' type, for a product that is taken many times."""
        return tf.cast(matrix, self._type)

    def __call__(self, a: Any, b: Any, *, transpose_a: bool = False) -> Any:
        """`a @ b` in float32. Not differentiable by itself in bfloat16: see `dense`."""
        if self._type == tf.float32:
            return tf.matmul(a, b, transpose_a=transpose_a)
        return tf.raw_ops.BatchMatMulV3(
            x=self.operand(a), y=self.operand(b), Tout=tf.float32, adj_x=transpose_a
        )

    def weight_gradient(self, inputs: Any, outputs: Any) -> Any:
        """`inputsᵀ @ outputs` over all leading axes, (in, out), as one product.

        Taken as outputsᵀ @ inputs and transposed: XLA spreads the taller result over the cores.
        """
        return tf.transpose(self(_flat(outputs), _flat(inputs), transpose_a=True))

    def dense(self, x: Any, kernel: Any) -> Any:
        """`x @ kernel` over the last axis, differentiable: (…, in) to (…, out)."""

        @tf.custom_gradient
        def multiply(x: Any, kernel: Any) -> tuple[Any, Any]:
            def gradient(dy: Any) -> tuple[Any, Any]:
                dx = self._over_last(dy, tf.transpose(kernel))
                return dx, self.weight_gradient(x, dy)

            return self._over_last(x, kernel), gradient

        return multiply(x, kernel)

    def rows(self, table: Any, indices: Any) -> Any:
        """`table[indices]`, differentiable by one product with the one-hot indices."""

        @tf.custom_gradient
        def look_up(table: Any) -> tuple[Any, Any]:
            def gradient(dy: Any) -> Any:
                one_hot = tf.one_hot(tf.reshape(indices, (-1,)), table.shape[0])
                return self.weight_gradient(one_hot, dy)

            return tf.gather(table, indices), gradient

        return look_up(table)

    def _over_last(self, x: Any, matrix: Any) -> Any:
        return tf.reshape(self(_flat(x), self.operand(matrix)), (*x.shape[:-1], matrix.shape[-1]))


def _flat(x: Any) -> Any:
    return tf.reshape(x, (-1, x.shape[-1]))
