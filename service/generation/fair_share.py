"""Which owners' rows the next burst computes: start-time fair queueing of bursts. Pure.

P. Goyal, H. Vin and H. Cheng, "Start-time Fair Queuing" (SIGCOMM 1996): each owner has a start tag,
which grows with the cost of its bursts; the owner with the smallest tag is next, and its tag is the
virtual time. An owner that was idle goes on from a credit before the virtual time, as in K. Duda
and D. Cheriton, "Borrowed-virtual-time scheduling" (SOSP 1999): an owner that uses less than its
share is computed at once. The cost is in row-steps.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from service.generation.config import EngineConfig
from service.generation.sampling import MAX_STEPS


@dataclass(slots=True)
class _Account:
    """What one owner has had."""

    start: float = 0.0  # the start tag of its next burst, in row-steps
    rows: int = 0  # that run
    most_rows: int = 0  # since it last had none


class FairShare:
    """The owners of running rows, and what they have had. Not safe for several threads.

    Owners with about as many rows are computed together. What a burst of a lone owner calls takes
    constant time, the rest at most a time for each owner; nothing looks at each row.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._accounts: dict[str, _Account] = {}  # also of idle ones that are ahead
        self._virtual_time = 0.0
        self._n_active = 0
        self._bounded_until = 0.0
        self._tolerance = config.shared_row_steps + config.step_overhead_rows * MAX_STEPS

    @property
    def is_shared(self) -> bool:
        """Whether rows of several owners run."""
        return self._n_active > 1

    @property
    def is_bounded(self) -> bool:
        """Whether an owner with fewer rows was here lately, and may come again during a burst."""
        return self._virtual_time < self._bounded_until

    def rows_of(self, owner: str) -> int:
        """How many rows of an owner run."""
        account = self._accounts.get(owner)
        return 0 if account is None else account.rows

    def add(self, owner: str) -> None:
        """Note that one more row of an owner runs."""
        account = self._accounts.get(owner)
        if account is None:
            self._forget_idle()
            account = self._accounts[owner] = _Account()
        if account.rows == 0:
            self._n_active += 1
            credit = self._config.idle_credit_row_steps
            account.start = max(account.start, self._virtual_time - credit)
            account.most_rows = 0
        account.rows += 1
        account.most_rows = max(account.most_rows, account.rows)

    def remove(self, owner: str) -> None:
        """Note that one row of an owner fewer runs."""
        account = self._accounts[owner]
        account.rows -= 1
        if account.rows == 0:
            self._n_active -= 1
            if _size(account.most_rows) * 2 < max(one.rows for one in self._accounts.values()):
                self._bounded_until = self._virtual_time + self._config.shared_memory_row_steps

    def _forget_idle(self) -> None:
        """Drop the accounts of idle owners that have nothing to make up for."""
        if len(self._accounts) > 2 * self._n_active + 16:
            for owner, account in list(self._accounts.items()):
                if account.rows == 0 and account.start <= self._virtual_time:
                    del self._accounts[owner]

    def choose(self) -> tuple[AbstractSet[str], bool]:
        """Return the owners whose rows are next, and whether one with fewer rows waits meanwhile.

        The owner with the smallest start tag leads. Those that are at most a burst ahead of it and
        have about as many rows come along: one pass over the weights serves them together.
        """
        active = {owner: one for owner, one in self._accounts.items() if one.rows}
        leader = min(active.values(), key=lambda one: (one.start, one.rows))
        self._virtual_time = max(self._virtual_time, leader.start)
        limit, size = leader.start + self._tolerance, _size(leader.rows)
        chosen = {
            owner
            for owner, one in active.items()
            if one.start <= limit and size <= 2 * _size(one.rows) <= 4 * size
        }
        has_lighter = any(
            one.rows < leader.rows for owner, one in active.items() if owner not in chosen
        )
        return chosen, has_lighter

    def charge(self, rows: Mapping[str, int], steps: int) -> None:
        """Count a burst in which each owner had so many rows."""
        overhead = self._config.step_overhead_rows / len(rows)
        for owner, n in rows.items():
            self._accounts[owner].start += steps * (n + overhead)

    def charge_lone(self, owner: str, rows: int, steps: int) -> None:
        """Count a burst of the only owner."""
        account = self._accounts[owner]
        self._virtual_time = max(self._virtual_time, account.start)
        account.start += steps * (rows + self._config.step_overhead_rows)


def _size(rows: int) -> int:
    """Rows as far as the time of a step depends on them: that of one is mostly overhead."""
    return max(rows, 2)
