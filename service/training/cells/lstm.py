"""The gradient of the LSTM, without peepholes or with them."""

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


def make(product: MatMul) -> Any:
    """As `Recurrence.make`; the function takes the peepholes after the kernel, where there are."""

    @tf.custom_gradient
    def run(x: Any, kernel: Any, *rest: Any) -> tuple[Tensors, Any]:
        *extra, h, c = rest
        peephole = extra[0] if extra else None
        hs, cs, gates, last = _forward(product, x, kernel, peephole, (h, c))

        def gradient(*upstream: Any) -> Tensors:
            dz, d_h, d_c = _backward(product, kernel, peephole, (c, cs, gates), upstream)
            d_kernel = product.over_columns(shifted(h, hs), dz)
            d_peephole = [_peephole_gradient(dz, c, cs)] if extra else []
            return dz, d_kernel, *d_peephole, d_h, d_c

        return (hs, *last), gradient

    return run


def _forward(
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


def _backward(
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


def _peephole_gradient(dz: Any, c_0: Any, cs: Any) -> Any:
    dz_i, dz_f, _, dz_o = tf.split(dz, 4)
    after = tf.transpose(cs, (1, 0, 2))
    before = shifted(c_0, after)
    terms = (dz_i * before, dz_f * before, dz_o * after)
    return tf.stack([tf.reduce_sum(x, (1, 2)) for x in terms])


RECURRENCE = Recurrence(make)
