"""The gradient of the GRU with reset_after."""

from typing import Any

import tensorflow as tf

from service.training.matmul import MatMul, transposed
from service.training.recurrence import (
    Recurrence,
    Tensors,
    columns_like,
    pages_like,
    shifted,
    with_column,
    with_page,
)


def _make(product: MatMul) -> Any:
    @tf.custom_gradient
    def run(x: Any, kernel: Any, bias: Any, h: Any) -> tuple[Tensors, Any]:
        hs, gates, recurrent, last = _forward(product, x, kernel, bias, h)

        def gradient(*upstream: Any) -> Tensors:
            dx, du, d_h = _backward(product, kernel, (h, hs, gates, recurrent), upstream)
            d_kernel = product.over_columns(shifted(h, hs), du)
            return dx, d_kernel, tf.reduce_sum(du, (1, 2)), d_h

        return (hs, last), gradient

    return run


def _forward(product: MatMul, x: Any, kernel: Any, bias: Any, h: Any) -> tuple[Any, Any, Any, Any]:
    """Run the steps. Returns h as columns, the gates and h U_h + b'_h as pages, and the last h."""
    weights = product.operand(transposed(kernel))

    def body(t: Any, h: Any, hs: Any, gates: Any, recurrents: Any) -> Tensors:
        x_z, x_r, x_h = tf.split(x[:, t], 3)
        u_z, u_r, u_h = tf.split(product(weights, h) + bias[:, None], 3)
        z, r = tf.sigmoid(x_z + u_z), tf.sigmoid(x_r + u_r)
        candidate = tf.tanh(x_h + r * u_h)
        h = z * h + (1.0 - z) * candidate
        gates = with_page(gates, t, tf.concat([z, r, candidate], 0))
        return t + 1, h, with_column(hs, t, h), gates, with_page(recurrents, t, u_h)

    steps = x.shape[1]
    empty = (columns_like(h, steps), pages_like(x[:, 0], steps), pages_like(h, steps))
    _, h, hs, gates, recurrents = tf.while_loop(lambda t, *_: t < steps, body, (0, h, *empty))
    return hs, gates, recurrents, h


def _backward(
    product: MatMul, kernel: Any, saved: Tensors, upstream: Tensors
) -> tuple[Any, Any, Any]:
    """Run the steps backward. Returns the gradients of x and of h U + b' as columns, and of h_0."""
    h_0, hs, gates, recurrent = saved
    d_hs, d_h = upstream
    weights = product.operand(kernel)

    def body(end: Any, d_h: Any, dxs: Any, dus: Any) -> Tensors:
        t = end - 1
        z, r, candidate = tf.split(gates[t], 3)
        h_prev = tf.where(t > 0, hs[:, tf.maximum(t - 1, 0)], h_0)
        d_h += d_hs[:, t]
        dx_z = d_h * (h_prev - candidate) * z * (1.0 - z)
        dx_h = d_h * (1.0 - z) * (1.0 - candidate * candidate)
        dx_r = dx_h * recurrent[t] * r * (1.0 - r)
        du = tf.concat([dx_z, dx_r, dx_h * r], 0)
        dx = tf.concat([dx_z, dx_r, dx_h], 0)
        return t, d_h * z + product(weights, du), with_column(dxs, t, dx), with_column(dus, t, du)

    steps = gates.shape[0]
    dxs, dus = columns_like(gates[0], steps), columns_like(gates[-1], steps)
    _, d_h, dx, du = tf.while_loop(lambda end, *_: end > 0, body, (steps, d_h, dxs, dus))
    return dx, du, d_h


RECURRENCE = Recurrence(_make, ("recurrent_bias",))
