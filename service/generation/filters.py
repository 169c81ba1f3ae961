"""Kernels of the sampling filters: top-k, top-p, min-p and typical-p, with the GIL released.

Each applies to the tokens that the one before has kept. Ties go to the smaller token id.
"""

import numpy as np
from numba import njit

from service.generation.softmax import NARROW, total

CALLED_KERNELS = "d39575b4cb14be06"
"""Hash of the kernels that this file calls; `sampling.py` says why."""

_EXPONENTS = 1_024  # of a float64 in [0, 1]
_ONE_EXPONENT, _FRACTION_BITS = np.int64(1023), np.int64(52)
_MARGIN = 1.0 + 1e-9  # of a mass, more than sums in another order differ


@njit(cache=True, nogil=True, error_model="numpy")
def apply_filters(weights, params):  # type: ignore[no-untyped-def]
    """Set the weights to zero that the filters exclude. The largest weight is 1."""
    order = _ranking(weights, params)
    kept = len(order)
    if params.top_k > 0:
        kept = min(kept, params.top_k)
    if params.top_p < 1.0:
        whole = total(weights) if kept < len(weights) and params.top_k == 0 else 0.0
        kept = _nucleus_size(weights, order, kept, params.top_p, whole)
    if params.min_p > 0.0:
        least, k = params.min_p * weights[order[0]], 1
        while k < kept and weights[order[k]] >= least:
            k += 1
        kept = k
    if params.typical_p < 1.0:
        order = _by_typicality(weights, order[:kept])
        kept = _nucleus_size(weights, order, len(order), params.typical_p, 0.0)
    for k in range(kept):
        weights[order[k]] = -weights[order[k]]
    for i in range(len(weights)):
        weights[i] = -weights[i] if weights[i] < 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _ranking(weights, params):  # type: ignore[no-untyped-def]
    """The tokens by falling weight: all, or of a wide vocabulary those that may be kept."""
    is_cut = params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0
    if len(weights) <= NARROW or not is_cut:
        return np.argsort(-weights, kind="mergesort")
    bits = weights.view(np.int64)
    exponent = _least_exponent(weights, bits, params)
    n = 0
    for i in range(len(weights)):
        n += bits[i] >> _FRACTION_BITS >= exponent
    tokens = np.empty(n, np.int64)
    k = 0
    for i in range(len(weights)):
        if bits[i] >> _FRACTION_BITS >= exponent:
            tokens[k] = i
            k += 1
    return tokens[np.argsort(-weights[tokens], kind="mergesort")]


@njit(cache=True, nogil=True, error_model="numpy")
def _least_exponent(weights, bits, params):  # type: ignore[no-untyped-def]
    """The binary exponent, as it is stored, of the smallest weight that may be kept."""
    counts, masses = np.zeros(_EXPONENTS, np.int64), np.zeros(_EXPONENTS)
    for i in range(len(weights)):
        exponent = bits[i] >> _FRACTION_BITS
        counts[exponent] += 1
        masses[exponent] += weights[i]
    mass = params.top_p * masses.sum() * _MARGIN
    count, so_far = 0, 0.0
    for exponent in range(_ONE_EXPONENT, 0, -1):
        count += counts[exponent]
        so_far += masses[exponent]
        if params.top_k > 0:
            is_enough = count >= params.top_k
        else:
            is_enough = params.top_p < 1.0 and so_far >= mass
        if is_enough or np.ldexp(1.0, exponent - _ONE_EXPONENT) < params.min_p:
            return exponent
    return 0


@njit(cache=True, nogil=True, error_model="numpy")
def _nucleus_size(weights, order, kept, share, whole):  # type: ignore[no-untyped-def]
    """How many of the first `kept` in `order` together have `share` of a total weight.

    The total is `whole`; if that is 0, the weight of these `kept`.
    """
    for k in range(0 if whole > 0.0 else kept):
        whole += weights[order[k]]
    cumulative = 0.0
    for k in range(kept):
        cumulative += weights[order[k]]
        if cumulative >= share * whole:
            return k + 1
    return kept


@njit(cache=True, nogil=True, error_model="numpy")
def _by_typicality(weights, order):  # type: ignore[no-untyped-def]
    """`order` sorted by the distance of each token's surprisal from the entropy."""
    whole = 0.0
    for i in order:
        whole += weights[i]
    entropy = 0.0
    for i in order:
        if weights[i] > 0.0:
            entropy -= weights[i] / whole * np.log(weights[i] / whole)
    distance = np.empty(len(order))
    for k in range(len(order)):
        w = weights[order[k]]
        distance[k] = abs(-np.log(w / whole) - entropy) if w > 0.0 else np.inf
    return order[np.argsort(distance, kind="mergesort")]
