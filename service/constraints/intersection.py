"""The intersection of constraints: what both allow, without dead ends.

Source: the product of Rabin & Scott, "Finite automata and their decision problems", 1959.
"""

import numpy as np
import numpy.typing as npt

from service.constraints.constraint import DEAD, START, Constraint
from service.constraints.dfa import NOWHERE, distances, most_states, predecessors, too_large
from service.constraints.product_construction import pair


def intersect(a: Constraint, b: Constraint) -> Constraint | None:
    """Return the constraint to texts that match both, if any. Raises Validation if too large."""
    n_b = b.next_state.shape[1]
    codes = a.token_class.astype(np.int64) * n_b + b.token_class
    codes[(a.token_class == 0) | (b.token_class == 0)] = 0  # never sampled
    codes, token_class = np.unique(np.append(0, codes), return_inverse=True)
    limit = most_states(len(codes))
    next_state, pairs, is_all = pair(a.next_state, b.next_state, codes // n_b, codes % n_b, limit)
    if not is_all:
        raise too_large(len(codes))
    is_accepting = (a.distance[pairs[:, 0]] == 0) & (b.distance[pairs[:, 1]] == 0)
    distance = distances(next_state, is_accepting)
    return pruned(token_class[1:].astype(np.int32), next_state, distance, distance != NOWHERE)


def min_length_constraint(n: int, vocabulary_size: int) -> Constraint:
    """Return the constraint to texts of `n` tokens or more. Raises Validation if too large."""
    if n + 1 > most_states(2):
        raise too_large(2)
    next_state = np.full((n + 1, 2), DEAD, np.int32)
    next_state[:, 1] = np.minimum(np.arange(1, n + 2), n)
    distance = np.arange(n, -1, -1, dtype=np.int32)
    return Constraint(np.ones(vocabulary_size, np.int32), next_state, distance)


def remove_dead_ends(constraint: Constraint) -> Constraint | None:
    """Remove the states from which only finitely many texts continue; None if START is among them.

    In all states of the constraint a text may end.
    """
    next_state = constraint.next_state
    sources, first = predecessors(next_state)
    out_degree = np.bincount(sources, minlength=len(next_state))  # of each state
    is_stuck = out_degree == 0
    frontier = np.flatnonzero(is_stuck)
    while len(frontier):
        before = np.concatenate([sources[first[state] : first[state + 1]] for state in frontier])
        np.subtract.at(out_degree, before, 1)
        frontier = np.unique(before)
        frontier = frontier[(out_degree[frontier] == 0) & ~is_stuck[frontier]]
        is_stuck[frontier] = True
    return pruned(constraint.token_class, next_state, constraint.distance, ~is_stuck)


def pruned(
    token_class: npt.NDArray[np.int32],
    next_state: npt.NDArray[np.int32],
    distance: npt.NDArray[np.int32],
    is_kept: npt.NDArray[np.bool_],
) -> Constraint | None:
    """Return a constraint of some states, in their order; None if START is not kept."""
    if not is_kept[START]:
        return None
    new_index = np.where(is_kept, np.cumsum(is_kept) - 1, DEAD).astype(np.int32)
    new_index = np.append(new_index, np.int32(DEAD))  # DEAD indexes the last one
    return Constraint(token_class, new_index[next_state[is_kept]], distance[is_kept])
