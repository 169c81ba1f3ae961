"""Kernels of the softmax over a row's logits, in float64, with the GIL released.

A vocabulary of at most `NARROW` tokens is computed in the order of token ids. A larger one is
computed by blocks, with the polynomial of `_exp`. The loops for its maximum and its exponentials
have no branches, so that the compiler uses vector instructions (`test_softmax.py` reads them).
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from service.models.spec import FloatArray

NARROW = 512
"""Largest vocabulary whose sums are in the order of token ids; also the length of a block."""

_LOG2_E = 1.4426950408889634
_MAGIC = 1.5 * 2.0**52  # added to a float64, it leaves the rounded number in the lowest bits
_LEAST = _MAGIC - 1021.0  # 2 to this power is the smallest that is not rounded to 0 here
_FRACTION_BITS = np.int64(52)
_SIGN_BIT, _ALL_BUT_SIGN = np.int32(31), np.int32(2**31 - 1)
_LARGEST_FACTOR = 1e300


@njit(nogil=True, inline="always", error_model="numpy")
def _exp(x, factor):  # type: ignore[no-untyped-def]
    """Return 2 to the power of x * factor, at most 0; 0 below -1021.

    2^t = 2^n 2^f with n the integer next to t, and 2^f by the polynomial of degree 10 that is 1
    at 0 and has the least relative error for |f| <= 1/2, 3e-16. The rounding of `factor` and of
    t adds about |t| times 1e-16.
    """
    shifted = x * factor + _MAGIC
    f = x * factor - (shifted - _MAGIC)
    y = 7.111758687557852e-09
    y = y * f + 1.0210506458816145e-07
    y = y * f + 1.321523563477604e-06
    y = y * f + 1.525264774769592e-05
    y = y * f + 1.5403530800818256e-04
    y = y * f + 1.333355824648072e-03
    y = y * f + 9.618129107380715e-03
    y = y * f + 5.550410866434658e-02
    y = y * f + 2.4022650695910472e-01
    y = y * f + 6.931471805599516e-01
    y = y * f + 1.0
    bits = np.float64(y).view(np.int64) + (np.float64(shifted).view(np.int64) << _FRACTION_BITS)
    return 0.0 if shifted < _LEAST else np.int64(bits).view(np.float64)


def logsumexp(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Log Σ exp of each row's logits, (rows,); NaN if they are not finite numbers."""
    weights = np.empty(logits.shape[1])
    return np.array([_logsumexp(row, weights) for row in logits])


@njit(cache=True, nogil=True, error_model="numpy")
def _logsumexp(logits, weights):  # type: ignore[no-untyped-def]
    largest = maximum(logits)
    exponentials(logits, largest, 1.0, weights)
    return largest + np.log(total(weights))


@njit(cache=True, nogil=True, error_model="numpy")
def maximum(logits):  # type: ignore[no-untyped-def]
    """The largest of float32 logits as a float64. A NaN makes it NaN, or is passed over.

    Compares them as integers of the same order, which the compiler does in vectors.
    """
    bits, largest = logits.view(np.int32), np.int32(-(2**31))
    for i in range(len(bits)):
        largest = max(largest, bits[i] ^ ((bits[i] >> _SIGN_BIT) & _ALL_BUT_SIGN))
    largest ^= (largest >> _SIGN_BIT) & _ALL_BUT_SIGN
    return np.float64(np.int32(largest).view(np.float32))


@njit(cache=True, nogil=True, error_model="numpy")
def exponentials(scores, largest, temperature, weights):  # type: ignore[no-untyped-def]
    """Write exp((scores - largest) / temperature) into weights; NaN if `largest` is not finite."""
    if len(scores) <= NARROW:
        for i in range(len(scores)):
            weights[i] = np.exp((np.float64(scores[i]) - largest) / temperature)
    else:
        _wide_exponentials(scores, largest, min(1.0 / temperature, _LARGEST_FACTOR), weights)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _wide_exponentials(scores, largest, factor, weights):  # type: ignore[no-untyped-def]
    factor *= _LOG2_E
    for i in range(len(scores)):
        weights[i] = _exp(np.float64(scores[i]) - largest, factor)


@njit(cache=True, nogil=True, error_model="numpy")
def n_blocks(vocabulary):  # type: ignore[no-untyped-def]
    """How many blocks a vocabulary has."""
    return (vocabulary + NARROW - 1) // NARROW


@njit(cache=True, nogil=True, error_model="numpy")
def sum_block(weights, sums, block):  # type: ignore[no-untyped-def]
    """Write the sum of a block's weights into `sums`."""
    if len(weights) <= NARROW:
        sums[0] = _sum(weights)
    else:
        sums[block] = _sum_of_block(weights[block * NARROW : (block + 1) * NARROW])


@njit(cache=True, nogil=True, error_model="numpy")
def sum_blocks(weights, sums):  # type: ignore[no-untyped-def]
    """Write the sum of each block's weights into `sums`, (blocks,); return the sum of all."""
    for block in range(len(sums)):
        sum_block(weights, sums, block)
    return _sum(sums)


@njit(cache=True, nogil=True, error_model="numpy")
def total(weights):  # type: ignore[no-untyped-def]
    """The sum of the weights."""
    return sum_blocks(weights, np.empty(n_blocks(len(weights))))


@njit(cache=True, nogil=True, error_model="numpy")
def index_at(weights, sums, share):  # type: ignore[no-untyped-def]
    """The first token whose cumulative weight exceeds `share`, below 1, of the sum of all.

    `sums` are those of `sum_blocks`. If by rounding there is none, it is the last with a weight.
    """
    threshold, so_far, block = share * _sum(sums), 0.0, 0
    while block + 1 < len(sums) and so_far + sums[block] <= threshold:
        so_far += sums[block]
        block += 1
    first, last = block * NARROW, -1
    for i in range(first, len(weights)):
        if weights[i] > 0.0:
            so_far += weights[i]
            last = i
            if so_far > threshold:
                return last
    while last < 0:
        first -= 1
        if weights[first] > 0.0:
            last = first
    return last


@njit(cache=True, nogil=True, error_model="numpy")
def _sum(weights):  # type: ignore[no-untyped-def]
    so_far = 0.0
    for weight in weights:
        so_far += weight
    return so_far


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_of_block(weights):  # type: ignore[no-untyped-def]
    """The sum of at most NARROW weights: of 8 interleaved sums."""
    a = b = c = d = e = f = g = h = 0.0
    n_whole = len(weights) // 8
    for k in range(n_whole):
        i = 8 * k
        a += weights[i]
        b += weights[i + 1]
        c += weights[i + 2]
        d += weights[i + 3]
        e += weights[i + 4]
        f += weights[i + 5]
        g += weights[i + 6]
        h += weights[i + 7]
    rest = _sum(weights[8 * n_whole :])
    return (((a + b) + (c + d)) + ((e + f) + (g + h))) + rest
