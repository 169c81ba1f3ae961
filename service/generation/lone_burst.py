"""The burst of a lone short request, computed by the event loop: it costs no change of threads."""

import math
import threading
from collections.abc import Callable, Sequence

from service.generation.config import EngineConfig
from service.generation.plan import Plan, Progress


class LoneBurst:
    """Computes a burst where it is asked for, if it is short and the engine's thread waits.

    Two changes of threads take longer than such a burst. `begin` is of the event loop, the rest of
    the thread. Who calls holds the condition.
    """

    def __init__(
        self,
        condition: threading.Condition,
        plan: Callable[[], Plan | None],
        config: EngineConfig,
    ) -> None:
        """`config` has how long the event loop may be held."""
        self._condition, self._plan = condition, plan
        self._limit_s, self._step_s = config.lone_burst_s, math.inf  # the shortest step of one row
        self._planned: Plan | None = None
        self._is_thread_waiting = False

    def begin(
        self, compute: Callable[[Plan], Sequence[Progress]], *, is_lone: bool
    ) -> Sequence[Progress]:
        """Compute what is to be done and return its results, or wake the thread for it.

        Raises as `compute`.
        """
        updates: Sequence[Progress] = ()
        if is_lone and self._is_thread_waiting and self._planned is None:
            self._planned = plan = self._plan()
            if plan is not None and plan.steps * self._step_s <= self._limit_s:
                self._planned = None
                updates = compute(plan)
                self._planned = self._plan()  # which frees the rows of what has ended
                if self._planned is None:
                    return updates
        self._condition.notify()
        return updates

    def measured(self, plan: Plan, took_s: float) -> None:
        """Note how long a burst took, by which others are estimated."""
        if plan.rows - plan.first == 1 and plan.steps:
            self._step_s = min(self._step_s, took_s / plan.steps)

    def take(self) -> Plan | None:
        """Return a burst that was planned and not computed, once."""
        plan, self._planned = self._planned, None
        return plan

    def wait(self, timeout_s: float | None) -> None:
        """Let the thread wait until there may be work."""
        self._is_thread_waiting = True
        self._condition.wait(timeout_s)
        self._is_thread_waiting = False
