"""Short bursts, computed by the event loop: they cost no change of threads."""

import math
import threading
from collections.abc import Callable, Sequence

from service.generation.plan import Plan, Progress
from service.generation.scheduler import Scheduler
from service.generation.table import SlotTable

BLOCK = 8
"""Rows whose step is measured: a step of n rows takes no longer than those of n / BLOCK blocks."""


class LoopBurst:
    """Computes a burst where it is asked for, if it is short and the engine's thread waits.

    Two changes of threads take longer than such a burst. What takes longer as a whole is the
    thread's from its second burst on. `begin` is of the event loop, the rest of the thread. Who
    calls holds the condition.
    """

    def __init__(
        self, condition: threading.Condition, scheduler: Scheduler, limit_s: float
    ) -> None:
        """`limit_s` is how long the event loop may be held."""
        self._condition, self._scheduler, self._limit_s = condition, scheduler, limit_s
        self._step_s = self._block_step_s = math.inf  # the shortest of one row, and of a block
        self._planned: Plan | None = None
        self._is_thread_waiting = False

    def warm_up(self, table: SlotTable) -> None:
        """Have everything compiled before the first request, and measured."""
        for rows in sorted({1, min(BLOCK, table.capacity)}):
            self._note(rows, table.warm_up(rows))

    def begin(
        self, compute: Callable[[Plan], Sequence[Progress]] | None
    ) -> tuple[Sequence[Progress], bool]:
        """Compute what is to be done and return its results, or wake the thread for it.

        Returns also whether to call again, in another pass of the event loop. None: it may not be
        computed here. Raises as `compute`.
        """
        updates: Sequence[Progress] = ()
        if compute is not None and self._is_thread_waiting:
            plan = self._planned = self._planned or self._scheduler.plan()
            if plan is None:
                return updates, False
            if self._is_short(plan, plan.steps):
                self._planned = None
                updates = compute(plan)
                self._planned = rest = self._scheduler.plan()  # frees the rows of what has ended
                if rest is None:
                    return updates, False
                if self._is_short(rest, self._scheduler.steps_left()):
                    return updates, True
        self._condition.notify()
        return updates, False

    def _is_short(self, plan: Plan, steps: int) -> bool:
        rows = plan.rows - plan.first
        step_s = min(rows * self._step_s, -(-rows // BLOCK) * self._block_step_s)
        return not rows or steps * step_s <= self._limit_s

    def measured(self, plan: Plan, took_s: float, *, is_threaded: bool) -> None:
        """Note how long a burst took; that of one thread tells what others will take."""
        rows = plan.rows - plan.first
        if plan.steps and (rows == 1 or not is_threaded):
            self._note(rows, took_s / plan.steps)

    def _note(self, rows: int, step_s: float) -> None:
        if rows == 1:
            self._step_s = min(self._step_s, step_s)
        elif rows >= BLOCK:
            self._block_step_s = min(self._block_step_s, step_s / -(-rows // BLOCK))

    def next_plan(self) -> Plan | None:
        """Return the thread's next burst: one that was planned and not computed, or a new one."""
        plan, self._planned = self._planned, None
        return plan or self._scheduler.plan()

    def wait(self, timeout_s: float | None) -> None:
        """Let the thread wait until there may be work."""
        self._is_thread_waiting = True
        self._condition.wait(timeout_s)
        self._is_thread_waiting = False
