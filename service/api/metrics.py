"""The metrics of the app: what its state says at a scrape, and the route that shows it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from service import __version__
from service.api.memory_usage import memory_usage
from service.api.state import AppState, ModelRuntime, ServedModel
from service.errors import CarouselError
from service.metrics import families
from service.metrics.exposition import CONTENT_TYPE, Exposition
from service.metrics.family import MetricFamily
from service.metrics.histogram import Histogram
from service.metrics.metrics import Labels
from service.sessions.store_calls import StoreMemory

STORE_MEMORY_S, STORE_LIMIT_S = 5.0, 1.0
"""How long a reply of the store about its memory holds, and how long a scrape waits for one."""

router = APIRouter(tags=["service"])


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus's text format."""
    content = await request.app.state.scrape()
    return Response(content, media_type=CONTENT_TYPE)


class AppMetrics:
    """Reads the state of an app when its metrics are scraped. For the event loop."""

    def __init__(self, state: AppState) -> None:
        """Register a callback for each family that is a state, or that another part counts."""
        self._state, self._exposition = state, Exposition()
        self._memory, self._memory_s = StoreMemory(None, None), float("-inf")
        self._read_server()
        self._read_models()
        self._read_sessions()
        self._read_training()

    async def scrape(self) -> bytes:
        """Return the exposition. It is formatted in a thread: with many models it takes long."""
        await self._ask_store()
        registry = self._state.registry
        refs = {model.ref for model in registry.in_memory()} | registry.loading()
        snapshot = self._state.metrics.snapshot(set(map(str, refs)))
        return await asyncio.to_thread(self._exposition.text, snapshot)

    async def _ask_store(self) -> None:
        if time.monotonic() - self._memory_s < STORE_MEMORY_S:
            return
        self._memory = StoreMemory(None, None)
        with contextlib.suppress(CarouselError, OSError):  # TimeoutError is one
            async with asyncio.timeout(STORE_LIMIT_S):
                self._memory = await self._state.sessions.store.memory()
        self._memory_s = time.monotonic()

    def _read_server(self) -> None:
        state = self._state
        self._one(families.DRAINING, lambda: float(state.drain.is_draining))
        self._one(families.UNLIMITED, lambda: state.metering.limiter.unlimited)
        state.metrics.read(families.BUILD_INFO, lambda: {(__version__,): 1.0})
        state.metrics.read(families.PROCESS_INFO, lambda: {(state.fleet.process,): 1.0})

    def _read_models(self) -> None:
        self._each(families.RUNNING, lambda one: one.running)
        self._each(families.WAITING, lambda one: one.waiting)
        self._each(families.ROWS, lambda one: one.engine.rows)
        read, loaded = self._state.metrics.read, self._loaded
        read(families.MODEL_LOADED, lambda: {(name,): 1.0 for name in loaded()})
        read(
            families.MODEL_BYTES,
            lambda: {(name,): model.size_bytes for name, model in loaded().items()},
        )

        registry = self._state.registry
        self._one(families.MODEL_BUDGET, lambda: registry.budget.limit_bytes)
        read(
            families.MEMORY,
            lambda: {(part,): n for part, n in asdict(memory_usage(self._state)).items()},
        )
        read(
            families.MODEL_EVICTIONS,
            lambda: {(str(ref),): n for ref, n in registry.evictions.items()},
        )

    def _read_sessions(self) -> None:
        sessions = self._state.sessions
        self._one(families.SESSIONS_RUNNING, lambda: len(sessions.registry))
        self._one(families.TAKEOVERS, lambda: sessions.registry.takeovers)
        self._one(families.COMMIT_SECONDS, lambda: sessions.group_commit.seconds)
        self._one(families.COMMIT_TURNS, lambda: sessions.group_commit.turns)
        self._one(families.STORE_UP, lambda: float(sessions.heartbeat.problem is None))
        self._one(families.STORE_USED, lambda: self._memory.used_bytes)
        self._one(families.STORE_LIMIT, lambda: self._memory.limit_bytes)

    def _read_training(self) -> None:
        read, tally = self._state.metrics.read, self._state.training.tally
        read(families.TRAIN_JOBS, lambda: {(one,): n for one, n in tally.by_status.items()})
        read(families.TRAIN_ATTEMPTS, lambda: {(one,): n for one, n in tally.attempts.items()})
        self._one(families.TRAIN_CHARACTERS, lambda: tally.characters)

    def _loaded(self) -> Mapping[str, ServedModel]:
        return {str(model.ref): model for model in self._state.registry.loaded()}

    def _each(
        self, family: MetricFamily, value: Callable[[ModelRuntime], float | Histogram]
    ) -> None:
        """Read a family with a value for each loaded model."""
        self._state.metrics.read(
            family,
            lambda: {(name,): value(model.runtime) for name, model in self._loaded().items()},
        )

    def _one(self, family: MetricFamily, value: Callable[[], float | Histogram | None]) -> None:
        """Read a family with one value, or none while it is unknown."""

        def values() -> Mapping[Labels, float | Histogram]:
            found = value()
            return {} if found is None else {(): found}

        self._state.metrics.read(family, values)
