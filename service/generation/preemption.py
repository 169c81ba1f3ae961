"""Preemption: which rows of a full table give way to generations that wait. Pure."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from service.generation.config import EngineConfig
from service.generation.fair_queue import FairQueue
from service.generation.plan import Key


class Preemptible(Protocol):
    """A row of the table, as far as its preemption depends on it."""

    @property
    def owner(self) -> str:
        """The owner of its generation."""

    @property
    def slice_steps(self) -> int:
        """The steps since its generation got the row."""


def rows_to_preempt(
    rows: Sequence[Preemptible], n_running: int, queue: FairQueue[Key], config: EngineConfig
) -> list[int]:
    """Return the rows that give way, in descending order; none if all that wait find a free row.

    Paused rows give way first, which take no steps, then running ones that have had a whole time
    slice, those with the most steps first. If an owner that waits has less than an equal share of
    the table, rows of owners with more give way even before the end of their slices.
    """
    n_wanted = len(queue) - (config.max_rows - len(rows))
    if n_wanted <= 0:
        return []
    by_steps = sorted(range(n_running), key=lambda i: rows[i].slice_steps, reverse=True)
    spent = [i for i in by_steps if rows[i].slice_steps >= config.slice_steps]
    chosen = [*range(n_running, len(rows)), *spent][:n_wanted]
    chosen += _over_share(rows, by_steps, set(chosen), queue, config.max_rows)
    return sorted(chosen, reverse=True)


def _over_share(
    rows: Sequence[Preemptible],
    by_steps: Sequence[int],
    chosen: set[int],
    queue: FairQueue[Key],
    max_rows: int,
) -> list[int]:
    """Return the rows that owners with too many give to owners that wait with too few."""
    counts = Counter(row.owner for i, row in enumerate(rows) if i not in chosen)
    share = max_rows // len({*counts, *queue.owners})
    missing = sum(
        min(queue.waiting_of(owner), max(0, share - counts[owner])) for owner in queue.owners
    )
    missing -= max_rows - len(rows) + len(chosen)
    if missing <= 0:
        return []
    surplus = {owner: n - share for owner, n in counts.items() if n > share}
    found = []
    for i in by_steps:
        if i not in chosen and surplus.get(rows[i].owner, 0) > 0:
            surplus[rows[i].owner] -= 1
            found.append(i)
    return list(islice(found, missing))
