"""The supervisor of a server's training workers: it starts, restarts and ends them."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time

from service.settings import Settings

POLL_S = 0.5
STOP_LIMIT_S = 10.0

_log = logging.getLogger(__name__)


class WorkerSupervisor:
    """Keeps `n` worker processes running. They end with this process, however it ends."""

    def __init__(self, settings: Settings, redis_url: str, n: int) -> None:
        self._environment = os.environ | settings.for_worker(redis_url)
        self._workers: list[subprocess.Popen[bytes] | None] = [None] * n
        self._shall_end = threading.Event()
        self._told_s = 0.0  # monotonic; when the workers were told to end
        self._thread = threading.Thread(target=self._run, name="worker-supervisor", daemon=True)

    def start(self) -> None:
        """Start the workers, and restart each that ends."""
        if self._workers:
            self._thread.start()

    def begin_stop(self) -> None:
        """Have the workers end, without waiting for them; each releases its job."""
        if not self._shall_end.is_set():
            self._told_s = time.monotonic()
        self._shall_end.set()

    def stop(self, limit_s: float = STOP_LIMIT_S) -> None:
        """End the workers, and kill those that have not ended `limit_s` after they were told to.

        A job whose worker was killed goes on from its checkpoint.
        """
        self.begin_stop()
        if not self._workers:
            return
        self._thread.join()
        until_s = self._told_s + limit_s
        for worker in self._running():
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, until_s - time.monotonic()))
            worker.kill()
            worker.wait()

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [worker for worker in self._workers if worker is not None]

    def _run(self) -> None:
        command = [sys.executable, "-m", "service", "worker", "--parent", str(os.getpid())]
        while not self._shall_end.is_set():
            for i, worker in enumerate(self._workers):
                if worker is None or worker.poll() is not None:
                    if worker is not None:
                        _log.warning(
                            "a training worker has ended with exit code %s; it is restarted",
                            worker.returncode,
                        )
                    self._workers[i] = subprocess.Popen(  # noqa: S603 (our own program)
                        command, env=self._environment
                    )
            self._shall_end.wait(POLL_S)
        for worker in self._running():
            worker.terminate()
