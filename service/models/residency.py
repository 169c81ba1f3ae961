"""Which models are in memory: loads within the budget, evictions that make room, and drains."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic

from service.errors import (
    BadCheckpoint,
    CarouselError,
    Draining,
    MemoryBudgetExceeded,
    Validation,
)
from service.models.bundle import Precision
from service.models.heap import trim_heap
from service.models.loaded_model import LoadedModel, ModelStatus, R
from service.models.loader import ModelLoader
from service.models.memory_budget import MemoryBudget
from service.models.model_entry import ModelEntry
from service.models.retention import Resident, choose_victims, kept_bytes
from service.models.spec import ModelRef

TRIM_DELAY_S = 0.05
POLL_S = 0.1  # a generation without a reader ends without a word to the budget

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResidencyConfig:
    """Times of loading, evicting and draining."""

    drain_limit_s: float = 3_600.0  # of an unloaded or replaced model, for what runs on it
    unload_answer_s: float = 0.5  # an unload of a model in use goes on after its answer
    load_wait_s: float = 30.0  # of a load, for room that models in use take
    retry_failed_s: float = 30.0  # before a load on demand tries a model that has failed again
    min_resident_s: float = 10.0  # of a loaded model, before it is evicted if there is another


class Residency(Generic[R]):
    """Loads models into the memory of a process and removes them. One event loop only."""

    def __init__(
        self,
        loader: ModelLoader[R],
        budget: MemoryBudget,
        config: ResidencyConfig,
        entries: Mapping[ModelRef, ModelEntry[R]],
        default: Callable[[], ModelRef | None],
    ) -> None:
        """`entries` are those of the registry; `default` is the model that is never evicted."""
        self._loader, self._budget, self._config = loader, budget, config
        self._entries, self._default = entries, default
        self._room = asyncio.Lock()  # those who make room take turns, first come, first served
        self._leaving: dict[asyncio.Task[None], LoadedModel[R]] = {}
        self._evictions: set[asyncio.Task[None]] = set()
        self._trimming: asyncio.Task[None] | None = None
        self.evictions: Counter[ModelRef] = Counter()

    async def load(
        self,
        ref: ModelRef,
        entry: ModelEntry[R],
        precision: Precision | None,
        *,
        may_evict: bool,
        if_needed: bool = False,
    ) -> None:
        """Load a version. If it is loaded, the old runtime serves until the new one is ready.

        With `may_evict` models that nobody uses leave the memory for it, and it waits for such a
        model; else it is refused where the budget has no room. Raises as `ModelLoader.load`, and
        MemoryBudgetExceeded.
        """
        entry.leases += 1  # no eviction between two holders of the lock
        try:
            if entry.status is ModelStatus.DRAINING and entry.loaded is not None:
                await asyncio.sleep(0)  # its eviction, which is decided, takes the lock first
            async with entry.lock:
                if if_needed and not self._needs_load(entry):
                    return
                before = entry.loaded
                await self._replace(ref, entry, precision, may_evict=may_evict)
        finally:
            entry.leases -= 1
        self._budget.wake()
        self._trim_soon()  # a load leaves copies of the weights behind
        if before is not None:
            self._in_background(self._drain_and_close(before, self._config.drain_limit_s), before)

    async def load_on_demand(self, ref: ModelRef, entry: ModelEntry[R]) -> None:
        """Load a model for a request, once for all that wait; one that leaves does not cancel it.

        Does nothing if the model failed a moment ago, and raises nothing if it fails now: its entry
        has the error. Raises ModelNotFound, MemoryBudgetExceeded, Draining.
        """
        if not self._needs_load(entry):
            return
        if entry.loading is None or entry.loading.done():
            loading = self.load_if_needed(ref, entry, may_evict=True)
            entry.loading = asyncio.create_task(loading)
            entry.loading.add_done_callback(_retrieve)
        try:
            await asyncio.shield(entry.loading)
        except (BadCheckpoint, Validation) as error:
            _log.warning("%s cannot be loaded: %s", ref, error)  # no fault of the request
        except asyncio.CancelledError:
            if not entry.loading.cancelled():
                raise  # the request itself
            raise Draining(f"the server is stopping and does not load {ref}") from None

    async def load_if_needed(self, ref: ModelRef, entry: ModelEntry[R], *, may_evict: bool) -> None:
        """Load a model unless another load makes, or has made, it ready. Raises as `load`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.load_wait_s), entry.lock:
                pass  # another load, an unload or an eviction may have it
        if entry.lock.locked():
            return
        if self._needs_load(entry):
            await self.load(ref, entry, None, may_evict=may_evict, if_needed=True)

    def _needs_load(self, entry: ModelEntry[R]) -> bool:
        has_failed = entry.status is ModelStatus.FAILED
        is_recent = time.monotonic() - entry.failed_s < self._config.retry_failed_s
        return not entry.is_ready and not (has_failed and is_recent)

    async def _replace(
        self, ref: ModelRef, entry: ModelEntry[R], precision: Precision | None, *, may_evict: bool
    ) -> None:
        """Load into an entry whose lock is held."""
        has_model = entry.loaded is not None
        entry.status = ModelStatus.READY if has_model else ModelStatus.LOADING
        try:
            entry.loaded = await self._load(ref, precision, may_evict=may_evict)
        except CarouselError as error:
            is_full = may_evict and isinstance(error, MemoryBudgetExceeded)
            entry.error, entry.failed_s = str(error), time.monotonic()
            idle = ModelStatus.STORED if is_full else ModelStatus.FAILED
            idle = idle if entry.leaving is None else ModelStatus.DRAINING
            entry.status = ModelStatus.READY if has_model else idle
            raise
        entry.status, entry.error = ModelStatus.READY, None
        entry.loaded_s = entry.last_used_s = time.monotonic()
        entry.loaded.runtime.start()

    async def unload(self, entry: ModelEntry[R], drain_s: float | None = None) -> None:
        """Begin to remove a model from memory, if it is there; wait a moment for what uses it.

        It is `draining` until its generations have ended, at most `drain_s` or the limit of the
        config later, and then `stored`. A second call may give a shorter `drain_s`.
        """
        async with entry.lock:
            is_in_use = entry.leases > 0 or entry.leaving is not None
            if entry.loaded is not None:
                is_in_use = is_in_use or entry.loaded.runtime.is_busy
                entry.leaving, entry.loaded = entry.loaded, None
                entry.status, limit_s = ModelStatus.DRAINING, self._config.drain_limit_s
                leaving = self._leave(entry, limit_s if drain_s is None else drain_s)
            elif entry.leaving is not None and drain_s is not None:
                leaving = entry.leaving.runtime.drain(drain_s)
            else:
                if entry.leaving is None:
                    entry.error, entry.status = None, ModelStatus.STORED  # of a load that failed
                return
            assert entry.leaving is not None
            task = self._in_background(leaving, entry.leaving)
        await asyncio.wait({task}, timeout=self._config.unload_answer_s if is_in_use else None)

    async def _leave(self, entry: ModelEntry[R], limit_s: float) -> None:
        model = entry.leaving
        assert model is not None
        await self._drain_and_close(model, limit_s)
        if entry.leaving is model:
            entry.leaving = None
            if entry.status is ModelStatus.DRAINING:  # else it has been loaded again
                entry.status = ModelStatus.STORED

    def _in_background(
        self, leaving: Coroutine[None, None, None], model: LoadedModel[R]
    ) -> "asyncio.Task[None]":
        task = asyncio.create_task(leaving)
        self._leaving[task] = model
        task.add_done_callback(self._leaving.pop)
        return task

    @property
    def leaving(self) -> Iterable[LoadedModel[R]]:
        """The models that were unloaded or replaced and whose generations still run."""
        return self._leaving.values()

    async def close(self, timeout_s: float) -> None:
        """Drain and close every model."""
        for entry in self._entries.values():
            if entry.loading is not None:
                entry.loading.cancel()
        models = [entry.loaded for entry in self._entries.values() if entry.loaded]
        models += self._leaving.values()
        await asyncio.gather(*(model.runtime.drain(timeout_s) for model in models))
        for model in models:
            await asyncio.to_thread(model.runtime.close)

    def wake(self) -> None:
        """Let loads that wait for room look again: a request has ended."""
        self._budget.wake()

    def evict_if_expired(self, ref: ModelRef) -> None:
        """Begin to remove a model whose `keep_alive_s` has passed; nothing else."""
        entry = self._entries.get(ref)
        if entry is not None and entry.is_expired(time.monotonic()):
            self._evict(ref, entry)

    async def _load(
        self, ref: ModelRef, precision: Precision | None, *, may_evict: bool
    ) -> LoadedModel[R]:
        size_bytes = self._loader.size_bytes(ref, precision)
        if may_evict:
            await self._reserve_room(ref, size_bytes)
        else:
            self._budget.reserve(size_bytes)
        try:
            return await self._loader.load(ref, precision, size_bytes)
        except BaseException:
            self._budget.free(size_bytes)
            raise

    async def _reserve_room(self, ref: ModelRef, size_bytes: int) -> None:
        """Evict, or wait, until a model fits, and reserve its room. Raises MemoryBudgetExceeded."""
        try:
            async with asyncio.timeout(self._config.load_wait_s), self._room:
                while not self._budget.fits(size_bytes):
                    if self._budget.reclaim():
                        await self._budget.wait(POLL_S)
                        continue
                    residents = self._residents(ref)
                    if size_bytes + kept_bytes(residents) > self._budget.limit_bytes:
                        raise self._budget.refusal(size_bytes, _why_kept(residents))
                    missing, now_s = self._budget.missing_bytes(size_bytes), time.monotonic()
                    min_s = self._config.min_resident_s
                    victims = choose_victims(residents, missing, now_s, min_s)
                    self.evictions.update(victims)
                    evictions = [self._evict(each, self._entries[each]) for each in victims]
                    if evictions:
                        await asyncio.shield(asyncio.gather(*evictions))
                    else:
                        await self._budget.wait(POLL_S)
                self._budget.reserve(size_bytes)
        except TimeoutError:
            why = _why_in_use(self._config.load_wait_s)
            raise self._budget.refusal(size_bytes, why) from None

    def _residents(self, replaced: ModelRef) -> list[Resident]:
        """Return the models in memory; the one that is loaded again serves until it is replaced."""
        kept = {self._default(), replaced}
        found = (entry.resident(is_kept=ref in kept) for ref, entry in self._entries.items())
        return [each for each in found if each is not None]

    def _evict(self, ref: ModelRef, entry: ModelEntry[R]) -> "asyncio.Task[None]":
        """Begin to remove a model that nothing uses. From here on it accepts no request."""
        entry.status = ModelStatus.DRAINING
        _log.info("%s is evicted", ref)
        task = asyncio.create_task(self._finish_eviction(entry))
        self._evictions.add(task)
        task.add_done_callback(self._evictions.discard)
        return task

    async def _finish_eviction(self, entry: ModelEntry[R]) -> None:
        async with entry.lock:
            if entry.loaded is not None and entry.status is ModelStatus.DRAINING:
                await self._remove(entry, entry.loaded)  # else a load had the lock before

    async def _remove(self, entry: ModelEntry[R], model: LoadedModel[R]) -> None:
        """Drain and close the model of an entry whose lock is held."""
        entry.status = ModelStatus.DRAINING
        await self._drain_and_close(model, self._config.drain_limit_s)
        entry.status, entry.loaded = ModelStatus.STORED, None

    async def _drain_and_close(self, model: LoadedModel[R], limit_s: float) -> None:
        """Wait for a model's running generations, then free its memory."""
        await model.runtime.drain(limit_s)
        await asyncio.to_thread(model.runtime.close)
        self._budget.free(model.size_bytes)
        self._trim_soon()

    def _trim_soon(self) -> None:
        """Give freed memory back to the system, once nothing refers to closed models any more."""
        if self._trimming is None or self._trimming.done():
            self._trimming = asyncio.create_task(_trim())


async def _trim() -> None:
    await asyncio.sleep(TRIM_DELAY_S)
    await asyncio.to_thread(trim_heap)


def _retrieve(task: "asyncio.Task[None]") -> None:
    """Take a task's exception, which the requests that waited for it have raised."""
    if not task.cancelled():
        task.exception()


def _why_kept(residents: Iterable[Resident]) -> str:
    return (
        "models that stay (pinned, the default, one that is replaced) have "
        f"{kept_bytes(residents):,} of it; unload or unpin one, or raise CAROUSEL_MEMORY_BUDGET"
    )


def _why_in_use(load_wait_s: float) -> str:
    return (
        f"every other model was in use for {load_wait_s:g} s; try again later, or raise "
        "CAROUSEL_MEMORY_BUDGET or CAROUSEL_LOAD_WAIT_S"
    )
