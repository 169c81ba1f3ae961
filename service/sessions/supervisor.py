"""Keeps the private Valkey alive for as long as the server needs it."""

import logging
import threading

from service.errors import CarouselError
from service.sessions.embedded import EmbeddedValkey

LOOK_S = 0.1

_log = logging.getLogger(__name__)


class ValkeySupervisor:
    """Starts a Valkey, starts it again where it dies, and ends it.

    All in one thread of its own, because a Valkey ends with the thread that has started it.
    """

    def __init__(self, valkey: EmbeddedValkey) -> None:
        self._valkey = valkey
        self._is_started, self._shall_end = threading.Event(), threading.Event()
        self._error: CarouselError | None = None
        self._thread = threading.Thread(target=self._run, name="valkey-watch", daemon=True)

    def start(self) -> None:
        """Wait until it answers. Raises StoreUnavailable."""
        self._thread.start()
        self._is_started.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End it, if it was started here."""
        self._shall_end.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._valkey.start()
        except CarouselError as error:
            self._error = error
            return
        finally:
            self._is_started.set()
        while not self._shall_end.wait(LOOK_S):
            try:
                if not self._valkey.is_alive():
                    _log.warning("the private Valkey has ended; it is started again")
                    self._valkey.ensure()
            except CarouselError as error:
                _log.error("the private Valkey cannot be started: %s", error)
        self._valkey.stop()
