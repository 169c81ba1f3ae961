"""The three recurrences over a window of time, each with its gradient written out.

Autodiff would keep every intermediate, and would add to the gradient of the recurrent kernel once
a time step. Here the backward loop yields only dz, the gradient at the gates' inputs; the weights'
gradients are then one matrix product over all lanes and steps.

Everything is time-major, x is the layer's input after its kernel and its (first) bias, and the
equations are those of `service.models.reference`: tanh and sigmoid, GRU with `reset_after`.
"""

from typing import Any

import tensorflow as tf

from service.models.spec import Cell
from service.training.product import Product

Tensors = tuple[Any, ...]


def recurrence(cell: Cell, product: Product) -> Any:
    """The differentiable function of one cell.

    It takes x (time, lanes, gates · units), the recurrent kernel (units, gates · units), then
    for a peephole LSTM the peepholes (3, units), for a GRU the recurrent bias (3 · units,), then
    the state: h and, for the LSTMs, c, (lanes, units). It returns every h, (time, lanes, units),
    and the state after the last.
    """
    return {Cell.LSTM: _lstm, Cell.PEEPHOLE_LSTM: _peephole, Cell.GRU: _gru}[cell](product)


def _lstm(product: Product) -> Any:
    @tf.custom_gradient
    def run(x: Any, kernel: Any, h: Any, c: Any) -> tuple[Tensors, Any]:
        hs, cs, gates = _lstm_forward(product, x, kernel, None, (h, c))

        def gradient(d_hs: Any, d_h: Any, d_c: Any) -> Tensors:
            dz, d_h, d_c = _lstm_backward(product, kernel, None, (c, cs, gates), (d_hs, d_h, d_c))
            return dz, product.weight_gradient(_shifted(h, hs), dz), d_h, d_c

        return (hs, hs[-1], cs[-1]), gradient

    return run


def _peephole(product: Product) -> Any:
    @tf.custom_gradient
    def run(x: Any, kernel: Any, peephole: Any, h: Any, c: Any) -> tuple[Tensors, Any]:
        hs, cs, gates = _lstm_forward(product, x, kernel, peephole, (h, c))

        def gradient(d_hs: Any, d_h: Any, d_c: Any) -> Tensors:
            dz, d_h, d_c = _lstm_backward(
                product, kernel, peephole, (c, cs, gates), (d_hs, d_h, d_c)
            )
            before = _shifted(c, cs)
            dz_i, dz_f, _, dz_o = tf.split(dz, 4, axis=2)
            d_peephole = tf.stack(
                [
                    tf.reduce_sum(dz_i * before, (0, 1)),
                    tf.reduce_sum(dz_f * before, (0, 1)),
                    tf.reduce_sum(dz_o * cs, (0, 1)),
                ]
            )
            return dz, product.weight_gradient(_shifted(h, hs), dz), d_peephole, d_h, d_c

        return (hs, hs[-1], cs[-1]), gradient

    return run


def _lstm_forward(
    product: Product, x: Any, kernel: Any, peephole: Any, state: tuple[Any, Any]
) -> tuple[Any, Any, Any]:
    """H (time, lanes, units), c likewise and the gates i, f, g, o (time, lanes, 4 · units)."""
    steps = x.shape[0]
    weights = product.operand(kernel)

    def body(t: Any, h: Any, c: Any, hs: Any, cs: Any, gates: Any) -> Tensors:
        z_i, z_f, z_g, z_o = tf.split(x[t] + product(h, weights), 4, axis=1)
        if peephole is not None:
            z_i, z_f = z_i + peephole[0] * c, z_f + peephole[1] * c
        i, f, g = tf.sigmoid(z_i), tf.sigmoid(z_f), tf.tanh(z_g)
        c = f * c + i * g
        o = tf.sigmoid(z_o if peephole is None else z_o + peephole[2] * c)
        h = o * tf.tanh(c)
        gates = gates.write(t, tf.concat([i, f, g, o], axis=1))
        return t + 1, h, c, hs.write(t, h), cs.write(t, c), gates

    arrays = (
        _array(steps, state[0].shape),
        _array(steps, state[1].shape),
        _array(steps, x.shape[1:]),
    )
    _, _, _, *filled = tf.while_loop(lambda t, *_: t < steps, body, (0, *state, *arrays))
    hs, cs, gates = (array.stack() for array in filled)
    return hs, cs, gates


def _lstm_backward(
    product: Product, kernel: Any, peephole: Any, saved: Tensors, upstream: Tensors
) -> tuple[Any, Any, Any]:
    """Dz (time, lanes, 4 · units) and the gradients at the state before the first step."""
    c_0, cs, gates = saved
    d_hs, d_h, d_c = upstream
    steps = gates.shape[0]
    transposed = product.operand(tf.transpose(kernel))

    def body(left: Any, d_h: Any, d_c: Any, dzs: Any) -> Tensors:
        t = left - 1
        i, f, g, o = tf.split(gates[t], 4, axis=1)
        before = tf.where(t > 0, cs[tf.maximum(t - 1, 0)], c_0)
        tanh_c = tf.tanh(cs[t])
        d_h += d_hs[t]
        dz_o = d_h * tanh_c * o * (1.0 - o)
        d_c += d_h * o * (1.0 - tanh_c * tanh_c)
        if peephole is not None:
            d_c += dz_o * peephole[2]
        dz_i = d_c * g * i * (1.0 - i)
        dz_f = d_c * before * f * (1.0 - f)
        dz_g = d_c * i * (1.0 - g * g)
        d_c *= f
        if peephole is not None:
            d_c += dz_i * peephole[0] + dz_f * peephole[1]
        dz = tf.concat([dz_i, dz_f, dz_g, dz_o], axis=1)
        return t, product(dz, transposed), d_c, dzs.write(t, dz)

    _, d_h, d_c, dzs = tf.while_loop(
        lambda left, *_: left > 0, body, (steps, d_h, d_c, _array(steps, gates.shape[1:]))
    )
    return dzs.stack(), d_h, d_c


def _gru(product: Product) -> Any:
    @tf.custom_gradient
    def run(x: Any, kernel: Any, bias: Any, h: Any) -> tuple[Tensors, Any]:
        hs, gates, recurrent = _gru_forward(product, x, kernel, bias, h)

        def gradient(d_hs: Any, d_h: Any) -> Tensors:
            dx, du, d_h = _gru_backward(product, kernel, (h, hs, gates, recurrent), (d_hs, d_h))
            d_kernel = product.weight_gradient(_shifted(h, hs), du)
            return dx, d_kernel, tf.reduce_sum(du, (0, 1)), d_h

        return (hs, hs[-1]), gradient

    return run


def _gru_forward(product: Product, x: Any, kernel: Any, bias: Any, h: Any) -> tuple[Any, Any, Any]:
    """h, the gates z, r and the candidate (…, 3 · units), and h U_h + b'_h (…, units)."""
    steps = x.shape[0]
    weights = product.operand(kernel)

    def body(t: Any, h: Any, hs: Any, gates: Any, recurrents: Any) -> Tensors:
        x_z, x_r, x_h = tf.split(x[t], 3, axis=1)
        u_z, u_r, u_h = tf.split(product(h, weights) + bias, 3, axis=1)
        z, r = tf.sigmoid(x_z + u_z), tf.sigmoid(x_r + u_r)
        candidate = tf.tanh(x_h + r * u_h)
        h = z * h + (1.0 - z) * candidate
        gates = gates.write(t, tf.concat([z, r, candidate], axis=1))
        return t + 1, h, hs.write(t, h), gates, recurrents.write(t, u_h)

    arrays = (_array(steps, h.shape), _array(steps, x.shape[1:]), _array(steps, h.shape))
    _, _, *filled = tf.while_loop(lambda t, *_: t < steps, body, (0, h, *arrays))
    hs, gates, recurrents = (array.stack() for array in filled)
    return hs, gates, recurrents


def _gru_backward(
    product: Product, kernel: Any, saved: Tensors, upstream: Tensors
) -> tuple[Any, Any, Any]:
    """Gradients at x and at h U + b', each (time, lanes, 3 · units), and at the first h."""
    h_0, hs, gates, recurrent = saved
    d_hs, d_h = upstream
    steps = gates.shape[0]
    transposed = product.operand(tf.transpose(kernel))

    def body(left: Any, d_h: Any, dxs: Any, dus: Any) -> Tensors:
        t = left - 1
        z, r, candidate = tf.split(gates[t], 3, axis=1)
        before = tf.where(t > 0, hs[tf.maximum(t - 1, 0)], h_0)
        d_h += d_hs[t]
        dx_z = d_h * (before - candidate) * z * (1.0 - z)
        dx_h = d_h * (1.0 - z) * (1.0 - candidate * candidate)
        dx_r = dx_h * recurrent[t] * r * (1.0 - r)
        du = tf.concat([dx_z, dx_r, dx_h * r], axis=1)
        dxs = dxs.write(t, tf.concat([dx_z, dx_r, dx_h], axis=1))
        return t, d_h * z + product(du, transposed), dxs, dus.write(t, du)

    arrays = (_array(steps, gates.shape[1:]), _array(steps, gates.shape[1:]))
    _, d_h, dxs, dus = tf.while_loop(lambda left, *_: left > 0, body, (steps, d_h, *arrays))
    return dxs.stack(), dus.stack(), d_h


def _array(steps: int, shape: Any) -> Any:
    return tf.TensorArray(tf.float32, steps, element_shape=shape)


def _shifted(first: Any, sequence: Any) -> Any:
    """What each step began with: `first`, then the sequence but for its last."""
    return tf.concat([first[None], sequence[:-1]], axis=0)
