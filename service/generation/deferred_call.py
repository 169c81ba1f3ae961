"""A call at the end of a pass of the event loop, once for all that the pass brings."""

import asyncio
from collections.abc import Callable


class DeferredCall:
    """Calls back when the event loop has done what it can do now, however often it is asked to.

    So requests that arrive together begin in one batch, and the engine's thread does not wait for
    the interpreter while the event loop prepares the wait for the reply. For one event loop.
    """

    def __init__(self) -> None:
        self._is_due = False

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back after this pass of the running event loop."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._call, callback)

    def _call(self, callback: Callable[[], None]) -> None:
        self._is_due = False
        callback()
