"""Compiled kernels that read the texts of all tokens from each state of an automaton.

The texts are in order, and each begins where it differs from the one before, as in a trie: what
both begin with is read once, and what follows an impossible beginning is never read.
"""

import numpy as np
from numba import njit

DONE, TOO_MUCH_WORK, COLLISION = range(3)

_DEAD = -1


@njit(cache=True, nogil=True)
def _read(next_state, state, texts, path, after):  # type: ignore[no-untyped-def]
    """Put the state after each text into `after`, and return the number of characters read."""
    codes, begins, shared, _ = texts
    path[0] = state
    n_read, n_possible = 0, 0  # characters of the text before that lead to a state
    for text in range(len(shared)):
        after[text] = _DEAD
        at = shared[text]
        if at > n_possible:
            continue
        begin, length = begins[text], begins[text + 1] - begins[text]
        while at < length:
            n_read += 1
            following = next_state[path[at], codes[begin + at]]
            if following == _DEAD:
                break
            at += 1
            path[at] = following
        n_possible = at
        if at == length:
            after[text] = path[at]
    return n_read


@njit(cache=True, nogil=True)
def _mixed(state, following):  # type: ignore[no-untyped-def]
    """Return a number that is another one for almost every pair: the finalizer of SplitMix64."""
    x = (np.uint64(state) << np.uint64(32)) + np.uint64(following) + np.uint64(1)
    x *= np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def reach(next_state, texts, first, has_first, max_work):  # type: ignore[no-untyped-def]
    """Find the states at the ends of tokens, and a signature of each unit.

    A unit is a text and what it is as the first token. `texts` and `first` are (codes, begins,
    shared, number): text i is codes[begins[i] : begins[i + 1]], classes of `next_state`; it has
    shared[i] characters in common with the text before; number[u] is the text of unit u. With
    `has_first`, the start is a state of its own, which reads the first texts.

    Returns the states in order of discovery, the number of each state or -1, the signatures
    (units,) uint64, which are equal if all moves of two units are equal and 0 if there are none,
    and DONE or TOO_MUCH_WORK.
    """
    n_states = len(next_state)
    order = np.zeros(n_states + 1, np.int32)
    number = np.full(n_states, _DEAD, np.int32)
    n_units = len(texts[3])
    signature = np.zeros(n_units, np.uint64)
    after = np.empty(max(len(texts[2]), len(first[2])), np.int32)
    path = np.empty(max(len(texts[0]), len(first[0])) + 1, np.int32)
    n, at, work = 1, 0, 0
    if not has_first:
        number[0] = 0
    while at < n:
        now = first if has_first and at == 0 else texts
        work += _read(next_state, order[at], now, path, after)
        work += n_units
        if work > max_work:
            return order[:0], number, signature, TOO_MUCH_WORK
        for unit in range(n_units):
            state = after[now[3][unit]]
            if state == _DEAD:
                continue
            if number[state] == _DEAD:
                number[state] = n
                order[n] = state
                n += 1
            signature[unit] += _mixed(at, number[state])
        at += 1
    return order[:n], number, signature, DONE


@njit(cache=True, nogil=True)
def tabulate(next_state, texts, first, has_first, found, unit_class, table):  # type: ignore[no-untyped-def]
    """Fill the table (states, classes) of the moves of each class of units; see `reach`.

    `found` is the states and their numbers.
    Returns DONE, or COLLISION if two units of a class have different moves.
    """
    order, number = found
    n_units = len(texts[3])
    after = np.empty(max(len(texts[2]), len(first[2])), np.int32)
    path = np.empty(max(len(texts[0]), len(first[0])) + 1, np.int32)
    moves = np.empty(n_units, np.int32)
    for at in range(len(order)):
        now = first if has_first and at == 0 else texts
        _read(next_state, order[at], now, path, after)
        for unit in range(n_units):
            state = after[now[3][unit]]
            moves[unit] = _DEAD if state == _DEAD else number[state]
            table[at, unit_class[unit]] = moves[unit]
        for unit in range(n_units):
            if table[at, unit_class[unit]] != moves[unit]:
                return COLLISION
        if table[at, 0] != _DEAD:
            return COLLISION
    return DONE
