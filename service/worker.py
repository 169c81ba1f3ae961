"""The composition root of training: a worker that takes jobs, and the process of one attempt."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from service.errors import CarouselError
from service.models.store import ModelStore
from service.parent_bond import end_with_parent, watch_parent
from service.settings import Settings
from service.telemetry import log_to_stderr
from service.training.attempt import Attempt, AttemptFolders, TrainBackend, tensorflow_backend
from service.training.config import ALLOCATOR_ENVIRONMENT, AttemptConfig, QueueConfig
from service.training.corpus_store import CorpusStore
from service.training.heartbeat import on_signal
from service.training.job import JobKey, TrainJob
from service.training.job_store import Fenced
from service.training.queue import JobQueue

NICENESS = 10
"""A tenth of a busy processor: streams have priority, and heartbeats still get through."""

POLL_S = 0.5
_log = logging.getLogger(__name__)


class TrainWorker:
    """Takes train jobs, one at a time, and starts a process for each attempt."""

    def __init__(self, queue: JobQueue, environment: dict[str, str], queues: Sequence[str]) -> None:
        """`queues` are those whose jobs it takes, of the first one first."""
        self._queue, self._environment, self._queues = queue, environment, queues
        self._attempt: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Take no more jobs; the running attempt releases its job. A signal handler."""
        self._is_stopping = True
        if self._attempt is not None:
            self._attempt.terminate()

    def run(self) -> None:
        """Take jobs until `stop` is called. Blocks."""
        while not self._is_stopping:
            try:
                job = self._queue.take(self._queues)
                if job is not None:
                    self._run_attempt(job)
            except CarouselError as error:
                _log.warning("no train job can be taken: %s", error)
                job = None
            if job is None:
                time.sleep(POLL_S)

    def _run_attempt(self, job: TrainJob) -> None:
        arguments = [job.key.owner, job.key.id, str(job.attempt), str(os.getpid())]
        command = [sys.executable, "-m", "service.worker", *arguments]
        # In a process group of its own: a terminal's Ctrl-C reaches the worker alone.
        self._attempt = subprocess.Popen(  # noqa: S603 (our own module, and no shell)
            command, env=self._environment, process_group=0
        )
        if self._is_stopping:  # since the signal may have come before there was a process
            self._attempt.terminate()
        self._attempt.wait()
        self._attempt = None
        with contextlib.suppress(Fenced):  # it has claimed the job
            self._queue.start_failed(job.key, job.attempt)
            _log.warning("an attempt at the job %s has ended before it began", job.key.id)
            time.sleep(POLL_S)


def work(settings: Settings, redis_url: str, *, parent: int | None = None) -> None:
    """Take train jobs, one at a time, until SIGTERM or until the process `parent` ends. Blocks."""
    log_to_stderr(settings.log_level, settings.log_format)
    os.nice(NICENESS)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if parent is not None:
        watch_parent(parent)  # the thread that has started this process ends before the parent
    environment = ALLOCATOR_ENVIRONMENT | os.environ | settings.for_worker(redis_url)
    worker = TrainWorker(JobQueue(redis_url, QueueConfig()), environment, settings.queues)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.stop)
    worker.run()


def run_attempt(
    settings: Settings, key: JobKey, number: int, backend: TrainBackend, config: AttemptConfig
) -> None:
    """Run one attempt at a job. SIGTERM stops it at the end of its step."""
    assert settings.redis_url is not None
    queue = JobQueue(settings.redis_url.get_secret_value(), QueueConfig())
    corpora, models = CorpusStore(settings.corpora_dir), ModelStore(settings.model_store)
    folders = AttemptFolders(corpora, models, settings.jobs_dir / key.id)
    attempt = Attempt(queue, folders, key, number, backend, config)
    on_signal(signal.SIGTERM, attempt.leave)
    attempt.run()


def main() -> None:
    """Run one attempt: `python -m service.worker OWNER JOB ATTEMPT PID-OF-THE-WORKER`."""
    owner, job_id, number, worker = sys.argv[1:]
    end_with_parent(int(worker))
    settings = Settings.read()
    log_to_stderr(settings.log_level)
    key = JobKey(owner, job_id)
    run_attempt(settings, key, int(number), tensorflow_backend(), AttemptConfig())


if __name__ == "__main__":
    main()
