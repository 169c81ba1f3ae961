# Generated from ../_async: change that, and run `make client-sync`.
"""The corpora and train jobs of a server."""

from collections.abc import Generator
from typing import Unpack

from carousel_client import operations
from carousel_client._sync.transport import Transport
from carousel_client.parameters import TrainJobOptions
from carousel_client.resumable_events import ResumableEvents
from carousel_client.train_job_responses import Corpus, TrainJob, TrainJobEvent


class CorporaAPI:
    """Upload and list texts to train on."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, text: str | bytes, name: str, timeout_s: float | None = None) -> Corpus:
        """Store a text; bytes are UTF-8. The same text has the same id."""
        return self._transport.execute(operations.upload_corpus(text, name), timeout_s)

    def list(self) -> tuple[Corpus, ...]:
        """List every stored text."""
        return self._transport.execute(operations.list_corpora())


class TrainJobsAPI:
    """Submit, follow, cancel and publish train jobs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(self, name: str, corpus: str, **options: Unpack[TrainJobOptions]) -> TrainJob:
        """Submit a train job for a model called `name` on a stored text.

        A lost response is not retried: `list` shows whether the job is there.
        """
        return self._transport.execute(operations.submit_train_job(name, corpus, options))

    def list(self) -> tuple[TrainJob, ...]:
        """List every job, the newest first."""
        return self._transport.execute(operations.list_train_jobs())

    def get(self, job_id: str) -> TrainJob:
        """Return the record of a job."""
        return self._transport.execute(operations.get_train_job(job_id))

    def cancel(self, job_id: str) -> TrainJob:
        """Cancel a job, which stops it within seconds. Does nothing if it has ended.

        The best checkpoint is kept, and `publish` makes it a model.
        """
        return self._transport.execute(operations.cancel_train_job(job_id))

    def publish(self, job_id: str) -> TrainJob:
        """Publish the best checkpoint of a cancelled job as its model, which a worker stores.

        Follow it with `get` or `events`. Does nothing if the job has a model.
        """
        return self._transport.execute(operations.publish_train_job(job_id))

    def events(
        self, job_id: str, after: str | None = None, timeout_s: float | None = None
    ) -> Generator[TrainJobEvent, None]:
        """Yield the past and coming events of a job after the one with this id, up to `done`.

        It resumes after a lost connection, and every event comes once.
        """
        state = ResumableEvents(job_id, after, timeout_s or self._transport.timeout_s)
        return self._transport.follow(state)
