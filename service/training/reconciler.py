"""Looks after train jobs from a server.

Lost attempts begin again, finished models are loaded, what jobs have left behind is cleared.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from service.errors import CarouselError
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.training.cleanup import orphan, tidy
from service.training.job import TrainJob, Transition
from service.training.queue import Fenced, JobQueue

LOOK_S = 1.0

Load = Callable[[str, str | None], Awaitable[None]]
"""Loads a stored model, and lets an alias, if there is one, point at it."""

Remove = Callable[[ModelRef], Awaitable[None]]
"""Removes a stored model that is not in use."""

_log = logging.getLogger(__name__)


class JobReconciler:
    """Belongs to one event loop. Several servers may tend the same jobs."""

    def __init__(
        self, queue: JobQueue, store: ModelStore, folder: Path, load: Load, remove: Remove
    ) -> None:
        """`folder` is where jobs have their folders."""
        self._queue, self._store, self._folder = queue, store, folder
        self._load, self._remove = load, remove

    async def run(self) -> None:
        """Look after the jobs until cancelled."""
        while True:
            try:
                await self.look()
            except CarouselError as error:
                _log.debug("the train jobs cannot be looked after: %s", error)
            except Exception:  # noqa: BLE001 (it must go on)
                _log.exception("the train jobs cannot be looked after")
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Do once what there is to do."""
        for job in await asyncio.to_thread(self._queue.sweep):
            if job.is_published and job.model is not None:
                await self._finish(job, job.model)
        for job in await asyncio.to_thread(self._queue.left):
            await self._clear(job)

    async def _finish(self, job: TrainJob, model: str) -> None:
        error = None
        try:
            await self._load(model, job.order.alias)
        except CarouselError as refusal:  # it is stored, and can be loaded by hand
            error = {"error": f"{model} was not loaded: {refusal}", "error_type": refusal.code}
        try:
            await asyncio.to_thread(
                self._queue.settle, job.key, job.attempt, Transition.SUCCEED, error
            )
        except Fenced:
            _log.debug("another server has finished the job %s", job.key.id)

    async def _clear(self, job: TrainJob) -> None:
        await asyncio.to_thread(tidy, self._folder / job.key.id, job.status)
        if job.model is not None or job.version is None:
            await asyncio.to_thread(self._queue.forget, job.key)
            return
        # A process that is asleep may still store a model: looked for as long as the record is.
        ref = await asyncio.to_thread(orphan, job, self._store)
        if ref is not None:
            try:
                await self._remove(ref)
            except CarouselError as refusal:
                _log.debug("%s, of a job that has ended, is not removed: %s", ref, refusal)
            else:
                _log.warning("%s is removed: its job %s ended without it", ref, job.key.id)
