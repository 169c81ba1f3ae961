"""The wake-up of a thread by the event loop, once for all that one pass of the loop brings."""

import asyncio
import threading


class DeferredNotify:
    """Notifies a condition when the event loop has done what it can do now.

    So requests that arrive together begin in one batch, and the thread does not wait for the
    interpreter while the event loop prepares the wait for the reply. For one event loop.
    """

    def __init__(self, condition: threading.Condition) -> None:
        self._condition, self._is_due = condition, False

    def soon(self) -> None:
        """Notify after this pass of the running event loop."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._notify)

    def _notify(self) -> None:
        self._is_due = False
        with self._condition:
            self._condition.notify()
