"""The thread of a process's inspections: one piece of work at a time, and owners take turns."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.errors import Overloaded
from service.generation.fair_lock import FairLock
from service.inspection.config import InspectionConfig

T = TypeVar("T")


class InspectionThread:
    """Computes for the inspections of all models, beside the engines. Belongs to one event loop."""

    def __init__(self, config: InspectionConfig) -> None:
        self.config = config
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inspection")
        self._lock = FairLock()
        self._is_searching = False
        self._open: Counter[str] = Counter()  # inspections by owner

    @contextlib.contextmanager
    def admit(self, owner: str) -> Iterator[None]:
        """Hold one of the owner's places for an inspection. Raises Overloaded if none is free."""
        most, most_in_all = self.config.max_per_owner, self.config.max_inspections
        if self._open[owner] >= most:
            raise Overloaded(
                f"{self._open[owner]} inspections of yours run or wait; the limit is {most}: "
                "try again when one has ended"
            )
        if self._open.total() >= most_in_all:
            raise Overloaded(
                f"{self._open.total()} inspections run or wait; the limit is {most_in_all}: "
                "try again later"
            )
        self._open[owner] += 1
        try:
            yield
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    @contextlib.contextmanager
    def admit_search(self) -> Iterator[None]:
        """Hold the one place for a search, which takes the most memory. Raises Overloaded."""
        if self._is_searching:
            raise Overloaded("a search for cells runs already; one runs at a time: try again later")
        self._is_searching = True
        try:
            yield
        finally:
            self._is_searching = False

    async def run(self, owner: str, work: Callable[[], T]) -> T:
        """Return what `work` returns, once it is the owner's turn. Raises as `work`."""
        async with self._lock.held(owner):
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """End the thread when its work is done. Does nothing the second time."""
        self._executor.shutdown(wait=False)
