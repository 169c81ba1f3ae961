"""The gradient of the LSTM with peepholes."""

from typing import Any

import tensorflow as tf

from service.training.cells.lstm import backward, forward
from service.training.matmul import MatMul
from service.training.recurrence import Recurrence, Tensors, shifted


def _make(product: MatMul) -> Any:
    @tf.custom_gradient
    def run(x: Any, kernel: Any, peephole: Any, h: Any, c: Any) -> tuple[Tensors, Any]:
        hs, cs, gates, last = forward(product, x, kernel, peephole, (h, c))

        def gradient(*upstream: Any) -> Tensors:
            dz, d_h, d_c = backward(product, kernel, peephole, (c, cs, gates), upstream)
            d_kernel = product.over_columns(shifted(h, hs), dz)
            dz_i, dz_f, _, dz_o = tf.split(dz, 4)
            after = tf.transpose(cs, (1, 0, 2))
            before = shifted(c, after)
            terms = (dz_i * before, dz_f * before, dz_o * after)
            d_peephole = tf.stack([tf.reduce_sum(x, (1, 2)) for x in terms])
            return dz, d_kernel, d_peephole, d_h, d_c

        return (hs, *last), gradient

    return run


RECURRENCE = Recurrence(_make, ("peephole",))
