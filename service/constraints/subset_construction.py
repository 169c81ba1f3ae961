"""The subset construction as a compiled kernel: each set of instructions is a state."""

import numpy as np
from numba import njit

DONE, TOO_MANY_STATES, TOO_MUCH_WORK = range(3)

_ACCEPT, _SPLIT = -2, -1  # as in nfa.py
_EMPTY = -1


@njit(cache=True, nogil=True)
def _close(takes, first, second, start, marks, mark, stack, found, n):  # type: ignore[no-untyped-def]
    """Append to the n entries of `found` the instructions reached from one without a character.

    Those marked with `mark` are in it already. Returns the new n and the number visited.
    """
    stack[0] = start
    top, looked = 1, 0
    while top > 0:
        top -= 1
        at = stack[top]
        if marks[at] == mark:
            continue
        marks[at] = mark
        looked += 1
        if takes[at] == _SPLIT:
            stack[top] = at + second[at]
            stack[top + 1] = at + first[at]
            top += 2
        else:
            found[n] = at
            n += 1
    return n, looked


@njit(cache=True, nogil=True)
def _place(found, n, pool, begins, slots):  # type: ignore[no-untyped-def]
    """Return the slot of a set in the hash table, or the one to insert it at. -1 is empty."""
    code = np.uint64(14695981039346656037)
    for i in range(n):
        code = (code ^ np.uint64(found[i])) * np.uint64(1099511628211)
    at = np.int64((code ^ (code >> np.uint64(32))) & np.uint64(len(slots) - 1))
    while slots[at] != _EMPTY:
        begin = begins[slots[at]]
        if begins[slots[at] + 1] - begin == n:
            same = True
            for i in range(n):
                if pool[begin + i] != found[i]:
                    same = False
                    break
            if same:
                break
        at = (at + 1) & (len(slots) - 1)
    return at


@njit(cache=True, nogil=True)
def determinize(takes, first, second, sets, most, max_work):  # type: ignore[no-untyped-def]
    """Number the reachable sets of an NFA's instructions, at most `most` of them.

    Arguments are as in `NFA`. Returns next_state (states, classes + 1) int32 with -1 for no state,
    accepting (states,) bool, and DONE or the limit that is exceeded. State 0 is the start.
    """
    size = len(takes)
    n_classes = sets.shape[1]
    marks = np.zeros(size, np.int64)
    stack = np.empty(2 * size + 2, np.int32)
    found = np.empty(size, np.int32)
    n_slots = 1
    while n_slots < 4 * most:
        n_slots *= 2
    slots = np.full(n_slots, _EMPTY, np.int32)
    pool = np.empty(max(1024, 2 * size), np.int32)  # the sets of all states, one after another
    begins = np.zeros(most + 2, np.int64)
    next_state = np.full((64, n_classes), _EMPTY, np.int32)
    n, work = _close(takes, first, second, 0, marks, 1, stack, found, 0)
    found[:n].sort()
    pool[:n] = found[:n]
    begins[1] = n
    slots[_place(found, n, pool, begins, slots)] = 0
    n_states, mark, state = 1, 1, 0
    while state < n_states:
        for k in range(1, n_classes):
            mark += 1
            n = 0
            for i in range(begins[state], begins[state + 1]):
                at = pool[i]
                if takes[at] >= 0 and sets[takes[at], k]:
                    n, looked = _close(takes, first, second, at + 1, marks, mark, stack, found, n)
                    work += looked
            work += begins[state + 1] - begins[state]
            if work > max_work:
                return next_state[:0], np.zeros(0, np.bool_), TOO_MUCH_WORK
            if n == 0:
                continue
            found[:n].sort()
            at = _place(found, n, pool, begins, slots)
            if slots[at] == _EMPTY:
                if n_states == most:
                    return next_state[:0], np.zeros(0, np.bool_), TOO_MANY_STATES
                if n_states == len(next_state):
                    wider = np.full((2 * n_states, n_classes), _EMPTY, np.int32)
                    wider[:n_states] = next_state
                    next_state = wider
                begin = begins[n_states]
                if begin + n > len(pool):
                    longer = np.empty(2 * (begin + n), np.int32)
                    longer[:begin] = pool[:begin]
                    pool = longer
                pool[begin : begin + n] = found[:n]
                begins[n_states + 1] = begin + n
                slots[at] = n_states
                n_states += 1
            next_state[state, k] = slots[at]
        state += 1
    accepting = np.zeros(n_states, np.bool_)
    for state in range(n_states):
        for i in range(begins[state], begins[state + 1]):
            if takes[pool[i]] == _ACCEPT:
                accepting[state] = True
    return next_state[:n_states], accepting, DONE
