"""A deterministic automaton, and how far each state is from an end.

A pattern's has no dead ends to be pruned: no part of it is one that the vocabulary cannot spell, so
every set of its instructions leads to an end.

An automaton may have exponentially many states, so whatever makes one has a budget: of states, of
instructions in their sets, and of instructions looked at. It is counted, not clocked: a pattern
that is refused is refused on every machine.

Source: the subset construction of Rabin & Scott, "Finite automata and their decision problems",
1959.
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
"""Instructions looked at, about a second."""

NOWHERE = -1
"""The distance of a state from which no end is reached."""


@dataclass(frozen=True, slots=True, eq=False)
class DFA:
    """States 0, 1, … of which 0 is the start; from each an end can be reached."""

    next_state: npt.NDArray[np.int32]  # (states, classes + 1); -1: no text goes on so
    distance: npt.NDArray[np.int32]  # (states,), characters to the nearest end; 0: may end here


def dfa_of(program: NFA) -> DFA:
    """The automaton of a program, which has at least one text.

    Raises:
        Validation: it would take more states or work than there may be.

    """
    n_classes = program.sets.shape[1]
    most = most_states(n_classes)
    next_state, accepting, outcome = determinize(
        program.takes, program.first, program.second, program.sets, most, MAX_WORK
    )
    if outcome == TOO_MANY_STATES:
        raise too_large(n_classes)
    if outcome == TOO_MUCH_WORK:
        raise Validation(
            f"the constraint takes more than {MAX_WORK} steps to compile, which is the limit; use "
            "smaller bounds of repetition or fewer alternatives"
        )
    distance = distances(next_state, accepting)
    assert (distance != NOWHERE).all(), "no part of a pattern is without a text"
    return DFA(next_state, distance)


def most_states(n_classes: int) -> int:
    """How many states an automaton over so many classes may have."""
    return min(MAX_STATES, MAX_TABLE_BYTES // (4 * n_classes))


def too_large(n_classes: int) -> Validation:
    """The refusal of what would take more states than that."""
    return Validation(
        f"the constraint needs an automaton of more than {most_states(n_classes)} states over "
        f"{n_classes} kinds of characters, which is the limit; use smaller bounds of repetition, "
        "fewer alternatives, shorter bad words or a smaller minimum of tokens"
    )


def check_size(n_states: int, n_classes: int) -> None:
    """See whether an automaton may have so many states. Raises Validation."""
    if n_states > most_states(n_classes):
        raise too_large(n_classes)


def distances(
    next_state: npt.NDArray[np.int32], accepting: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Moves from every state to the nearest accepting one, (states,) int32; -1 without a way."""
    sources, first = ways_to(next_state)
    distance = np.where(accepting, 0, NOWHERE).astype(np.int32)
    edge = np.flatnonzero(accepting)
    steps = 0
    while len(edge):
        steps += 1
        before = [sources[first[state] : first[state + 1]] for state in edge.tolist()]
        found = np.unique(np.concatenate(before))
        edge = found[distance[found] == NOWHERE]
        distance[edge] = steps
    return distance


def ways_to(
    next_state: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The states that moves to state i come from: sources[first[i] : first[i + 1]]."""
    sources, classes = np.nonzero(next_state != NOWHERE)
    targets = next_state[sources, classes]
    order = np.argsort(targets, kind="stable")
    first = np.searchsorted(targets[order], np.arange(len(next_state) + 1))
    return sources[order], first
