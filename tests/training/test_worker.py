"""A worker as a server or a person starts it. No job here gets as far as its training."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest

from service.training.config import QueueConfig
from service.training.job_spec import TrainJobSpec
from service.training.queue import JobQueue
from service.training.recipe import Recipe
from service.training.states import JobStatus
from tests.process import ROOT, environment

SPEC = TrainJobSpec("owl", "c" * 32, Recipe())  # a text that is not there
START_LIMIT_S = 30.0


@pytest.fixture
def queue(valkey) -> Iterator[JobQueue]:
    valkey.client.flushall()
    made = JobQueue(valkey.url, QueueConfig())
    yield made
    made.connection.close()


@contextmanager
def working(
    tmp_path, valkey, parent: int | None = None, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "service", "worker", *options]
    command += [] if parent is None else ["--parent", str(parent)]
    settings = environment(tmp_path, 1, CAROUSEL_REDIS_URL=valkey.url)
    settings.pop("CAROUSEL_PORT")
    with subprocess.Popen(command, env=settings, cwd=ROOT) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def attempt_of(worker: subprocess.Popen[bytes]) -> psutil.Process:
    """The process of the worker's attempt, as soon as there is one."""
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until:
        for child in psutil.Process(worker.pid).children():
            if "service.worker" in child.cmdline():
                return child
        time.sleep(0.01)
    raise AssertionError("no attempt has begun")


def test_a_worker_runs_one_job_after_another(tmp_path, valkey, queue):
    keys = [queue.submit("", SPEC).key for _ in range(2)]
    with working(tmp_path, valkey) as worker:
        until = time.monotonic() + START_LIMIT_S
        while queue.open() and time.monotonic() < until:
            time.sleep(0.05)
        assert worker.poll() is None
    for key in keys:
        job = queue.get(key)
        assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
        assert job.error["error_type"] == "corpus_not_found"


def test_a_worker_for_a_gpu_leaves_the_jobs_of_processors(tmp_path, valkey, queue):
    other = queue.submit("", SPEC).key
    own = queue.submit("", replace(SPEC, queue="train-gpu")).key
    with working(tmp_path, valkey, None, "--queue", "train-gpu") as worker:
        attempt_of(worker).wait(START_LIMIT_S)
        until = time.monotonic() + START_LIMIT_S
        while not queue.get(own).state.is_over and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1.2)  # two looks
    assert (queue.get(own).status, queue.get(other).status) == (JobStatus.FAILED, JobStatus.QUEUED)
    assert queue.get(other).attempt == 1


def test_an_attempt_ends_with_its_worker(tmp_path, valkey, queue):
    queue.submit("", SPEC)
    with working(tmp_path, valkey) as worker:
        attempt = attempt_of(worker)
        with valkey.suspended():  # so that it waits for its job, and does not end by itself
            until = time.monotonic() + START_LIMIT_S
            while not attempt.net_connections("unix") and time.monotonic() < until:
                time.sleep(0.01)
            worker.kill()
            attempt.wait(3)  # without its bond it ends when it has waited for 4 s


def test_a_worker_that_is_stopped_leaves_its_job_at_once(tmp_path, valkey, queue):
    key = queue.submit("", SPEC).key
    with working(tmp_path, valkey) as worker:
        attempt_of(worker)
        worker.terminate()
        assert worker.wait(20) == 0
    job = queue.get(key)
    # The signal may have come when the attempt had ended, with the job.
    assert (job.status, job.crashes) in {(JobStatus.QUEUED, 0), (JobStatus.FAILED, 0)}
    if job.status is JobStatus.QUEUED:
        assert queue.take().attempt == 2


def test_a_worker_waits_for_a_store_that_is_away(tmp_path, valkey, queue):
    with working(tmp_path, valkey) as worker:
        valkey.kill()
        time.sleep(2)
        valkey.start()
        key = queue.submit("", SPEC).key
        attempt_of(worker).wait(START_LIMIT_S)
        assert worker.poll() is None
    assert queue.get(key).status is JobStatus.FAILED


@pytest.mark.parametrize("is_gone", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_worker_whose_parent_is_gone_before_it_looks_ends(tmp_path, valkey, is_gone):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with working(tmp_path, valkey, gone.pid if is_gone else os.getpid()) as worker:
        try:
            assert worker.wait(20 if is_gone else 5) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            assert not is_gone
