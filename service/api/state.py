"""The state of the app that the routes share: loaded models, sessions, training, limits."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from fastapi import Request

from service.api.caller import caller_of
from service.api.draining import Drain, DrainPhase
from service.api.limits import ApiLimits
from service.api.metering import UsageMetering
from service.api.model_leases import MODEL_LEASES, ModelLeases
from service.api.seed_pool import SeedPool
from service.api.sse import EventEncoder
from service.batch.batch_store import BatchStore
from service.batch.file_store import FileStore
from service.constraints.compiler import ConstraintCompiler
from service.errors import CarouselError, Draining, Forbidden
from service.fleet.changes import FleetChanges
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.prefix_cache import PrefixCache, ScopedPrefixCache
from service.generation.state_reader import StateReader
from service.generation.steered_engine import SteeredEngine
from service.inspection.inspector import Inspector
from service.keys.key_ring import KeyRing
from service.metrics.metrics import Metrics
from service.models.chat_template_store import ChatTemplateStore
from service.models.device import Device
from service.models.loaded_model import LoadedModel, ModelInfo
from service.models.registry import Registry
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.sandbox import SandboxChildren
from service.sessions.audit_store import AuditStore
from service.sessions.model import SessionModel
from service.sessions.session import Session, SessionKey
from service.sessions.sessions import Sessions
from service.training.corpus_store import CorpusStore
from service.training.queue import JobQueue
from service.training.tally import JobTally


@dataclass(frozen=True, slots=True)
class ModelRuntime:
    """The engine of one loaded model, and what requests for it share."""

    engine: Engine
    encoder: EventEncoder
    constraints: ConstraintCompiler
    prefixes: ScopedPrefixCache
    state_reader: StateReader
    inspector: Inspector
    for_sessions: SessionModel
    steered: SteeredEngine
    device: Device = Device.CPU  # that computes the steps

    @property
    def is_busy(self) -> bool:
        """Whether a generation runs or waits, be it one whose client has gone."""
        # A reservation belongs to a request, which has a lease.
        return self.engine.streams > 0 or self.steered.is_busy

    @property
    def running(self) -> int:
        """How many generations have a row, and how many beam searches run."""
        return self.engine.running + (self.steered.engine.running if self.steered.engine else 0)

    @property
    def waiting(self) -> int:
        """How many generations and beam searches wait."""
        return self.engine.waiting + (self.steered.engine.waiting if self.steered.engine else 0)

    def start(self) -> None:
        """Start the engine for the running event loop."""
        self.engine.start()

    async def drain(self, timeout_s: float) -> None:
        """Accept no new requests and wait for the running ones, at most `timeout_s`."""
        await asyncio.gather(self.engine.drain(timeout_s), self.steered.drain(timeout_s))

    def close(self) -> None:
        """Stop the engines' threads."""
        self.engine.close()
        self.steered.close()


ServedModel = LoadedModel[ModelRuntime]


@dataclass(frozen=True, slots=True)
class BatchServices:
    """The files of owners, and the batches over them."""

    files: FileStore
    store: BatchStore

    @classmethod
    def of(cls, files_dir: Path, batches_dir: Path) -> Self:
        """Return the services over two folders, which are made when they are needed."""
        return cls(FileStore(files_dir), BatchStore(batches_dir))


@dataclass(frozen=True, slots=True)
class TrainingServices:
    """The queue of train jobs and the store of corpora."""

    queue: JobQueue
    corpora: CorpusStore
    jobs_dir: Path
    tally: JobTally = field(default_factory=JobTally)
    checking: asyncio.Lock = field(default_factory=asyncio.Lock)  # one at a time: 1 GiB each


@dataclass(slots=True)
class AppState:
    """The only mutable value of the app. Belongs to the event loop."""

    registry: Registry[ModelRuntime]
    fleet: FleetChanges
    sessions: Sessions
    owner_of: Callable[[Request], str]
    store: ModelStore
    import_dir: Path
    training: TrainingServices
    batches: BatchServices
    limits: ApiLimits
    engine_config: EngineConfig
    chat_templates: ChatTemplateStore
    keys: KeyRing
    metering: UsageMetering
    metrics: Metrics
    audit: AuditStore
    prefix_cache: PrefixCache  # of all models
    drain: Drain
    drain_others: Callable[[], None] = lambda: None  # the other processes of this server
    children: SandboxChildren = field(default_factory=SandboxChildren)
    seeds: SeedPool = field(default_factory=SeedPool)
    has_stopped: bool = False
    allowed_models: frozenset[str] | None = None  # in a copy for one request; None: every model
    importing: asyncio.Lock = field(default_factory=asyncio.Lock)  # one at a time: memory
    opened: asyncio.Event = field(default_factory=asyncio.Event)  # the first models are loaded

    @property
    def is_ready(self) -> bool:
        """Whether requests of every kind would be accepted: sessions too, so with their store."""
        return self.problem is None

    @property
    def problem(self) -> str | None:
        """Why it is not ready, for a person; None if it is."""
        if not self.opened.is_set():
            return "the models are being loaded"
        if self.drain.phase is not DrainPhase.SERVING:
            return "the server is stopping"
        if self.sessions.heartbeat.problem is not None:
            return self.sessions.heartbeat.problem
        if not self.registry.has_models:
            return "no model is loaded"
        failures = (model.runtime.engine.failure for model in self.registry.loaded())
        return next((failure for failure in failures if failure is not None), None)

    async def get(self, request: Request, name: str | None) -> ServedModel:
        """Return a model, which stays in memory until the request's reply has been sent.

        None is the default one. Raises Draining, Forbidden if the request's key may not use it, or
        as Registry.acquire.
        """
        if self.drain.is_draining:
            raise Draining("the server is stopping and accepts no new requests; try another one")
        if self.allowed_models is not None:
            self.resolve(name)
        lease = await self.registry.acquire(name)
        leases: ModelLeases = request.scope["state"][MODEL_LEASES]
        leases.add(lease)
        return lease.model

    def resolve(self, name: str | None) -> ModelRef:
        """Return the version of a name. Raises Forbidden, or as Registry.resolve."""
        with self._allowing(name):
            ref = self.registry.resolve(name)
            self._check_allowed(ref)
            return ref

    def loaded(self) -> Iterator[ServedModel]:
        """Iterate over the models that are ready and that the request's key may use."""
        return (model for model in self.registry.loaded() if self._is_allowed(str(model.ref)))

    def servable(self) -> list[ModelInfo]:
        """Describe the models that a request can name and that its key may use."""
        return [info for info in self.registry.servable() if self._is_allowed(str(info.ref))]

    def _is_allowed(self, name: str) -> bool:
        allowed = self.allowed_models
        return allowed is None or name in allowed or name.partition("@")[0] in allowed

    def _check_allowed(self, ref: ModelRef) -> None:
        if not self._is_allowed(str(ref)):
            raise self._forbidden()

    @contextlib.contextmanager
    def _allowing(self, name: str | None) -> Iterator[None]:
        """Hide from a key which models there are besides its own."""
        try:
            yield
        except CarouselError as error:
            if name is None or self._is_allowed(name):
                raise
            raise self._forbidden() from error

    def _forbidden(self) -> Forbidden:
        names = ", ".join(sorted(self.allowed_models or ()))
        return Forbidden(f"this key may use no other models than {names}", "model")

    async def get_for(
        self, request: Request, session: Session, name: str | None = None
    ) -> ServedModel:
        """Return a session's model. Raises as `get`, or StateModelMismatch for another."""
        model = await self.get(request, name or session.model)
        session_model(model).check(session)
        return model

    def key(self, request: Request, session_id: str) -> SessionKey:
        """Return the key of a session of the request's owner. Raises Validation."""
        return SessionKey(self.owner_of(request), session_id)


def session_model(model: ServedModel) -> SessionModel:
    """Return what sessions need of a loaded model."""
    return model.runtime.for_sessions


def get_state(request: Request) -> AppState:
    """Return the state of the request's app, with what the request's key may use of it."""
    state = request.app.state.carousel
    assert isinstance(state, AppState)
    models = caller_of(request.scope).models
    return state if models is None else replace(state, allowed_models=models)
