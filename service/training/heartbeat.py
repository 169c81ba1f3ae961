"""The heartbeat of one attempt, in a thread of its own: no step of the network holds it up."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

from service.errors import CarouselError
from service.training.job import JobKey, Transition
from service.training.queue import Fenced, JobQueue

BEAT_S = 1.0
STOP_LIMIT_S = 3.0
"""An attempt that is to stop and has not come to a step's end by then is ended where it is."""

FENCED_EXIT = 3


class Heartbeat:
    """Keeps an attempt's lease, and hears what is wanted of it."""

    def __init__(self, queue: JobQueue, key: JobKey, attempt: int) -> None:
        self._queue, self._key, self._attempt = queue, key, attempt
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._shall_end = threading.Event()
        self._stopping_s = 0.0  # since when it is to stop
        self.is_cancelled = False
        self.shall_leave = False  # for another worker to go on

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more: the attempt settles by itself now."""
        self._shall_end.set()
        self._thread.join()

    def shall_stop(self) -> bool:
        """Whether the training is to stop at the end of its step."""
        return self.is_cancelled or self.shall_leave

    def _run(self) -> None:
        while not self._shall_end.wait(BEAT_S / 2):
            with contextlib.suppress(CarouselError):  # a store that is away: the next may reach it
                try:
                    self._beat()
                except Fenced:
                    os._exit(FENCED_EXIT)  # whatever it does now counts no more

    def _beat(self) -> None:
        if self._queue.beat(self._key, self._attempt):
            self.is_cancelled = True
        if not self.shall_stop():
            return
        self._stopping_s = self._stopping_s or time.monotonic()
        if time.monotonic() - self._stopping_s > STOP_LIMIT_S:
            if self.is_cancelled:
                self._queue.settle(self._key, self._attempt, Transition.CANCEL)
            else:
                self._queue.release(self._key, self._attempt)
            os._exit(0)


def on_signal(number: signal.Signals, deed: Callable[[], None]) -> None:
    """Do it when the signal comes, in a thread: the main one hears nothing until its step ends."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    signal.signal(number, lambda *_: None)  # or the process would end

    def listen() -> None:
        while True:
            if os.read(heard, 1)[0] == number:
                deed()

    threading.Thread(target=listen, name="signals", daemon=True).start()
