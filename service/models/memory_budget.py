"""The memory budget of a process's models: what is reserved of it, and who waits for more."""

import asyncio
import contextlib
from collections.abc import Callable  # noqa: TC003 (as every import here)

from service.errors import MemoryBudgetExceeded


class MemoryBudget:
    """Bytes that models may take: loaded ones, those being loaded, and those that drain.

    Not thread-safe: one event loop only.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.used_bytes = limit_bytes, 0
        self._changed = asyncio.Event()
        # each begins to free what nobody uses, and returns whether bytes will come free
        self.idle: set[Callable[[], bool]] = set()

    def reclaim(self) -> bool:
        """Begin to free what is kept although nobody uses it; return whether some is coming."""
        return any(free() for free in self.idle)

    def fits(self, size_bytes: int) -> bool:
        """Return whether so many bytes can be reserved now."""
        return self.used_bytes + size_bytes <= self.limit_bytes

    def missing_bytes(self, size_bytes: int) -> int:
        """Return how many bytes have to be freed before so many fit."""
        return max(0, self.used_bytes + size_bytes - self.limit_bytes)

    def reserve(self, size_bytes: int) -> None:
        """Reserve bytes for a model that is about to be loaded. Raises MemoryBudgetExceeded."""
        if not self.fits(size_bytes):
            raise self.refusal(size_bytes, "unload another model first")
        self.used_bytes += size_bytes

    def free(self, size_bytes: int) -> None:
        """Return the bytes of a model that has left the memory."""
        self.used_bytes -= size_bytes
        self.wake()

    def wake(self) -> None:
        """Let those who wait for room look again."""
        self._changed.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait until bytes are freed or a model is free to be evicted, at most `timeout_s`."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)

    def refusal(self, size_bytes: int, advice: str) -> MemoryBudgetExceeded:
        """Return the error of a model that does not fit."""
        return MemoryBudgetExceeded(
            f"the model needs about {size_bytes:,} bytes; {self.used_bytes:,} of the budget "
            f"of {self.limit_bytes:,} are taken: {advice}"
        )
