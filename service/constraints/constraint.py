"""A compiled constraint: tables that the sampler reads with the GIL released.

A constraint belongs to one generation. Its state is a number that depends only on the generated
tokens, so it is computed from them and never stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from service.constraints.spec import ConstraintKind, ConstraintSpec
from service.errors import Validation

START = 0
DEAD = -1
"""The state after a token with which no matching text continues."""

NEVER = 2**31 - 1
"""A distance larger than any limit of tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Constraint:
    """A deterministic automaton over a model's tokens; from each state an end can be reached.

    A token of class 0 is never sampled: it is special, or in no text that matches.
    """

    token_class: npt.NDArray[np.int32]  # (vocabulary,)
    next_state: npt.NDArray[np.int32]  # (states, classes); DEAD: no text continues so
    distance: npt.NDArray[np.int32]  # (states,), tokens to the nearest end; 0: complete
    spec: ConstraintSpec | None = None  # the spec that it is compiled from
    end_ids: tuple[int, ...] = ()  # tokens that end a text; their classes have no other tokens
    distance_after_next: npt.NDArray[np.int32] = field(init=False)  # (states,), tokens to the
    # nearest end after at least one more token with a text; NEVER if none can follow
    table: npt.NDArray[np.int32] = field(init=False)  # all arrays in one; see `table_of`

    def __post_init__(self) -> None:
        following = self.distance[self.next_state]
        following = np.where(self.next_state == DEAD, NEVER - 1, following)
        following[:, self.token_class[list(self.end_ids)]] = NEVER - 1
        nearest = following.min(axis=1) + 1
        object.__setattr__(self, "distance_after_next", nearest.astype(np.int32))
        object.__setattr__(self, "table", table_of(self))

    @property
    def shortest(self) -> int:
        """The number of tokens of the shortest text that matches."""
        return int(self.distance[START])

    @property
    def size_bytes(self) -> int:
        """The size of all arrays."""
        arrays = (self.token_class, self.next_state, self.distance, self.distance_after_next)
        return sum(array.nbytes for array in arrays) + self.table.nbytes

    @property
    def is_endless(self) -> bool:
        """Whether it only bans tokens and words, and texts end by `max_new_tokens`."""
        return self.spec is not None and self.spec.kind is ConstraintKind.ANY

    def check_fits(self, max_new_tokens: int) -> None:
        """Raise Validation if the shortest matching text has more than `max_new_tokens` tokens."""
        if self.shortest > max_new_tokens:
            raise Validation(
                f"max_new_tokens is {max_new_tokens}, and the shortest text that matches the "
                f"constraint has {self.shortest} tokens; ask for at least that many"
            )

    def state_after(self, tokens: Iterable[int], state: int = START) -> int:
        """Return the state after some tokens; DEAD if no matching text begins with them."""
        for token in tokens:
            if state == DEAD:
                break
            state = int(self.next_state[state, self.token_class[token]])
        return state

    def after(self, tokens: Iterable[int]) -> "Constraint":
        """Return the constraint to what may follow the tokens of a valid prefix; milliseconds."""
        state = self.state_after(tokens)
        assert state != DEAD
        rows = np.arange(len(self.distance))
        rows[[START, state]] = state, START
        names = np.append(rows, DEAD)  # a swap is its own inverse; DEAD indexes the last one
        following = names[self.next_state[rows]].astype(np.int32)
        return Constraint(self.token_class, following, self.distance[rows], self.spec, self.end_ids)

    def is_over(self, state: int, remaining: int) -> bool:
        """Whether the text is complete and no longer one is within `remaining` tokens.

        If `remaining` is 0: whether no longer text matches at all.
        """
        if state == DEAD or self.distance[state] > 0:
            return False
        nearest = self.distance_after_next[state]
        return bool(nearest > remaining if remaining else nearest == NEVER)

    def allowed(self, state: int, remaining: int) -> npt.NDArray[np.bool_]:
        """Return which tokens may follow so that `remaining` tokens, it included, are enough.

        Shape: (vocabulary,) bool. Some token is allowed until the text is over, if `remaining` is
        at least `shortest` at START.
        """
        following = self.next_state[state]
        is_open = (following != DEAD) & (self.distance[following] < remaining)
        allowed: npt.NDArray[np.bool_] = is_open[self.token_class]
        return allowed

    def endings(
        self, state: int, remaining: int
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return after which tokens the text is complete, and after which of these it is over.

        Shape: (vocabulary,) bool each. `remaining` counts the token, as in `allowed`.
        """
        following = self.next_state[state]
        nearest = self.distance_after_next[following]
        is_complete = (following != DEAD) & (self.distance[following] == 0)
        if self.is_endless:
            is_complete &= nearest == NEVER  # only a token that ends a text completes one
        is_over = is_complete & (nearest > remaining - 1)
        return is_complete[self.token_class], is_over[self.token_class]


def table_of(constraint: Constraint) -> npt.NDArray[np.int32]:
    """Return a constraint as one array, (2 + vocabulary + 2 * states + states * classes,) int32.

    In order: the number of states, that of classes, each token's class, each state's distance and
    distance_after_next, and the next states row by row.
    """
    return np.concatenate(
        [
            np.array(constraint.next_state.shape, np.int32),
            constraint.token_class,
            constraint.distance,
            constraint.distance_after_next,
            constraint.next_state.ravel(),
        ]
    )
