"""A process of the fleet: it reports, reads the wish, and loads and unloads until they agree."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from service.errors import CarouselError, GenerationFailed, ModelNotFound, ModelNotReady
from service.fleet.config import FleetConfig
from service.fleet.convergence import asks_for_load, next_to_change
from service.fleet.fleet_store import FleetStore
from service.fleet.report import ProcessPhase, ProcessReport
from service.fleet.wish import ModelWish, Wish
from service.models.bundle import Precision
from service.models.retention import Retention
from service.models.spec import ModelRef
from service.models.store import RegistryRecord

_log = logging.getLogger(__name__)


class ModelHost(Protocol):
    """The models of this process: its registry."""

    def refresh(self) -> None:
        """See the versions that are stored now."""

    def stored_record(self) -> RegistryRecord:
        """Return what the folder of models says, for a store without a wish."""

    async def open(self, record: RegistryRecord | None = None) -> None:
        """Load the models of a record. Raises nothing for one that cannot be loaded."""

    async def load(
        self,
        ref: ModelRef,
        precision: Precision | None = None,
        retention: Retention | None = None,
        *,
        evict: bool = False,
    ) -> None:
        """Load a version, or load it again."""

    async def unload(self, ref: ModelRef, drain_s: float | None = None) -> None:
        """Begin to unload a version."""

    def retain(self, ref: ModelRef, retention: Retention) -> None:
        """Set how long a version stays."""

    def adopt_aliases(self, aliases: Mapping[str, ModelRef]) -> None:
        """Take over every alias."""

    def digests(self) -> Mapping[ModelRef, str]:
        """Return the digests of the versions that are ready."""

    def failure(self, ref: ModelRef) -> str | None:
        """Return why a version could not be loaded, if it could not."""


class FleetMember:
    """Carries out the wish in this process. One event loop only.

    Two tasks: one looks and reports every `look_s`, also while the other one loads.
    """

    def __init__(
        self,
        process: ProcessReport,
        store: FleetStore,
        host: ModelHost,
        config: FleetConfig = FleetConfig(),  # noqa: B008 (frozen)
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        """`process` has the name, unique in the store, and where it is."""
        self._process, self.name = process, process.process
        self._store, self._host, self._config = store, host, config
        self._is_draining = is_draining
        self.on_reached: Callable[[Wish], None] = lambda _: None  # called with each wish
        self.wish: Wish | None = None  # the one that is being carried out
        self.errors: dict[ModelRef, CarouselError] = {}  # of the last load of each version
        self._failed_s: dict[ModelRef, float] = {}
        self._done: dict[ModelRef, ModelWish] = {}
        self._reached = 0
        self._is_serving = False
        self._has_changed, self._shall_look = asyncio.Event(), asyncio.Event()

    def report(self) -> ProcessReport:
        """Return what this process tells the others."""
        phase = ProcessPhase.SERVING if self._is_serving else ProcessPhase.STARTING
        ready = {str(ref): digest for ref, digest in self._host.digests().items()}
        failed = {str(ref): str(error)[:500] for ref, error in self.errors.items()}
        return replace(
            self._process,
            phase=ProcessPhase.DRAINING if self._is_draining() else phase,
            revision=self._reached,
            ready=ready,
            failed={ref: why for ref, why in failed.items() if ref not in ready},
        )

    async def run(self, on_open: Callable[[], None]) -> None:
        """Carry out the wish until cancelled; `on_open` is called when the first one is."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_again_and_again())
            tasks.create_task(self._converge(on_open))

    async def leave(self) -> None:
        """Tell the others that this process ends. Waits a moment for the store, at most."""
        with contextlib.suppress(CarouselError, TimeoutError):
            async with asyncio.timeout(self._config.close_wait_s):
                await self._store.leave(self.name)
        await self._store.close()

    async def look(self) -> Wish:
        """Report, and take over the wish, which is seeded where the store has none."""
        while (wish := await self._store.look(self.report, self.wish)) is None:
            await self._seed()
        self.adopt(wish)
        return wish

    async def view(self) -> tuple[Wish, Sequence[ProcessReport]]:
        """As `look`, and return every live process too, of the same moment."""
        while True:
            view = await self._store.view(self.report, self.wish)
            if view.wish is not None:
                self.adopt(view.wish)
                return view.wish, view.reports
            await self._seed()

    def adopt(self, wish: Wish) -> None:
        """Carry out a wish from now on, unless it is the one that is being carried out."""
        if self.wish is None or not self.wish.is_as(wish):
            self.wish = wish
            self._has_changed.set()

    # -- tasks

    async def _look_again_and_again(self) -> None:
        while True:
            self._shall_look.clear()
            try:
                await self.look()
            except CarouselError as error:
                _log.debug("the wish cannot be read: %s", error)
            except Exception:  # noqa: BLE001 (the next look may succeed)
                _log.exception("the wish cannot be read")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.look_s):
                    await self._shall_look.wait()

    async def _seed(self) -> None:
        """Write the wish of a store without one: a new one, or one that has lost its data."""
        if self.wish is None:
            new = Wish.of_record(self._host.stored_record())
        else:
            new = self.wish.again()
            _log.warning("the store has lost the wish of revision %s", self.wish.revision)
        await self._store.change(None, new)

    async def _converge(self, on_open: Callable[[], None]) -> None:
        while self.wish is None:
            await self._change(None)
        await self._open(self.wish)
        while True:
            wish = self.wish
            self._has_changed.clear()
            try:
                await self._carry_out(wish)
            except Exception:  # noqa: BLE001 (such as a folder that cannot be read now)
                _log.exception("the wish cannot be carried out, and is tried again")
                await self._change(self._config.again_s)
                continue
            if not self._is_serving:
                await self._begin_to_serve(wish, on_open)
            if not self._has_changed.is_set():
                self._shall_look.set()  # the others wait for this
                await self._change(self._config.retry_s if self._failed_s else None)

    async def _open(self, wish: Wish) -> None:
        """Load all at once, as a process without a fleet does."""
        try:
            self._host.refresh()
            await self._host.open(wish.record())
        except Exception:  # noqa: BLE001 (the server says what it lacks, and an admin can mend it)
            _log.exception("the models of the store could not be opened")
        self._host.adopt_aliases(wish.aliases)
        self._done = dict(wish.models)
        for ref in wish.record().loaded:
            if (failure := self._host.failure(ref)) is not None:
                self._fail(ref, ModelNotReady(failure))

    async def _begin_to_serve(self, wish: Wish, on_open: Callable[[], None]) -> None:
        """Say that this process serves, unless the wish has changed: an alias waits for it then."""
        self._is_serving = True
        try:
            found = await self.look()
        except CarouselError:
            found = None
        if found is None or not found.is_as(wish):
            self._is_serving = False
            self._has_changed.set()  # once more
            await asyncio.sleep(0 if found else self._config.look_s)
        else:
            on_open()

    async def _change(self, limit_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._has_changed.wait()
        self._has_changed.clear()

    async def _carry_out(self, wish: Wish) -> None:
        """Load and unload, one version at a time, until nothing is left or the wish changes."""
        self._host.refresh()
        self._host.adopt_aliases(wish.aliases)
        for gone in set(self._done) - set(wish.models):
            self._done.pop(gone)
            self._forget_failure(gone)
        retry_s = self._config.retry_s
        while True:
            now_s = time.monotonic()
            ref = next_to_change(wish, self._done, self._failed_s, now_s, retry_s)
            if ref is None:
                break
            before, self._done[ref] = self._done.get(ref), wish.models[ref]
            is_retry = ref in self._failed_s
            self._forget_failure(ref)
            try:
                await self._change_model(ref, wish.models[ref], before, is_retry=is_retry)
            except CarouselError as error:
                _log.warning("%s cannot be loaded: %s", ref, error)
                self._fail(ref, error)
            except Exception:  # noqa: BLE001 (reported, and tried again)
                _log.exception("the wish for %s cannot be carried out", ref)
                self._fail(ref, GenerationFailed(f"{ref} failed; the server's log has the error"))
            if self._has_changed.is_set():
                return
        self._reached = wish.revision
        self.on_reached(wish)

    async def _change_model(
        self, ref: ModelRef, wish: ModelWish, before: ModelWish | None, *, is_retry: bool
    ) -> None:
        if not wish.is_loaded:
            with contextlib.suppress(ModelNotFound):
                await self._host.unload(ref, wish.drain_s)
        elif is_retry or asks_for_load(wish, before):
            if wish.retention is not None:
                self._host.retain(ref, wish.retention)
            await self._host.load(ref, wish.precision, evict=wish.evict)
        else:
            await self._host.load(ref, None, wish.retention)

    def _fail(self, ref: ModelRef, error: CarouselError) -> None:
        self.errors[ref], self._failed_s[ref] = error, time.monotonic()

    def _forget_failure(self, ref: ModelRef) -> None:
        self.errors.pop(ref, None)
        self._failed_s.pop(ref, None)
