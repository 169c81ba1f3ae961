"""The composition root: from settings to a running app. It alone imports every package."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request
from pydantic import SecretStr

from service import __version__
from service.api import (
    admin,
    aliases,
    audit,
    batches,
    chat_templates,
    docs_page,
    files,
    health,
    inspection,
    inspection_ablation,
    inspection_cells,
    inspection_influence,
    inspection_text,
    oip,
    openapi,
    score,
    tokens,
    ui_page,
    usage,
)
from service.api import fleet as fleet_routes
from service.api import keys as key_routes
from service.api import metrics as metric_routes
from service.api import sessions as session_routes
from service.api import training as training_routes
from service.api.audit import AuditTrail
from service.api.authentication import Authentication
from service.api.batch_host import batch_runner
from service.api.batch_log import BatchLog
from service.api.body_limit import body_limit_of
from service.api.browser_guard import BrowserGuard
from service.api.caller import caller_of
from service.api.direct_route import direct_routes
from service.api.draining import Drain, DrainConfig, DrainGate
from service.api.errors import ErrorReplies
from service.api.layered_app import LayeredApp
from service.api.limits import ApiLimits
from service.api.metering import UsageMetering
from service.api.metrics import AppMetrics
from service.api.metrics_listener import MetricsListener
from service.api.openai import chat_routes as chat
from service.api.openai import embeddings, fine_tuning
from service.api.openai import routes as openai
from service.api.request_log import RequestLog, RequestRecords
from service.api.request_metrics import RequestMetrics
from service.api.request_pipeline import RequestChecks, RequestPipeline
from service.api.state import AppState, BatchServices, ModelRuntime, TrainingServices
from service.api.tgi import routes as tgi
from service.api.tracing import tracer_of
from service.errors import StoreUnavailable
from service.fleet.join import ServerProcess, join_fleet
from service.generation.config import EngineConfig
from service.generation.prefix_cache import PrefixCache
from service.inspection.config import InspectionConfig
from service.inspection.inspection_thread import InspectionThread
from service.keys.authenticator import Authenticator
from service.keys.config import KeyConfig
from service.keys.key_ring import KeyRing
from service.keys.key_store import KeyStore, count_keys
from service.limits.config import LimitConfig
from service.limits.limiter import Limiter
from service.limits.usage import UsageLedger
from service.metrics.metrics import Metrics
from service.models.bundled import add_bundled_models
from service.models.chat_template_store import ChatTemplateStore
from service.models.registry import Registry
from service.models.store import ModelStore
from service.sandbox import SandboxChildren
from service.scratch_folder import sweep
from service.served_models import make_registry
from service.sessions.audit_store import AuditStore
from service.sessions.config import SessionConfig, ValkeyConfig
from service.sessions.embedded import EmbeddedValkey, ValkeySupervisor
from service.sessions.group_commit import GroupCommit
from service.sessions.sessions import Sessions
from service.sessions.signing import Signer, read_secret
from service.sessions.store import Store
from service.sessions.store_client import check_store_at, names_of, open_client
from service.sessions.store_replies import random_name
from service.settings import Settings
from service.start_checks import admin_key_of, default_limits_of, exposed, needs_no_key
from service.training.config import QueueConfig
from service.training.corpus_store import CorpusStore, check_text
from service.training.queue import JobQueue
from service.training.reconciler import JobReconciler

_log = logging.getLogger(__name__)

_LONE = ServerProcess()

SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may hold the interpreter while an engine waits for its next step."""


def owner_of_key(request: Request) -> str:
    """Return the owner of the key that a request was sent with; without keys it is ""."""
    return caller_of(request.scope).owner


@contextlib.contextmanager
def open_store(settings: Settings) -> Iterator[str]:
    """Yield the URL of the session store: the configured one, or a private Valkey's.

    Raises BadRequest where the store may not be used, StoreUnavailable where Valkey cannot start.
    """
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        asyncio.run(check_store_at(url, SessionConfig()))
        yield url
        return
    config = ValkeyConfig()
    valkey = EmbeddedValkey(settings.data_dir / "valkey", config)
    supervisor = ValkeySupervisor(valkey, config)
    supervisor.start()
    try:
        yield valkey.url
    finally:
        supervisor.stop()


def open_key_ring(settings: Settings, redis_url: str) -> KeyRing:
    """Return the keys in a store; its caller closes it."""
    return KeyRing(KeyStore(redis_url), _signing_secret(settings), KeyConfig())


def check_exposure(settings: Settings, redis_url: str) -> None:
    """Refuse an address that others reach while nobody needs a key. Raises BadRequest.

    A store that does not answer refuses nothing: until it does, nobody is let in.
    """
    if needs_no_key(settings):
        return
    with contextlib.suppress(StoreUnavailable):
        if not asyncio.run(count_keys(redis_url)):
            raise exposed(settings)


def create_app(
    settings: Settings,
    redis_url: str,
    owner_of: Callable[[Request], str] = owner_of_key,
    limits: ApiLimits = ApiLimits(),  # noqa: B008 (frozen)
    metrics_socket: socket.socket | None = None,
    process: ServerProcess = _LONE,
) -> FastAPI:
    """Put the service together. It answers at once, and is ready when its models are loaded.

    `metrics_socket` is where the metrics have a listener of their own, if they do; `process` is
    which of a server's processes this is.
    """
    store = ModelStore(settings.model_store)
    engine_config, metrics = EngineConfig(), Metrics()
    prefix_cache = PrefixCache(engine_config.prefix_cache_bytes)
    inspections = InspectionThread(
        InspectionConfig(
            max_values=settings.inspection_values, max_numbers=settings.inspection_numbers
        )
    )
    registry = make_registry(settings, store, engine_config, prefix_cache, metrics, inspections)
    secret, key_store = _signing_secret(settings), KeyStore(redis_url)
    signer, keys = Signer(secret), KeyRing(key_store, secret, KeyConfig())
    sessions = _make_sessions(signer, redis_url)
    queue = JobQueue(redis_url, QueueConfig())
    authenticator = Authenticator(
        key_store,
        KeyConfig(),
        admin_key=admin_key_of(settings),
        allows_anonymous=settings.allow_anonymous or settings.is_loopback,
    )
    children = SandboxChildren()
    check = partial(check_text, children=children)
    training = TrainingServices(queue, CorpusStore(settings.corpora_dir, check), settings.jobs_dir)
    limiter = Limiter(redis_url, default_limits_of(settings), LimitConfig())
    metering = UsageMetering(limiter, UsageLedger(redis_url, LimitConfig()))
    drain = Drain(
        DrainConfig(settings.drain_s, settings.lame_duck_s), partial(_n_streams, registry)
    )
    fleet = join_fleet(
        redis_url if settings.has_shared_store else None,
        registry,
        lambda: not drain.is_serving,
        process,
        settings.model_store,
    )
    reconciler = JobReconciler(queue, store, settings.jobs_dir, fleet, training.tally)
    state = AppState(
        registry,
        fleet,
        sessions,
        owner_of,
        store,
        settings.import_dir,
        training,
        BatchServices.of(settings.files_dir, settings.batches_dir),
        limits,
        engine_config,
        ChatTemplateStore(store),
        keys,
        metering,
        metrics,
        AuditStore(redis_url),
        prefix_cache,
        drain,
        children=children,
    )

    records = RequestRecords(signer.tag_of_owner)
    tracer = tracer_of(os.environ, records.fields)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        await asyncio.to_thread(_make_folders, settings, store)
        registry.refresh()
        await asyncio.to_thread(_sweep, state)
        listener = MetricsListener(metrics_socket, app.state.scrape)
        async with listener, sessions.running():
            batches_run = batch_runner(state, BatchLog(signer.tag_of_owner)).run()
            work = _serve_models(state), reconciler.run(), metering.run(), batches_run
            tasks = [asyncio.create_task(one) for one in work]
            await _wait_to_listen(process, state)
            yield
            for task in tasks:
                task.cancel()
            await stop(state)
            await metering.close()
            inspections.close()
        for part in (fleet, keys, state.audit, tracer):
            await part.close()

    app = LayeredApp(
        title="Carousel",
        version=__version__,
        description="Serve recurrent language models.",
        lifespan=lifespan,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # the server has its own
    )
    app.state.carousel, app.state.scrape = state, AppMetrics(state).scrape
    replies = ErrorReplies(settings.folders)
    replies.install(app)
    routers = [
        one.router
        for one in (
            *(tgi, openai, chat, embeddings, session_routes, tokens, score),
            *(inspection, inspection_text, inspection_ablation, inspection_cells),
            *(inspection_influence, health, oip),
            *(admin, aliases, fleet_routes, key_routes, usage, chat_templates),
            *(training_routes, docs_page, metric_routes, audit, files, batches),
            fine_tuning,
        )
    ]
    routers.append(ui_page.make_router(has_page=settings.ui == "on"))
    for router in routers:
        app.include_router(router)
    openapi.complete(app)
    checks = RequestChecks(
        BrowserGuard(settings.hosts, settings.origins),
        DrainGate(state.drain),
        Authentication(authenticator.authenticate, has_public_docs=settings.public_docs),
        metering,
        body_limit_of(limits),
    )
    app.add_middleware(
        RequestPipeline,
        checks=checks,
        direct=direct_routes(routers, replies),
        origins=settings.origins,
    )
    app.add_middleware(
        RequestLog,
        on_end=(
            RequestMetrics(metrics).ended,
            records.ended,
            AuditTrail(state.audit.append, signer.tag_of_owner).ended,
        ),
        tracer=tracer,
    )
    return app


def openapi_json() -> str:
    """The OpenAPI document, as JSON. Nothing is opened, and nothing is written."""
    with tempfile.TemporaryDirectory() as folder:
        secret = SecretStr("0" * 32)  # else one of its own would be made
        settings = Settings(model_store=Path(folder), data_dir=Path(folder), secret=secret)
        app = create_app(settings, "redis://localhost")
        return json.dumps(app.openapi(), indent=1, ensure_ascii=False)


def _make_folders(settings: Settings, store: ModelStore) -> None:
    settings.model_store.mkdir(parents=True, exist_ok=True)
    settings.import_dir.mkdir(parents=True, exist_ok=True)
    add_bundled_models(store)


async def _serve_models(state: AppState) -> None:
    try:
        await state.fleet.run(state.opened.set)
    except Exception:  # noqa: BLE001 (the server says what it lacks, and an admin can mend it)
        _log.exception("the models of the store could not be opened")
        state.opened.set()


async def _wait_to_listen(process: ServerProcess, state: AppState) -> None:
    """Wait for the models where another process serves meanwhile."""
    if process.listens_late:
        await state.opened.wait()


def _sweep(state: AppState) -> None:
    """Delete what a killed server has left. Whatever goes wrong is no reason not to start."""
    with contextlib.suppress(OSError):
        state.store.sweep()
        sweep(state.import_dir, (admin.UPLOADING,))
        state.training.corpora.sweep()


def _n_streams(registry: Registry[ModelRuntime]) -> int:
    return sum(model.runtime.engine.streams for model in registry.in_memory())


async def stop(state: AppState) -> None:
    """Refuse new requests, wait for those that run, end the rest, and close every model.

    Each client whose request is ended is told so. Does nothing the second time.
    """
    if state.has_stopped:
        return
    state.has_stopped = True
    await state.drain.begin()
    await state.drain.wait()
    await state.registry.close(0.0)  # the streams that are left get their end from their engine
    await state.drain.cut()
    state.children.end()


def make_secret(settings: Settings) -> None:
    """Make the secret of a new data folder. Raises BadRequest where the given one is too short."""
    _signing_secret(settings)


def _signing_secret(settings: Settings) -> bytes:
    given = settings.secret.get_secret_value() if settings.secret else None
    return read_secret(settings.data_dir, given)


def _make_sessions(signer: Signer, redis_url: str) -> Sessions:
    config = SessionConfig()
    clients = open_client(redis_url, config), open_client(redis_url, config)
    store = Store(*clients, signer, random_name(), config, names_of(redis_url))
    return Sessions.compose(store, GroupCommit(store), signer, config)
