"""A lock that one task holds at a time; the owners that wait for it take turns."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from service.generation.fair_queue import FairQueue


class FairLock:
    """Passes from owner to owner. Not reentrant; belongs to one event loop."""

    def __init__(self) -> None:
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue()
        self._is_held = False

    def waiting_of(self, owner: str) -> int:
        """How many tasks of an owner wait for it."""
        return self._queue.waiting_of(owner)

    @contextlib.asynccontextmanager
    async def held(self, owner: str) -> AsyncIterator[None]:
        """Hold it, once it is the owner's turn."""
        await self._acquire(owner)
        try:
            yield
        finally:
            self._pass_on()

    async def _acquire(self, owner: str) -> None:
        if not self._is_held:
            self._is_held = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.push(owner, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not self._queue.remove(turn) and not turn.cancelled():  # its turn had come
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while len(self._queue):
            turn = self._queue.pop()
            if not turn.done():  # else its request was cut
                turn.set_result(None)
                return
        self._is_held = False
