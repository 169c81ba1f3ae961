"""The index of an owner's sessions on a cluster, where it is in another slot than the sessions."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from service.errors import SessionExists
from service.sessions.key_names import KeyNames
from service.sessions.page import MAX_PAGE, Cursor, SessionPage
from service.sessions.redis_client import Reply
from service.sessions.session import Session, SessionKey
from service.sessions.store_client import StoreClient
from service.sessions.store_replies import session_of, too_many_sessions

_OWNERS_REMEMBERED = 10_000
_RENEWALS = 16  # of an index, in the life of a session
_SPARE = 1.25  # an index lives longer than its sessions, since it is renewed less often


class SessionIndex:
    """Enters sessions before they are created, and drops them before they are deleted.

    So a session is in its index, and an id in the index may lack its session: those leave it when
    they are listed, by chance, or where the owner may have no more. Raises StoreUnavailable and
    StoreFull. Not thread-safe: one event loop only.
    """

    def __init__(self, client: StoreClient, names: KeyNames) -> None:
        self._client, self._names = client, names
        self._renewed_s: OrderedDict[str, float] = OrderedDict()  # by owner

    async def enter(self, keys: Sequence[SessionKey], ttl_s: int, most: int) -> None:
        """Enter new sessions of an owner that may have `most`; 0: no limit.

        Raises TooLarge, and SessionExists.
        """
        owner, ids = keys[0].owner, [key.id for key in keys]
        found = await self._enter(owner, ids, ttl_s, most)
        if found is None:
            raise too_many_sessions(len(ids), most)
        if not found:
            return
        there = [SessionKey(owner, id_) for id_ in found]
        for key, exists in zip(there, await self._exist(there), strict=True):
            if exists:
                raise SessionExists(f"a session {key.id!r} exists; take another id, or delete it")
        await self._send(owner, 0, ttl_s, 1, "", found)  # it has expired: a new one begins

    async def leave(self, key: SessionKey) -> None:
        """Drop a session that is about to be deleted."""
        await self._client.call("drop_index", [self._names.index(key.owner)], [key.id, ""])

    async def renew(self, session: Session) -> None:
        """Keep the index of a session that is used, and the session in it."""
        owner, now_s = session.key.owner, asyncio.get_running_loop().time()
        last_s = self._renewed_s.get(owner)
        if last_s is not None and now_s - last_s < session.expires_in_s / _RENEWALS:
            return
        ttl_s = int(session.expires_in_s * _SPARE) + 1
        await self._send(owner, 0, ttl_s, 0, session.created_s * 1000, [session.key.id])
        self._renewed_s[owner] = now_s
        self._renewed_s.move_to_end(owner)
        if len(self._renewed_s) > _OWNERS_REMEMBERED:
            self._renewed_s.popitem(last=False)

    async def page(self, owner: str, limit: int, after: Cursor | None) -> SessionPage:
        """Read an owner's sessions, the newest first, from a place in their order on."""
        listed: list[Session] = []
        n_seen, place = 0, after
        while n_seen <= MAX_PAGE + limit:
            members = await self._members(owner, limit, place)
            sessions = await self._records(owner, members)
            for (id_, time), session in zip(members, sessions, strict=True):
                if session is not None and len(listed) == limit:
                    return SessionPage(listed, place)
                if session is not None:
                    listed.append(session)
                place = Cursor(int(float(time)), id_)
            gone = [m for m, one in zip(members, sessions, strict=True) if one is None]
            await self._drop(owner, gone)
            n_seen += len(members)
            if len(members) < limit:
                return SessionPage(listed, None)
        return SessionPage(listed, place)

    async def _enter(self, owner: str, ids: list[str], ttl_s: int, most: int) -> list[str] | None:
        """Return the ids that were there, or None where the owner may have no more."""
        for _ in range(2):
            reply = await self._send(owner, most, ttl_s, 0, "", ids)
            if reply[0] == b"ENTERED":
                await self._drop_expired(owner, _pairs(reply[2]))
                return [id_.decode() for id_ in reply[1]]
            await self._drop_expired(owner, _pairs(reply[1]))
        return None

    async def _send(
        self, owner: str, most: int, ttl_s: int, anew: int, time_ms: int | str, ids: list[str]
    ) -> Reply:
        args = [most, ttl_s, anew, time_ms, *ids]
        return await self._client.call("enter_index", [self._names.index(owner)], args)

    async def _members(self, owner: str, n: int, after: Cursor | None) -> list[tuple[str, str]]:
        place = ("", "") if after is None else (after.created_ms, after.session_id)
        reply = await self._client.call("page_index", [self._names.index(owner)], [n, *place])
        return _pairs(reply[1])

    async def _records(
        self, owner: str, members: Sequence[tuple[str, str]]
    ) -> list[Session | None]:
        async def read(id_: str) -> Session | None:
            key = SessionKey(owner, id_)
            name = self._names.record(key)
            fields, left_ms = await asyncio.gather(
                self._client.execute("HGETALL", name), self._client.execute("PTTL", name)
            )
            if not fields or left_ms < 0:
                return None
            return session_of(key, [*fields, b"left_ms", str(left_ms).encode()])

        return await asyncio.gather(*(read(id_) for id_, _ in members))

    async def _exist(self, keys: Sequence[SessionKey]) -> list[bool]:
        calls = (self._client.execute("EXISTS", self._names.record(key)) for key in keys)
        return [bool(found) for found in await asyncio.gather(*calls)]

    async def _drop_expired(self, owner: str, members: Sequence[tuple[str, str]]) -> None:
        found = await self._exist([SessionKey(owner, id_) for id_, _ in members])
        gone = [member for member, exists in zip(members, found, strict=True) if not exists]
        await self._drop(owner, gone)

    async def _drop(self, owner: str, members: Sequence[tuple[str, str]]) -> None:
        if members:
            flat = [part for member in members for part in member]
            await self._client.call("drop_index", [self._names.index(owner)], flat)


def _pairs(flat: object) -> list[tuple[str, str]]:
    assert isinstance(flat, list)
    texts = [part.decode() for part in flat]
    return list(zip(texts[::2], texts[1::2], strict=True))
