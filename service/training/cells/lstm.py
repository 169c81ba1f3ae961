"""The gradient of the LSTM, and its loops, which take peepholes, too."""

from collections.abc import Callable
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
    def run(x: Any, kernel: Any, h: Any, c: Any) -> tuple[Tensors, Any]:
        hs, cs, gates, last = forward(product, x, kernel, None, (h, c))

        def gradient(*upstream: Any) -> Tensors:
            dz, d_h, d_c = backward(product, kernel, None, (c, cs, gates), upstream)
            d_kernel = product.over_columns(shifted(h, hs), dz)
            return dz, d_kernel, d_h, d_c

        return (hs, *last), gradient

    return run


def forward(
    product: MatMul, x: Any, kernel: Any, peephole: Any, state: Tensors
) -> tuple[Any, Any, Any, Tensors]:
    """Run the steps. Returns h as columns, c and the gates as pages, and the last state."""
    weights = product.operand(transposed(kernel))
    p_i, p_f, p_o = _peepholes(peephole)

    def body(t: Any, h: Any, c: Any, hs: Any, cs: Any, gates: Any) -> Tensors:
        z_i, z_f, z_g, z_o = tf.split(x[:, t] + product(weights, h), 4)
        i, f, g = tf.sigmoid(p_i(z_i, c)), tf.sigmoid(p_f(z_f, c)), tf.tanh(z_g)
        c = f * c + i * g
        o = tf.sigmoid(p_o(z_o, c))
        h = o * tf.tanh(c)
        gates = with_page(gates, t, tf.concat([i, f, g, o], 0))
        return t + 1, h, c, with_column(hs, t, h), with_page(cs, t, c), gates

    steps = x.shape[1]
    h, c = state
    empty = (columns_like(h, steps), pages_like(c, steps), pages_like(x[:, 0], steps))
    _, h, c, hs, cs, gates = tf.while_loop(lambda t, *_: t < steps, body, (0, h, c, *empty))
    return hs, cs, gates, (h, c)


def backward(
    product: MatMul, kernel: Any, peephole: Any, saved: Tensors, upstream: Tensors
) -> tuple[Any, Any, Any]:
    """Run the steps back. Returns dz as columns and the gradients at the initial state."""
    c_0, cs, gates = saved
    d_hs, d_h, d_c = upstream
    weights = product.operand(kernel)
    p_i, p_f, p_o = _peepholes(peephole)

    def body(end: Any, d_h: Any, d_c: Any, dzs: Any) -> Tensors:
        t = end - 1
        i, f, g, o = tf.split(gates[t], 4)
        before = tf.where(t > 0, cs[tf.maximum(t - 1, 0)], c_0)
        tanh_c = tf.tanh(cs[t])
        d_h += d_hs[:, t]
        dz_o = d_h * tanh_c * o * (1.0 - o)
        d_c = p_o(d_c + d_h * o * (1.0 - tanh_c * tanh_c), dz_o)
        dz_i = d_c * g * i * (1.0 - i)
        dz_f = d_c * before * f * (1.0 - f)
        dz_g = d_c * i * (1.0 - g * g)
        d_c = p_f(p_i(d_c * f, dz_i), dz_f)
        dz = tf.concat([dz_i, dz_f, dz_g, dz_o], 0)
        return t, product(weights, dz), d_c, with_column(dzs, t, dz)

    steps = gates.shape[0]
    dzs = columns_like(gates[0], steps)
    _, d_h, d_c, dz = tf.while_loop(lambda end, *_: end > 0, body, (steps, d_h, d_c, dzs))
    return dz, d_h, d_c


def _peepholes(weights: Any) -> tuple[Callable[[Any, Any], Any], ...]:
    """Return, for each of i, f and o, the function (z, c) → z + p ⊙ c; without peepholes z."""
    if weights is None:
        return (lambda z, _: z,) * 3
    p_i, p_f, p_o = tf.unstack(weights[:, :, None])
    return (lambda z, c: z + p_i * c, lambda z, c: z + p_f * c, lambda z, c: z + p_o * c)


RECURRENCE = Recurrence(_make)
