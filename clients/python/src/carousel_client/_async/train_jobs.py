"""The corpora and train jobs of a server."""

from collections.abc import AsyncGenerator
from typing import Unpack

from carousel_client import operations
from carousel_client._async.transport import AsyncTransport
from carousel_client.parameters import TrainJobOptions
from carousel_client.resumable_events import ResumableEvents
from carousel_client.train_job_responses import Corpus, TrainJob, TrainJobEvent


class AsyncCorporaAPI:
    """Upload and list texts to train on."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(self, text: str | bytes, name: str, timeout_s: float | None = None) -> Corpus:
        """Store a text; bytes are UTF-8. The same text has the same id."""
        return await self._transport.execute(operations.upload_corpus(text, name), timeout_s)

    async def list(self) -> tuple[Corpus, ...]:
        """List every stored text."""
        return await self._transport.execute(operations.list_corpora())


class AsyncTrainJobsAPI:
    """Submit, follow, cancel and publish train jobs."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def submit(self, name: str, corpus: str, **options: Unpack[TrainJobOptions]) -> TrainJob:
        """Submit a train job for a model called `name` on a stored text.

        A lost response is not retried: `list` shows whether the job is there.
        """
        return await self._transport.execute(operations.submit_train_job(name, corpus, options))

    async def list(self) -> tuple[TrainJob, ...]:
        """List every job, the newest first."""
        return await self._transport.execute(operations.list_train_jobs())

    async def get(self, job_id: str) -> TrainJob:
        """Return the record of a job."""
        return await self._transport.execute(operations.get_train_job(job_id))

    async def cancel(self, job_id: str) -> TrainJob:
        """Cancel a job, which stops it within seconds. Does nothing if it has ended.

        The best checkpoint is kept, and `publish` makes it a model.
        """
        return await self._transport.execute(operations.cancel_train_job(job_id))

    async def publish(self, job_id: str) -> TrainJob:
        """Publish the best checkpoint of a cancelled job as its model, which a worker stores.

        Follow it with `get` or `events`. Does nothing if the job has a model.
        """
        return await self._transport.execute(operations.publish_train_job(job_id))

    def events(
        self, job_id: str, after: str | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[TrainJobEvent, None]:
        """Yield the past and coming events of a job after the one with this id, up to `done`.

        It resumes after a lost connection, and every event comes once.
        """
        state = ResumableEvents(job_id, after, timeout_s or self._transport.timeout_s)
        return self._transport.follow(state)
