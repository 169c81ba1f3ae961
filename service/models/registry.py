"""The models of a process: loading, lookup by name or alias, draining, unloading.

A model is `stored`, then `loading`, `ready` or `failed`, and `draining` while it is unloaded. A
restart loads the models that were loaded before (`RegistryRecord`).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from service.cgroup import machine_share
from service.errors import (
    ModelInUse,
    ModelNotFound,
    ModelNotReady,
    ModelUnloaded,
    Validation,
)
from service.models.bundle import Bundle, Precision
from service.models.device import WantedDevice
from service.models.loaded_model import LoadedModel, ModelStatus, R
from service.models.loader import ModelLoader, parameter_bytes
from service.models.memory_budget import MemoryBudget
from service.models.model_entry import IDLE, ModelEntry, ModelLease
from service.models.model_listing import ModelListing
from service.models.model_names import check_alias, resolve_name
from service.models.residency import Residency, ResidencyConfig
from service.models.retention import Retention
from service.models.spec import ModelRef, ModelSpec
from service.models.start_loads import load_recorded
from service.models.store import ModelStore, RegistryRecord
from service.scratch_folder import store_errors

DEFAULT_ALIAS = "default"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Limits of a registry."""

    budget_bytes: int = field(default_factory=lambda: machine_share().memory_bytes // 2)
    autoload: bool = False  # load a stored model for the first request that names it
    keeps_record: bool = True  # off: what the next start loads is written elsewhere
    device: WantedDevice = "auto"  # that of loads
    sweep_s: float = 1.0  # between two looks for models whose `keep_alive_s` has passed
    residency: ResidencyConfig = field(default_factory=ResidencyConfig)


class Registry(ModelListing[R]):
    """The models of one process. All methods are called from one event loop.

    Files are read, and `make` compiles a bundle to a runtime, in other threads.
    """

    def __init__(
        self,
        store: ModelStore,
        make: Callable[[Bundle, Precision], R],
        config: RegistryConfig,
        size_of: Callable[[ModelSpec, Precision], int] = parameter_bytes,
        budget: MemoryBudget | None = None,
    ) -> None:
        """`size_of` is an upper bound of a model's bytes; `make` may take more of the `budget`."""
        super().__init__(store, is_autoloading=config.autoload)
        self._config = config
        self.budget = MemoryBudget(config.budget_bytes) if budget is None else budget
        self.aliases: dict[str, ModelRef] = {}
        self._stand_ins: Mapping[ModelRef, ModelRef] = {}  # for versions that failed at the start
        self._sweeper: asyncio.Task[None] | None = None
        self._residency = residency = Residency(
            ModelLoader(store, make, size_of, config.device),
            self.budget,
            config.residency,
            self._entries,
            lambda: self.aliases.get(DEFAULT_ALIAS),
        )
        self.evictions = residency.evictions  # how often each stored model was evicted
        self._leaving = lambda: residency.leaving
        self.refresh()

    def stored_record(self) -> RegistryRecord:
        """Return the record, or, in a new store, the newest version of each model."""
        return RegistryRecord.read(self._store.folder, sorted(self._entries), DEFAULT_ALIAS)

    async def open(self, record: RegistryRecord | None = None) -> None:
        """Load the models of a record, by default those of the store's.

        A model that cannot be loaded is `failed`; the others are loaded. With `autoload` those that
        the budget has no room for stay `stored`.
        """
        record = self.stored_record() if record is None else record
        self.aliases = dict(record.aliases)
        for ref, retention in record.retentions.items():
            self.retain(ref, retention)
        if self._config.autoload:
            self._sweeper = asyncio.create_task(self._sweep())
        loaded = [ref for ref in record.loaded if ref in self._entries]
        for ref in loaded:
            self._entries[ref].status = ModelStatus.LOADING
            self._entries[ref].is_wanted = True
        self._stand_ins = await load_recorded(
            loaded, self._entries, self._residency, autoload=self._config.autoload
        )
        self.adopt_aliases(self.aliases)

    async def close(self, timeout_s: float) -> None:
        """Drain and close every model."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._residency.close(timeout_s)

    # -- lookup

    def resolve(self, name: str | None) -> ModelRef:
        """Return the version that `name`, `name@version` or an alias refers to.

        A name without a version refers to its newest loaded version, else to its newest stored one.
        Raises ModelNotFound, Validation.
        """
        return resolve_name(name or DEFAULT_ALIAS, self.aliases, self._entries)

    def get(self, name: str | None) -> LoadedModel[R]:
        """Return the loaded model of a name. Raises ModelNotFound, ModelNotReady, ModelUnloaded.

        To look at it only: a request takes a lease.
        """
        ref = self.resolve(name)
        return _ready(ref, self._entry(ref))

    async def acquire(self, name: str | None) -> ModelLease[R]:
        """Return a lease of the model of a name. With `autoload` it is loaded first.

        The lease is taken before the load is awaited: the model is not evicted before it is used.
        Raises as `get`, and with `autoload` MemoryBudgetExceeded.
        """
        ref = self.resolve(name)
        entry = self._entry(ref)
        lease = ModelLease(entry, lambda: self._released(ref))
        try:
            if self._config.autoload:
                await self._residency.load_on_demand(ref, entry)
            _ready(ref, entry)
        except BaseException:
            lease.release()
            raise
        return lease

    # -- changes

    def refresh(self) -> None:
        """Add versions that were stored since the last call, and drop those that were deleted."""
        stored = set(self._store.refs())
        for ref in stored:
            self._entries.setdefault(ref, ModelEntry())
        for ref, entry in list(self._entries.items()):
            is_idle = entry.status in IDLE and not entry.lock.locked() and not entry.leases
            if ref not in stored and is_idle:
                del self._entries[ref]

    def refresh_if_readable(self) -> None:
        """As `refresh`; a folder that cannot be read now leaves what is known as it is."""
        try:
            self.refresh()
        except OSError as error:
            _log.warning("the model store cannot be read: %s", error)

    async def load(
        self,
        ref: ModelRef,
        precision: Precision | None = None,
        retention: Retention | None = None,
        *,
        evict: bool = False,
    ) -> None:
        """Load a version; if it is loaded, the old runtime serves until the new one is ready.

        With a `retention` and without a precision a loaded model only changes how long it stays.
        With `evict`, or `autoload`, models that nobody uses leave the memory for it. The first
        model that is loaded while there is no default becomes the default. Raises ModelNotFound,
        BadCheckpoint, MemoryBudgetExceeded; Validation also for a `keep_alive_s` where nothing
        would load the model again.
        """
        self.check_load(ref, retention)
        entry = self._entry(ref)
        may_evict = evict or self._config.autoload
        entry.is_wanted, entry.retention = True, retention or entry.retention
        if retention is None or precision is not None or not entry.is_ready:
            await self._residency.load(ref, entry, precision, may_evict=may_evict)
        self.aliases.setdefault(DEFAULT_ALIAS, ref)
        self._write_record()

    def check_load(self, ref: ModelRef, retention: Retention | None) -> None:
        """Raise what a load refuses before it begins: ModelNotFound, Validation."""
        self.check_stored(ref)
        if retention is not None and retention.keep_alive_s >= 0 and not self._config.autoload:
            raise Validation(
                f"`keep_alive_s` is {retention.keep_alive_s:g}, but nothing would load {ref} for "
                "its next request; set CAROUSEL_AUTOLOAD=true, or leave it at -1",
                "keep_alive_s",
            )

    def retain(self, ref: ModelRef, retention: Retention) -> None:
        """Set how long a version stays in memory, if it is stored."""
        if ref in self._entries:
            self._entries[ref].retention = retention

    async def unload(self, ref: ModelRef, drain_s: float | None = None) -> None:
        """Unload a model, if it is loaded. It is `draining` while its generations go on.

        They end with Draining after `drain_s`, or the limit of the config. Returns when the model
        has left the memory, or in a moment. Raises ModelNotFound.
        """
        entry = self._entry(ref)
        entry.is_wanted = False
        await self._residency.unload(entry, drain_s)
        self._write_record()

    async def delete(self, ref: ModelRef) -> None:
        """Delete a stored version. Raises ModelNotFound; ModelInUse if it is loaded or aliased."""
        self.check_unused(ref)
        async with self._entry(ref).lock:
            self.check_unused(ref)  # again: a load may have had the lock
            with store_errors("the model store"):
                await asyncio.to_thread(self._store.delete, ref)
            del self._entries[ref]
            self.evictions.pop(ref, None)
        self._write_record()

    def check_alias(self, alias: str) -> None:
        """Raise Validation if a name cannot be an alias."""
        check_alias(alias, self._entries)

    def set_alias(self, alias: str, ref: ModelRef) -> None:
        """Point `alias` at `ref` for new requests. Raises ModelNotFound, Validation."""
        self.check_alias(alias)
        self._entry(ref)
        self.aliases[alias] = ref
        self._write_record()

    def remove_alias(self, alias: str) -> None:
        """Remove an alias; its model stays. Raises ModelNotFound if there is no such alias."""
        if self.aliases.pop(alias, None) is None:
            known = ", ".join(sorted(self.aliases)[:20]) or "none"
            raise ModelNotFound(f"there is no alias {alias[:80]!r}; there are: {known}")
        self._write_record()

    def adopt_aliases(self, aliases: Mapping[str, ModelRef]) -> None:
        """Have these aliases and no others; an older version stands in for a default that failed.

        Every other alias is a choice, and stays.
        """
        self.aliases = dict(aliases)
        for failed, stand_in in self._stand_ins.items():
            entry = self._entries.get(failed)  # its files may have been deleted since
            is_ready = entry is not None and entry.is_ready
            if self.aliases.get(DEFAULT_ALIAS) == failed and not is_ready:
                self.aliases[DEFAULT_ALIAS] = stand_in

    def is_stored(self, ref: ModelRef) -> bool:
        """Return whether a version is stored, or in memory without its files."""
        return ref in self._entries

    def check_stored(self, ref: ModelRef) -> None:
        """Raise ModelNotFound if a version is not stored."""
        self._entry(ref)

    def check_unused(self, ref: ModelRef) -> None:
        """Raise ModelInUse if a version is in memory or has an alias; ModelNotFound."""
        aliases = [alias for alias, target in self.aliases.items() if target == ref]
        status = self._entry(ref).status
        if status not in IDLE or aliases:
            why = f"the alias {aliases[0]!r} points at it" if aliases else f"it is {status}"
            raise ModelInUse(
                f"{ref} cannot be deleted: {why}; unload it and move its aliases first"
            )

    def _write_record(self) -> None:
        """Record the models that the next start loads, also those that failed."""
        if not self._config.keeps_record:
            return
        loaded = tuple(ref for ref, entry in sorted(self._entries.items()) if entry.is_wanted)
        given = {ref: entry.retention for ref, entry in self._entries.items()}
        retentions = {ref: each for ref, each in given.items() if each != Retention()}
        RegistryRecord(loaded, self.aliases, retentions).write(self._store.folder)

    async def _sweep(self) -> None:
        """Remove the models whose `keep_alive_s` has passed, again and again."""
        while True:
            await asyncio.sleep(self._config.sweep_s)
            for ref in list(self._entries):
                self._residency.evict_if_expired(ref)

    def _released(self, ref: ModelRef) -> None:
        """A request has ended."""
        self._residency.wake()
        if self._config.autoload:
            self._residency.evict_if_expired(ref)


def _ready(ref: ModelRef, entry: ModelEntry[R]) -> LoadedModel[R]:
    if entry.loaded is not None and entry.is_ready:
        return entry.loaded
    if entry.status is ModelStatus.LOADING:
        raise ModelNotReady(f"{ref} is being loaded; try again in a moment")
    if entry.status is ModelStatus.FAILED:
        raise ModelNotReady(f"{ref} could not be loaded: {entry.error}")
    raise ModelUnloaded(f"{ref} is not loaded; POST /admin/models/{ref}/load loads it")
