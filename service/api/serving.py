"""What the routes stand on: the models that are served, and whether they are."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from service.api.event_stream import EventWriter
from service.errors import Draining
from service.generation.engine import Engine
from service.models.registry import LoadedModel, Registry
from service.models.store import ModelStore


@dataclass(frozen=True, slots=True)
class ModelRuntime:
    """What runs one loaded model and writes its events."""

    engine: Engine
    writer: EventWriter

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


@dataclass(slots=True)
class Serving:
    """The one value that changes while the process lives; it belongs to the event loop."""

    registry: Registry[ModelRuntime]
    store: ModelStore
    import_dir: Path
    importing: asyncio.Lock = field(default_factory=asyncio.Lock)  # one at a time: they are large
    opened: asyncio.Event = field(default_factory=asyncio.Event)  # the first models are loaded
    is_draining: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether a generate request would be taken."""
        loaded = list(self.registry.loaded())
        is_sound = all(model.runtime.engine.failure is None for model in loaded)
        return self.opened.is_set() and not self.is_draining and bool(loaded) and is_sound

    def get(self, name: str | None) -> ServedModel:
        """The loaded model called so. Raises as Registry.get does, and Draining."""
        if self.is_draining:
            raise Draining("the server is stopping and takes no new requests; try another one")
        return self.registry.get(name)


def serving_of(request: Request) -> Serving:
    """The app's Serving."""
    serving = request.app.state.serving
    assert isinstance(serving, Serving)
    return serving
