"""What a generation must look like, as tables that a sampler reads without the interpreter.

A constraint belongs to one turn. Its state is a small number, a function of the turn's tokens
alone: whoever has those has the state.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from service.constraints.spec import ConstraintKind, ConstraintSpec
from service.errors import Validation

START = 0
DEAD = -1
"""The state after a token that no matching text has."""

NEVER = 2**31 - 1
"""More tokens than any limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Constraint:
    """An automaton over a model's tokens, all of whose states can still reach an end.

    A token of class 0 is never drawn: the pattern has it nowhere, or no text is made of it.
    """

    token_class: npt.NDArray[np.int32]  # (vocabulary,)
    next_state: npt.NDArray[np.int32]  # (states, classes); DEAD where no text goes on so
    distance: npt.NDArray[np.int32]  # (states,), tokens to the nearest end; 0: complete
    source: ConstraintSpec | None = None  # what it was compiled from
    further: npt.NDArray[np.int32] = field(init=False)  # (states,), the same to the nearest end
    # after one more token; NEVER where none can follow
    table: npt.NDArray[np.int32] = field(init=False)  # all of it in one piece; see `table_of`

    def __post_init__(self) -> None:
        following = self.distance[self.next_state]
        further = np.where(self.next_state == DEAD, NEVER - 1, following).min(axis=1) + 1
        object.__setattr__(self, "further", further.astype(np.int32))
        object.__setattr__(self, "table", table_of(self))

    @property
    def shortest(self) -> int:
        """Tokens of the shortest text that matches."""
        return int(self.distance[START])

    @property
    def size_bytes(self) -> int:
        """What it holds in memory."""
        arrays = (self.token_class, self.next_state, self.distance, self.further, self.table)
        return sum(array.nbytes for array in arrays)

    @property
    def is_endless(self) -> bool:
        """Whether it says what a text is made of, and nothing of where one ends."""
        return self.source is not None and self.source.kind is ConstraintKind.ANY

    def check_fits(self, max_new_tokens: int) -> None:
        """See whether a text that matches can be complete within so many tokens.

        Raises:
            Validation: it cannot.

        """
        if self.shortest > max_new_tokens:
            raise Validation(
                f"max_new_tokens is {max_new_tokens}, and the shortest text that matches the "
                f"constraint has {self.shortest} tokens; ask for at least that many"
            )

    def state_after(self, tokens: Iterable[int], state: int = START) -> int:
        """The state that tokens lead to; DEAD where no matching text begins with them."""
        for token in tokens:
            if state == DEAD:
                break
            state = int(self.next_state[state, self.token_class[token]])
        return state

    def after(self, tokens: Iterable[int]) -> "Constraint":
        """What may follow these tokens, which a matching text begins with: all but START is kept.

        Takes as long as copying it: milliseconds.
        """
        state = self.state_after(tokens)
        assert state != DEAD
        rows = np.arange(len(self.distance))
        rows[[START, state]] = state, START
        names = np.append(rows, DEAD)  # a swap undoes itself, and DEAD is the last one's index
        following = names[self.next_state[rows]].astype(np.int32)
        return Constraint(self.token_class, following, self.distance[rows], self.source)

    def is_over(self, state: int, remaining: int) -> bool:
        """Whether the text is complete and cannot be once more within `remaining` tokens.

        Without any left, whether nothing could follow it at all.
        """
        if state == DEAD or self.distance[state] > 0:
            return False
        return bool(self.further[state] > remaining if remaining else self.further[state] == NEVER)

    def allowed(self, state: int, remaining: int) -> npt.NDArray[np.bool_]:
        """Which tokens may come next so that `remaining` tokens, it included, are enough.

        Shape: (vocabulary,) bool. From START with `shortest` tokens or more it is never empty,
        until the text is over.
        """
        following = self.next_state[state]
        is_open = (following != DEAD) & (self.distance[following] < remaining)
        allowed: npt.NDArray[np.bool_] = is_open[self.token_class]
        return allowed

    def endings(
        self, state: int, remaining: int
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """After which tokens the text is complete, and after which of these it is over.

        Shape: (vocabulary,) bool each. `remaining` counts the token, as in `allowed`.
        """
        following = self.next_state[state]
        is_complete = (following != DEAD) & (self.distance[following] == 0) & (not self.is_endless)
        is_over = is_complete & (self.further[following] > remaining - 1)
        return is_complete[self.token_class], is_over[self.token_class]


def table_of(constraint: Constraint) -> npt.NDArray[np.int32]:
    """A constraint in one piece: (2 + vocabulary + 2 * states + states * classes,) int32.

    In order: the number of states, that of classes, each token's class, each state's distance,
    how much further each goes, and the next states row by row.
    """
    return np.concatenate(
        [
            np.array(constraint.next_state.shape, np.int32),
            constraint.token_class,
            constraint.distance,
            constraint.further,
            constraint.next_state.ravel(),
        ]
    )
