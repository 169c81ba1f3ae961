"""Train jobs of a server: texts go up, jobs are submitted, followed and cancelled."""

from collections.abc import AsyncGenerator, Generator
from typing import Unpack

from service.client import calls
from service.client.following import JobReading
from service.client.job_replies import Corpus, Job, JobEvent
from service.client.link import AsyncLink, Link
from service.client.parameters import JobOptions


class Training:
    """The texts and train jobs of a server."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def upload(self, text: str | bytes, name: str, timeout_s: float | None = None) -> Corpus:
        """Store a text; bytes are UTF-8. The same text has the same id."""
        return self._link.do(calls.upload_corpus(text, name), timeout_s)

    def corpora(self) -> tuple[Corpus, ...]:
        """Every stored text."""
        return self._link.do(calls.list_corpora())

    def submit(self, name: str, corpus: str, **options: Unpack[JobOptions]) -> Job:
        """Let a model called `name` be trained on a stored text.

        A lost reply is not asked for again: `list` says what has become of it.
        """
        return self._link.do(calls.submit_job(name, corpus, options))

    def list(self) -> tuple[Job, ...]:
        """Every job, the newest first."""
        return self._link.do(calls.list_jobs())

    def get(self, job_id: str) -> Job:
        """A job as it stands."""
        return self._link.do(calls.get_job(job_id))

    def cancel(self, job_id: str) -> Job:
        """End a job within seconds; its best checkpoint becomes its model. Harmless when over."""
        return self._link.do(calls.cancel_job(job_id))

    def events(
        self, job_id: str, after: str | None = None, timeout_s: float | None = None
    ) -> Generator[JobEvent, None, None]:
        """What was told of a job and is told of it, after an event's id, up to `done`.

        A broken connection is made again, and every event comes once.
        """
        return self._link.follow(JobReading(job_id, after, timeout_s or self._link.timeout_s))


class AsyncTraining:
    """The texts and train jobs of a server."""

    def __init__(self, link: AsyncLink) -> None:
        self._link = link

    async def upload(self, text: str | bytes, name: str, timeout_s: float | None = None) -> Corpus:
        """Store a text; bytes are UTF-8. The same text has the same id."""
        return await self._link.do(calls.upload_corpus(text, name), timeout_s)

    async def corpora(self) -> tuple[Corpus, ...]:
        """Every stored text."""
        return await self._link.do(calls.list_corpora())

    async def submit(self, name: str, corpus: str, **options: Unpack[JobOptions]) -> Job:
        """Let a model called `name` be trained on a stored text.

        A lost reply is not asked for again: `list` says what has become of it.
        """
        return await self._link.do(calls.submit_job(name, corpus, options))

    async def list(self) -> tuple[Job, ...]:
        """Every job, the newest first."""
        return await self._link.do(calls.list_jobs())

    async def get(self, job_id: str) -> Job:
        """A job as it stands."""
        return await self._link.do(calls.get_job(job_id))

    async def cancel(self, job_id: str) -> Job:
        """End a job within seconds; its best checkpoint becomes its model. Harmless when over."""
        return await self._link.do(calls.cancel_job(job_id))

    def events(
        self, job_id: str, after: str | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[JobEvent, None]:
        """What was told of a job and is told of it, after an event's id, up to `done`.

        A broken connection is made again, and every event comes once.
        """
        return self._link.follow(JobReading(job_id, after, timeout_s or self._link.timeout_s))
