"""Looks after train jobs from a server: lost attempts begin again, finished models are loaded."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from service.errors import CarouselError
from service.training.job import Change, Job
from service.training.queue import JobQueue, Superseded

LOOK_S = 1.0

Load = Callable[[str, str | None], Awaitable[None]]
"""Loads a stored model, and lets an alias, if there is one, point at it."""

_log = logging.getLogger(__name__)


class Tender:
    """Belongs to one event loop. Several servers may tend the same jobs."""

    def __init__(self, queue: JobQueue, load: Load) -> None:
        self._queue, self._load = queue, load

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

    async def _finish(self, job: Job, model: str) -> None:
        error = None
        try:
            await self._load(model, job.order.alias)
        except CarouselError as refusal:  # it is stored, and can be loaded by hand
            error = {"error": f"{model} was not loaded: {refusal}", "error_type": refusal.code}
        try:
            await asyncio.to_thread(self._queue.settle, job.key, job.attempt, Change.SUCCEED, error)
        except Superseded:
            _log.debug("another server has finished the job %s", job.key.id)
