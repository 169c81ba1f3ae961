"""The gradient of the LSTM with coupled gates."""

import tensorflow as tf

from service.training.matmul import transposed
from service.training.recurrence import (
    Recurrence,
    columns_like,
    pages_like,
    shifted,
    with_column,
    with_page,
)


def _make(product):
    @tf.custom_gradient
    def run(x, kernel, h, c):
        hs, cs, gates, last = _forward(product, x, kernel, h, c)

        def gradient(*upstream):
            dz, d_h, d_c = _backward(product, kernel, (c, cs, gates), upstream)
            return dz, product.over_columns(shifted(h, hs), dz), d_h, d_c

        return (hs, *last), gradient

    return run


def _forward(product, x, kernel, h, c):
    weights = product.operand(transposed(kernel))

    def body(t, h, c, hs, cs, gates):
        z_f, z_g, z_o = tf.split(x[:, t] + product(weights, h), 3)
        f, g, o = tf.sigmoid(z_f), tf.tanh(z_g), tf.sigmoid(z_o)
        c = f * c + (1.0 - f) * g
        h = o * tf.tanh(c)
        gates = with_page(gates, t, tf.concat([f, g, o], 0))
        return t + 1, h, c, with_column(hs, t, h), with_page(cs, t, c), gates

    steps = x.shape[1]
    empty = (columns_like(h, steps), pages_like(c, steps), pages_like(x[:, 0], steps))
    _, h, c, hs, cs, gates = tf.while_loop(lambda t, *_: t < steps, body, (0, h, c, *empty))
    return hs, cs, gates, (h, c)


def _backward(product, kernel, saved, upstream):
    c_0, cs, gates = saved
    d_hs, d_h, d_c = upstream
    weights = product.operand(kernel)

    def body(end, d_h, d_c, dzs):
        t = end - 1
        f, g, o = tf.split(gates[t], 3)
        before = tf.where(t > 0, cs[tf.maximum(t - 1, 0)], c_0)
        tanh_c = tf.tanh(cs[t])
        d_h += d_hs[:, t]
        d_c += d_h * o * (1.0 - tanh_c * tanh_c)
        dz_f = d_c * (before - g) * f * (1.0 - f)
        dz_g = d_c * (1.0 - f) * (1.0 - g * g)
        dz_o = d_h * tanh_c * o * (1.0 - o)
        dz = tf.concat([dz_f, dz_g, dz_o], 0)
        return t, product(weights, dz), d_c * f, with_column(dzs, t, dz)

    steps = gates.shape[0]
    dzs = columns_like(gates[0], steps)
    _, d_h, d_c, dz = tf.while_loop(lambda end, *_: end > 0, body, (steps, d_h, d_c, dzs))
    return dz, d_h, d_c


RECURRENCE = Recurrence(_make)
