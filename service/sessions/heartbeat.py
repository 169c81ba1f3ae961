"""The heartbeat that marks a process as alive, and shows whether the store answers."""

import asyncio
import logging

from service.errors import CarouselError
from service.sessions.config import SessionConfig
from service.sessions.store import Store
from service.sessions.turn_registry import TurnRegistry

_log = logging.getLogger(__name__)


class ProcessHeartbeat:
    """Marks the process as alive at regular intervals. Belongs to one event loop."""

    def __init__(self, store: Store, registry: TurnRegistry, config: SessionConfig) -> None:
        self._store, self._registry, self._config = store, registry, config
        self.problem: str | None = "the session store has not been reached yet"

    async def beat(self) -> None:
        """Mark the process and its turns as alive, and release turns it cannot continue."""
        self._registry.commit_all()
        await self._store.heartbeat(self._config.process_ttl_ms)
        await self._registry.release()

    async def run(self) -> None:
        """Beat until cancelled; `problem` has the last error, or None after a success."""
        while True:
            try:
                await self.beat()
                self.problem = None
            except CarouselError as error:
                self.problem = str(error)
            except Exception as error:  # noqa: BLE001 (the process needs the next heartbeat)
                self.problem = "the session store does not answer"
                _log.debug("a heartbeat has failed: %s", error)
            await asyncio.sleep(self._config.heartbeat_s)
