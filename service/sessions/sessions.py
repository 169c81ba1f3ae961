"""The sessions of one process, composed of records, turns and a heartbeat."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from service.sessions.config import SessionConfig
from service.sessions.group_commit import GroupCommit
from service.sessions.heartbeat import ProcessHeartbeat
from service.sessions.records import SessionRecords
from service.sessions.restore import StateRestorer
from service.sessions.signing import Signer
from service.sessions.state_cache import StateCache
from service.sessions.store import Store
from service.sessions.turn_registry import TurnRegistry
from service.sessions.turns import Turns


@dataclass(frozen=True, slots=True)
class Sessions:
    """Every operation on sessions. Belongs to one event loop."""

    records: SessionRecords
    turns: Turns
    heartbeat: ProcessHeartbeat
    registry: TurnRegistry
    commits: GroupCommit
    store: Store

    @classmethod
    def compose(
        cls, store: Store, commits: GroupCommit, signer: Signer, config: SessionConfig
    ) -> "Sessions":
        """Construct the parts around one store."""
        cache, restorer = StateCache(config.cache_bytes), StateRestorer(store, config)
        registry = TurnRegistry(store, commits, cache, config)
        return cls(
            SessionRecords(store, registry, cache, restorer, signer),
            Turns(store, registry, commits, cache, restorer),
            ProcessHeartbeat(store, registry, config),
            registry,
            commits,
            store,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Commit and send heartbeats; at the end leave the running turns to other processes."""
        tasks = [asyncio.create_task(part.run()) for part in (self.commits, self.heartbeat)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.store.close()
