"""What a constraint does to a row, read from its table without the interpreter.

A row knows its table by address: tables differ in size, and copying one for each row that has it
would make room for thousands of states in every row. Whoever passes an address keeps the table.
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
    """Where a token leads from a state, which is not DEAD; `classes` is where their rows begin."""
    return table[classes + state * table[1] + table[_HEADER + token]]


@njit(cache=True, nogil=True, error_model="numpy")
def mask(scores, address, size, state, remaining):  # type: ignore[no-untyped-def]
    """Let no token be chosen after which `remaining` - 1 more could not complete the text.

    scores is (vocabulary,) float64; a table's layout is said at `table_of`.
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
    """Whether the text is complete and cannot be once more within `remaining` tokens."""
    if state == _DEAD:
        return False
    table = carray(_pointer(address), (size,))
    distance = _HEADER + vocabulary
    return table[distance + state] == 0 and table[distance + table[0] + state] > remaining
