"""Supervision of the private Valkey: started, restarted after a crash, and stopped."""

import logging
import threading

from service.errors import CarouselError
from service.sessions.config import ValkeyConfig
from service.sessions.embedded import EmbeddedValkey

_log = logging.getLogger(__name__)


class ValkeySupervisor:
    """Starts a Valkey, restarts it after a crash, and stops it.

    It uses a thread of its own, because a Valkey ends with the thread that has started it.
    """

    def __init__(self, valkey: EmbeddedValkey, config: ValkeyConfig) -> None:
        self._valkey, self._check_every_s = valkey, config.check_every_s
        self._is_started, self._is_stopping = threading.Event(), threading.Event()
        self._error: CarouselError | None = None
        self._thread = threading.Thread(target=self._run, name="valkey-supervisor", daemon=True)

    def start(self) -> None:
        """Start the Valkey and wait until it answers. Raises StoreUnavailable."""
        self._thread.start()
        self._is_started.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop the Valkey if it was started here."""
        self._is_stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._valkey.start()
        except CarouselError as error:
            self._error = error
            return
        finally:
            self._is_started.set()
        while not self._is_stopping.wait(self._check_every_s):
            try:
                if not self._valkey.is_alive():
                    _log.warning("the private Valkey has exited; restarting it")
                    self._valkey.ensure()
            except CarouselError as error:
                _log.error("the private Valkey cannot be restarted: %s", error)
        self._valkey.stop()
