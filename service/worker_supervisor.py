"""The training workers that a server has of its own: started, started again, ended."""

import contextlib
import logging
import os
import subprocess
import sys
import threading

from service.settings import PREFIX, Settings

LOOK_S = 0.5
STOP_LIMIT_S = 10.0

_log = logging.getLogger(__name__)


class WorkerSupervisor:
    """`n` worker processes. They end with this process, however it ends."""

    def __init__(self, settings: Settings, redis_url: str, n: int) -> None:
        self._settings, self._redis_url = settings, redis_url
        self._workers: list[subprocess.Popen[bytes] | None] = [None] * n
        self._shall_end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workforce", daemon=True)

    def start(self) -> None:
        """Start them, and again whenever one ends."""
        if self._workers:
            self._thread.start()

    def stop(self) -> None:
        """Let each leave its job to a later one; end those that do not."""
        if not self._workers:
            return
        self._shall_end.set()
        self._thread.join()
        running = [worker for worker in self._workers if worker is not None]
        for worker in running:
            worker.terminate()
        for worker in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(STOP_LIMIT_S)
            worker.kill()
            worker.wait()

    def _run(self) -> None:
        while not self._shall_end.is_set():
            for i, worker in enumerate(self._workers):
                if worker is None or worker.poll() is not None:
                    if worker is not None:
                        _log.warning(
                            "a training worker has ended (%s); a new one", worker.returncode
                        )
                    self._workers[i] = self._start_one()
            self._shall_end.wait(LOOK_S)

    def _start_one(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            f"{PREFIX}REDIS_URL": self._redis_url,
            f"{PREFIX}MODEL_STORE": str(self._settings.model_store),
            f"{PREFIX}DATA_DIR": str(self._settings.data_dir),
            f"{PREFIX}LOG_LEVEL": self._settings.log_level,
        }
        command = [sys.executable, "-m", "service", "worker", "--parent", str(os.getpid())]
        return subprocess.Popen(command, env=environment)  # noqa: S603 (our own program)
