"""The heartbeat of one attempt, in a thread of its own: no step of the network delays it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

from service.errors import CarouselError
from service.training.config import AttemptConfig
from service.training.job import JobKey
from service.training.job_store import Fenced
from service.training.queue import JobQueue

FENCED_EXIT = 3


class Heartbeat:
    """Renews an attempt's lease; ends the process if it is fenced or does not stop in time."""

    def __init__(self, queue: JobQueue, key: JobKey, attempt: int, config: AttemptConfig) -> None:
        self._queue, self._key, self._attempt, self._config = queue, key, attempt, config
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._shall_end = threading.Event()
        self._stopping_s = 0.0  # since when the attempt has to stop
        self._is_cancelled = False
        self.is_leaving = False  # another attempt is to continue

    def start(self) -> None:
        """Begin to renew the lease."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no more, so that the attempt can finish its job."""
        self._shall_end.set()
        self._thread.join()

    def should_stop(self) -> bool:
        """Whether the training has to stop at the end of its step."""
        return self._is_cancelled or self.is_leaving

    def _run(self) -> None:
        while not self._shall_end.wait(self._config.heartbeat_s):
            with contextlib.suppress(CarouselError):  # the next renewal may succeed
                try:
                    self._renew()
                except Fenced:
                    os._exit(FENCED_EXIT)  # nothing that it does counts any longer

    def _renew(self) -> None:
        if self._queue.renew(self._key, self._attempt):
            self._is_cancelled = True
        if not self.should_stop():
            return
        self._stopping_s = self._stopping_s or time.monotonic()
        if time.monotonic() - self._stopping_s > self._config.stop_limit_s:
            self._queue.release(self._key, self._attempt)
            os._exit(0)


def on_signal(number: signal.Signals, action: Callable[[], None]) -> None:
    """Call an action in a thread when the signal comes: the main thread may be in a long step."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(number, lambda *_: None)  # or the process would end

    def listen() -> None:
        while True:
            if os.read(reader, 1)[0] == number:
                action()

    threading.Thread(target=listen, name="signals", daemon=True).start()
