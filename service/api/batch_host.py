"""What the batches of a server need of it: its routes, its keys, and the room that is left."""

import time
from functools import partial

from service.api.batch_log import BatchLog
from service.api.caller import ANONYMOUS, Caller
from service.api.files import stored_bytes_of
from service.api.json_size import JsonSize
from service.api.line_app import LineApp
from service.api.state import AppState
from service.batch.batch_store import BatchRecord, BatchSpec
from service.batch.call import Answer
from service.batch.row import is_failed
from service.batch.runner import BatchRunner
from service.errors import CarouselError
from service.limits.limits import NO_LIMITS
from service.metrics import families


class ServerBatchHost:
    """Answers the lines of batches as their owners' own requests. For the event loop."""

    def __init__(self, state: AppState, log: BatchLog) -> None:
        self._state, self._app, self._log = state, LineApp(state), log

    @property
    def is_stopping(self) -> bool:
        """Whether no new work is begun: before the first models are loaded, and in a drain."""
        return not self._state.opened.is_set() or self._state.drain.is_draining

    def excess(self, text: bytes) -> str | None:
        """Return which limit of a body a line's JSON exceeds."""
        size = JsonSize()
        size.add(text)
        return size.excess(self._state.limits.json)

    async def answer_for(self, spec: BatchSpec) -> Answer | None:
        """Return what answers the lines; None where the key is gone. Raises StoreUnavailable."""
        caller = await self._caller(spec)
        return None if caller is None else partial(self._app.answer, caller)

    async def free_bytes(self, spec: BatchSpec) -> int | None:
        """Return how much the owner may store besides the batch; None is no limit."""
        caller = await self._caller(spec)
        limits = self._state.metering.limits_of(caller or ANONYMOUS)
        if limits.stored_bytes is None:
            return None
        return limits.stored_bytes - stored_bytes_of(self._state, spec.owner)

    def pin(self, name: str | None) -> tuple[str, str] | None:
        """Return the version that a name means, and its digest; None where there is none."""
        try:
            ref = self._state.registry.resolve(name)
        except CarouselError:
            return None
        manifest = self._state.store.manifest(ref)
        return None if manifest is None else (str(ref), manifest.digest)

    def count(self, row: bytes) -> None:
        """Count a row for the metrics."""
        outcome = "failed" if is_failed(row) else "completed"
        self._state.metrics.inc(families.BATCH_LINES, (outcome,))

    def ended(self, batch: BatchRecord) -> None:
        """Write the record of a batch that is over."""
        self._log.ended(batch)

    async def _caller(self, spec: BatchSpec) -> Caller | None:
        """Return whose request a line is, by the key as it is now; None where it is not valid."""
        if spec.key_id is None:
            return Caller(spec.owner, None, ANONYMOUS.scopes, None, NO_LIMITS)
        key = await self._state.keys.find(spec.key_id)
        if key is None or key.revoked_s is not None:
            return None
        if key.expires_s is not None and key.expires_s <= time.time():
            return None
        models = None if key.models is None else frozenset(key.models)
        return Caller(key.owner, key.id, frozenset(key.scopes), models, key.limits)


def batch_runner(state: AppState, log: BatchLog) -> BatchRunner:
    """Return what runs the batches of a server, beside its requests."""
    services = state.batches
    return BatchRunner(services.files, services.store, ServerBatchHost(state, log))
