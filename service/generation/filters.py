"""Kernels of the sampling filters: top-k, top-p, min-p and typical-p, with the GIL released.

Each applies to the tokens that the one before has kept. Ties go to the smaller token id.
"""

import numpy as np
from numba import njit

from service.generation.softmax import NARROW, total

CALLED_KERNELS = "a40a8da92405c090"
"""Hash of the kernels that this file calls; `sampling.py` says why."""

_BUCKETS, _BUCKET_BITS = 2_048, 11
_INFINITY = np.float64(np.inf).view(np.int64)
_FIRST_SHIFT = 52  # of a positive float64's bits: its exponent remains


@njit(cache=True, nogil=True, error_model="numpy")
def apply_filters(weights, params):  # type: ignore[no-untyped-def]
    """Set the weights to zero that the filters exclude. The largest weight is 1."""
    if len(weights) <= NARROW:
        _filter_sorted(weights, params)
    else:
        _filter_selected(weights, params)


@njit(cache=True, nogil=True, error_model="numpy")
def _filter_sorted(weights, params):  # type: ignore[no-untyped-def]
    """Apply the filters to all tokens, sorted by weight."""
    order = np.argsort(-weights, kind="mergesort")
    kept = len(order)
    if params.top_k > 0:
        kept = min(kept, params.top_k)
    if params.top_p < 1.0:
        kept = _nucleus_size(weights, order, kept, params.top_p)
    if params.min_p > 0.0:
        least, k = params.min_p * weights[order[0]], 1
        while k < kept and weights[order[k]] >= least:
            k += 1
        kept = k
    if params.typical_p < 1.0:
        order = _by_typicality(weights, order[:kept])
        kept = _nucleus_size(weights, order, len(order), params.typical_p)
    for k in range(kept):
        weights[order[k]] = -weights[order[k]]
    for i in range(len(weights)):
        weights[i] = -weights[i] if weights[i] < 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _filter_selected(weights, params):  # type: ignore[no-untyped-def]
    """Apply the filters by selection, which sorts only the tokens next to the last one kept."""
    bits = weights.view(np.int64)
    if 0 < params.top_k < len(weights):
        _keep_first(weights, bits, params.top_k, np.inf)
    if params.top_p < 1.0:
        _keep_first(weights, bits, len(weights), params.top_p * total(weights))
    if params.min_p > 0.0:
        for i in range(len(weights)):
            weights[i] = weights[i] if weights[i] >= params.min_p else 0.0
    if params.typical_p < 1.0:
        whole = total(weights)
        nearness = -_distances(weights, whole).view(np.int64)
        _keep_first(weights, nearness + _INFINITY, len(weights), params.typical_p * whole)


@njit(cache=True, nogil=True, error_model="numpy")
def _keep_first(weights, keys, n, mass):  # type: ignore[no-untyped-def]
    """Keep the weights of the largest keys: n of them, or fewer if they add up to `mass`.

    The others become zero. A key is from 0 to 2**63 - 1. A radix selection from the highest bits:
    each of two passes counts the keys that agree with the last one kept in the bits above.
    """
    counts, masses = np.empty(_BUCKETS, np.int64), np.empty(_BUCKETS)
    count, so_far, prefix, shift = 0, 0.0, np.int64(0), np.int64(_FIRST_SHIFT)
    for _ in range(2):
        counts[:], masses[:] = 0, 0.0
        above = shift + _BUCKET_BITS
        for i in range(len(weights)):
            if keys[i] >> above == prefix:
                bucket = (keys[i] >> shift) & (_BUCKETS - 1)
                counts[bucket] += weights[i] > 0.0
                masses[bucket] += weights[i]
        last = -1
        for bucket in range(_BUCKETS - 1, -1, -1):
            if counts[bucket] > 0:
                last = bucket
                if count + counts[bucket] >= n or so_far + masses[bucket] >= mass:
                    break
                count += counts[bucket]
                so_far += masses[bucket]
        if last < 0:
            return
        if not (count + counts[last] >= n or so_far + masses[last] >= mass):
            count -= counts[last]  # by rounding; the last one kept is in the lowest bucket
            so_far -= masses[last]
        prefix = (prefix << _BUCKET_BITS) | last
        shift -= _BUCKET_BITS
    shift += _BUCKET_BITS
    near = np.flatnonzero((keys >> shift == prefix) & (weights > 0.0))
    near = near[np.argsort(-keys[near], kind="mergesort")]
    kept = 0
    while kept < len(near) and count < n and so_far < mass:
        count += 1
        so_far += weights[near[kept]]
        kept += 1
    for i in range(len(weights)):
        weights[i] = weights[i] if keys[i] >> shift >= prefix else 0.0
    for token in near[kept:]:
        weights[token] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _distances(weights, whole):  # type: ignore[no-untyped-def]
    """The distance of each token's surprisal from the entropy; infinite without a weight."""
    surprisal = np.full(len(weights), np.inf)
    entropy = 0.0
    for i in range(len(weights)):
        if weights[i] > 0.0:
            surprisal[i] = -np.log(weights[i] / whole)
            entropy += weights[i] / whole * surprisal[i]
    return np.abs(surprisal - entropy)


@njit(cache=True, nogil=True, error_model="numpy")
def _nucleus_size(weights, order, kept, share):  # type: ignore[no-untyped-def]
    """How many of the first `kept` in `order` together have `share` of their total weight."""
    whole = 0.0
    for k in range(kept):
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
