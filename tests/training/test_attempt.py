"""One attempt at a job, on a real store, and what is left when the job is over."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.errors import StoreUnavailable
from service.models.bundle import BundleMetadata, Parity, Precision, Provenance, build_files
from service.models.spec import ModelRef, Weights
from service.models.store import ModelStore
from service.models.tokenizer import Tokenizer
from service.training import attempt as attempt_module
from service.training import checkpoint, trainer
from service.training import heartbeat as pulse
from service.training import queue as queue_module
from service.training.attempt import Attempt
from service.training.initializers import initial_weights
from service.training.job import MAX_CRASHES, JobKey, JobStatus, TrainJobSpec, Transition
from service.training.queue import JobQueue
from service.training.recipe import Recipe
from service.training.reconciler import JobReconciler
from service.training.trainer import StopReason
from tests.bundles import TINY
from tests.process import ROOT
from tests.sessions.valkey import OwnValkey

pytestmark = pytest.mark.tf

ORDER = TrainJobSpec("owl", "c" * 32, Recipe(), load_when_done=False)
LEASE_S = 0.2


@pytest.fixture(scope="module")
def valkey(tmp_path_factory) -> Iterator[OwnValkey]:
    own = OwnValkey(tmp_path_factory.mktemp("valkey"))
    own.start()
    yield own
    own.close()


@dataclass
class Room:
    """Everything that attempts share, and what trains in it."""

    queue: JobQueue
    store: ModelStore
    jobs: Path

    def attempt(self, key: JobKey, number: int = 1) -> Attempt:
        corpora = SimpleNamespace(read=lambda *_: SimpleNamespace(vocabulary=tuple("abc")))
        return Attempt(self.queue, corpora, self.store, self.jobs / key.id, key, number)

    def lose(self) -> None:
        """Let the lease run out: the attempt sleeps, for all that others can see."""
        time.sleep(LEASE_S * 1.25)
        self.queue.sweep()

    def look(self) -> None:
        async def load(*_: object) -> None:
            raise AssertionError("nothing is to be loaded")

        async def remove(ref: ModelRef) -> None:
            self.store.delete(ref)

        asyncio.run(JobReconciler(self.queue, self.store, self.jobs, load, remove).look())


@pytest.fixture
def room(valkey, tmp_path, monkeypatch) -> Iterator[Room]:
    """The network is not trained and nothing beats: a test says when an attempt sleeps."""
    monkeypatch.setattr(queue_module, "LEASE_MS", int(LEASE_S * 1000))
    monkeypatch.setattr(pulse, "BEAT_S", 1000.0)
    weights = initial_weights(TINY, 0)
    trained = SimpleNamespace(ending=StopReason.COMPLETED, weights=weights)
    monkeypatch.setattr(trainer, "train", lambda *_, **__: trained)
    monkeypatch.setattr(attempt_module, "AGAIN_S", 0.05)
    monkeypatch.setattr(attempt_module, "Publication", FakePublication)
    valkey.client.flushall()
    queue = JobQueue(valkey.url)
    yield Room(queue, ModelStore(tmp_path / "models"), tmp_path / "jobs")
    queue.connection.close()


class FakePublication:
    """A model in no time. `meanwhile` is called when its files are made."""

    meanwhile = staticmethod(lambda: None)

    @classmethod
    def of(cls, _order, job_id, _corpus, _vocabulary, trained):
        made = cls()
        made.job_id, made.weights = job_id, trained.weights
        return made

    def files(self, ref: ModelRef) -> dict[str, bytes]:
        type(self).meanwhile()
        record = BundleMetadata(
            precision=Precision.FLOAT32,
            precision_reason="made by a test",
            source=Provenance(format="test", files={}),
            parity=Parity(tokens=0, largest_logit_difference={}),
            training={"job": self.job_id},
        )
        return build_files(ref, TINY, Weights(TINY, self.weights), Tokenizer("abc"), record)


def test_an_attempt_stores_its_model_and_leaves_nothing_else(room):
    key = room.queue.submit("me", ORDER).key
    room.attempt(key).run()
    job = room.queue.get(key)
    assert (job.status, job.model) == (JobStatus.SUCCEEDED, "owl@1")
    assert not (room.jobs / key.id).exists()
    room.look()
    assert room.store.refs() == [ModelRef("owl", 1)]
    assert room.queue.left() == []


@pytest.mark.parametrize("ends", [True, False], ids=["cancelled", "taken over"])
def test_who_wakes_before_the_rename_publishes_nothing(room, monkeypatch, ends):
    key = room.queue.submit("", ORDER).key

    def sleep() -> None:
        if ends:
            room.queue.cancel(key)
        room.lose()

    monkeypatch.setattr(FakePublication, "meanwhile", staticmethod(sleep))
    room.attempt(key).run()
    assert room.queue.get(key).status is (JobStatus.CANCELLED if ends else JobStatus.QUEUED)
    assert room.store.refs() == []
    assert list(room.store.folder.glob(".incoming-*")) == []


def test_what_is_stored_for_a_job_that_has_ended_is_removed(room):
    key = room.queue.submit("", ORDER).key
    zombie = room.attempt(key)

    def sleep() -> None:  # it has looked, and the rename comes when it wakes
        room.queue.cancel(key)
        room.lose()
        room.look()  # nothing is there yet

    zombie._look = sleep
    zombie.run()
    assert room.store.refs() == [ModelRef("owl", 1)]
    room.look()
    assert room.store.refs() == []
    other = room.queue.submit("", ORDER).key  # has the number again, and keeps it
    room.attempt(other).run()
    room.look()
    assert room.store.refs() == [ModelRef("owl", 1)]


def test_a_model_that_its_job_has_published_stays(room):
    key = room.queue.submit("", replace(ORDER, load_when_done=True)).key
    room.attempt(key).run()
    assert room.queue.get(key).is_published
    room.queue.settle(key, 1, Transition.CANCEL)
    room.look()
    assert room.store.refs() == [ModelRef("owl", 1)]


def test_an_attempt_shares_no_file_that_is_being_written(room, monkeypatch):
    key = JobKey("", "0" * 16)
    arrays = dict(initial_weights(TINY, 0))
    first = room.attempt(key, 1)._checkpoints()
    checkpoint.write(first / checkpoint.LAST, arrays, {"n": 1})
    halves = []

    def sleep(path: Path, _target: Path) -> None:  # before its rename, its file still open
        halves.append(path.open("r+b"))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", sleep)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        checkpoint.write(first / checkpoint.LAST, arrays, {"n": 2})

    second = room.attempt(key, 2)._checkpoints()
    assert [path.name for path in second.iterdir()] == [checkpoint.LAST]
    checkpoint.write(second / checkpoint.LAST, arrays, {"n": 3})
    (half,) = halves
    half.write(b"\xff" * 100)
    half.close()
    assert checkpoint.read(second / checkpoint.LAST).facts == {"n": 3}


@pytest.fixture
def full_disk(monkeypatch):
    """Every file that is written has room for half of its bytes."""

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


def test_a_checkpoint_without_room_leaves_the_one_before_and_nothing_else(tmp_path, full_disk):
    arrays = dict(initial_weights(TINY, 0))
    checkpoint.write(tmp_path / checkpoint.LAST, arrays, {"n": 1})
    before = bytes_under(tmp_path)
    full_disk()
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path / checkpoint.LAST, arrays, {"n": 2})
    assert bytes_under(tmp_path) == before
    assert checkpoint.read(tmp_path / checkpoint.LAST).facts == {"n": 1}


def trains(*, then: Callable[[], StopReason]):
    """A training that keeps two checkpoints before it ends."""
    arrays = initial_weights(TINY, 0)

    def train(_corpus, _vocabulary, _recipe, folder, **_):
        checkpoint.write(folder / checkpoint.BEST, arrays, {})
        checkpoint.write(folder / checkpoint.LAST, arrays, {})
        ending = then()
        checkpoint.write(folder / checkpoint.LAST, arrays, {})
        return SimpleNamespace(ending=ending, weights=arrays)

    return train


def test_a_job_that_fails_for_want_of_room_gives_back_what_it_had(room, monkeypatch, full_disk):
    def fill() -> StopReason:
        full_disk()
        return StopReason.COMPLETED

    monkeypatch.setattr(trainer, "train", trains(then=fill))
    key = room.queue.submit("", ORDER).key
    room.attempt(key).run()
    job = room.queue.get(key)
    assert (job.status, job.error["error_type"]) == (JobStatus.FAILED, "disk_full")
    assert bytes_under(room.jobs) == 0
    assert room.store.refs() == []


@pytest.mark.parametrize("dies", [True, False], ids=["its process has died", "by itself"])
def test_a_cancelled_job_keeps_its_best_checkpoint_alone(room, monkeypatch, dies):
    key = room.queue.submit("", ORDER).key
    monkeypatch.setattr(trainer, "train", trains(then=lambda: StopReason.STOPPED))
    room.attempt(key).run()  # leaves the job to the next one, with all it has
    assert len(list(room.jobs.glob("*/*/*"))) == 2
    second = room.attempt(key, 2)
    second._pulse.is_cancelled = True
    if dies:
        second._settle = lambda *_: room.queue.beat(key, 1)  # which raises Superseded
    second.run()
    if dies:
        room.queue.cancel(key)
        room.lose()
        room.look()
    assert room.queue.get(key).status is JobStatus.CANCELLED
    (kept,) = room.jobs.glob("*/*/*")
    assert kept == room.jobs / key.id / "attempt-2" / checkpoint.BEST


def test_a_job_whose_processes_have_died_leaves_nothing(room):
    key = room.queue.submit("", ORDER).key
    for number in (1, 2, 3):
        folder = room.attempt(key, number)._checkpoints()
        (folder / checkpoint.LAST).write_bytes(b"half")
        room.queue.claim(key, number)
        room.lose()
    assert room.queue.get(key).status is JobStatus.FAILED
    room.look()
    assert list(room.jobs.iterdir()) == []
    assert room.queue.left() == []


def test_a_store_that_is_away_when_the_model_is_ready_fails_no_job(room, valkey, monkeypatch):
    restart = threading.Timer(0.5, valkey.start)

    def go_away() -> None:
        if not restart.is_alive():
            valkey.kill()
            restart.start()

    monkeypatch.setattr(FakePublication, "meanwhile", staticmethod(go_away))
    key = room.queue.submit("", ORDER).key
    room.attempt(key).run()
    restart.join()
    assert room.queue.get(key).status is JobStatus.SUCCEEDED
    assert room.store.refs() == [ModelRef("owl", 1)]


def test_a_store_that_stays_away_leaves_the_job_to_the_next_attempt(room, valkey, monkeypatch):
    monkeypatch.setattr(attempt_module, "PATIENCE_S", 0.2)
    monkeypatch.setattr(FakePublication, "meanwhile", staticmethod(valkey.kill))
    key = room.queue.submit("", ORDER).key
    room.attempt(key).run()
    valkey.start()
    assert room.queue.get(key).status is JobStatus.RUNNING
    monkeypatch.setattr(FakePublication, "meanwhile", staticmethod(lambda: None))
    room.lose()
    room.attempt(key, 2).run()
    assert room.queue.get(key).status is JobStatus.SUCCEEDED


def test_a_store_that_was_away_too_long_blames_no_text(room, monkeypatch):
    def away(*_: object) -> None:
        raise StoreUnavailable("it does not answer")

    monkeypatch.setattr(attempt_module, "PATIENCE_S", 0.1)
    key = room.queue.submit("", ORDER).key
    with monkeypatch.context() as patch:
        patch.setattr(room.queue, "beat", away)
        room.attempt(key).run()
    job = room.queue.get(key)
    assert (job.status, job.attempt, job.crashes) == (JobStatus.QUEUED, 2, 0)
    assert room.store.refs() == []


IN_A_LONG_STEP = """
import hashlib, sys
from types import SimpleNamespace

def train(*_, **__):
    print("in a step", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # no line of Python for minutes

sys.modules["service.training.trainer"] = SimpleNamespace(train=train, Ending=None)
from service import worker
from service.training import heartbeat as pulse
pulse.STOP_LIMIT_S = 0.5
worker.Corpora.read = lambda *_: SimpleNamespace(vocabulary=())
worker.run_attempt("", sys.argv[1], int(sys.argv[2]))
"""


def test_a_step_of_minutes_holds_up_no_orderly_stop_and_none_is_a_crash(room, valkey, tmp_path):
    key = room.queue.submit("", ORDER).key
    for number in range(1, MAX_CRASHES + 2):
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
        job = room.queue.get(key)
        assert (job.status, job.attempt, job.crashes) == (JobStatus.QUEUED, number + 1, 0)
