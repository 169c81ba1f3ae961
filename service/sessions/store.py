"""Sessions in Redis: each operation one script, atomic there and repeatable from here.

The protocol is `docs/explanation/sessions.md`; the scripts hold it. Positions count tokens.
"""

import base64
import contextlib
import hashlib
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.errors import (
    CarouselError,
    KeyReused,
    PositionMismatch,
    SessionBusy,
    SessionExists,
    SessionLost,
    SessionNotFound,
    StateModelMismatch,
    Validation,
)
from service.sessions.redis_client import Reply, ScriptClient
from service.sessions.redis_connection import Value  # noqa: TC001 (as every import here)
from service.sessions.session import Session, SessionKey, Turn, TurnStatus
from service.sessions.signing import Signer

PREFIX = "carousel:"
SNAPSHOT_EVERY = 4_096
"""Tokens between two snapshots of a running turn: what a crash has to compute again at most."""

MARK_EVERY = 32_768
"""Tokens between two snapshots that stay: what a rewind has to compute again at most."""

RETRY_TTL_S = 86_400
LIFE_MS = 3_000
"""A process that has not been heard of for so long may lose its turns to another."""

WINDOW = 1_024
"""Tokens before the prompt that a turn is given: those that penalties look at."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An idempotency key and what was asked with it."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Tail:
    """The latest state that the store has, and the log's tokens from `first` on."""

    state: bytes  # as codec.pack_state; empty where there is none
    first: int
    tokens: bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn that may run. `tail` is None where the caller knows it already."""

    session: Session
    tail: Tail | None


@dataclass(frozen=True, slots=True)
class Busy:
    """A turn runs. `nonce` is that of its beginning, where this process is said to run it."""

    nonce: str


@dataclass(frozen=True, slots=True)
class CommitEntry:
    """What a turn adds to its session: tokens from `position` on, a state, its end.

    One that adds nothing says that the turn goes on: its session does not expire.
    """

    key: SessionKey
    nonce: str  # of the turn's beginning: whoever began later has another, and this one no say
    position: int
    tokens: bytes
    status: TurnStatus | None
    snapshot: str = ""  # name, which ends in the state's position
    state: bytes = b""
    mark: str = ""  # the number of the mark that the state is too


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A session as it stands, its last turn's request, and the tokens that were asked for."""

    session: Session
    request: str
    is_held: bool  # whether the process that runs its turn lives
    tokens: bytes


@dataclass(frozen=True, slots=True)
class IdempotentReplay:
    """What the same idempotency key began before: a turn, or an append."""

    found: StoredTurn  # the session, with that turn as its last one
    is_turn: bool
    position: int  # after its prompt


def new_name() -> str:
    """A name that no other segment or process has."""
    return secrets.token_urlsafe(9)


def new_stamp() -> str:
    """A name that no other change of the same record has, nor any other snapshot."""
    # No secret, and every turn takes some: no call of the system for each.
    return base64.urlsafe_b64encode(random.randbytes(6)).decode()  # noqa: S311


class Store:
    """Operations on sessions. Belongs to one event loop. All raise StoreUnavailable and StoreFull.

    A session that is not there is SessionLost where its id was made for this owner, else
    SessionNotFound.
    """

    def __init__(
        self, link: ScriptClient, commits: ScriptClient, identity: Signer, process: str
    ) -> None:
        """`commits` is a link of its own, so that no request delays a token."""
        self._link, self._commits, self._identity = link, commits, identity
        self._process, self._own_name = process, f"{PREFIX}process:{process}"
        # A store that was away has forgotten us, and the next heartbeat is a second off.
        link.greeting = ("SET", self._own_name, "1", "PX", LIFE_MS)

    async def create(  # noqa: PLR0913 (a session is made of these)
        self,
        key: SessionKey,
        *,
        model: str,
        digest: str,
        width: int,
        seed: int,
        ttl_s: int,
        tokens: bytes = b"",
        state: bytes = b"",
        state_position: int = 0,
    ) -> Session:
        """Make a session. Raises SessionExists."""
        position = len(tokens) // width
        fields: dict[str, Value] = {
            "model": model,
            "digest": _short(digest),
            "width": width,
            "seed": f"{seed:016x}",
            "epoch": 0,
            "turn": 0,
            "turn_epoch": 0,
            "start": 0,
            "first": 0,
            "finish": 0,
            "status": TurnStatus.NONE,
            "position": position,
            "stamp": new_stamp(),
            "tail": new_name(),
            "base": 0,
            "chain": "",
            "shared": 0,
            "snapshot": f"{new_stamp()}:{state_position}" if state else "",
            "state_shared": 0,
            "active": "",
            "holder": "",
            "nonce": "",
            "request_key": "",
            "forks": 0,
        }
        birth, pairs = new_stamp(), [part for pair in fields.items() for part in pair]
        reply = await self._link.call(
            "create",
            [_record(key)],
            lambda: [birth, ttl_s, tokens, state, "run", self._link.run, *pairs],
        )
        if reply[0] == b"EXISTS":
            raise SessionExists(f"a session {key.id!r} exists; take another id, or delete it")
        return _session(key, reply[1])

    async def begin(  # noqa: PLR0913
        self,
        key: SessionKey,
        *,
        nonce: str,
        kind: str,
        birth: str,
        prompt: bytes,
        request: str,
        expected_position: int | None = None,
        known: Session | None = None,
        retry: IdempotencyKey | None = None,
    ) -> Begun | IdempotentReplay | Busy:
        """Begin a turn or an append: log the prompt, keep other writers out.

        `birth` is that of the session as the caller knows it, and `known` that of which he has the
        tail too. `nonce` names this call.

        Raises:
            PositionMismatch, StateModelMismatch, KeyReused, SessionLost, Validation.

        """
        expected: Value = "" if expected_position is None else expected_position
        fingerprint = retry.fingerprint if retry else ""
        known_stamp, stamp = known.stamp if known else "", new_stamp()
        reply = await self._link.call(
            "begin",
            [_record(key), _retry(key, retry)],
            lambda: [  # the run's name at the moment of sending: it may have waited for a restart
                *(nonce, stamp, self._process, self._link.run, kind, birth, expected),
                *(prompt, request, known_stamp, WINDOW, fingerprint, RETRY_TTL_S, LIFE_MS),
            ],
        )
        if reply[0] == b"KNOWN" and known is not None:
            return Begun(_gone_on(known, stamp, kind, *reply[1:]), None)
        if reply[0] == b"BEGUN":
            return Begun(_session(key, reply[1]), Tail(reply[2], int(reply[3]), reply[4]))
        if reply[0] == b"ATTACH":
            return _earlier(key, reply)
        if reply[0] == b"BUSY":
            return Busy(reply[1].decode())
        if reply[0] == b"LOST":
            raise _lost_log(key)
        raise self._refusal(key, reply, expected_position)

    async def commit(self, stamp: str, entries: Sequence[CommitEntry]) -> list[tuple[str, int]]:
        """Add to many sessions in one round trip; for each what came of it and its position."""
        args: list[Value] = [stamp]
        for entry in entries:
            status = entry.status or ""
            args += [entry.nonce, entry.position, entry.tokens, status]
            args += [entry.snapshot, entry.state, entry.mark]
        reply = await self._commits.call("commit", [_record(one.key) for one in entries], args)
        return [
            (status.decode(), int(position))
            for status, position in zip(reply[::2], reply[1::2], strict=True)
        ]

    async def resume(self, key: SessionKey, nonce: str) -> tuple[Session, str, Tail] | None:
        """Take over a turn that no living process runs; None where there is no such turn."""
        reply = await self._link.call(
            "resume",
            [_record(key)],
            [nonce, new_stamp(), self._process, WINDOW, LIFE_MS],
        )
        if reply[0] in {b"IDLE", b"BUSY"}:
            return None
        if reply[0] == b"RESUMED":
            tail = Tail(reply[3], int(reply[4]), reply[5])
            return _session(key, reply[1]), reply[2].decode(), tail
        raise self._refusal(key, reply)

    async def release(self, key: SessionKey, nonce: str) -> None:
        """Let anybody take over the turn that `nonce` began, if it runs."""
        await self._link.call("release", [_record(key)], [nonce])

    async def read(self, key: SessionKey, first: int = 0, last: int | None = None) -> StoredTurn:
        """The session, and its log's tokens from `first` to `last`."""
        return await self._read(key, first, last)

    async def read_turn(self, key: SessionKey) -> StoredTurn:
        """The session, and its last turn's own tokens."""
        return await self._read(key, None, None)

    async def _read(self, key: SessionKey, first: int | None, last: int | None) -> StoredTurn:
        limits: list[Value] = ["" if limit is None else limit for limit in (first, last)]
        reply = await self._link.call("read", [_record(key)], limits)
        if reply[0] != b"FOUND":
            raise self._refusal(key, reply)
        session, tokens = _session(key, reply[1]), reply[4]
        if first is None:
            first, last = session.turn.first, session.turn.finish
        ends = session.position if last is None else min(last, session.position)
        if len(tokens) != max(0, ends - first) * session.width:
            raise _lost_log(key)
        return StoredTurn(session, reply[2].decode(), bool(reply[3]), tokens)

    async def state_before(
        self, key: SessionKey, position: int, *, latest_is_damaged: bool = False
    ) -> bytes:
        """The latest state that has consumed fewer than `position` tokens; empty if none."""
        reply = await self._link.call(
            "state", [_record(key)], [position, MARK_EVERY, 0 if latest_is_damaged else 1]
        )
        if reply[0] != b"FOUND":
            raise self._refusal(key, reply)
        return bytes(reply[1])

    async def fork(
        self, key: SessionKey, children: Sequence[SessionKey], at: int | None, seeds: str
    ) -> list[Session]:
        """Make sessions that share what this one has said, up to `at`.

        Raises:
            PositionMismatch: the session is not so long.

        """
        reply = await self._link.call(
            "fork",
            [_record(key), *map(_record, children)],
            [
                *(new_stamp(), new_stamp(), "" if at is None else at, seeds, MARK_EVERY),
                *(new_name() for _ in range(len(children) + 2)),
            ],
        )
        if reply[0] != b"FORKED":
            raise self._refusal(key, reply, at)
        return [_session(*pair) for pair in zip(children, reply[1:], strict=True)]

    async def rewind(self, key: SessionKey, to: int) -> Session:
        """Cut the log back to `to` tokens. Raises SessionBusy, PositionMismatch."""
        reply = await self._link.call(
            "rewind",
            [_record(key)],
            [new_stamp(), new_stamp(), to, new_name(), new_name(), MARK_EVERY],
        )
        if reply[0] != b"REWOUND":
            raise self._refusal(key, reply, to)
        return _session(key, reply[1])

    async def cancel(self, key: SessionKey, turn: Turn) -> Session:
        """End a turn at what it has committed, if it still runs, whoever runs it."""
        reply = await self._link.call(
            "cancel", [_record(key)], [turn.epoch, turn.number, new_stamp()]
        )
        if reply[0] != b"FOUND":
            raise self._refusal(key, reply)
        return _session(key, reply[1])

    async def delete(self, key: SessionKey) -> None:
        """Remove a session, with all of its log that no other shares."""
        reply = await self._link.call("delete", [_record(key)], [MARK_EVERY])
        if reply[0] != b"DELETED":
            raise self._refusal(key, reply)

    async def beat(self, life_ms: int) -> None:
        """Say that this process lives."""
        await self._link.call("beat", [self._own_name], [life_ms])

    async def close(self) -> None:
        """Say that this process has ended: its turns may be taken over."""
        with contextlib.suppress(CarouselError):
            await self._link.insist("DEL", self._own_name)
        await self._link.close()
        await self._commits.close()

    def missing(self, key: SessionKey) -> CarouselError:
        """The error for a session that is not there."""
        if self._identity.is_own(key.owner, key.id):
            return SessionLost(
                f"the session {key.id!r} has expired, was deleted, or the store has lost it"
            )
        return SessionNotFound(f"there is no session {key.id!r}")

    def _refusal(self, key: SessionKey, reply: Reply, wanted: int | None = None) -> CarouselError:
        match reply[0]:
            case b"NOT_FOUND":
                return self.missing(key)
            case b"BUSY":
                return SessionBusy("a turn of the session is running; wait for its end")
            case b"KEY_REUSED":
                return KeyReused("the Idempotency-Key was used before with another request")
            case b"CHANGED":
                return StateModelMismatch(
                    f"the session {key.id!r} was made again just now; it is not the one it was"
                )
            case b"POSITION":
                return PositionMismatch(
                    f"the session is at position {int(reply[1])}, not at {wanted}"
                )
            case b"EMPTY":
                return Validation(
                    "Input validation error: `inputs` cannot be empty in a session "
                    "that has no text yet"
                )
        raise AssertionError(reply[0])


def _lost_log(key: SessionKey) -> SessionLost:
    return SessionLost(f"the log of the session {key.id!r} is not whole any more")


def _record(key: SessionKey) -> str:
    return f"{PREFIX}session:{key}"


def _retry(key: SessionKey, retry: IdempotencyKey | None) -> str:
    if retry is None:
        return f"{PREFIX}retry:"
    digest = hashlib.sha256(f"{key.id}\0{retry.key}".encode()).hexdigest()[:32]
    return f"{PREFIX}retry:{key.owner}/{digest}"


def _session(key: SessionKey, pairs: list[bytes]) -> Session:
    fields = _fields(pairs)
    created_s, left_s = int(fields["created"]), int(fields["left_ms"]) / 1e3
    return Session(
        key=key,
        model=fields["model"],
        digest=_long(fields["digest"]),
        width=int(fields["width"]),
        seed=int(fields["seed"], 16),
        epoch=int(fields["epoch"]),
        position=int(fields["position"]),
        birth=fields["birth"],
        stamp=fields["stamp"],
        active=fields["active"],
        turn=_turn(fields),
        created_s=created_s,
        left_s=left_s,
    )


def _gone_on(known: Session, stamp: str, kind: str, epoch: int, number: int, first: int) -> Session:
    """A session as the record is, of which nothing else has changed."""
    turn = known.turn
    if kind == "turn":
        turn = Turn(epoch, number, known.position, first, None, TurnStatus.RUNNING)
    return replace(known, epoch=epoch, position=first, stamp=stamp, active=kind, turn=turn)


def _short(digest: str) -> str:
    """A digest in fewer characters than hexadecimal ones: every record has one."""
    return base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")


def _long(digest: str) -> str:
    return base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()


def _turn(fields: dict[str, str]) -> Turn:
    finish = fields["finish"]
    return Turn(
        epoch=int(fields["turn_epoch"]),
        number=int(fields["turn"]),
        start=int(fields["start"]),
        first=int(fields["first"]),
        finish=int(finish) if finish else None,
        status=TurnStatus(fields["status"] or TurnStatus.RUNNING),
    )


def _earlier(key: SessionKey, reply: Reply) -> IdempotentReplay:
    fields, session = _fields(reply[1]), _session(key, reply[2])
    session = replace(session, turn=_turn(fields))
    found = StoredTurn(session, fields["request"], bool(reply[3]), reply[4])
    return IdempotentReplay(found, fields["kind"] == "turn", int(fields["position"]))


def _fields(pairs: list[bytes]) -> dict[str, str]:
    texts = [part.decode() for part in pairs]
    return dict(zip(texts[::2], texts[1::2], strict=True))
