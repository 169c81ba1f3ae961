"""The three recurrences over a window of time, each with its gradient written out.

Autodiff would keep every intermediate, and would add to the gradient of the recurrent kernel once
a time step. Here the backward loop yields only dz, the gradient at the gates' inputs; a weight's
gradient is then one matrix product over all lanes and steps.

What enters a product over all steps is (features, time, lanes): a step's product is then
kernelᵀ @ h, and a weight's gradient reads both its factors row by row. What is only kept for the
way back is (time, features, lanes), a page for each step.

The equations are those of `service.models.reference`, with tanh and sigmoid, and `reset_after` for
the GRU.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from service.models.spec import Cell
from service.training.matmul import MatMul, transposed

Tensors = tuple[Any, ...]


def recurrence(cell: Cell, product: MatMul, *inputs: Any) -> Tensors:
    """Run one cell over a window, differentiably. Only in functions that XLA compiles.

    `inputs` are x Wᵀ + b, (gates · units, time, lanes); the recurrent kernel (units, gates ·
    units); for a peephole LSTM the peepholes (3, units), for a GRU the recurrent bias
    (3 · units,); and the state before the first step: h and, for the LSTMs, c, each (units,
    lanes). Returns every h, (units, time, lanes), and the state after the last step.
    """
    makers = {Cell.LSTM: _lstm, Cell.PEEPHOLE_LSTM: _peephole_lstm, Cell.GRU: _gru}
    outputs: Tensors = makers[cell](product)(*inputs)
    return outputs


def _lstm(product: MatMul) -> Any:
    @tf.custom_gradient
    def run(x: Any, kernel: Any, h: Any, c: Any) -> tuple[Tensors, Any]:
        hs, cs, gates, last = _lstm_forward(product, x, kernel, None, (h, c))

        def gradient(*upstream: Any) -> Tensors:
            dz, d_h, d_c = _lstm_backward(product, kernel, None, (c, cs, gates), upstream)
            d_kernel = product.over_columns(_shifted(h, hs), dz)
            return dz, d_kernel, d_h, d_c

        return (hs, *last), gradient

    return run


def _peephole_lstm(product: MatMul) -> Any:
    @tf.custom_gradient
    def run(x: Any, kernel: Any, peephole: Any, h: Any, c: Any) -> tuple[Tensors, Any]:
        hs, cs, gates, last = _lstm_forward(product, x, kernel, peephole, (h, c))

        def gradient(*upstream: Any) -> Tensors:
            dz, d_h, d_c = _lstm_backward(product, kernel, peephole, (c, cs, gates), upstream)
            d_kernel = product.over_columns(_shifted(h, hs), dz)
            dz_i, dz_f, _, dz_o = tf.split(dz, 4)
            after = tf.transpose(cs, (1, 0, 2))
            before = _shifted(c, after)
            seen = (dz_i * before, dz_f * before, dz_o * after)
            d_peephole = tf.stack([tf.reduce_sum(x, (1, 2)) for x in seen])
            return dz, d_kernel, d_peephole, d_h, d_c

        return (hs, *last), gradient

    return run


def _lstm_forward(
    product: MatMul, x: Any, kernel: Any, peephole: Any, state: Tensors
) -> tuple[Any, Any, Any, Tensors]:
    """h, and as pages c and the gates i, f, g, o; then the state after the last step."""
    weights = product.operand(transposed(kernel))
    p_i, p_f, p_o = _peepholes(peephole)

    def body(t: Any, h: Any, c: Any, hs: Any, cs: Any, gates: Any) -> Tensors:
        z_i, z_f, z_g, z_o = tf.split(x[:, t] + product(weights, h), 4)
        i, f, g = tf.sigmoid(p_i(z_i, c)), tf.sigmoid(p_f(z_f, c)), tf.tanh(z_g)
        c = f * c + i * g
        o = tf.sigmoid(p_o(z_o, c))
        h = o * tf.tanh(c)
        gates = _with_page(gates, t, tf.concat([i, f, g, o], 0))
        return t + 1, h, c, _with_column(hs, t, h), _with_page(cs, t, c), gates

    steps = x.shape[1]
    h, c = state
    room = (_columns_like(h, steps), _pages_like(c, steps), _pages_like(x[:, 0], steps))
    _, h, c, hs, cs, gates = tf.while_loop(lambda t, *_: t < steps, body, (0, h, c, *room))
    return hs, cs, gates, (h, c)


def _lstm_backward(
    product: MatMul, kernel: Any, peephole: Any, saved: Tensors, upstream: Tensors
) -> tuple[Any, Any, Any]:
    """Dz (4 · units, time, lanes) and the gradients at the state before the first step."""
    c_0, cs, gates = saved
    d_hs, d_h, d_c = upstream
    weights = product.operand(kernel)
    p_i, p_f, p_o = _peepholes(peephole)

    def body(left: Any, d_h: Any, d_c: Any, dzs: Any) -> Tensors:
        t = left - 1
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
        return t, product(weights, dz), d_c, _with_column(dzs, t, dz)

    steps = gates.shape[0]
    dzs = _columns_like(gates[0], steps)
    _, d_h, d_c, dz = tf.while_loop(lambda left, *_: left > 0, body, (steps, d_h, d_c, dzs))
    return dz, d_h, d_c


def _gru(product: MatMul) -> Any:
    @tf.custom_gradient
    def run(x: Any, kernel: Any, bias: Any, h: Any) -> tuple[Tensors, Any]:
        hs, gates, recurrent, last = _gru_forward(product, x, kernel, bias, h)

        def gradient(*upstream: Any) -> Tensors:
            dx, du, d_h = _gru_backward(product, kernel, (h, hs, gates, recurrent), upstream)
            d_kernel = product.over_columns(_shifted(h, hs), du)
            return dx, d_kernel, tf.reduce_sum(du, (1, 2)), d_h

        return (hs, last), gradient

    return run


def _gru_forward(
    product: MatMul, x: Any, kernel: Any, bias: Any, h: Any
) -> tuple[Any, Any, Any, Any]:
    """h, and as pages the gates z, r and the candidate, and h U_h + b'_h; then the last h."""
    weights = product.operand(transposed(kernel))

    def body(t: Any, h: Any, hs: Any, gates: Any, recurrents: Any) -> Tensors:
        x_z, x_r, x_h = tf.split(x[:, t], 3)
        u_z, u_r, u_h = tf.split(product(weights, h) + bias[:, None], 3)
        z, r = tf.sigmoid(x_z + u_z), tf.sigmoid(x_r + u_r)
        candidate = tf.tanh(x_h + r * u_h)
        h = z * h + (1.0 - z) * candidate
        gates = _with_page(gates, t, tf.concat([z, r, candidate], 0))
        return t + 1, h, _with_column(hs, t, h), gates, _with_page(recurrents, t, u_h)

    steps = x.shape[1]
    room = (_columns_like(h, steps), _pages_like(x[:, 0], steps), _pages_like(h, steps))
    _, h, hs, gates, recurrents = tf.while_loop(lambda t, *_: t < steps, body, (0, h, *room))
    return hs, gates, recurrents, h


def _gru_backward(
    product: MatMul, kernel: Any, saved: Tensors, upstream: Tensors
) -> tuple[Any, Any, Any]:
    """Gradients at x and at h U + b', each (3 · units, time, lanes), and at the first h."""
    h_0, hs, gates, recurrent = saved
    d_hs, d_h = upstream
    weights = product.operand(kernel)

    def body(left: Any, d_h: Any, dxs: Any, dus: Any) -> Tensors:
        t = left - 1
        z, r, candidate = tf.split(gates[t], 3)
        before = tf.where(t > 0, hs[:, tf.maximum(t - 1, 0)], h_0)
        d_h += d_hs[:, t]
        dx_z = d_h * (before - candidate) * z * (1.0 - z)
        dx_h = d_h * (1.0 - z) * (1.0 - candidate * candidate)
        dx_r = dx_h * recurrent[t] * r * (1.0 - r)
        du = tf.concat([dx_z, dx_r, dx_h * r], 0)
        dx = tf.concat([dx_z, dx_r, dx_h], 0)
        return t, d_h * z + product(weights, du), _with_column(dxs, t, dx), _with_column(dus, t, du)

    steps = gates.shape[0]
    dxs, dus = _columns_like(gates[0], steps), _columns_like(gates[-1], steps)
    _, d_h, dx, du = tf.while_loop(lambda left, *_: left > 0, body, (steps, d_h, dxs, dus))
    return dx, du, d_h


def _columns_like(step: Any, steps: int) -> Any:
    """Room for a (features, lanes) at every step: (features, steps, lanes).

    What it holds before is never read. It is no constant only because XLA shares equal constants
    between arrays, and then copies them.
    """
    features, lanes = step.shape
    return tf.fill((features, steps, lanes), step[0, 0])


def _pages_like(step: Any, steps: int) -> Any:
    """As `_columns_like`, but (steps, features, lanes)."""
    return tf.fill((steps, *step.shape), step[0, 0])


def _with_column(array: Any, t: Any, column: Any) -> Any:
    """The array with one step written: in place, once it is compiled."""
    return xla.dynamic_update_slice(array, column[:, None], [0, t, 0])


def _with_page(array: Any, t: Any, page: Any) -> Any:
    return xla.dynamic_update_slice(array, page[None], [t, 0, 0])


def _shifted(first: Any, sequence: Any) -> Any:
    """What each step began with: `first`, then the sequence but for its last."""
    return tf.concat([first[:, None], sequence[:, :-1]], axis=1)


def _peepholes(weights: Any) -> tuple[Callable[[Any, Any], Any], ...]:
    """For each gate, what adds the peephole's share of a second value to a first."""
    if weights is None:
        return (lambda z, _: z,) * 3
    p_i, p_f, p_o = tf.unstack(weights[:, :, None])
    return (lambda z, c: z + p_i * c, lambda z, c: z + p_f * c, lambda z, c: z + p_o * c)
