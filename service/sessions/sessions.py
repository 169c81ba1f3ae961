"""The sessions of one process, composed of records, turns and the process's heartbeat."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from service.errors import CarouselError
from service.sessions.config import SessionConfig
from service.sessions.group_commit import GroupCommit
from service.sessions.records import SessionRecords
from service.sessions.restore import StateRestorer
from service.sessions.signing import Signer
from service.sessions.state_cache import StateCache
from service.sessions.store import Store
from service.sessions.turn_registry import TurnRegistry
from service.sessions.turns import Turns

_log = logging.getLogger(__name__)


class ProcessHeartbeat:
    """Marks the process as alive at regular intervals. Not thread-safe: one event loop only."""

    def __init__(self, store: Store, registry: TurnRegistry, config: SessionConfig) -> None:
        self._store, self._registry, self._config = store, registry, config
        self.problem: str | None = "the session store has not been reached yet"

    async def send(self) -> None:
        """Mark the process and its turns as alive, and release turns it cannot continue."""
        self._registry.commit_all()
        await self._store.heartbeat(self._config.process_ttl_ms)
        await self._registry.release()

    async def run(self) -> None:
        """Send heartbeats until cancelled. `problem` has the last error; None after a success."""
        while True:
            try:
                await self.send()
                self.problem = None
            except CarouselError as error:
                self.problem = str(error)
            except Exception as error:  # noqa: BLE001 (the process needs the next heartbeat)
                self.problem = "the session store does not answer"
                _log.debug("a heartbeat has failed: %s", error)
            await asyncio.sleep(self._config.heartbeat_s)


@dataclass(frozen=True, slots=True)
class Sessions:
    """Every operation on sessions. Not thread-safe: one event loop only."""

    records: SessionRecords
    turns: Turns
    heartbeat: ProcessHeartbeat
    registry: TurnRegistry
    group_commit: GroupCommit
    store: Store

    @classmethod
    def compose(
        cls, store: Store, group_commit: GroupCommit, signer: Signer, config: SessionConfig
    ) -> "Sessions":
        """Construct the parts around one store."""
        cache, restorer = StateCache(config.cache_bytes), StateRestorer(store, config)
        registry = TurnRegistry(store, group_commit, cache, config)
        return cls(
            SessionRecords(store, registry, cache, restorer, signer),
            Turns(store, registry, group_commit, cache, restorer),
            ProcessHeartbeat(store, registry, config),
            registry,
            group_commit,
            store,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Commit and send heartbeats; at the end leave the running turns to other processes."""
        tasks = [asyncio.create_task(part.run()) for part in (self.group_commit, self.heartbeat)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.store.close()
