"""What every operation of the session store needs: its connections, names and errors."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import CarouselError, SessionLost, SessionNotFound
from service.sessions.config import SessionConfig
from service.sessions.key_names import KeyNames
from service.sessions.redis_client import Reply
from service.sessions.redis_connection import Value
from service.sessions.session import Session, SessionKey
from service.sessions.session_index import SessionIndex
from service.sessions.signing import Signer
from service.sessions.store_client import StoreClient
from service.sessions.store_replies import damaged_log, refusal


@dataclass(frozen=True, slots=True)
class StoreMemory:
    """The memory of the store's process; None: unknown."""

    used_bytes: int | None
    limit_bytes: int | None  # 0: as much as there is


class StoreCalls:
    """The connections of one process to the store. Raises StoreUnavailable and StoreFull.

    Not thread-safe: one event loop only.
    """

    def __init__(
        self,
        client: StoreClient,
        commit_client: StoreClient,
        signer: Signer,
        process: str,
        config: SessionConfig,
        names: KeyNames = KeyNames(),  # noqa: B008 (frozen)
    ) -> None:
        """`commit_client` is a second connection, so that no request delays a token."""
        self._client, self._commit_client, self._signer = client, commit_client, signer
        self._process, self._process_key = process, names.process(process)
        self._config, self._names = config, names
        self._index = SessionIndex(client, names) if names.is_cluster else None
        # A store that was down may have lost this process's key; the next heartbeat comes later.
        client.greeting = ("SET", self._process_key, "1", "PX", config.process_ttl_ms)

    async def memory(self) -> StoreMemory:
        """Return how much memory the store uses and may use."""
        used, limits = [], []
        for reply in await self._client.everywhere("INFO", "memory"):
            lines = (line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
            found = dict(lines)
            used.append(int(found["used_memory"]))
            limits.append(int(found["maxmemory"]))
        return StoreMemory(sum(used), sum(limits) if all(limits) else 0)

    async def heartbeat(self, life_ms: int) -> None:
        """Mark this process as alive for so long."""
        await self._client.call("heartbeat", [self._process_key], [life_ms])

    async def close(self) -> None:
        """Mark this process as ended, so that its turns may be taken over, and disconnect."""
        with contextlib.suppress(CarouselError):
            await self._client.execute("DEL", self._process_key)
        await self._client.close()
        await self._commit_client.close()

    def missing(self, key: SessionKey) -> CarouselError:
        """Return the error for a session that does not exist."""
        if self._signer.is_own(key.owner, key.id):
            return SessionLost(
                f"the session {key.id!r} has expired, was deleted, or the store has lost it"
            )
        return SessionNotFound(f"there is no session {key.id!r}")

    async def _call(
        self,
        script: str,
        key: SessionKey,
        args: Sequence[Value],
        success: bytes,
        wanted: int | None = None,
    ) -> Reply:
        reply = await self._client.call(script, [self._names.record(key)], args)
        if reply[0] != success:
            raise self._refusal(key, reply, wanted)
        return reply

    async def _used(self, session: Session) -> None:
        """Keep the index of a session that is used, where no script can."""
        if self._index is not None:
            await self._index.renew(session)

    def _refusal(self, key: SessionKey, reply: Reply, wanted: int | None = None) -> CarouselError:
        if reply[0] == b"DAMAGED":
            return damaged_log(key, int(reply[1]), int(reply[2]))
        return self.missing(key) if reply[0] == b"NOT_FOUND" else refusal(key, reply, wanted)
