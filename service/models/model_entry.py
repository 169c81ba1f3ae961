"""The state of one stored version in a registry, and the leases of the requests that use it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic

from service.models.bundle import Manifest
from service.models.loaded_model import LoadedModel, ModelInfo, ModelStatus, R
from service.models.retention import Resident, Retention
from service.models.spec import ModelRef

IDLE = frozenset({ModelStatus.STORED, ModelStatus.FAILED})


@dataclass(slots=True)
class ModelEntry(Generic[R]):
    """One version. Belongs to the event loop."""

    status: ModelStatus = ModelStatus.STORED
    loaded: LoadedModel[R] | None = None
    leaving: LoadedModel[R] | None = None  # it was unloaded, and generations still run on it
    error: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by a load, unload or delete
    retention: Retention = field(default_factory=Retention)
    is_wanted: bool = False  # the next start loads it
    leases: int = 0
    loaded_s: float = 0.0  # these three are monotonic
    last_used_s: float = 0.0
    failed_s: float = 0.0
    loading: "asyncio.Task[None] | None" = None  # the load on demand that all requests await

    @property
    def is_ready(self) -> bool:
        """Whether requests are served: also by the old runtime, while a new one is loaded."""
        return self.loaded is not None and self.status is not ModelStatus.DRAINING

    @property
    def is_in_use(self) -> bool:
        """Whether a request holds or awaits it, a generation runs, or a change is under way."""
        is_busy = self.loaded is not None and self.loaded.runtime.is_busy
        return self.leases > 0 or self.lock.locked() or is_busy

    def info(self, ref: ModelRef, found: Manifest | str) -> ModelInfo:
        """Describe the version; in place of a damaged one's manifest is the reason."""
        manifest = found if isinstance(found, Manifest) else None
        status, error = self.status, self.error
        if isinstance(found, str) and self.status is ModelStatus.STORED:
            status, error = ModelStatus.FAILED, found
        loaded = self.loaded or self.leaving
        return ModelInfo(
            ref,
            status,
            manifest,
            loaded.precision if loaded else manifest.precision if manifest else None,
            loaded.size_bytes if loaded else 0,
            error,
            self.retention,
            self.leases,
        )

    def resident(self, *, is_kept: bool) -> Resident | None:
        """Return what the choice of a victim reads; None if it is not in memory."""
        if self.loaded is None:
            return None
        return Resident(
            self.loaded.ref,
            self.loaded.size_bytes,
            is_in_use=self.is_in_use or self.status is not ModelStatus.READY,
            is_kept=self.retention.pin or is_kept,
            loaded_s=self.loaded_s,
            last_used_s=self.last_used_s,
        )

    def is_expired(self, now_s: float) -> bool:
        """Return whether its `keep_alive_s` has passed since its last request."""
        keep_s = self.retention.keep_alive_s
        is_kept = self.retention.pin or keep_s < 0 or self.status is not ModelStatus.READY
        return not is_kept and not self.is_in_use and now_s - self.last_used_s >= keep_s


class ModelLease(Generic[R]):
    """The use of a model by one request: until it is released, the model is not evicted.

    It is taken before the model is loaded, so that there is no moment between the load and its
    first use in which the model looks unused.
    """

    def __init__(self, entry: ModelEntry[R], on_release: Callable[[], None]) -> None:
        """Take the lease; `on_release` is called once, after its end."""
        self._entry, self._on_release = entry, on_release
        self._is_held = True
        entry.leases += 1
        entry.last_used_s = time.monotonic()

    @property
    def model(self) -> LoadedModel[R]:
        """The model, which has to be in memory."""
        assert self._entry.loaded is not None
        return self._entry.loaded

    def release(self) -> None:
        """End the use. Does nothing the second time."""
        if self._is_held:
            self._is_held = False
            self._entry.leases -= 1
            self._entry.last_used_s = time.monotonic()
            self._on_release()
