"""What the routes stand on: the models that are served, and whether they are."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from service.api.sse import EventEncoder
from service.constraints.compiler import ConstraintCompiler
from service.errors import Draining
from service.generation.engine import Engine
from service.generation.prefix_cache import ScopedPrefixCache
from service.models.registry import LoadedModel, Registry
from service.models.store import ModelStore
from service.sessions.model import SessionModel
from service.sessions.session import Session, SessionKey
from service.sessions.sessions import Sessions
from service.training.corpus_store import CorpusStore
from service.training.queue import JobQueue


@dataclass(frozen=True, slots=True)
class ModelRuntime:
    """What runs one loaded model and writes its events."""

    engine: Engine
    writer: EventEncoder
    constraints: ConstraintCompiler
    prefixes: ScopedPrefixCache

    def start(self) -> None:
        """Begin to work for the running event loop."""
        self.engine.start()

    async def drain(self, deadline_s: float) -> None:
        """Take no new work and wait for what is under way."""
        await self.engine.drain(deadline_s)

    def close(self) -> None:
        """End the engine's thread."""
        self.engine.close()


ServedModel = LoadedModel[ModelRuntime]


@dataclass(frozen=True, slots=True)
class TrainingServices:
    """The rooms that the training routes stand on."""

    queue: JobQueue
    corpora: CorpusStore
    checking: asyncio.Lock = field(default_factory=asyncio.Lock)  # one text at a time: a gigabyte


@dataclass(slots=True)
class AppState:
    """The one value that changes while the process lives; it belongs to the event loop."""

    registry: Registry[ModelRuntime]
    sessions: Sessions
    owner_of: Callable[[Request], str]
    store: ModelStore
    import_dir: Path
    training: TrainingServices
    importing: asyncio.Lock = field(default_factory=asyncio.Lock)  # one at a time: they are large
    opened: asyncio.Event = field(default_factory=asyncio.Event)  # the first models are loaded
    is_draining: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether a generate request would be taken."""
        loaded = list(self.registry.loaded())
        is_sound = all(model.runtime.engine.failure is None for model in loaded)
        is_up = (
            self.opened.is_set()
            and not self.is_draining
            and self.sessions.heartbeat.problem is None
        )
        return is_up and bool(loaded) and is_sound

    def get(self, name: str | None) -> ServedModel:
        """The loaded model called so. Raises as Registry.get does, and Draining."""
        if self.is_draining:
            raise Draining("the server is stopping and takes no new requests; try another one")
        return self.registry.get(name)

    def get_for(self, session: Session, name: str | None = None) -> ServedModel:
        """The loaded model that a session's state belongs to.

        Raises:
            StateModelMismatch: `name` is another model, or the session's was replaced.
            ModelNotFound, ModelNotReady, ModelUnloaded, Draining.

        """
        model = self.get(name or session.model)
        session_model(model).check(session)
        return model

    def key(self, request: Request, session_id: str) -> SessionKey:
        """A session's key for whoever asks. Raises Validation."""
        return SessionKey(self.owner_of(request), session_id)


def session_model(model: ServedModel) -> SessionModel:
    """What sessions need to know of a loaded model."""
    return SessionModel(
        str(model.ref),
        model.manifest.digest,
        model.spec.state_units,
        model.tokenizer,
        model.runtime.engine,
        model.runtime.constraints,
    )


def get_state(request: Request) -> AppState:
    """The app's Serving."""
    serving = request.app.state.serving
    assert isinstance(serving, AppState)
    return serving
