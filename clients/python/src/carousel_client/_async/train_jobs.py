"""The corpora and train jobs of a server."""

from collections.abc import AsyncGenerator
from typing import Unpack
from urllib.parse import urlencode

from carousel_client._async.transport import AsyncTransport
from carousel_client.parameters import TrainJobOptions
from carousel_client.request import TEXT, Request, url_path, with_json
from carousel_client.responses import Corpus, TrainJob, TrainJobEvent
from carousel_client.resumable import ResumableEvents


class AsyncCorporaAPI:
    """Upload, list and delete texts to train on."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(self, text: str | bytes, name: str, timeout_s: float | None = None) -> Corpus:
        """Store a text; bytes are UTF-8. The same text has the same id.

        Without `timeout_s` it may take 600 s, or the client's time if that is longer.
        """
        content = text.encode() if isinstance(text, str) else text
        request = Request("POST", f"/corpora?{urlencode({'name': name})}", content, TEXT)
        timeout_s = timeout_s or self._transport.long_timeout_s
        return await self._transport.execute(request, Corpus.from_json, timeout_s)

    async def list(self) -> tuple[Corpus, ...]:
        """List every stored text."""
        return await self._transport.execute(
            Request("GET", "/corpora"), lambda body: Corpus.several(body["corpora"])
        )

    async def delete(self, corpus_id: str) -> None:
        """Delete a text that no job reads which is not over."""
        await self._transport.send(Request("DELETE", url_path("corpora", corpus_id)))


class AsyncTrainJobsAPI:
    """Submit, follow, cancel and publish train jobs."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def submit(self, name: str, corpus: str, **options: Unpack[TrainJobOptions]) -> TrainJob:
        """Submit a train job for a model called `name` on a stored text.

        A lost response is not retried: `list` shows whether the job is there.
        """
        body = {"name": name, "corpus": corpus, **options}
        return await self._execute(with_json("POST", "/train-jobs", body, is_repeatable=False))

    async def list(self) -> tuple[TrainJob, ...]:
        """List every job, the newest first."""
        return await self._transport.execute(
            Request("GET", "/train-jobs"), lambda body: TrainJob.several(body["jobs"])
        )

    async def get(self, job_id: str) -> TrainJob:
        """Return the record of a job."""
        return await self._execute(Request("GET", url_path("train-jobs", job_id)))

    async def cancel(self, job_id: str) -> TrainJob:
        """Cancel a job, which stops it within seconds. Does nothing if it has ended.

        The best checkpoint is kept, and `publish` makes it a model.
        """
        return await self._execute(Request("POST", url_path("train-jobs", job_id, "cancel")))

    async def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its events and checkpoints; its model stays."""
        await self._transport.send(Request("DELETE", url_path("train-jobs", job_id)))

    async def publish(self, job_id: str) -> TrainJob:
        """Publish the best checkpoint of a cancelled job as its model, which a worker stores.

        Follow it with `get` or `events`. Does nothing if the job has a model.
        """
        return await self._execute(Request("POST", url_path("train-jobs", job_id, "publish")))

    def events(
        self, job_id: str, after: str | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[TrainJobEvent, None]:
        """Yield the past and coming events of a job after the one with this id, up to `done`.

        It resumes after a lost connection, and every event comes once.
        """
        state = ResumableEvents(job_id, after, timeout_s or self._transport.timeout_s)
        return self._transport.follow(state)

    async def _execute(self, request: Request) -> TrainJob:
        return await self._transport.execute(request, TrainJob.from_json)
