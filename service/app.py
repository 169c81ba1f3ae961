"""The composition root: from settings to a running app. Only this file knows every class."""

import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI

from service.api import admin, generation, health, problems, tokens
from service.api.bodies import MAX_BODY_BYTES
from service.api.event_stream import EventWriter
from service.api.request_log import RequestLog
from service.api.serving import ModelRuntime, Serving
from service.generation.engine import Engine
from service.models.bundle import Bundle, Precision
from service.models.compile import compile_program
from service.models.registry import Registry
from service.models.store import ModelStore
from service.settings import Settings

DRAIN_S = 10.0
SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may keep the interpreter from an engine that wants its next step."""

_log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Put the service together. Models are loaded when the app starts."""
    store = ModelStore(settings.model_store)
    registry = Registry(store, _make_runtime(settings.threads))
    serving = Serving(registry, store, settings.import_dir)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        settings.model_store.mkdir(parents=True, exist_ok=True)
        settings.import_dir.mkdir(parents=True, exist_ok=True)
        await registry.open()
        for listing in registry.listings():
            if listing.error:
                _log.error("%s cannot be loaded: %s", listing.ref, listing.error)
        serving.is_open = True
        yield
        await drain(serving)

    app = FastAPI(
        title="Carousel",
        description="Serve recurrent language models.",
        lifespan=lifespan,
        max_body_size=MAX_BODY_BYTES,
        openapi_url="/openapi.json",
        redoc_url=None,
    )
    app.state.serving = serving
    problems.install(app)
    for room in (generation, tokens, health, admin):
        app.include_router(room.router)
    app.add_middleware(RequestLog)
    return app


async def drain(serving: Serving) -> None:
    """Take nothing new, let what runs end within the deadline, give every model back."""
    if not serving.is_draining:
        serving.is_draining = True
        await serving.registry.close(DRAIN_S)


def _make_runtime(threads: int) -> Callable[[Bundle, Precision], ModelRuntime]:
    def make(bundle: Bundle, precision: Precision) -> ModelRuntime:
        program = compile_program(bundle.spec, bundle.weights, precision, threads)
        engine = Engine(program, bundle.tokenizer, name=str(bundle.ref), threads=threads)
        return ModelRuntime(engine, EventWriter(bundle.tokenizer))

    return make
