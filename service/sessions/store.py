"""The session store: each operation is one script, atomic in Redis and safe to repeat.

`docs/explanation/sessions.md` describes the protocol; the scripts implement it. Positions count
tokens.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Sequence
from dataclasses import astuple

from service.errors import CarouselError, SessionExists, SessionMoved
from service.generation.request import PENALTY_WINDOW
from service.sessions.codec import Export
from service.sessions.idempotency import IdempotencyKey
from service.sessions.key_names import KeyNames
from service.sessions.page import MAX_PAGE, Cursor, SessionPage
from service.sessions.redis_client import Reply
from service.sessions.redis_connection import Value
from service.sessions.session import Session, SessionKey, Turn, TurnStatus
from service.sessions.steer_spans import MAX_SPANS, MAX_SPANS_BYTES, STEERED
from service.sessions.store_calls import StoreCalls
from service.sessions.store_replies import (
    Begun,
    Busy,
    CommitEntry,
    IdempotentReplay,
    StoredTurn,
    Tail,
    continued,
    idempotent_replay,
    incomplete_log,
    random_id,
    random_name,
    session_of,
    short_digest,
    too_many_sessions,
    too_many_spans,
)


class Store(StoreCalls):
    """Operations on sessions. All raise StoreUnavailable and StoreFull.

    Not thread-safe: one event loop only.

    A session that does not exist raises SessionLost if its id was made for this owner, else
    SessionNotFound.
    """

    async def create(
        self,
        key: SessionKey,
        content: Export,
        ttl_s: int,
        state_position: int = 0,
        *,
        most: int = 0,
    ) -> Session:
        """Create a session, of `most` of its owner; 0: no limit. Raises SessionExists, TooLarge."""
        tokens, state = content.tokens, content.state
        fields = _new_fields(content, state_position)
        incarnation, pairs = random_id(), [part for pair in fields.items() for part in pair]
        keys = [self._names.record(key)]
        if self._index is not None:
            await self._index.enter([key], ttl_s, most)
            keys += _parts_of_new(self._names, key, fields)
        reply = await self._client.call(
            "create",
            keys,
            lambda: [incarnation, ttl_s, tokens, state, most, "run", self._client.run_id, *pairs],
        )
        if reply[0] == b"LIMIT":
            raise too_many_sessions(1, most)
        if reply[0] == b"EXISTS":
            raise SessionExists(f"a session {key.id!r} exists; take another id, or delete it")
        return session_of(key, reply[1])

    async def begin(  # noqa: PLR0913
        self,
        key: SessionKey,
        *,
        fencing_token: str,
        kind: str,
        incarnation: str,
        prompt: bytes,
        record: str,
        expected_position: int | None = None,
        made_for: int | None = None,
        known: Session | None = None,
        idempotency: IdempotencyKey | None = None,
        steer: str = "",
        steered_at: int = 0,
    ) -> Begun | IdempotentReplay | Busy:
        """Begin a turn or an append: append the prompt to the log and fence off other writers.

        `incarnation` is the session's as the caller knows it, `known` the session of which the
        caller has the tail too, `made_for` as in TurnPrompt. `fencing_token` is new for each call.
        `steer` is the turn's steering, made for the position `steered_at`.
        Raises PositionMismatch, SessionMoved, StateModelMismatch, KeyReused, SessionLost,
        Validation.
        """
        config, version = self._config, random_id()
        expected: Value = "" if expected_position is None else expected_position
        fingerprint = idempotency.fingerprint if idempotency else ""
        known_version = known.record_version if known else ""
        call = self._client.call(
            "begin",
            [self._names.record(key), _idempotency_record(self._names, key, idempotency)],
            lambda: [  # the run id when it is sent: the call may have waited for a restart
                *(fencing_token, version, self._process, self._client.run_id, kind, incarnation),
                *(expected, prompt, record, known_version, PENALTY_WINDOW, fingerprint),
                *(config.idempotency_ttl_s, config.process_ttl_ms),
                "" if made_for is None else made_for,
                *(steer, steered_at, MAX_SPANS, MAX_SPANS_BYTES),
            ],
        )
        reply = await call if self._index is None else await self._called_alive(call)
        match reply[0]:
            case b"KNOWN" if known is not None:
                epoch, number, first = reply[1:]
                session = continued(known, version, kind, (epoch, number, first), steer)
                await self._used(session)
                return Begun(session, None)
            case b"BEGUN":
                session = session_of(key, reply[1])
                await self._used(session)
                return Begun(session, Tail(reply[2], int(reply[3]), reply[4]))
            case b"ATTACH":
                return idempotent_replay(key, reply)
            case b"BUSY":
                return Busy(reply[1].decode())
            case b"SPANS":
                raise too_many_spans()
            case b"MOVED":
                raise SessionMoved(
                    f"the session {key.id!r} is at position {int(reply[1])}: it was changed while "
                    "the request was being processed; send it again"
                )
        raise self._refusal(key, reply, expected_position)

    async def commit(
        self, version: str, entries: Sequence[CommitEntry]
    ) -> list[tuple[str, int] | CarouselError]:
        """Add to many sessions in one round trip; return each one's outcome and position.

        On a cluster each is a call of its own, which may fail alone: its error is returned.
        """
        if self._index is None:
            return [*await self._commit(version, entries)]
        return await asyncio.gather(*(self._commit_one(version, entry) for entry in entries))

    async def _commit_one(
        self, version: str, entry: CommitEntry
    ) -> tuple[str, int] | CarouselError:
        try:
            return (await self._commit(version, [entry]))[0]
        except CarouselError as error:
            return error

    async def _commit(self, version: str, entries: Sequence[CommitEntry]) -> list[tuple[str, int]]:
        args: list[Value] = [version]
        for entry in entries:
            args += [entry.fencing_token, entry.position, entry.tokens, entry.status or ""]
            args += [entry.snapshot, entry.state, entry.retained, entry.checksum]
        keys = [self._names.record(entry.key) for entry in entries]
        if self._index is not None and entries[0].snapshot:
            keys.append(self._names.part(entries[0].key, "state", entries[0].snapshot))
        reply = await self._commit_client.call("commit", keys, args)
        return [
            (status.decode(), int(position))
            for status, position in zip(reply[::2], reply[1::2], strict=True)
        ]

    async def _called_alive(self, call: Awaitable[Reply]) -> Reply:
        """Call a script that cannot say that this process is alive: that key is in another slot."""
        life_ms = self._config.process_ttl_ms
        life = self._client.execute("SET", self._process_key, "1", "PX", life_ms, "NX")
        return (await asyncio.gather(call, life))[0]

    async def take_over(
        self, key: SessionKey, fencing_token: str
    ) -> tuple[Session, str, Tail] | None:
        """Take over a turn that no living process runs; return its record, or None without one."""
        life_ms = self._config.process_ttl_ms
        args: list[Value] = [fencing_token, random_id(), self._process, PENALTY_WINDOW, life_ms]
        reply = await self._client.call("resume", [self._names.record(key)], args)
        if reply[0] in {b"IDLE", b"BUSY"}:
            return None
        if reply[0] == b"RESUMED":
            tail = Tail(reply[3], int(reply[4]), reply[5])
            return session_of(key, reply[1]), reply[2].decode(), tail
        raise self._refusal(key, reply)

    async def release(self, key: SessionKey, fencing_token: str) -> None:
        """Allow any process to take over the turn with this fencing token, if it is running."""
        await self._client.call("release", [self._names.record(key)], [fencing_token])

    async def session(self, key: SessionKey) -> Session:
        """Read a session without its tokens."""
        return (await self.read(key, 0, 0)).session

    async def page(self, owner: str, limit: int, after: Cursor | None) -> SessionPage:
        """Read an owner's sessions, the newest first, from a place in their order on."""
        if self._index is not None:
            return await self._index.page(owner, limit, after)
        place: tuple[Value, Value] = ("", "") if after is None else astuple(after)
        args = [limit, MAX_PAGE + limit, *place]
        reply = await self._client.call("list", [self._names.index(owner)], args)
        listed = [
            session_of(SessionKey(owner, name.decode()), pairs)
            for name, pairs in zip(reply[3::2], reply[4::2], strict=True)
        ]
        last = Cursor(int(reply[1]), reply[2].decode()) if reply[1] else None
        return SessionPage(listed, last)

    async def read(
        self, key: SessionKey, first: int | None = 0, last: int | None = None
    ) -> StoredTurn:
        """Read a session and its log from `first` to `last`; from None: its last completion."""
        limits: list[Value] = ["" if limit is None else limit for limit in (first, last)]
        reply = await self._call("read", key, limits, b"FOUND")
        session, tokens = session_of(key, reply[1]), reply[4]
        await self._used(session)
        if first is None:
            first, last = session.turn.completion_start, session.turn.completion_end
        ends = session.position if last is None else min(last, session.position)
        if len(tokens) != max(0, ends - first) * session.width:
            raise incomplete_log(key)
        return StoredTurn(session, reply[2].decode(), bool(reply[3]), tokens)

    async def state_before(
        self, key: SessionKey, position: int, *, latest_is_damaged: bool = False
    ) -> bytes:
        """Return the latest state that has consumed fewer than `position` tokens, or no bytes."""
        args = [position, self._config.retain_every, 0 if latest_is_damaged else 1]
        return bytes((await self._call("state", key, args, b"FOUND"))[1])

    async def fork(
        self,
        key: SessionKey,
        children: Sequence[SessionKey],
        at: int | None,
        seeds: str,
        most: int = 0,
    ) -> list[Session]:
        """Create sessions that share this log, whole or up to `at`, of `most` of the owner.

        Raises PositionMismatch, TooLarge.
        """
        names = [random_name() for _ in range(len(children) + 2)]
        position, distance = "" if at is None else at, self._config.retain_every
        if self._index is not None:
            parent = await self.session(key)  # its children live as long
            await self._index.enter(children, int(parent.expires_in_s * 17 / 16) + 1, most)
        reply = await self._client.call(
            "fork",
            [*map(self._names.record, (key, *children))],
            [random_id(), random_id(), position, seeds, distance, most, *names],
        )
        if reply[0] == b"LIMIT":
            raise too_many_sessions(len(children), most)
        if reply[0] != b"FORKED":
            raise self._refusal(key, reply, at)
        return [session_of(*pair) for pair in zip(children, reply[1:], strict=True)]

    async def rewind(self, key: SessionKey, to: int) -> Session:
        """Truncate the log to `to` tokens. Raises SessionBusy, PositionMismatch."""
        ids, names = [random_id(), random_id()], [random_name(), random_name()]
        args: list[Value] = [*ids, to, *names, self._config.retain_every]
        return session_of(key, (await self._call("rewind", key, args, b"REWOUND", to))[1])

    async def cancel(self, key: SessionKey, turn: Turn) -> Session:
        """End a turn at its committed tokens if it is running, on any process."""
        args: list[Value] = [turn.epoch, turn.number, random_id()]
        return session_of(key, (await self._call("cancel", key, args, b"FOUND"))[1])

    async def delete(self, key: SessionKey) -> None:
        """Delete a session, with the parts of its log that no fork shares."""
        if self._index is not None:
            await self._index.leave(key)
        await self._call("delete", key, [self._config.retain_every], b"DELETED")


def _new_fields(content: Export, state_position: int) -> dict[str, Value]:
    return {
        "model": content.model,
        "digest": (STEERED if content.steer else "") + short_digest(content.digest),
        "width": content.width,
        "seed": f"{content.seed:016x}",
        "status": TurnStatus.NONE,
        "position": len(content.tokens) // content.width,
        "stamp": random_id(),
        "tail": random_name(),
        "snapshot": f"{random_id()}:{state_position}" if content.state else "",
        **dict.fromkeys(("epoch", "turn", "turn_epoch", "start", "first", "finish"), 0),
        **dict.fromkeys(("base", "shared", "state_shared", "forks"), 0),
        **dict.fromkeys(("chain", "active", "holder", "nonce", "request_key"), ""),
        **({"steer": content.steer} if content.steer else {}),
    }


def _idempotency_record(
    names: KeyNames, key: SessionKey, idempotency: IdempotencyKey | None
) -> str:
    if idempotency is None:
        return names.idempotency(key, None)
    digest = hashlib.sha256(f"{key.id}\0{idempotency.key}".encode()).hexdigest()[:32]
    return names.idempotency(key, digest)


def _parts_of_new(names: KeyNames, key: SessionKey, fields: dict[str, Value]) -> list[str]:
    parts = [("log", fields["tail"]), ("sums", fields["tail"])]
    parts += [("state", fields["snapshot"])] if fields["snapshot"] else []
    named = (names.part(key, kind, str(name)) for kind, name in parts)
    return [names.request(key), *named]
