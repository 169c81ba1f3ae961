"""The engine of a model's steered requests: made for the first of them, dropped when it is idle."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import BadCheckpoint, CarouselError, Draining
from service.generation.engine import Engine
from service.generation.prefix_cache import ScopedPrefixCache
from service.models.memory_budget import MemoryBudget
from service.models.steered_batch import SteerableProgram

IDLE_S = 300.0  # without a steered request, after which the engine is dropped
DRAIN_LIMIT_S = 60.0  # of one that is dropped: it has nothing to do

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SteeredModel:
    """An engine whose requests can be steered, and the states that its prompts share."""

    engine: Engine
    program: SteerableProgram
    prefixes: ScopedPrefixCache
    has_same_bytes: bool  # whether what is not steered has the bytes of the model's own engine


class SteeredEngine:
    """The steered engine of one loaded model, if there is one now. One event loop only."""

    def __init__(
        self,
        make: Callable[[], SteeredModel],
        size_bytes: int,
        budget: MemoryBudget,
        idle_s: float = IDLE_S,
    ) -> None:
        """`make` reads the weights and compiles them, in a thread; `size_bytes` is its memory."""
        self._make, self._size_bytes, self._budget, self._idle_s = make, size_bytes, budget, idle_s
        self._current: SteeredModel | None = None
        self._building: asyncio.Task[SteeredModel] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._used_s = 0.0  # monotonic
        self._is_draining = False

    @property
    def engine(self) -> Engine | None:
        """The engine, while there is one."""
        return self._current.engine if self._current else None

    @property
    def is_busy(self) -> bool:
        """Whether a generation runs or waits, or the engine is being made for one."""
        return self._building is not None or (self.engine is not None and self.engine.streams > 0)

    async def acquire(self) -> SteeredModel:
        """Return the engine, made once for all that wait for it.

        Raises MemoryBudgetExceeded if there is no room for it, ModelNotFound if the model was
        deleted meanwhile, BadCheckpoint, Draining.
        """
        if self._is_draining:
            raise Draining("the model is being unloaded; retry on another server")
        self._used_s = time.monotonic()
        if self._current is not None:
            if self._current.engine.failure is None:
                return self._current
            self._drop(0.0)
        if self._building is None:
            self._building = asyncio.create_task(self._build())
            self._building.add_done_callback(_retrieve)
        return await asyncio.shield(self._building)

    async def drain(self, timeout_s: float) -> None:
        """Make no more of them, wait for what runs, and free its memory."""
        self._is_draining = True
        if self._building is not None:
            await asyncio.wait({self._building})
        if self._current is not None:
            self._drop(timeout_s)
        self._stop_watch()  # it would keep this engine, and by `make` the model's own program
        if self._leaving:
            await asyncio.gather(*self._leaving)

    def close(self) -> None:
        """Stop the threads, if no drain has. Blocks."""
        if self._current is not None:
            self._current.engine.close()

    async def _build(self) -> SteeredModel:
        try:
            if not self._budget.fits(self._size_bytes):
                raise self._budget.refusal(
                    self._size_bytes,
                    "steering needs a second program of the model; unload another model, or raise "
                    "CAROUSEL_MEMORY_BUDGET",
                )
            self._budget.used_bytes += self._size_bytes
            try:
                made = await asyncio.to_thread(self._make)
            except CarouselError:
                self._budget.free(self._size_bytes)
                raise
            except Exception as error:
                self._budget.free(self._size_bytes)
                _log.exception("the steered program cannot be compiled")
                raise BadCheckpoint(
                    "the model's steered program cannot be compiled here; the log has the error"
                ) from error
            made.engine.start()
            self._current, self._used_s = made, time.monotonic()
            self._budget.idle.add(self._reclaim)
            self._stop_watch()
            self._watch = asyncio.create_task(self._drop_when_idle())
            return made
        finally:
            self._building = None

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None  # else they refer to each other, by its traceback

    async def _drop_when_idle(self) -> None:
        while self._current is not None:
            left_s = self._used_s + self._idle_s - time.monotonic()
            if left_s > 0:
                await asyncio.sleep(left_s)
            elif self.is_busy:
                self._used_s = time.monotonic()
            else:
                self._drop(DRAIN_LIMIT_S)

    def _reclaim(self) -> bool:
        """Begin to free the engine's memory unless it is in use; return whether some comes free."""
        if self._current is not None and not self.is_busy:
            self._drop(DRAIN_LIMIT_S)
        return bool(self._leaving)

    def _drop(self, timeout_s: float) -> None:
        made, self._current = self._current, None
        assert made is not None
        task = asyncio.create_task(self._leave(made.engine, timeout_s))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, engine: Engine, timeout_s: float) -> None:
        await engine.drain(timeout_s)
        await asyncio.to_thread(engine.close)
        self._budget.free(self._size_bytes)
        if self._current is None:
            self._budget.idle.discard(self._reclaim)


def _retrieve(task: "asyncio.Task[SteeredModel]") -> None:
    """Take a task's exception, which the requests that waited for it have raised."""
    if not task.cancelled():
        task.exception()
