"""The composition root of `carousel batch`: a server's routes in this process, without a store."""

import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from service.api.caller import ANONYMOUS
from service.api.json_size import JsonSize
from service.api.limits import ApiLimits
from service.api.line_app import LineApp
from service.app import SWITCH_INTERVAL_S, create_app
from service.batch.call import Answer
from service.errors import CarouselError
from service.models.resolve import resolve_stored
from service.models.store import ModelStore
from service.settings import Settings

_NO_STORE = "redis://127.0.0.1:1"  # nothing of a batch is kept in one, and none is connected to


@contextlib.asynccontextmanager
async def open_line_app(model_store: Path, model: str, threads: int) -> AsyncIterator[Answer]:
    """Load a model and yield what answers calls; other models are loaded for the first call.

    Raises as ModelRegistry.acquire.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            model_store=model_store,
            data_dir=Path(folder),
            secret=SecretStr("0" * 32),
            default_limits="",
            threads=threads,
            autoload=True,
        )
        state = create_app(settings, _NO_STORE).state.carousel
        lease = await state.registry.acquire(model)
        try:
            yield partial(LineApp(state).answer, ANONYMOUS)
        finally:
            lease.release()
            await state.registry.close(0.0)


def json_excess(text: bytes) -> str | None:
    """Return which limit of a server's bodies a JSON text exceeds."""
    size = JsonSize()
    size.add(text)
    return size.excess(ApiLimits().json)


class PinnedModels:
    """The versions that the names of lines mean, as they are when a batch begins."""

    def __init__(self, model_store: Path, default: str) -> None:
        self._store, self._default = ModelStore(model_store), default
        self._found: dict[str | None, tuple[str, str] | None] = {}

    def pin(self, name: str | None) -> tuple[str, str] | None:
        """Return name@version and its digest; None where no such model is stored."""
        if name not in self._found:
            self._found[name] = self._look(name)
        return self._found[name]

    def _look(self, name: str | None) -> tuple[str, str] | None:
        try:
            ref = resolve_stored(self._store, name or self._default)
        except CarouselError:
            return None
        manifest = self._store.manifest(ref)
        return None if manifest is None else (str(ref), manifest.digest)
