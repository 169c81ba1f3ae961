"""The models of a process: loading, lookup by name or alias, draining, unloading.

A model is `stored`, then `loading`, `ready` or `failed`, and `draining` while it is unloaded. A
restart loads the models that were loaded before (`RegistryRecord`).
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from service.errors import (
    BadCheckpoint,
    CarouselError,
    MemoryBudgetExceeded,
    ModelInUse,
    ModelNotFound,
    ModelNotReady,
    ModelUnloaded,
)
from service.models.bundle import Bundle, Manifest, Precision
from service.models.spec import ModelRef, ModelSpec, check_name
from service.models.store import ModelStore, RegistryRecord
from service.models.tokenizers.tokenizer import Tokenizer

DEFAULT_ALIAS = "default"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Limits of a registry."""

    budget_bytes: int | None = None  # for all loaded models; None: half of the machine's memory
    drain_limit_s: float = 24 * 3_600.0  # of an unloaded model: longer than any generation


class Runtime(Protocol):
    """What runs a loaded model: its engine, and what its requests share."""

    def start(self) -> None:
        """Start serving the running event loop."""

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work and wait for the running work; cancel it at the deadline."""

    def close(self) -> None:
        """Free all resources. Blocks. Does nothing the second time."""


R = TypeVar("R", bound=Runtime)


class ModelStatus(StrEnum):
    """The state of a stored model in this process."""

    STORED = "stored"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


_IDLE = {ModelStatus.STORED, ModelStatus.FAILED}


@dataclass(frozen=True, slots=True)
class LoadedModel(Generic[R]):
    """A model in memory."""

    spec: ModelSpec
    tokenizer: Tokenizer
    manifest: Manifest
    precision: Precision
    runtime: R

    @property
    def ref(self) -> ModelRef:
        """The model's name and version."""
        return ModelRef(self.manifest.name, self.manifest.version)

    @property
    def size_bytes(self) -> int:
        """An upper bound of the model's memory."""
        return _size_bytes(self.spec)


@dataclass(slots=True)
class _Entry(Generic[R]):
    """The registry's state of one version."""

    status: ModelStatus = ModelStatus.STORED
    loaded: LoadedModel[R] | None = None
    error: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One entry of the list of models. The manifest of a damaged bundle is None."""

    ref: ModelRef
    status: ModelStatus
    manifest: Manifest | None
    precision: Precision | None
    size_bytes: int
    error: str | None


class Registry(Generic[R]):
    """The models of one process. All methods are called from one event loop.

    Files are read, and `make` compiles a bundle to a runtime, in other threads.
    """

    def __init__(
        self, store: ModelStore, make: Callable[[Bundle, Precision], R], config: RegistryConfig
    ) -> None:
        self._store, self._make, self._config = store, make, config
        self._budget_bytes = config.budget_bytes or (
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        )
        self._used_bytes = 0  # by models that are loaded, being loaded or draining
        self._replaced: dict[asyncio.Task[None], LoadedModel[R]] = {}
        self._entries: dict[ModelRef, _Entry[R]] = {}
        self.aliases: dict[str, ModelRef] = {}
        self.refresh()

    async def open(self) -> None:
        """Load the models of the record, or, in a new store, the newest version of each model.

        A model that cannot be loaded is `failed`; the others are loaded.
        """
        record = RegistryRecord.read(self._store.folder, sorted(self._entries), DEFAULT_ALIAS)
        self.aliases = dict(record.aliases)
        for ref in record.loaded:
            self._entries[ref].status = ModelStatus.LOADING
        for ref in record.loaded:
            try:
                await self._load(ref, None)
            except CarouselError as error:
                _log.error("%s cannot be loaded: %s", ref, error)

    async def close(self, timeout_s: float) -> None:
        """Drain and close every model."""
        models = [entry.loaded for entry in self._entries.values() if entry.loaded]
        models += self._replaced.values()
        await asyncio.gather(*(model.runtime.drain(timeout_s) for model in models))
        for model in models:
            await asyncio.to_thread(model.runtime.close)

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
            known = sorted({*self.aliases, *(ref.name for ref in self._entries)})
            raise ModelNotFound(
                f"no model, version or alias is called {name[:80]!r}; there are: "
                f"{', '.join(known[:20]) or 'none'}"
            )
        return max(versions, key=lambda ref: (self._entries[ref].loaded is not None, ref.version))

    def get(self, name: str | None) -> LoadedModel[R]:
        """Return the loaded model of a name. Raises ModelNotFound, ModelNotReady, ModelUnloaded."""
        ref = self.resolve(name)
        entry = self._entries[ref]
        if entry.loaded is not None and entry.status is not ModelStatus.DRAINING:
            return entry.loaded
        if entry.status is ModelStatus.LOADING:
            raise ModelNotReady(f"{ref} is being loaded; try again in a moment")
        if entry.status is ModelStatus.FAILED:
            raise ModelNotReady(f"{ref} could not be loaded: {entry.error}")
        raise ModelUnloaded(f"{ref} is not loaded; POST /admin/models/{ref}/load loads it")

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
        return ModelInfo(ref, entry.status, manifest, precision, size_bytes, entry.error)

    def listings(self) -> list[ModelInfo]:
        """Describe every version, in order."""
        return [self.info(ref) for ref in sorted(self._entries)]

    # -- changes

    def refresh(self) -> None:
        """Add versions that were stored since the last call, and drop those that were deleted."""
        stored = set(self._store.refs())
        for ref in stored:
            self._entries.setdefault(ref, _Entry())
        for ref, entry in list(self._entries.items()):
            is_idle = entry.status in _IDLE and not entry.lock.locked()
            if ref not in stored and is_idle:
                del self._entries[ref]

    async def load(self, ref: ModelRef, precision: Precision | None = None) -> None:
        """Load a version; if it is loaded, the old runtime serves until the new one is ready.

        The first model that is loaded while there is no default becomes the default. Raises
        ModelNotFound, BadCheckpoint, MemoryBudgetExceeded, Validation.
        """
        await self._load(ref, precision)
        self.aliases.setdefault(DEFAULT_ALIAS, ref)
        self._write_record()

    async def unload(self, ref: ModelRef) -> None:
        """Unload a model, if it is loaded, after its generations. Raises ModelNotFound."""
        entry = self._entry(ref)
        async with entry.lock:
            if entry.loaded is None:
                entry.error = None  # of a load that failed
            else:
                entry.status = ModelStatus.DRAINING
                await self._drain_and_close(entry.loaded)
            entry.status, entry.loaded = ModelStatus.STORED, None
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

    async def _load(self, ref: ModelRef, precision: Precision | None) -> None:
        entry = self._entry(ref)
        async with entry.lock:
            before = entry.loaded
            entry.status = ModelStatus.READY if before else ModelStatus.LOADING
            try:
                entry.loaded = await self._prepare(ref, precision)
            except CarouselError as error:
                entry.error = str(error)
                entry.status = ModelStatus.READY if before else ModelStatus.FAILED
                raise
            entry.status, entry.error = ModelStatus.READY, None
            entry.loaded.runtime.start()
        if before is not None:
            task = asyncio.create_task(self._drain_and_close(before))
            self._replaced[task] = before
            task.add_done_callback(self._replaced.pop)

    async def _prepare(self, ref: ModelRef, precision: Precision | None) -> LoadedModel[R]:
        """Read and compile in threads, within the budget."""
        manifest = self._store.manifest(ref)
        spec = None if manifest is None else ModelSpec.from_json(manifest.architecture)
        size_bytes = 0 if spec is None else _size_bytes(spec)
        if self._used_bytes + size_bytes > self._budget_bytes:
            raise MemoryBudgetExceeded(
                f"the model needs about {size_bytes:,} bytes; {self._used_bytes:,} of the budget "
                f"of {self._budget_bytes:,} are taken: unload another model first"
            )
        self._used_bytes += size_bytes
        try:
            bundle = await asyncio.to_thread(self._store.read, ref)
            precision = precision or bundle.manifest.precision
            runtime = await asyncio.to_thread(self._make, bundle, precision)
        except BaseException as error:
            self._used_bytes -= size_bytes
            if isinstance(error, CarouselError) or not isinstance(error, Exception):
                raise
            _log.exception("%s cannot be compiled", ref)
            raise BadCheckpoint(f"{ref} cannot be compiled here; the log has the error") from error
        return LoadedModel(bundle.spec, bundle.tokenizer, bundle.manifest, precision, runtime)

    async def _drain_and_close(self, model: LoadedModel[R]) -> None:
        """Wait for a model's running generations, then free its memory."""
        await model.runtime.drain(self._config.drain_limit_s)
        await asyncio.to_thread(model.runtime.close)
        self._used_bytes -= model.size_bytes

    def _check_unused(self, ref: ModelRef) -> None:
        aliases = [alias for alias, target in self.aliases.items() if target == ref]
        status = self._entry(ref).status
        if status not in _IDLE or aliases:
            why = f"the alias {aliases[0]!r} points at it" if aliases else f"it is {status}"
            raise ModelInUse(
                f"{ref} cannot be deleted: {why}; unload it and move its aliases first"
            )

    def _entry(self, ref: ModelRef) -> _Entry[R]:
        try:
            return self._entries[ref]
        except KeyError:
            raise ModelNotFound(f"no model {ref} is stored") from None

    def _write_record(self) -> None:
        """Record the loaded models, and those that failed: the next start tries them again."""
        loaded = tuple(
            ref
            for ref, entry in sorted(self._entries.items())
            if entry.loaded or entry.status in {ModelStatus.LOADING, ModelStatus.FAILED}
        )
        RegistryRecord(loaded, self.aliases).write(self._store.folder)


def _size_bytes(spec: ModelSpec) -> int:
    """Return an upper bound of a model's memory: its weights in float32 and the program's copy."""
    return 2 * 4 * spec.parameters
