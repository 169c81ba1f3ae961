"""The heartbeat of one attempt, in a thread of its own: no step of the network holds it up."""

import contextlib
import os
import threading
import time

from service.errors import CarouselError
from service.training.job import Change, JobKey
from service.training.queue import JobQueue, Superseded

BEAT_S = 1.0
CANCEL_LIMIT_S = 3.0
"""A cancelled attempt that has not come to a step's end by then is ended where it is."""

FENCED_EXIT = 3


class Pulse:
    """Keeps an attempt's lease, and hears what is wanted of it."""

    def __init__(self, queue: JobQueue, key: JobKey, attempt: int) -> None:
        self._queue, self._key, self._attempt = queue, key, attempt
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._shall_end = threading.Event()
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
        cancelled_s = 0.0
        while not self._shall_end.wait(BEAT_S / 2):
            with contextlib.suppress(CarouselError):  # a store that is away: the next may reach it
                try:
                    wants_end = self._queue.beat(self._key, self._attempt)
                except Superseded:
                    os._exit(FENCED_EXIT)  # whatever it does now counts no more
                if not wants_end:
                    continue
                cancelled_s = cancelled_s or time.monotonic()
                self.is_cancelled = True
                if time.monotonic() - cancelled_s > CANCEL_LIMIT_S:
                    with contextlib.suppress(Superseded):
                        self._queue.settle(self._key, self._attempt, Change.CANCEL)
                    os._exit(0)
