"""One attempt at a job, on a real store, and what is left when the job is over.

No network is trained here: a test hands in what trains and what packs the model, and says when an
attempt is suspended.
"""

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.errors import StoreUnavailable
from service.models.bundle import BundleMetadata, Parity, Precision, Provenance, build_files
from service.models.initializers import initial_weights
from service.models.reference import ReferenceModel
from service.models.spec import ModelRef
from service.models.store import ModelStore
from service.models.tokenizers.characters import CharacterTokenizer
from service.training import checkpoint
from service.training.attempt import Attempt, AttemptFolders, TrainBackend
from service.training.config import AttemptConfig, QueueConfig
from service.training.corpus_store import CorpusStore
from service.training.events import ValidationEvent
from service.training.job import JobKey
from service.training.job_spec import TrainJobSpec
from service.training.queue import JobQueue
from service.training.recipe import Architecture, Recipe
from service.training.reconciler import JobReconciler
from service.training.result import StopReason, Trained
from service.training.states import JobState, JobStatus
from tests.bundles import TINY
from tests.process import ROOT

LEASE_S = 0.2
QUEUE = QueueConfig(lease_ms=int(LEASE_S * 1000))
NO_HEARTBEAT = AttemptConfig(heartbeat_s=1000.0, store_retry_s=0.05)
ARRAYS = initial_weights(TINY, 0)
SPEC = TrainJobSpec(
    "owl", "c" * 32, Recipe(Architecture("lstm", 2, 3, layers=1)), load_when_done=False
)


def nothing(*_: object) -> None:
    pass


def trained(stop_reason: StopReason = StopReason.COMPLETED) -> Trained:
    return Trained(TINY, ARRAYS, None, stop_reason, 1, 1, (), 0.0, "float32")


def completes(*_: object, **__: object) -> Trained:
    return trained()


class Died(BaseException):
    """The end of an attempt's process, for all that others can see."""


def die(*_: object) -> StopReason:
    raise Died


class SlowStore(ModelStore):
    """A folder of models whose writer may be suspended, or die, around the rename."""

    before_rename = after_rename = staticmethod(nothing)

    def write(self, ref, files, last_look=None):
        def look() -> None:
            last_look()
            self.before_rename()

        path = super().write(ref, files, look)
        self.after_rename()
        return path


class AwayQueue(JobQueue):
    """A queue whose store is away while an attempt checks its fence."""

    def renew(self, *_: object) -> bool:
        raise StoreUnavailable("it does not answer")


@dataclass
class Site:
    """Everything that attempts share."""

    queue: JobQueue
    store: SlowStore
    jobs: Path
    meanwhile: Callable[[], None] = nothing  # called when a model's files are made
    config: AttemptConfig = NO_HEARTBEAT
    packed: list[Trained] = field(default_factory=list)

    def attempt(self, key: JobKey, number: int = 1, train=completes) -> Attempt:
        corpora = SimpleNamespace(read=lambda *_: SimpleNamespace(vocabulary=tuple("abc")))
        folders = AttemptFolders(corpora, self.store, self.jobs / key.id)
        backend = TrainBackend(train, self.package)
        return Attempt(self.queue, folders, key, number, backend, self.config)

    def package(self, _spec, job_id, _corpus, vocabulary, made: Trained):
        """Pack a model in no time."""
        self.packed.append(made)

        def files(ref: ModelRef) -> dict[str, bytes]:
            self.meanwhile()
            record = BundleMetadata(
                precision=Precision.FLOAT32,
                precision_reason="made by a test",
                source=Provenance(format="test", files={}),
                parity=Parity(tokens=0, largest_logit_difference={}),
                training={"job": job_id},
            )
            return build_files(ref, made.spec, made.weights, CharacterTokenizer(vocabulary), record)

        return files

    def lose(self) -> None:
        """Let the lease run out: the attempt is suspended, for all that others can see."""
        time.sleep(LEASE_S * 1.25)
        self.queue.requeue_lost()

    @property
    def reconciler(self) -> JobReconciler:
        async def load(*_: object) -> None:
            raise AssertionError("nothing is to be loaded")

        async def remove(ref: ModelRef) -> None:
            self.store.delete(ref)

        models = SimpleNamespace(publish=load, delete=remove)
        return JobReconciler(self.queue, self.store, self.jobs, models)

    def reconcile(self) -> None:
        asyncio.run(self.reconciler.reconcile())


@pytest.fixture
def site(valkey, tmp_path) -> Iterator[Site]:
    valkey.client.flushall()
    queue = JobQueue(valkey.url, QUEUE)
    yield Site(queue, SlowStore(tmp_path / "models"), tmp_path / "jobs")
    queue.connection.close()


def test_an_attempt_stores_its_model_and_leaves_nothing_else(site):
    key = site.queue.submit("me", SPEC).key
    site.attempt(key).run()
    job = site.queue.get(key)
    assert (job.status, job.model) == (JobStatus.SUCCEEDED, "owl@1")
    assert not (site.jobs / key.id).exists()
    site.reconcile()
    assert site.store.refs() == [ModelRef("owl", 1)]
    assert site.queue.jobs_to_clean_up() == []


@pytest.mark.parametrize("ends", [True, False], ids=["cancelled", "taken over"])
def test_an_attempt_that_resumes_before_the_rename_publishes_nothing(site, ends):
    key = site.queue.submit("", SPEC).key

    def sleep() -> None:
        if ends:
            site.queue.cancel(key)
        site.lose()

    site.meanwhile = sleep
    site.attempt(key).run()
    assert site.queue.get(key).status is (JobStatus.CANCELLED if ends else JobStatus.QUEUED)
    assert site.store.refs() == []
    assert list(site.store.folder.glob(".incoming-*")) == []


def test_what_is_stored_for_a_job_that_has_ended_is_removed(site):
    key = site.queue.submit("", SPEC).key
    zombie = site.attempt(key)

    def sleep() -> None:  # it has checked the fence, and the rename comes when it resumes
        site.queue.cancel(key)
        site.lose()
        site.reconcile()  # nothing is there yet

    site.store.before_rename = sleep
    zombie.run()
    site.store.before_rename = nothing
    assert site.store.refs() == [ModelRef("owl", 1)]
    site.reconcile()
    assert site.store.refs() == []
    other = site.queue.submit("", SPEC).key  # has the number again, and keeps it
    site.attempt(other).run()
    site.reconcile()
    assert site.store.refs() == [ModelRef("owl", 1)]


def test_a_model_that_its_job_has_published_stays(site):
    key = site.queue.submit("", replace(SPEC, load_when_done=True)).key
    site.attempt(key).run()
    assert site.queue.cancel(key).state is JobState.PUBLISHED
    site.queue.connection.srem("carousel:jobs-open", f"carousel:job:{key}")  # for no server to load
    site.reconcile()
    assert site.store.refs() == [ModelRef("owl", 1)]


def test_an_attempt_shares_no_file_that_is_being_written(site, monkeypatch):
    key = JobKey("", "0" * 16)
    arrays = dict(initial_weights(TINY, 0))
    first = site.attempt(key, 1)._checkpoints()
    checkpoint.write(first / checkpoint.LAST, arrays, {"n": 1})
    halves = []

    def sleep(path: Path, _target: Path) -> None:  # before its rename, its file still open
        halves.append(path.open("r+b"))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", sleep)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        checkpoint.write(first / checkpoint.LAST, arrays, {"n": 2})

    second = site.attempt(key, 2)._checkpoints()
    assert [path.name for path in second.iterdir()] == [checkpoint.LAST]
    checkpoint.write(second / checkpoint.LAST, arrays, {"n": 3})
    (half,) = halves
    half.write(b"\xff" * 100)
    half.close()
    assert checkpoint.read(second / checkpoint.LAST).facts == {"n": 3}


@pytest.fixture
def full_disk(monkeypatch):
    """Every file that is written has space for half of its bytes."""

    class Full:
        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def write(self, content: bytes) -> None:
            self._file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = Path.open

    def open_(path: Path, mode: str = "r", *rest, **more):
        file = opened(path, mode, *rest, **more)
        return Full(file) if mode in {"wb", "xb"} else file

    return lambda: monkeypatch.setattr(Path, "open", open_)


def bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_checkpoint_without_space_leaves_the_one_before_and_nothing_else(tmp_path, full_disk):
    arrays = dict(initial_weights(TINY, 0))
    checkpoint.write(tmp_path / checkpoint.LAST, arrays, {"n": 1})
    before = bytes_under(tmp_path)
    full_disk()
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path / checkpoint.LAST, arrays, {"n": 2})
    assert bytes_under(tmp_path) == before
    assert checkpoint.read(tmp_path / checkpoint.LAST).facts == {"n": 1}


def validation(step: int, nats: float) -> ValidationEvent:
    return ValidationEvent(step, 9, step / 3, nats, nats, nats, nats, nats, 0.5, is_best=True)


def trains(*, then: Callable[[], StopReason], arrays=ARRAYS):
    """A training that saves two checkpoints before it ends."""
    history = [asdict(validation(step, 3.0 - step)) for step in (1, 2)]
    facts = {"identity": {"precision": "float32"}, "validation": history[-1], "history": history}

    def train(_corpus, _vocabulary, _recipe, folder, **_):
        checkpoint.write(folder / checkpoint.BEST, arrays, facts)
        checkpoint.write(folder / checkpoint.LAST, arrays, {})
        stop_reason = then()
        checkpoint.write(folder / checkpoint.LAST, arrays, {})
        return trained(stop_reason)

    return train


def test_a_job_that_fails_for_want_of_space_gives_back_what_it_had(site, full_disk):
    def fill() -> StopReason:
        full_disk()
        return StopReason.COMPLETED

    key = site.queue.submit("", SPEC).key
    site.attempt(key, train=trains(then=fill)).run()
    job = site.queue.get(key)
    assert (job.status, job.error["error_type"]) == (JobStatus.FAILED, "disk_full")
    assert bytes_under(site.jobs) == 0
    assert site.store.refs() == []


@pytest.mark.parametrize("dies", [True, False], ids=["its process has died", "by itself"])
def test_a_cancelled_job_keeps_its_best_checkpoint_alone(site, dies):
    key = site.queue.submit("", SPEC).key
    stops = trains(then=lambda: StopReason.STOPPED)
    site.attempt(key, train=stops).run()  # leaves the job to the next one, with all it has
    assert len(list(site.jobs.glob("*/*/*"))) == 2

    def cancel() -> StopReason:
        site.queue.cancel(key)
        return StopReason.STOPPED

    second = site.attempt(key, 2, train=trains(then=die if dies else cancel))
    if dies:
        with pytest.raises(Died):
            second.run()
        site.queue.cancel(key)
        site.lose()
        site.reconcile()
    else:
        second.run()
    assert site.queue.get(key).status is JobStatus.CANCELLED
    (kept,) = site.jobs.glob("*/*/*")
    assert kept == site.jobs / key.id / "attempt-2" / checkpoint.BEST


def cancelled(site: Site) -> JobKey:
    """A job that was cancelled in its first attempt, with a best checkpoint."""
    key = site.queue.submit("", SPEC).key

    def cancel() -> StopReason:
        site.queue.cancel(key)
        return StopReason.STOPPED

    spec = SPEC.recipe.architecture.spec(3)
    arrays = initial_weights(spec, 1)
    site.attempt(key, train=trains(then=cancel, arrays=arrays)).run()
    assert site.queue.get(key).status is JobStatus.CANCELLED
    return key


def never(*_: object, **__: object) -> Trained:
    raise AssertionError("a cancelled job is not trained again")


def test_the_best_checkpoint_of_a_cancelled_job_becomes_its_model(site):
    key = cancelled(site)
    site.reconcile()
    site.queue.publish(key)
    site.attempt(key, 2, train=never).run()
    job = site.queue.get(key)
    assert (job.status, job.model) == (JobStatus.SUCCEEDED, "owl@1")
    assert site.queue.publish(key) == job
    assert site.store.refs() == [ModelRef("owl", 1)]
    bundle = site.store.read(ModelRef("owl", 1))
    expected = initial_weights(bundle.spec, 1)
    assert all((bundle.weights[name] == expected[name]).all() for name in expected)
    assert ReferenceModel(bundle.spec, bundle.weights).run([0, 1]).shape == (2, 3)
    (packed,) = site.packed
    assert (packed.stop_reason, packed.step, packed.n_steps) == (StopReason.STOPPED, 2, 9)
    assert [one.step for one in packed.history] == [1, 2]
    assert list(site.jobs.iterdir()) == []
    site.reconcile()
    assert site.store.refs() == [ModelRef("owl", 1)]
    assert site.queue.jobs_to_clean_up() == []


@pytest.mark.parametrize("stored", [False, True], ids=["before the rename", "after the rename"])
def test_a_publication_that_dies_begins_again_and_stores_one_model(site, stored):
    key = cancelled(site)
    site.queue.publish(key)
    if stored:
        site.store.after_rename = die
    else:
        site.store.before_rename = die
    with pytest.raises(Died):
        site.attempt(key, 2).run()
    site.store.before_rename = site.store.after_rename = nothing
    assert site.store.refs() == [ModelRef("owl", 1)] * stored
    assert site.queue.get(key).state is JobState.PUBLISHING
    site.lose()
    assert site.queue.get(key).state is JobState.PUBLISH_REQUESTED
    site.attempt(key, 3).run()
    job = site.queue.get(key)
    assert (job.status, job.model, job.crashes) == (JobStatus.SUCCEEDED, "owl@1", 1)
    site.reconcile()
    assert site.store.refs() == [ModelRef("owl", 1)]


def test_a_publication_that_is_suspended_before_the_rename_publishes_nothing(site):
    key = cancelled(site)
    site.queue.publish(key)

    def sleep() -> None:
        site.meanwhile = nothing
        site.lose()
        site.attempt(key, 3).run()

    site.meanwhile = sleep
    site.attempt(key, 2).run()
    assert site.queue.get(key).model == "owl@1"
    assert site.store.refs() == [ModelRef("owl", 1)]


def test_no_orphan_is_removed_while_its_job_is_published(site):
    """A suspended attempt stores a model after the cancel; then it is the one that is published."""
    key = site.queue.submit("", SPEC).key

    def sleep() -> None:
        site.queue.cancel(key)
        site.lose()

    arrays = initial_weights(SPEC.recipe.architecture.spec(3), 1)
    zombie = site.attempt(key, train=trains(then=lambda: StopReason.COMPLETED, arrays=arrays))
    site.store.before_rename = sleep
    zombie.run()
    site.store.before_rename = nothing
    assert site.store.refs() == [ModelRef("owl", 1)]
    (before,) = site.queue.jobs_to_clean_up()
    site.queue.publish(key)
    site.queue.take()  # the lease is a worker's now
    asyncio.run(site.reconciler._clean(before))  # by a server that has read the job before
    assert site.store.refs() == [ModelRef("owl", 1)]
    site.attempt(key, 2, train=never).run()
    assert site.queue.get(key).model == "owl@1"
    site.queue.end_lease(key)
    site.reconcile()
    assert site.store.refs() == [ModelRef("owl", 1)]


def test_a_best_checkpoint_that_is_gone_leaves_the_job_cancelled(site):
    key = cancelled(site)
    site.queue.publish(key)
    for path in site.jobs.glob("*/*/*"):
        path.unlink()
    site.attempt(key, 2).run()
    job = site.queue.get(key)
    assert job.status is JobStatus.CANCELLED
    assert job.error["error"] == "the best checkpoint is missing"
    assert site.store.refs() == []


def test_a_publication_that_is_stopped_waits_for_another_worker(site):
    key = cancelled(site)
    site.queue.publish(key)

    def away() -> None:
        raise StoreUnavailable("it does not answer")

    site.meanwhile = away
    site.attempt(key, 2).run()
    assert site.queue.get(key).state is JobState.PUBLISH_REQUESTED
    site.meanwhile = nothing
    site.attempt(key, 3).run()
    assert site.queue.get(key).model == "owl@1"


def test_a_job_whose_processes_have_died_leaves_nothing(site):
    key = site.queue.submit("", SPEC).key
    for number in (1, 2, 3):
        folder = site.attempt(key, number)._checkpoints()
        (folder / checkpoint.LAST).write_bytes(b"half")
        site.queue.claim(key, number)
        site.lose()
    assert site.queue.get(key).status is JobStatus.FAILED
    site.reconcile()
    assert list(site.jobs.iterdir()) == []
    assert site.queue.jobs_to_clean_up() == []


def test_a_store_that_is_away_when_the_model_is_ready_fails_no_job(site, valkey):
    restart = threading.Timer(0.5, valkey.start)

    def go_away() -> None:
        if not restart.is_alive():
            valkey.kill()
            restart.start()

    site.meanwhile = go_away
    key = site.queue.submit("", SPEC).key
    site.attempt(key).run()
    restart.join()
    assert site.queue.get(key).status is JobStatus.SUCCEEDED
    assert site.store.refs() == [ModelRef("owl", 1)]


def test_a_store_that_stays_away_leaves_the_job_to_the_next_attempt(site, valkey):
    site.config = replace(NO_HEARTBEAT, store_wait_s=0.2)
    site.meanwhile = valkey.kill
    key = site.queue.submit("", SPEC).key
    site.attempt(key).run()
    valkey.start()
    assert site.queue.get(key).status is JobStatus.RUNNING
    site.meanwhile = nothing
    site.lose()
    site.attempt(key, 2).run()
    assert site.queue.get(key).status is JobStatus.SUCCEEDED


def test_a_store_that_was_away_too_long_is_no_failure_of_the_job(site, valkey):
    site.config = replace(NO_HEARTBEAT, store_wait_s=0.1)
    key = site.queue.submit("", SPEC).key
    site.queue = AwayQueue(valkey.url, QUEUE)
    site.attempt(key).run()
    site.queue.connection.close()
    job = site.queue.get(key)
    assert (job.status, job.attempt, job.crashes) == (JobStatus.QUEUED, 2, 0)
    assert site.store.refs() == []


IN_A_LONG_STEP = """
import hashlib, sys

def train(*_, **__):
    print("in a step", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # no line of Python for minutes

from service.settings import Settings
from service.training.attempt import TrainBackend
from service.training.config import AttemptConfig
from service.training.job import JobKey
from service.worker import run_attempt

key, number = JobKey("", sys.argv[1]), int(sys.argv[2])
run_attempt(Settings.read(), key, number, TrainBackend(train, None), AttemptConfig(0.1, 0.5))
"""


def test_a_step_of_minutes_delays_no_orderly_stop_and_none_is_a_crash(site, valkey, tmp_path):
    corpora = CorpusStore(tmp_path / "corpora")
    upload = corpora.upload()
    upload.write_text("one\ntwo\n")
    corpus = corpora.put("", "text", upload).id
    key = site.queue.submit("", replace(SPEC, corpus=corpus)).key
    for number in (1, 2):
        settings = {"REDIS_URL": valkey.url, "DATA_DIR": str(tmp_path)}
        with subprocess.Popen(
            [sys.executable, "-c", IN_A_LONG_STEP, key.id, str(number)],
            env=os.environ | {f"CAROUSEL_{name}": value for name, value in settings.items()},
            cwd=ROOT,
            stdout=subprocess.PIPE,
        ) as process:
            try:
                assert process.stdout.readline() == b"in a step\n"
                process.terminate()
                assert process.wait(5) == 0
            finally:
                process.kill()
        job = site.queue.get(key)
        assert (job.status, job.attempt, job.crashes) == (JobStatus.QUEUED, number + 1, 0)
