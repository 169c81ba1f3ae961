"""Kernels of the softmax over a row's logits, in float64, with the GIL released.

A vocabulary of at most `NARROW` tokens is computed in the order of token ids. A larger one is
computed by blocks and in lanes, which the compiler turns into vector instructions; its `exp` is
the polynomial of `_exp`.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from service.models.spec import FloatArray

NARROW = 512
"""Largest vocabulary whose sums are in the order of token ids; also the length of a block."""

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
_MAGIC = 1.5 * 2.0**52  # added to a float64, it leaves the rounded number in the lowest bits
_BIAS, _FRACTION_BITS = np.int64(1023), np.int64(52)
_LEAST = -708.0  # e to this power is the smallest that is not rounded to 0 here


@njit(nogil=True, inline="always", error_model="numpy")
def _exp(x):  # type: ignore[no-untyped-def]
    """Return e to the power of x for x <= 0, to 2 units in the last place; 0 below _LEAST.

    e^x = 2^n e^r with n the integer next to x / ln 2, and e^r by its Taylor series.
    """
    shifted = x * _LOG2_E + _MAGIC
    n = shifted - _MAGIC
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    y = 1.0 / 6227020800.0
    y = y * r + 1.0 / 479001600.0
    y = y * r + 1.0 / 39916800.0
    y = y * r + 1.0 / 3628800.0
    y = y * r + 1.0 / 362880.0
    y = y * r + 1.0 / 40320.0
    y = y * r + 1.0 / 5040.0
    y = y * r + 1.0 / 720.0
    y = y * r + 1.0 / 120.0
    y = y * r + 1.0 / 24.0
    y = y * r + 1.0 / 6.0
    y = y * r + 0.5
    y = y * r + 1.0
    y = y * r + 1.0
    bits = (np.float64(shifted).view(np.int64) + _BIAS) << _FRACTION_BITS
    return 0.0 if x < _LEAST else y * np.int64(bits).view(np.float64)


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
def maximum(scores):  # type: ignore[no-untyped-def]
    """The largest score as a float64; a NaN is passed over."""
    lanes = np.full(8, -np.inf)
    whole = len(scores) - len(scores) % 8
    for i in range(0, whole, 8):
        for k in range(8):
            lanes[k] = scores[i + k] if scores[i + k] > lanes[k] else lanes[k]  # noqa: FURB136 (not NaN)
    largest = -np.inf
    for lane in lanes:
        largest = max(largest, lane)
    for i in range(whole, len(scores)):
        if scores[i] > largest:
            largest = np.float64(scores[i])
    return largest


@njit(cache=True, nogil=True, error_model="numpy")
def exponentials(scores, largest, temperature, weights):  # type: ignore[no-untyped-def]
    """Write exp((scores - largest) / temperature) into weights; NaN if `largest` is not finite."""
    if len(scores) <= NARROW:
        for i in range(len(scores)):
            weights[i] = np.exp((np.float64(scores[i]) - largest) / temperature)
    elif temperature == 1.0:
        for i in range(len(scores)):
            weights[i] = _exp(np.float64(scores[i]) - largest)
    else:
        for i in range(len(scores)):
            weights[i] = _exp((np.float64(scores[i]) - largest) / temperature)


@njit(cache=True, nogil=True, error_model="numpy")
def total(weights):  # type: ignore[no-untyped-def]
    """The sum of the weights."""
    if len(weights) <= NARROW:
        return _sum(weights, 0, len(weights))
    so_far = 0.0
    for first in range(0, len(weights), NARROW):
        so_far += _sum_in_lanes(weights, first, min(first + NARROW, len(weights)))
    return so_far


@njit(cache=True, nogil=True, error_model="numpy")
def index_at(weights, threshold):  # type: ignore[no-untyped-def]
    """The first token at which the cumulative weight exceeds `threshold`, below `total(weights)`.

    If by rounding there is none, the last token that has a weight.
    """
    first, so_far = 0, 0.0
    while first + NARROW < len(weights):
        block = _sum_in_lanes(weights, first, first + NARROW)
        if so_far + block > threshold:
            break
        so_far += block
        first += NARROW
    last = -1
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
def _sum(weights, first, last):  # type: ignore[no-untyped-def]
    so_far = 0.0
    for i in range(first, last):
        so_far += weights[i]
    return so_far


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_in_lanes(weights, first, last):  # type: ignore[no-untyped-def]
    lanes = np.zeros(8)
    whole = last - (last - first) % 8
    for i in range(first, whole, 8):
        for k in range(8):
            lanes[k] += weights[i + k]
    return _sum(lanes, 0, 8) + _sum(weights, whole, last)
