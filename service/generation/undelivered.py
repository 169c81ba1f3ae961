"""The count of bursts whose results the event loop has not taken: the engine waits for it."""

import asyncio
import threading
from collections.abc import Callable


class Undelivered:
    """Counts bursts between the engine's thread and the event loop, up to a limit.

    An engine that runs ahead fills the event loop with results, and a new request waits behind
    them. `add` and `is_full` are called with the condition held, `taken_soon` in the event loop.
    """

    def __init__(self, condition: threading.Condition, limit: Callable[[], int]) -> None:
        """`limit` changes only with the plan of a burst, and none is made while it is reached.

        The condition is notified each time a burst has been taken that the engine waited for.
        """
        self._condition, self._limit, self._n = condition, limit, 0

    @property
    def is_full(self) -> bool:
        """Whether the engine should wait."""
        return self._n >= self._limit()

    @property
    def is_empty(self) -> bool:
        """Whether the event loop has taken all results."""
        return self._n == 0

    def add(self) -> None:
        """Count one more burst."""
        self._n += 1

    def taken_soon(self) -> None:
        """Count one fewer when the readers that this pass of the event loop woke have run."""
        asyncio.get_running_loop().call_soon(self._taken)

    def _taken(self) -> None:
        with self._condition:
            was_full, self._n = self.is_full, self._n - 1
            if was_full:  # else nobody waits for it
                self._condition.notify()
