"""Short bursts, computed by the event loop: they cost no change of threads."""

import math
import threading
from collections.abc import Callable, Sequence

from service.generation.config import EngineConfig
from service.generation.plan import Plan, Progress

BLOCK = 8
"""Rows whose step is measured: a step of n rows takes no longer than those of n / BLOCK blocks."""


class LoopBurst:
    """Computes a burst where it is asked for, if it is short and the engine's thread waits.

    Two changes of threads take longer than such a burst. What takes longer as a whole is the
    thread's from its second burst on. `begin` is of the event loop, the rest of the thread. Who
    calls holds the condition.
    """

    def __init__(
        self,
        condition: threading.Condition,
        plan: Callable[[], Plan | None],
        steps_left: Callable[[], int],
        config: EngineConfig,
    ) -> None:
        """`steps_left` returns those of the generation that has most; `config` has the limit."""
        self._condition, self._plan, self._steps_left = condition, plan, steps_left
        self._limit_s = config.loop_burst_s
        self._step_s = self._block_step_s = math.inf  # the shortest of one row, and of a block
        self._planned: Plan | None = None
        self._is_thread_waiting = False

    def begin(
        self, compute: Callable[[Plan], Sequence[Progress]], *, is_allowed: bool
    ) -> tuple[Sequence[Progress], bool]:
        """Compute what is to be done and return its results, or wake the thread for it.

        Returns also whether to call again, in another pass of the event loop. Raises as `compute`.
        """
        updates: Sequence[Progress] = ()
        if is_allowed and self._is_thread_waiting:
            if self._planned is None:
                self._planned = self._plan()
            plan = self._planned
            if plan is None:
                return updates, False
            if self._is_short(plan, plan.steps):
                self._planned = None
                updates = compute(plan)
                self._planned = rest = self._plan()  # which frees the rows of what has ended
                if rest is None:
                    return updates, False
                if self._is_short(rest, self._steps_left()):
                    return updates, True
        self._condition.notify()
        return updates, False

    def _is_short(self, plan: Plan, steps: int) -> bool:
        rows = plan.rows - plan.first
        step_s = min(rows * self._step_s, -(-rows // BLOCK) * self._block_step_s)
        return not rows or steps * step_s <= self._limit_s

    def measured(self, rows: int, steps: int, took_s: float) -> None:
        """Note how long one thread took for a burst, by which others are estimated."""
        if rows == 1 and steps:
            self._step_s = min(self._step_s, took_s / steps)
        elif rows >= BLOCK and steps:
            self._block_step_s = min(self._block_step_s, took_s / steps / -(-rows // BLOCK))

    def take(self) -> Plan | None:
        """Return a burst that was planned and not computed, once."""
        plan, self._planned = self._planned, None
        return plan

    def wait(self, timeout_s: float | None) -> None:
        """Let the thread wait until there may be work."""
        self._is_thread_waiting = True
        self._condition.wait(timeout_s)
        self._is_thread_waiting = False
