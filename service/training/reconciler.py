"""The reconciler: queues lost jobs again, loads published models, cleans up after ended jobs."""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Protocol

from service.errors import CarouselError, JobNotFound, StoreUnavailable
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.training.checkpoint import clean
from service.training.job import TrainJob
from service.training.job_store import Fenced
from service.training.queue import JobQueue
from service.training.states import JobState, Transition
from service.training.tally import JobTally

POLL_S = 1.0
ORPHAN_REMOVAL_LEASE_MS = 60_000
PUBLISH_LEASE_MS = 20_000  # then another process publishes it too, which changes nothing

_log = logging.getLogger(__name__)


class TrainedModels(Protocol):
    """Where trained models are served."""

    async def publish(self, ref: ModelRef, alias: str | None) -> None:
        """Load a trained model, and set its alias. Raises CarouselError. May be repeated."""

    async def delete(self, ref: ModelRef) -> None:
        """Delete a version that was stored too late. Raises CarouselError."""


class JobReconciler:
    """Reconciles the jobs' records. Every server has one. Not thread-safe: one event loop only."""

    def __init__(
        self,
        queue: JobQueue,
        store: ModelStore,
        folder: Path,
        models: TrainedModels,
        tally: JobTally | None = None,
    ) -> None:
        """`folder` holds the folders of the jobs; `tally` counts what is seen of them."""
        self._queue, self._store, self._folder = queue, store, folder
        self._models = models
        self._tally = JobTally() if tally is None else tally

    async def run(self) -> None:
        """Reconcile every POLL_S seconds until cancelled."""
        while True:
            try:
                await self.reconcile()
            except CarouselError as error:
                _log.debug("the train jobs cannot be reconciled: %s", error)
            except Exception:  # noqa: BLE001 (the next round may succeed)
                _log.exception("the train jobs cannot be reconciled")
            await asyncio.sleep(POLL_S)

    async def reconcile(self) -> None:
        """Reconcile every job once."""
        jobs = await asyncio.to_thread(self._queue.requeue_lost)
        ended = []
        for key in self._tally.gone(jobs):
            with contextlib.suppress(JobNotFound):  # it has been deleted meanwhile
                ended.append(await asyncio.to_thread(self._queue.get, key))
        self._tally.look(jobs, ended)
        for job in jobs:
            if job.state is JobState.PUBLISHED and job.model is not None:
                await self._finish(job, job.model)
        for job in await asyncio.to_thread(self._queue.jobs_to_clean_up):
            await self._clean(job)

    async def _finish(self, job: TrainJob, model: str) -> None:
        error = None
        if job.spec.load_when_done:
            if not await asyncio.to_thread(self._queue.lease, job, PUBLISH_LEASE_MS):
                return  # another process publishes it; if it has died, the lease ends
            current = await asyncio.to_thread(self._queue.get, job.key)
            if current.state is not JobState.PUBLISHED:  # another one has, since it was listed
                await asyncio.to_thread(self._queue.end_lease, job.key)
                return
            error = await self._publish(job, ModelRef.parse(model))
        try:
            await asyncio.to_thread(self._queue.finish, job, Transition.SUCCEED, error)
        except Fenced:
            _log.debug("another process has finished the job %s", job.key.id)

    async def _publish(self, job: TrainJob, ref: ModelRef) -> dict[str, str] | None:
        """Return why a model is not loaded. Raises StoreUnavailable: it is tried again."""
        try:
            await self._models.publish(ref, job.spec.alias)
        except StoreUnavailable:
            await asyncio.to_thread(self._queue.end_lease, job.key)
            raise
        except CarouselError as refusal:  # it is stored, and can be loaded by hand
            return {"error": f"{ref} was not loaded: {refusal}", "error_type": refusal.code}
        return None

    async def _clean(self, job: TrainJob) -> None:
        await asyncio.to_thread(clean, self._folder / job.key.id, job.state)
        if job.model is not None or job.version is None:
            await asyncio.to_thread(self._queue.mark_clean, job.key)
            return
        # A suspended process may still store a model: checked as long as the record exists.
        if await asyncio.to_thread(_orphan, job, self._store) is None:
            return
        if not await asyncio.to_thread(self._queue.lease, job, ORPHAN_REMOVAL_LEASE_MS):
            return  # a worker or another server acts on the job
        try:
            await self._remove_orphan(await asyncio.to_thread(self._queue.get, job.key))
        finally:
            await asyncio.to_thread(self._queue.end_lease, job.key)

    async def _remove_orphan(self, job: TrainJob) -> None:
        """Remove a model that an ended job has not published. The caller holds the job's lease."""
        ref = await asyncio.to_thread(_orphan, job, self._store)
        if ref is None:
            return
        try:
            await self._models.delete(ref)
        except CarouselError as refusal:
            _log.debug("%s, of a job that has ended, is not removed: %s", ref, refusal)
        else:
            _log.warning("%s is removed: its job %s ended without it", ref, job.key.id)


def _orphan(job: TrainJob, store: ModelStore) -> ModelRef | None:
    """The model that was stored for a job that has ended without one, if there is one.

    A process that is suspended between its last check of the fence and the rename stores it later.
    """
    if not job.state.is_over or job.model is not None or job.version is None:
        return None
    ref = ModelRef(job.spec.name, job.version)
    manifest = store.manifest(ref)
    return ref if manifest is not None and manifest.training.get("job") == job.key.id else None
