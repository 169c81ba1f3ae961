"""Deterministic automata, and the distance of each state from the nearest end.

The automaton of a pattern has no dead ends: the vocabulary can spell every part of the pattern, so
an end can be reached from every set of instructions.

A DFA can be exponentially larger than its NFA, so the number of states, the size of the table and
the number of instructions visited are limited. Nothing is limited by time: a pattern that is
refused on one machine is refused on every machine.

Source: Rabin & Scott, "Finite automata and their decision problems", 1959.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.constraints.nfa import NFA
from service.constraints.subset_construction import TOO_MANY_STATES, TOO_MUCH_WORK, determinize
from service.errors import Validation

MAX_STATES = 32_768
MAX_TABLE_BYTES = 16 * 1024 * 1024
MAX_WORK = 50_000_000
"""The largest number of instructions visited: about a second."""

NOWHERE = -1
"""The distance of a state from which no end can be reached."""


@dataclass(frozen=True, slots=True, eq=False)
class DFA:
    """States 0, 1, …; 0 is the start, and from each an end can be reached."""

    next_state: npt.NDArray[np.int32]  # (states, classes + 1); -1: no text continues so
    distance: npt.NDArray[np.int32]  # (states,), characters to the nearest end; 0: accepting


def dfa_of(nfa: NFA) -> DFA:
    """Convert an NFA that accepts a text. Raises Validation beyond the limits."""
    n_classes = nfa.sets.shape[1]
    most = most_states(n_classes)
    next_state, accepting, outcome = determinize(
        nfa.takes, nfa.first, nfa.second, nfa.sets, most, MAX_WORK
    )
    if outcome == TOO_MANY_STATES:
        raise too_large(n_classes)
    if outcome == TOO_MUCH_WORK:
        raise Validation(
            f"the constraint takes more than {MAX_WORK} steps to compile, which is the limit; use "
            "smaller bounds of repetition or fewer alternatives"
        )
    distance = distances(next_state, accepting)
    assert (distance != NOWHERE).all(), "every part of a pattern has a text"
    return DFA(next_state, distance)


def most_states(n_classes: int) -> int:
    """Return the largest number of states of an automaton over some classes."""
    return min(MAX_STATES, MAX_TABLE_BYTES // (4 * n_classes))


def too_large(n_classes: int) -> Validation:
    """Return the error for an automaton of more states than that."""
    return Validation(
        f"the constraint needs an automaton of more than {most_states(n_classes)} states over "
        f"{n_classes} kinds of characters, which is the limit; use smaller bounds of repetition, "
        "fewer alternatives, shorter bad words or a smaller minimum of tokens"
    )


def distances(
    next_state: npt.NDArray[np.int32], accepting: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Return the moves from each state to the nearest accepting one, (states,) int32, or -1."""
    sources, first = predecessors(next_state)
    distance = np.where(accepting, 0, NOWHERE).astype(np.int32)
    frontier = np.flatnonzero(accepting)
    steps = 0
    while len(frontier):
        steps += 1
        before = [sources[first[state] : first[state + 1]] for state in frontier.tolist()]
        found = np.unique(np.concatenate(before))
        frontier = found[distance[found] == NOWHERE]
        distance[frontier] = steps
    return distance


def predecessors(
    next_state: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the predecessors of each state i as sources[first[i] : first[i + 1]]."""
    sources, classes = np.nonzero(next_state != NOWHERE)
    targets = next_state[sources, classes]
    order = np.argsort(targets, kind="stable")
    first = np.searchsorted(targets[order], np.arange(len(next_state) + 1))
    return sources[order], first
