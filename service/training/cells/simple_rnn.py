"""The gradient of the simple recurrent network."""

from typing import Any

import tensorflow as tf

from service.training.matmul import MatMul, transposed
from service.training.recurrence import Recurrence, Tensors, columns_like, shifted, with_column


def _make(product: MatMul) -> Any:
    @tf.custom_gradient
    def run(x: Any, kernel: Any, h: Any) -> tuple[Tensors, Any]:
        hs, last = _forward(product, x, kernel, h)

        def gradient(*upstream: Any) -> Tensors:
            dz, d_h = _backward(product, kernel, hs, upstream)
            return dz, product.over_columns(shifted(h, hs), dz), d_h

        return (hs, last), gradient

    return run


def _forward(product: MatMul, x: Any, kernel: Any, h: Any) -> tuple[Any, Any]:
    """Run the steps. Returns h as columns, and the last h."""
    weights = product.operand(transposed(kernel))

    def body(t: Any, h: Any, hs: Any) -> Tensors:
        h = tf.tanh(x[:, t] + product(weights, h))
        return t + 1, h, with_column(hs, t, h)

    steps = x.shape[1]
    start = (0, h, columns_like(h, steps))
    _, h, hs = tf.while_loop(lambda t, *_: t < steps, body, start)
    return hs, h


def _backward(product: MatMul, kernel: Any, hs: Any, upstream: Tensors) -> tuple[Any, Any]:
    """Run the steps back. Returns dz as columns and the gradient at the initial state."""
    d_hs, d_h = upstream
    weights = product.operand(kernel)

    def body(end: Any, d_h: Any, dzs: Any) -> Tensors:
        t = end - 1
        h = hs[:, t]
        dz = (d_h + d_hs[:, t]) * (1.0 - h * h)
        return t, product(weights, dz), with_column(dzs, t, dz)

    steps = hs.shape[1]
    start = (steps, d_h, columns_like(d_h, steps))
    _, d_h, dz = tf.while_loop(lambda end, *_: end > 0, body, start)
    return dz, d_h


RECURRENCE = Recurrence(_make)
