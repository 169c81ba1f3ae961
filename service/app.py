"""The composition root: from settings to a running app. Only this file knows every class."""

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from fastapi import FastAPI, Request
from pydantic import SecretStr

from service.api import admin, health, score, sessions, tokens
from service.api import errors as problems
from service.api import openapi as document
from service.api import training as training_routes
from service.api.bodies import MAX_BODY_BYTES
from service.api.body_limit import BodyLimit, Limit
from service.api.openai import models as openai_models
from service.api.openai import routes as openai_completions
from service.api.request_log import RequestLog
from service.api.sse import EventEncoder
from service.api.state import AppState, ModelRuntime, TrainingServices
from service.api.tgi import routes as generation
from service.constraints.compiler import ConstraintCompiler
from service.generation.engine import Engine
from service.generation.prefix_cache import PrefixCache, ScopedPrefixCache
from service.models.bundle import Bundle, Precision
from service.models.compile import compile_program
from service.models.parity import check_here
from service.models.registry import Registry, RegistryConfig
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.sessions.embedded import EmbeddedValkey
from service.sessions.group_commit import GroupCommit
from service.sessions.redis_client import ScriptClient, check_store_config
from service.sessions.sessions import Sessions
from service.sessions.signing import Signer, read_secret
from service.sessions.store import Store, new_name
from service.sessions.supervisor import ValkeySupervisor
from service.settings import Settings
from service.training.corpus_store import CorpusStore
from service.training.queue import JobQueue
from service.training.reconciler import JobReconciler, Load, Remove

DRAIN_S = 10.0
BODY_LIMIT_S, UPLOAD_LIMIT_S = 60.0, 3_600.0
SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may keep the interpreter from an engine that wants its next step."""


def anonymous_owner(_: Request) -> str:
    """The owner of every session, as long as there are no keys."""
    return ""


@contextlib.contextmanager
def open_store(settings: Settings) -> Iterator[str]:
    """The URL of the store of sessions: the one that is set, else a private Valkey's.

    Raises:
        BadRequest: the store may not be used.
        StoreUnavailable: the private Valkey cannot be started.

    """
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        asyncio.run(check_store_config(url))
        yield url
        return
    valkey = EmbeddedValkey(settings.data_dir / "valkey")
    watch = ValkeySupervisor(valkey)
    watch.start()
    try:
        yield valkey.url
    finally:
        watch.stop()


def create_app(
    settings: Settings, redis_url: str, owner_of: Callable[[Request], str] = anonymous_owner
) -> FastAPI:
    """Put the service together. It answers at once, and is ready when its models are loaded."""
    store = ModelStore(settings.model_store)
    registry = Registry(store, _make_runtime(settings.threads, PrefixCache()), RegistryConfig())
    conversations = _make_sessions(settings, redis_url)
    training = _make_training(settings, redis_url)
    serving = AppState(registry, conversations, owner_of, store, settings.import_dir, training)
    tender = JobReconciler(
        training.queue, store, settings.jobs_dir, _loader(registry), _remover(registry)
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        settings.model_store.mkdir(parents=True, exist_ok=True)
        settings.import_dir.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(training.corpora.sweep)
        conversations.start()
        tasks = [asyncio.create_task(_open(serving)), asyncio.create_task(tender.run())]
        yield
        for task in tasks:
            task.cancel()
        await drain(serving)
        await conversations.close()

    app = FastAPI(
        title="Carousel",
        description="Serve recurrent language models.",
        lifespan=lifespan,
        openapi_url="/openapi.json",
        redoc_url=None,
    )
    app.state.serving = serving
    problems.install(app)
    openai_routes = (openai_completions, openai_models)
    others = (sessions, tokens, score, health, admin, training_routes)
    for room in (generation, *openai_routes, *others):
        app.include_router(room.router)
    document.complete(app)
    upload = Limit(admin.MAX_UPLOAD_BYTES, UPLOAD_LIMIT_S)
    exported = Limit(sessions.MAX_IMPORT_BYTES, BODY_LIMIT_S)
    app.add_middleware(
        BodyLimit,
        limit=Limit(MAX_BODY_BYTES, BODY_LIMIT_S),
        exceptions={
            "/admin/models/upload": upload,
            "/sessions/import": exported,
            "/score/text": Limit(score.MAX_TEXT_BYTES, UPLOAD_LIMIT_S),
            "/corpora": Limit(training_routes.MAX_CORPUS_BYTES, UPLOAD_LIMIT_S),
        },
    )
    app.add_middleware(RequestLog)
    return app


def described() -> str:
    """The OpenAPI document, as JSON. Nothing is opened, and nothing is written."""
    with tempfile.TemporaryDirectory() as folder:
        secret = SecretStr("0" * 32)  # else one of its own would be made
        settings = Settings(model_store=Path(folder), data_dir=Path(folder), secret=secret)
        app = create_app(settings, "redis://localhost")
        return json.dumps(app.openapi(), indent=1, ensure_ascii=False)


async def _open(serving: AppState) -> None:
    await serving.registry.open()
    serving.opened.set()


async def drain(serving: AppState) -> None:
    """Take nothing new, let what runs end within the deadline, give every model back."""
    if not serving.is_draining:
        serving.is_draining = True
        await serving.registry.close(DRAIN_S)


def _make_sessions(settings: Settings, redis_url: str) -> Sessions:
    given = settings.secret.get_secret_value() if settings.secret else None
    identity = Signer(read_secret(settings.data_dir, given))
    store = Store(ScriptClient(redis_url), ScriptClient(redis_url), identity, process=new_name())
    return Sessions(store, GroupCommit(store), identity)


def _make_training(settings: Settings, redis_url: str) -> TrainingServices:
    return TrainingServices(JobQueue(redis_url), CorpusStore(settings.corpora_dir))


def _loader(registry: Registry[ModelRuntime]) -> Load:
    async def load(model: str, alias: str | None) -> None:
        registry.refresh()
        ref = ModelRef.parse(model)
        await registry.load(ref)
        if alias is not None:
            registry.set_alias(alias, ref)

    return load


def _remover(registry: Registry[ModelRuntime]) -> Remove:
    async def remove(ref: ModelRef) -> None:
        registry.refresh()
        await registry.delete(ref)

    return remove


def _make_runtime(threads: int, cache: PrefixCache) -> Callable[[Bundle, Precision], ModelRuntime]:
    def make(bundle: Bundle, precision: Precision) -> ModelRuntime:
        program = compile_program(bundle.spec, bundle.weights, precision, threads)
        check_here(program, bundle, precision)
        engine = Engine(program, bundle.tokenizer, name=str(bundle.ref), threads=threads)
        constraints = ConstraintCompiler(bundle.tokenizer.tokens)
        prefixes = ScopedPrefixCache(cache, b"").within(bundle.manifest.digest, precision)
        return ModelRuntime(engine, EventEncoder(bundle.tokenizer), constraints, prefixes)

    return make
