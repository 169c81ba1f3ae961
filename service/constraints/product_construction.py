"""The product construction as a compiled kernel: each reachable pair of states is a state."""

import numpy as np
from numba import njit

_EMPTY = -1


@njit(cache=True, nogil=True)
def _place(p, q, pairs, slots):  # type: ignore[no-untyped-def]
    """Return the slot of a pair in the hash table, or the one to insert it at. -1 is empty."""
    code = np.uint64(p) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(q)
    code *= np.uint64(0xBF58476D1CE4E5B9)
    at = np.int64((code ^ (code >> np.uint64(32))) & np.uint64(len(slots) - 1))
    while slots[at] != _EMPTY and (pairs[slots[at], 0] != p or pairs[slots[at], 1] != q):
        at = (at + 1) & (len(slots) - 1)
    return at


@njit(cache=True, nogil=True)
def pair(a, b, a_class, b_class, most):  # type: ignore[no-untyped-def]
    """Number the pairs of states that two automata reach together, at most `most` of them.

    a and b are (states, classes) int32, with -1 for no state; a_class and b_class, (classes,), map
    a common class to a class of each. Returns next_state (states, classes) int32, the pairs
    (states, 2) int32, and whether these are all pairs. State 0 is the start.
    """
    n_classes = len(a_class)
    n_slots = 1
    while n_slots < 4 * most:
        n_slots *= 2
    slots = np.full(n_slots, _EMPTY, np.int32)
    pairs = np.zeros((64, 2), np.int32)
    next_state = np.full((64, n_classes), _EMPTY, np.int32)
    slots[_place(0, 0, pairs, slots)] = 0
    n_states, state = 1, 0
    while state < n_states:
        for k in range(n_classes):
            p, q = a[pairs[state, 0], a_class[k]], b[pairs[state, 1], b_class[k]]
            if min(p, q) == _EMPTY:
                continue
            at = _place(p, q, pairs, slots)
            if slots[at] == _EMPTY:
                if n_states == most:
                    return next_state[:0], pairs[:0], False
                if n_states == len(pairs):
                    longer = np.zeros((2 * n_states, 2), np.int32)
                    longer[:n_states] = pairs
                    pairs = longer
                    wider = np.full((2 * n_states, n_classes), _EMPTY, np.int32)
                    wider[:n_states] = next_state
                    next_state = wider
                pairs[n_states, 0], pairs[n_states, 1] = p, q
                slots[at] = n_states
                n_states += 1
            next_state[state, k] = slots[at]
        state += 1
    return next_state[:n_states], pairs[:n_states], True
