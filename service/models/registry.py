"""The models of a process: loading, lookup by name or alias, draining, unloading.

A model is `stored`, then `loading`, `ready` or `failed`, and `draining` while it is unloaded. A
restart loads the models that were loaded before (`RegistryRecord`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic

from service.cgroup import machine_share
from service.errors import (
    CarouselError,
    MemoryBudgetExceeded,
    ModelInUse,
    ModelNotFound,
    ModelNotReady,
    ModelUnloaded,
)
from service.models.bundle import Bundle, Precision
from service.models.loaded_model import LoadedModel, ModelInfo, ModelStatus, R
from service.models.loader import ModelLoader, parameter_bytes
from service.models.memory_budget import MemoryBudget
from service.models.model_entry import IDLE, ModelEntry, ModelLease
from service.models.residency import Residency, ResidencyConfig
from service.models.spec import ModelRef, ModelSpec, check_name
from service.models.store import ModelStore, RegistryRecord

DEFAULT_ALIAS = "default"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Limits of a registry."""

    budget_bytes: int = field(default_factory=lambda: machine_share().memory_bytes // 2)
    autoload: bool = False  # load a stored model for the first request that names it
    retry_failed_s: float = 30.0  # before a load on demand tries a model that has failed again
    residency: ResidencyConfig = field(default_factory=ResidencyConfig)


class Registry(Generic[R]):
    """The models of one process. All methods are called from one event loop.

    Files are read, and `make` compiles a bundle to a runtime, in other threads.
    """

    def __init__(
        self,
        store: ModelStore,
        make: Callable[[Bundle, Precision], R],
        config: RegistryConfig,
        size_of: Callable[[ModelSpec], int] = parameter_bytes,
    ) -> None:
        """`size_of` is an upper bound of a model's memory, in bytes."""
        self._store, self._config = store, config
        self.budget = MemoryBudget(config.budget_bytes)
        self._entries: dict[ModelRef, ModelEntry[R]] = {}
        self.aliases: dict[str, ModelRef] = {}
        self._residency = Residency(
            ModelLoader(store, make, size_of),
            self.budget,
            config.residency,
            self._entries,
            lambda: self.aliases.get(DEFAULT_ALIAS),
        )
        self.refresh()

    async def open(self) -> None:
        """Load the models of the record, or, in a new store, the newest version of each model.

        A model that cannot be loaded is `failed`; the others are loaded. With `autoload` those that
        the budget has no room for stay `stored`.
        """
        record = RegistryRecord.read(self._store.folder, sorted(self._entries), DEFAULT_ALIAS)
        self.aliases = dict(record.aliases)
        for ref in record.loaded:
            self._entries[ref].status = ModelStatus.LOADING
            self._entries[ref].is_wanted = True
        for ref in record.loaded:
            if self._entries[ref].is_ready:
                continue  # a request had it loaded
            try:
                await self._residency.load(ref, self._entries[ref], None, may_evict=False)
            except MemoryBudgetExceeded as error:
                if self._config.autoload:
                    self._entries[ref].status, self._entries[ref].error = ModelStatus.STORED, None
                else:
                    _log.error("%s cannot be loaded: %s", ref, error)
            except CarouselError as error:
                _log.error("%s cannot be loaded: %s", ref, error)

    async def close(self, timeout_s: float) -> None:
        """Drain and close every model."""
        for entry in self._entries.values():
            if entry.loading is not None:
                entry.loading.cancel()
        await self._residency.close(timeout_s)

    # -- lookup

    def resolve(self, name: str | None) -> ModelRef:
        """Return the version that `name`, `name@version` or an alias refers to.

        A name without a version refers to its newest loaded version, else to its newest stored one.
        Raises ModelNotFound, Validation.
        """
        name = name or DEFAULT_ALIAS
        if name in self.aliases:
            return self.aliases[name]
        if "@" in name:
            ref = ModelRef.parse(name)
            if ref in self._entries:
                return ref
        versions = [ref for ref in self._entries if ref.name == name]
        if not versions:
            raise ModelNotFound(
                f"no model, version or alias is called {name[:80]!r}; {self._names()}"
            )
        return max(versions, key=lambda ref: (self._entries[ref].loaded is not None, ref.version))

    def get(self, name: str | None) -> LoadedModel[R]:
        """Return the loaded model of a name. Raises ModelNotFound, ModelNotReady, ModelUnloaded.

        To look at it only: a request takes a lease.
        """
        ref = self.resolve(name)
        return self._ready(ref, self._entries[ref])

    async def acquire(self, name: str | None) -> ModelLease[R]:
        """Return a lease of the model of a name. With `autoload` it is loaded first.

        The lease is taken before the load is awaited: the model is not evicted before it is used.
        Raises as `get`, and with `autoload` MemoryBudgetExceeded.
        """
        ref = self.resolve(name)
        entry = self._entries[ref]
        lease = ModelLease(entry, self._residency.wake)
        try:
            if self._config.autoload:
                await self._load_on_demand(ref, entry)
            self._ready(ref, entry)
        except BaseException:
            lease.release()
            raise
        return lease

    def _ready(self, ref: ModelRef, entry: ModelEntry[R]) -> LoadedModel[R]:
        if entry.loaded is not None and entry.is_ready:
            return entry.loaded
        if entry.status is ModelStatus.LOADING:
            raise ModelNotReady(f"{ref} is being loaded; try again in a moment")
        if entry.status is ModelStatus.FAILED:
            raise ModelNotReady(f"{ref} could not be loaded: {entry.error}")
        raise ModelUnloaded(f"{ref} is not loaded; POST /admin/models/{ref}/load loads it")

    async def _load_on_demand(self, ref: ModelRef, entry: ModelEntry[R]) -> None:
        """Load a model, once for all requests that wait; one that goes away does not cancel it."""
        if not self._needs_load(entry):
            return
        if entry.loading is None or entry.loading.done():
            entry.loading = asyncio.create_task(self._load_unless_ready(ref, entry))
            entry.loading.add_done_callback(_retrieve)
        await asyncio.shield(entry.loading)

    async def _load_unless_ready(self, ref: ModelRef, entry: ModelEntry[R]) -> None:
        async with entry.lock:  # a start, an unload or an eviction may have it
            pass
        if self._needs_load(entry):
            await self._residency.load(ref, entry, None, may_evict=True)

    def _needs_load(self, entry: ModelEntry[R]) -> bool:
        has_failed = entry.status is ModelStatus.FAILED
        is_recent = time.monotonic() - entry.failed_s < self._config.retry_failed_s
        return not entry.is_ready and not (has_failed and is_recent)

    def loaded(self) -> Iterator[LoadedModel[R]]:
        """Iterate over the models that are ready."""
        for entry in self._entries.values():
            if entry.loaded is not None and entry.status is ModelStatus.READY:
                yield entry.loaded

    def info(self, ref: ModelRef) -> ModelInfo:
        """Describe one version. Raises ModelNotFound."""
        entry = self._entry(ref)
        manifest = entry.loaded.manifest if entry.loaded else self._store.manifest(ref)
        precision = manifest.precision if manifest else None
        size_bytes = 0
        if entry.loaded:
            precision, size_bytes = entry.loaded.precision, entry.loaded.size_bytes
        return ModelInfo(
            ref,
            entry.status,
            manifest,
            precision,
            size_bytes,
            entry.error,
            entry.retention,
            entry.leases,
        )

    def listings(self) -> list[ModelInfo]:
        """Describe every version, in order."""
        return [self.info(ref) for ref in sorted(self._entries)]

    # -- changes

    def refresh(self) -> None:
        """Add versions that were stored since the last call, and drop those that were deleted."""
        stored = set(self._store.refs())
        for ref in stored:
            self._entries.setdefault(ref, ModelEntry())
        for ref, entry in list(self._entries.items()):
            is_idle = entry.status in IDLE and not entry.lock.locked()
            if ref not in stored and is_idle:
                del self._entries[ref]

    async def load(
        self,
        ref: ModelRef,
        precision: Precision | None = None,
        *,
        evict: bool = False,
    ) -> None:
        """Load a version; if it is loaded, the old runtime serves until the new one is ready.

        With `evict`, or `autoload`, models that nobody uses leave the memory for it. The first
        model that is loaded while there is no default becomes the default. Raises ModelNotFound,
        BadCheckpoint, MemoryBudgetExceeded, Validation.
        """
        entry = self._entry(ref)
        entry.is_wanted = True
        may_evict = evict or self._config.autoload
        await self._residency.load(ref, entry, precision, may_evict=may_evict)
        self.aliases.setdefault(DEFAULT_ALIAS, ref)
        self._write_record()

    async def unload(self, ref: ModelRef) -> None:
        """Unload a model, if it is loaded, after its generations. Raises ModelNotFound."""
        entry = self._entry(ref)
        await self._residency.unload(entry)
        entry.is_wanted = False
        self._write_record()

    async def delete(self, ref: ModelRef) -> None:
        """Delete a stored version. Raises ModelNotFound; ModelInUse if it is loaded or aliased."""
        self._check_unused(ref)
        async with self._entry(ref).lock:
            self._check_unused(ref)  # again: a load may have had the lock
            del self._entries[ref]
            await asyncio.to_thread(self._store.delete, ref)
        self._write_record()

    def set_alias(self, alias: str, ref: ModelRef) -> None:
        """Point `alias` at `ref` for new requests. Raises ModelNotFound, Validation."""
        check_name(alias)
        self._entry(ref)
        self.aliases[alias] = ref
        self._write_record()

    def _check_unused(self, ref: ModelRef) -> None:
        aliases = [alias for alias, target in self.aliases.items() if target == ref]
        status = self._entry(ref).status
        if status not in IDLE or aliases:
            why = f"the alias {aliases[0]!r} points at it" if aliases else f"it is {status}"
            raise ModelInUse(
                f"{ref} cannot be deleted: {why}; unload it and move its aliases first"
            )

    def _names(self) -> str:
        """Return the names that are loaded, and those that are stored alone, as a sentence."""
        loaded = {ref for ref, entry in self._entries.items() if entry.loaded is not None}
        aliases = {alias for alias, ref in self.aliases.items() if ref in loaded}
        ready = sorted(aliases | {ref.name for ref in loaded})
        others = sorted({ref.name for ref in self._entries} - set(ready))
        stored = f"; stored and not loaded: {', '.join(others[:20])}" if others else ""
        return f"loaded: {', '.join(ready[:20]) or 'none'}{stored}"

    def _entry(self, ref: ModelRef) -> ModelEntry[R]:
        try:
            return self._entries[ref]
        except KeyError:
            raise ModelNotFound(f"no model {ref} is stored") from None

    def _write_record(self) -> None:
        """Record the models that the next start loads, also those that failed."""
        loaded = tuple(ref for ref, entry in sorted(self._entries.items()) if entry.is_wanted)
        RegistryRecord(loaded, self.aliases).write(self._store.folder)


def _retrieve(task: "asyncio.Task[None]") -> None:
    """Take a task's exception, which the requests that waited for it have raised."""
    if not task.cancelled():
        task.exception()
