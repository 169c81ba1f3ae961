"""The publication of trained models, by the reconcilers of several processes, on a real store."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.errors import ModelNotReady, StoreUnavailable
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.training.config import QueueConfig
from service.training.job import JobKey
from service.training.job_spec import TrainJobSpec
from service.training.queue import JobQueue
from service.training.recipe import Architecture, Recipe
from service.training.reconciler import JobReconciler
from service.training.states import JobState, JobStatus

SPEC = TrainJobSpec("owl", "c" * 32, Recipe(Architecture("lstm", 2, 3, layers=1)), alias="newest")


@dataclass
class Models:
    """Where the models of a process are served: what it was asked for."""

    published: list[tuple[str, str | None]] = field(default_factory=list)
    failure: Exception | None = None
    meanwhile: Callable[[], None] = lambda: None

    async def publish(self, ref: ModelRef, alias: str | None) -> None:
        self.published.append((str(ref), alias))
        await asyncio.to_thread(self.meanwhile)
        if self.failure is not None:
            raise self.failure

    async def delete(self, ref: ModelRef) -> None:
        raise AssertionError(ref)


@dataclass
class Site:
    """A job whose model is stored, and the processes that see it."""

    queue: JobQueue
    folder: Path
    key: JobKey

    def process(self, models: Models) -> JobReconciler:
        return JobReconciler(self.queue, ModelStore(self.folder), self.folder, models)

    @property
    def status(self) -> JobStatus:
        return self.queue.get(self.key).status


@pytest.fixture
def site(valkey, tmp_path) -> Iterator[Site]:
    queue = JobQueue(valkey.url, QueueConfig())
    key = queue.submit("me", SPEC).key
    job = queue.claim(key, 1)
    queue.stored(key, job.attempt, "owl@1")
    assert queue.get(key).state is JobState.PUBLISHED
    yield Site(queue, tmp_path, key)
    queue.connection.close()


async def test_one_of_many_processes_publishes(site):
    models = [Models(meanwhile=lambda: time.sleep(0.2)) for _ in range(4)]
    await asyncio.gather(*(site.process(each).reconcile() for each in models))
    assert [call for each in models for call in each.published] == [("owl@1", "newest")]
    assert site.status is JobStatus.SUCCEEDED


async def test_a_process_that_listed_the_job_before_it_ended_does_not_publish_it_again(site):
    """Its alias may have been moved since."""
    (before,) = site.queue.open()
    await site.process(Models()).reconcile()
    late = Models()
    await site.process(late)._finish(before, "owl@1")
    assert late.published == []


async def test_a_store_that_is_away_does_not_end_the_job(site):
    away = Models(failure=StoreUnavailable("it does not answer"))
    with pytest.raises(StoreUnavailable):
        await site.process(away).reconcile()
    assert site.status is not JobStatus.SUCCEEDED
    models = Models()
    await site.process(models).reconcile()
    assert models.published == [("owl@1", "newest")]
    assert site.queue.get(site.key).error is None
    assert site.status is JobStatus.SUCCEEDED


async def test_a_model_that_cannot_be_loaded_ends_the_job_with_the_reason(site):
    await site.process(Models(failure=ModelNotReady("no room"))).reconcile()
    job = site.queue.get(site.key)
    assert job.status is JobStatus.SUCCEEDED
    assert "owl@1 was not loaded: no room" in str(job.error)
