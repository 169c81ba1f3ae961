"""Kernels that apply a constraint's table to a row's scores, with the GIL released.

A row has the address of its table, because tables differ in size and a copy in every row would need
memory for thousands of states. The caller keeps the table in memory.
"""

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

_DEAD = -1  # as `service.constraints.constraint` has it
_HEADER = 2


@intrinsic
def _pointer(_, address):  # type: ignore[no-untyped-def]
    """An address as a pointer to int32."""
    pointer = types.CPointer(types.int32)

    def generate(context, builder, _, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address), generate


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _next_state(table, classes, token, state):  # type: ignore[no-untyped-def]
    """The state after a token; `state` is not DEAD, and `classes` is the offset of the rows."""
    return table[classes + state * table[1] + table[_HEADER + token]]


@njit(cache=True, nogil=True, error_model="numpy")
def mask(scores, address, size, state, remaining):  # type: ignore[no-untyped-def]
    """Exclude every token after which `remaining` - 1 more cannot complete the text.

    `scores` is (vocabulary,) float64. `table_of` documents the layout of a table.
    """
    table = carray(_pointer(address), (size,))
    distance = _HEADER + len(scores)
    rows = distance + 2 * table[0]
    for token in range(len(scores)):
        following = _DEAD
        if state != _DEAD:
            following = _next_state(table, rows, token, state)
        if following == _DEAD or table[distance + following] >= remaining:
            scores[token] = -np.inf


@njit(cache=True, nogil=True, error_model="numpy")
def follow(address, size, vocabulary, state, token):  # type: ignore[no-untyped-def]
    """Return the state after a token."""
    if state == _DEAD:
        return _DEAD
    table = carray(_pointer(address), (size,))
    return _next_state(table, _HEADER + vocabulary + 2 * table[0], token, state)


@njit(cache=True, nogil=True, error_model="numpy")
def is_over(address, size, vocabulary, state, remaining):  # type: ignore[no-untyped-def]
    """Whether the text is complete and no longer complete text fits into `remaining` tokens."""
    if state == _DEAD:
        return False
    table = carray(_pointer(address), (size,))
    distance = _HEADER + vocabulary
    return table[distance + state] == 0 and table[distance + table[0] + state] > remaining
