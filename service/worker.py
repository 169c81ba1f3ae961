"""The composition root of training: a worker that takes jobs, and the process that runs one."""

import ctypes
import logging
import os
import signal
import sys
import threading
import time

import rq
from rq.worker import SpawnWorker

from service.models.store import ModelStore
from service.settings import PREFIX, Settings
from service.telemetry import log_to_stderr
from service.training.allocator import ENVIRONMENT
from service.training.attempt import Attempt
from service.training.corpus_store import CorpusStore
from service.training.heartbeat import on_signal
from service.training.job import JobKey
from service.training.queue import QUEUE, JobQueue

NICENESS = 10
"""A tenth of a busy processor: streams come first, and heartbeats still get through."""

WORKER_TTL_S, MAINTENANCE_S, MONITORING_S = 30, 15, 5
PARENT_LOOK_S = 0.5
_PR_SET_PDEATHSIG = 1


class TrainWorker(SpawnWorker):
    """RQ's worker, which at its end tells the running attempt to leave its job to another."""

    def handle_warm_shutdown_request(self) -> None:
        """Pass the wish to stop on to the process that trains."""
        if self.horse_pid:
            self.kill_horse(signal.SIGTERM)


def work(settings: Settings, redis_url: str, *, parent: int | None = None) -> None:
    """Take train jobs, one at a time, until told to stop, or until the process `parent` is gone.

    Blocks. On SIGTERM the job that runs stops at its step's end and waits for another worker.
    """
    log_to_stderr(settings.log_level)
    logging.getLogger("rq").setLevel(logging.WARNING)
    os.nice(NICENESS)
    os.environ[f"{PREFIX}REDIS_URL"] = redis_url
    for name in ("model_store", "data_dir"):
        os.environ[PREFIX + name.upper()] = str(getattr(settings, name))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # for the process that trains
    if parent is not None:
        threading.Thread(target=_end_with_parent, args=[parent], daemon=True).start()
    connection = JobQueue(redis_url).worker_connection()
    worker = TrainWorker(
        [rq.Queue(QUEUE, connection, serializer="json")],
        connection=connection,
        serializer="json",
        worker_ttl=WORKER_TTL_S,
        maintenance_interval=MAINTENANCE_S,
        job_monitoring_interval=MONITORING_S,
    )
    worker.work(logging_level="WARNING")


def run_attempt(owner: str, job_id: str, number: int) -> None:
    """What RQ calls in a process of its own: one attempt at a job."""
    _end_with_worker()
    settings = Settings.read()
    log_to_stderr(settings.log_level)
    assert settings.redis_url is not None
    attempt = Attempt(
        JobQueue(settings.redis_url.get_secret_value()),
        CorpusStore(settings.corpora_dir),
        ModelStore(settings.model_store),
        settings.jobs_dir / job_id,
        JobKey(owner, job_id),
        number,
    )
    on_signal(signal.SIGTERM, attempt.leave)
    attempt.run()


def _end_with_worker() -> None:
    """Where Linux is: a worker that is killed takes its training with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_LOOK_S)
    os.kill(os.getpid(), signal.SIGKILL)
