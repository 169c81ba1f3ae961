"""A call at the end of a pass of the event loop, once for all that the pass brings."""

import asyncio
from collections.abc import Callable

_MOST_PASSES = 4


class DeferredCall:
    """Calls back when the event loop has done what it can do now, however often it is asked to.

    So requests that arrive together begin in one batch, and the engine's thread does not wait for
    the interpreter while the event loop prepares the wait for the reply. Where several have asked,
    more may be on their way: it waits for a pass without one, a few passes at most. For one event
    loop.
    """

    def __init__(self) -> None:
        self._n = 0  # times that it was asked since the last call

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back after this pass of the running event loop."""
        self._n += 1
        if self._n == 1:
            asyncio.get_running_loop().call_soon(self._call, callback, 1, 1)

    def _call(self, callback: Callable[[], None], n_before: int, n_passes: int) -> None:
        if self._n > n_before and n_passes < _MOST_PASSES:
            asyncio.get_running_loop().call_soon(self._call, callback, self._n, n_passes + 1)
            return
        self._n = 0
        callback()
