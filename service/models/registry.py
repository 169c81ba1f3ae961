"""Which models are served: names, versions, aliases; load, use, drain, unload.

A model is `stored`, then `loading`, `ready` or `failed`; on its way out it is `draining`. What is
loaded and where aliases point is kept beside the bundles, so a restart serves what was served.
"""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
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
from service.models.store import ModelStore
from service.models.tokenizer import Tokenizer

DEFAULT_ALIAS = "default"
RETIRE_LIMIT_S = 24 * 3_600.0
"""Longer than any generation: a model that goes waits for what runs on it."""

RECORD = "registry.json"

_log = logging.getLogger(__name__)


class Runtime(Protocol):
    """What runs a loaded model."""

    def start(self) -> None:
        """Begin to work for the running event loop."""

    async def drain(self, deadline_s: float) -> None:
        """Take no new work and wait for what is under way."""

    def close(self) -> None:
        """Give everything back. Blocks. Harmless the second time."""


R = TypeVar("R", bound=Runtime)


class ModelStatus(StrEnum):
    """Where a model is in its life."""

    STORED = "stored"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


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
        """What it takes, from above."""
        return _size_bytes(self.spec)


@dataclass(slots=True)
class _Entry(Generic[R]):
    """One version and what the registry does with it."""

    status: ModelStatus = ModelStatus.STORED
    loaded: LoadedModel[R] | None = None
    error: str | None = None
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One line of the list of models. What is not known of a damaged bundle is None."""

    ref: ModelRef
    status: ModelStatus
    manifest: Manifest | None
    precision: Precision | None
    size_bytes: int
    error: str | None


class Registry(Generic[R]):
    """The models of one process. All methods belong to one event loop; files and compiling do not.

    `make` turns a bundle into a runtime, in a thread of its own.
    """

    def __init__(
        self,
        store: ModelStore,
        make: Callable[[Bundle, Precision], R],
        budget_bytes: int | None = None,
    ) -> None:
        """`budget_bytes` for all loaded models; half of the machine's memory if None."""
        self._store, self._make = store, make
        self._budget_bytes = budget_bytes or _physical_memory_bytes() // 2
        self._used_bytes = 0  # by what is loaded, being loaded or on its way out
        self._retiring: dict[asyncio.Task[None], LoadedModel[R]] = {}
        self._entries: dict[ModelRef, _Entry[R]] = {}
        self.aliases: dict[str, ModelRef] = {}
        self.refresh()

    async def open(self) -> None:
        """Load what was loaded before, or, in a new store, the newest version of each model.

        A model that cannot be loaded is `failed`; the others serve.
        """
        wanted = self._read_record()
        for ref in wanted:
            self._entries[ref].status = ModelStatus.LOADING
        for ref in wanted:
            try:
                await self._load(ref, None)
            except CarouselError as error:
                _log.error("%s cannot be loaded: %s", ref, error)

    async def close(self, deadline_s: float) -> None:
        """Drain and close every model."""
        models = [entry.loaded for entry in self._entries.values() if entry.loaded]
        models += self._retiring.values()
        await asyncio.gather(*(model.runtime.drain(deadline_s) for model in models))
        for model in models:
            await asyncio.to_thread(model.runtime.close)

    # -- use

    def resolve(self, name: str | None) -> ModelRef:
        """The version that `name`, `name@version` or an alias stands for.

        A bare name is its newest loaded version, else its newest stored one.

        Raises:
            ModelNotFound, Validation.

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
        """The loaded model that `name` stands for.

        Raises:
            ModelNotFound, ModelNotReady, ModelUnloaded, Validation.

        """
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
        """Every model that is ready."""
        for entry in self._entries.values():
            if entry.loaded is not None and entry.status is ModelStatus.READY:
                yield entry.loaded

    def listing(self, ref: ModelRef) -> ModelInfo:
        """What is known of one version. Raises ModelNotFound."""
        entry = self._entry(ref)
        if entry.loaded is not None:
            manifest: Manifest | None = entry.loaded.manifest
        else:
            manifest = self._store.manifest(ref)
        return ModelInfo(
            ref,
            entry.status,
            manifest,
            entry.loaded.precision if entry.loaded else manifest.precision if manifest else None,
            entry.loaded.size_bytes if entry.loaded else 0,
            entry.error,
        )

    def listings(self) -> list[ModelInfo]:
        """What is known of every version, in order."""
        return [self.listing(ref) for ref in sorted(self._entries)]

    # -- change

    def refresh(self) -> None:
        """Take notice of versions that have been stored since the last look."""
        for ref in self._store.refs():
            self._entries.setdefault(ref, _Entry())

    async def load(self, ref: ModelRef, precision: Precision | None = None) -> None:
        """Load a version; one that is loaded serves on until the new one is ready.

        The first model that is loaded while there is no default becomes it.

        Raises:
            ModelNotFound, BadCheckpoint, MemoryBudgetExceeded, Validation.

        """
        await self._load(ref, precision)
        self.aliases.setdefault(DEFAULT_ALIAS, ref)
        self._write_record()

    async def unload(self, ref: ModelRef) -> None:
        """Take a model out of memory once what runs on it has ended. Harmless if it is not there.

        Raises:
            ModelNotFound.

        """
        entry = self._entry(ref)
        async with entry.changing:
            if entry.loaded is None:
                entry.status, entry.error = ModelStatus.STORED, None
                return
            entry.status = ModelStatus.DRAINING
            await self._retire(entry.loaded)
            entry.status, entry.loaded = ModelStatus.STORED, None
        self._write_record()

    async def delete(self, ref: ModelRef) -> None:
        """Remove a stored version.

        Raises:
            ModelNotFound.
            ModelInUse: it is loaded, or an alias points at it.

        """
        self._check_unused(ref)
        async with self._entry(ref).changing:
            self._check_unused(ref)  # again: a load may have come first
            del self._entries[ref]
            await asyncio.to_thread(self._store.delete, ref)
        self._write_record()

    def set_alias(self, alias: str, ref: ModelRef) -> None:
        """Let new requests for `alias` go to `ref`; running ones finish where they are.

        Raises:
            ModelNotFound, Validation.

        """
        check_name(alias)
        self._entry(ref)
        self.aliases[alias] = ref
        self._write_record()

    async def _load(self, ref: ModelRef, precision: Precision | None) -> None:
        entry = self._entry(ref)
        async with entry.changing:
            before, entry.status = (
                entry.loaded,
                ModelStatus.READY if entry.loaded else ModelStatus.LOADING,
            )
            try:
                entry.loaded = await self._prepare(ref, precision)
            except CarouselError as error:
                entry.error = str(error)
                entry.status = ModelStatus.READY if before else ModelStatus.FAILED
                raise
            entry.status, entry.error = ModelStatus.READY, None
            entry.loaded.runtime.start()
        if before is not None:
            task = asyncio.create_task(self._retire(before))
            self._retiring[task] = before
            task.add_done_callback(self._retiring.pop)

    async def _prepare(self, ref: ModelRef, precision: Precision | None) -> LoadedModel[R]:
        """Read and compile, in threads, once the budget has room."""
        manifest = self._store.manifest(ref)
        spec = None if manifest is None else ModelSpec.from_json(manifest.architecture)
        size_bytes = 0 if spec is None else _size_bytes(spec)
        self._reserve(size_bytes)
        try:
            bundle = await asyncio.to_thread(self._store.read, ref)
            precision = precision or bundle.manifest.precision
            runtime = await asyncio.to_thread(self._make, bundle, precision)
        except BaseException as error:
            self._used_bytes -= size_bytes
            if isinstance(error, CarouselError) or not isinstance(error, Exception):
                raise
            _log.exception("%s cannot be made to run", ref)
            raise BadCheckpoint(f"{ref} cannot be made to run here; the log says why") from error
        return LoadedModel(bundle.spec, bundle.tokenizer, bundle.manifest, precision, runtime)

    async def _retire(self, model: LoadedModel[R]) -> None:
        """Let what runs on a model end, then give its memory back."""
        await model.runtime.drain(RETIRE_LIMIT_S)
        await asyncio.to_thread(model.runtime.close)
        self._used_bytes -= model.size_bytes

    def _reserve(self, size_bytes: int) -> None:
        if self._used_bytes + size_bytes > self._budget_bytes:
            raise MemoryBudgetExceeded(
                f"the model needs about {size_bytes:,} bytes; {self._used_bytes:,} of the budget "
                f"of {self._budget_bytes:,} are taken: unload another model first"
            )
        self._used_bytes += size_bytes

    def _check_unused(self, ref: ModelRef) -> None:
        aliases = [alias for alias, target in self.aliases.items() if target == ref]
        status = self._entry(ref).status
        if status not in {ModelStatus.STORED, ModelStatus.FAILED} or aliases:
            why = f"the alias {aliases[0]!r} points at it" if aliases else f"it is {status}"
            raise ModelInUse(
                f"{ref} cannot be deleted: {why}; unload it and move its aliases first"
            )

    def _entry(self, ref: ModelRef) -> _Entry[R]:
        try:
            return self._entries[ref]
        except KeyError:
            raise ModelNotFound(f"no model {ref} is stored") from None

    # -- the record

    @property
    def _record(self) -> Path:
        return self._store.folder / RECORD

    def _read_record(self) -> list[ModelRef]:
        """Set the aliases, and return what is to be loaded."""
        newest = {ref.name: ref for ref in sorted(self._entries)}
        wanted = list(newest.values())
        aliases = {DEFAULT_ALIAS: wanted[0]} if wanted else {}
        try:
            record = json.loads(self._record.read_bytes())
            aliases = {alias: ModelRef.parse(ref) for alias, ref in record["aliases"].items()}
            wanted = [ModelRef.parse(ref) for ref in record["loaded"]]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CarouselError) as error:
            _log.warning("%s cannot be read (%s); every model is loaded", self._record, error)
        self.aliases = {alias: ref for alias, ref in aliases.items() if ref in self._entries}
        return [ref for ref in wanted if ref in self._entries]

    def _write_record(self) -> None:
        """Keep what is wanted: a model that failed may do better next time."""
        wanted = [
            str(ref)
            for ref, entry in sorted(self._entries.items())
            if entry.loaded or entry.status in {ModelStatus.LOADING, ModelStatus.FAILED}
        ]
        record = {
            "aliases": {alias: str(ref) for alias, ref in sorted(self.aliases.items())},
            "loaded": wanted,
        }
        incoming = self._record.with_suffix(".incoming")
        try:
            incoming.write_text(json.dumps(record, indent=2) + "\n")
            incoming.replace(self._record)
        except OSError as error:  # a store may be mounted for reading only
            _log.warning("%s cannot be written (%s); a restart forgets it", self._record, error)


def _size_bytes(spec: ModelSpec) -> int:
    """What a loaded model takes, from above: its weights as floats and the program's own copy."""
    return 2 * 4 * spec.parameters


def _physical_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
