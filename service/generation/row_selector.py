"""Which rows the next burst computes, and for how many steps. Pure."""

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from service.generation.config import EngineConfig
from service.generation.fair_share import FairShare
from service.generation.row import TableRow
from service.generation.sampling import MAX_STEPS


class RowSelector:
    """Selects the rows of each burst: all that run, unless several owners share the engine.

    While an owner with fewer rows waits, or may come again, a burst has only a part of the rows of
    the others, by turns: what comes meanwhile waits for a millisecond or two. Not safe for several
    threads.
    """

    def __init__(self, share: FairShare, config: EngineConfig) -> None:
        """`share` is told by the caller which rows run."""
        self._share, self._config = share, config
        self._owners: AbstractSet[str] | None = None  # of the next burst; None: everybody
        self.is_bounded = False  # whether an owner with fewer rows waits, or may come again
        self._turn = 0  # counts the bursts of a part of the rows

    def swaps(self, rows: Sequence[TableRow], n_running: int) -> list[tuple[int, int]]:
        """Choose the next owners; return the exchanges that bring their rows together.

        The smaller of the two groups goes to the front, so that few rows are exchanged, and none
        when the others are next.
        """
        self._owners, self.is_bounded = None, self._share.is_bounded
        if not self._share.is_shared:
            return []
        owners, has_lighter = self._share.choose()
        self._owners, self.is_bounded = owners, self.is_bounded or has_lighter
        first, last = self._range(n_running)
        n_front, is_front = (last, True) if first == 0 else (first, False)
        is_in_front = [(row.owner in owners) == is_front for row in rows[:n_running]]
        behind = (i for i in range(n_front, n_running) if is_in_front[i])
        return [(i, next(behind)) for i in range(n_front) if not is_in_front[i]]

    def bursts_ahead(self) -> int:
        """Return how many bursts may wait for the event loop.

        It is one while an owner with fewer rows waits or may come again: each more delays its
        requests, wherever they are, by the time that the results of others take.
        """
        return 1 if self.is_bounded else self._config.bursts_ahead

    def select(self, rows: Sequence[TableRow], n_running: int) -> tuple[int, int, int]:
        """Return the range of rows of the next burst, and its steps; count them for the owners."""
        first, last = self._range(n_running)
        max_row_steps = self._config.max_row_steps
        if self.is_bounded and last - first > self._config.shared_rows // 2:
            first, last = self._next_part(rows, first, last)
            max_row_steps = min(self._config.shared_row_steps, max_row_steps)
        selected = rows[first:last]
        steps = burst_steps(selected, max_row_steps)
        if self._owners is None:
            self._share.charge_lone(rows[0].owner, last - first, steps)
        else:
            self._share.charge(Counter(row.owner for row in selected), steps)
        return first, last, steps

    def _range(self, n_running: int) -> tuple[int, int]:
        """Return the range of the chosen owners' rows, when they have been brought together."""
        if self._owners is None:
            return 0, n_running
        n = sum(map(self._share.rows_of, self._owners))
        return (0, n) if 2 * n <= n_running else (n_running - n, n_running)

    def _next_part(self, rows: Sequence[TableRow], first: int, last: int) -> tuple[int, int]:
        """Return the part of a range that has waited longest, so that each of its rows gets on."""
        n = min(last - first, self._config.shared_rows)
        oldest = min(range(first, last), key=lambda i: rows[i].turn)
        first = min(oldest, last - n)
        self._turn += 1
        for row in rows[first : first + n]:
            row.turn = self._turn
        return first, first + n


def burst_steps(rows: Sequence[TableRow], max_row_steps: int) -> int:
    """Return the number of steps of the next burst.

    A lone stream gets its first token after one step, then longer and longer bursts; n rows
    take n steps even if one of them waits for its first token, because each plan costs time
    for every row.
    """
    max_steps = max(1, min(MAX_STEPS, max_row_steps // len(rows)))
    min_steps = min(max_steps, len(rows))
    steps = max(min_steps, min(max_steps, *(row.steps_to_first_token for row in rows)))
    return min(steps, max(row.steps_left for row in rows))
