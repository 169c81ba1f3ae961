"""Values that the session store takes and returns, decoded from its scripts' replies."""

import base64
import random
import secrets
from dataclasses import dataclass, replace

from service.errors import (
    CarouselError,
    KeyReused,
    PositionMismatch,
    SessionBusy,
    SessionDamaged,
    SessionLost,
    StateModelMismatch,
    TooLarge,
    Validation,
)
from service.sessions.redis_client import Reply
from service.sessions.session import Session, SessionKey, Turn, TurnStatus
from service.sessions.steer_spans import MAX_SPANS, MAX_SPANS_BYTES, STEERED, cut, open_line


@dataclass(frozen=True, slots=True)
class Tail:
    """The latest snapshot in the store, and the log's tokens from `first` on."""

    state: bytes  # as codec.pack_state; empty if there is none
    first: int
    tokens: bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn that may run. `tail` is None where the caller's cached one is current."""

    session: Session
    tail: Tail | None


@dataclass(frozen=True, slots=True)
class Busy:
    """A turn is running; `fencing_token` is that turn's where this process is its holder."""

    fencing_token: str


@dataclass(frozen=True, slots=True)
class CommitEntry:
    """An addition to a session; an empty one only checks the fence and keeps the session alive."""

    key: SessionKey
    fencing_token: str  # of the turn's begin; a later begin or take-over has replaced it
    position: int
    tokens: bytes
    status: TurnStatus | None
    snapshot: str = ""  # name, which ends in the state's position
    state: bytes = b""
    retained: str = ""  # number of the retained snapshot that the state also becomes
    checksum: str = ""  # as LogChecksum.add of the tokens


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A session, the record of its last turn, and the tokens that were read."""

    session: Session
    record: str  # as TurnRecord.to_json; empty if the store has lost it
    is_held: bool  # whether the process that runs the turn is alive
    tokens: bytes


@dataclass(frozen=True, slots=True)
class IdempotentReplay:
    """The turn or append that the same idempotency key began earlier."""

    found: StoredTurn  # the session, with that turn as its last one
    is_turn: bool
    position: int  # after its prompt


def random_name() -> str:
    """Return a name that no other segment or process has."""
    return secrets.token_urlsafe(9)


def random_id() -> str:
    """Return an id that no other incarnation, version, fencing token or snapshot has."""
    # No secret, and needed several times per turn: no system call each time.
    return base64.urlsafe_b64encode(random.randbytes(6)).decode()  # noqa: S311


def short_digest(digest: str) -> str:
    """Encode a hexadecimal digest in fewer characters, because every record holds one."""
    return base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")


def session_of(key: SessionKey, pairs: list[bytes]) -> Session:
    """Decode a record from its fields and values in turn."""
    fields = _fields(pairs)
    digest, lines = fields["digest"], fields.get("steer", "")
    if "steer" in fields:  # else an earlier version has forked it: it keeps a digest of no model
        digest = digest.removeprefix(STEERED)
    position, active = int(fields["position"]), fields["active"]
    return Session(
        key=key,
        model=fields["model"],
        digest=base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex(),
        width=int(fields["width"]),
        seed=int(fields["seed"], 16),
        epoch=int(fields["epoch"]),
        position=position,
        incarnation=fields["birth"],
        record_version=fields["stamp"],
        active=active,
        turn=_turn(fields),
        created_s=int(fields["created"]),
        expires_in_s=int(fields["left_ms"]) / 1e3,
        steer=lines if active == "turn" else cut(lines, position),
    )


def continued(
    known: Session,
    record_version: str,
    kind: str,
    place: tuple[int, int, int],
    steer: str = "",
) -> Session:
    """Return the session as a begin has changed it, where nothing else has changed since.

    `place` is the epoch, the turn's number and the position after its prompt.
    """
    epoch, number, first = place
    turn = known.turn
    if kind == "turn":
        turn = Turn(epoch, number, known.position, first, None, TurnStatus.RUNNING)
    return replace(
        known,
        epoch=epoch,
        position=first,
        record_version=record_version,
        active=kind,
        turn=turn,
        steer=known.steer + open_line(known.position, steer),
    )


def idempotent_replay(key: SessionKey, reply: Reply) -> IdempotentReplay:
    """Decode an ATTACH reply."""
    fields, session = _fields(reply[1]), session_of(key, reply[2])
    session = replace(session, turn=_turn(fields))
    found = StoredTurn(session, fields["request"], bool(reply[3]), reply[4])
    return IdempotentReplay(found, fields["kind"] == "turn", int(fields["position"]))


def refusal(key: SessionKey, reply: Reply, wanted: int | None) -> CarouselError:
    """Return the error for a script's refusal; `wanted` is the position of the request."""
    match reply[0]:
        case b"BUSY":
            return SessionBusy("a turn of the session is running; wait for its end")
        case b"KEY_REUSED":
            return KeyReused("the Idempotency-Key was used before with another request")
        case b"CHANGED":
            return StateModelMismatch(
                f"the session {key.id!r} was deleted and created again while the request was "
                "being processed; send it again"
            )
        case b"POSITION":
            return PositionMismatch(f"the session is at position {int(reply[1])}, not at {wanted}")
        case b"EMPTY":
            return Validation(
                "Input validation error: `inputs` cannot be empty in a session that has no text yet"
            )
        case b"LOST":
            return incomplete_log(key)
    raise AssertionError(reply[0])


def too_many_spans() -> Validation:
    """Return the error for a session with as many steered turns as it may have."""
    return Validation(
        f"the session has as many steered turns as it may have: {MAX_SPANS}, or "
        f"{MAX_SPANS_BYTES:,} bytes of their `steer`; rewind it, or begin another session",
        "steer",
    )


def too_many_sessions(n: int, most: int) -> TooLarge:
    """Return the error for `n` sessions that an owner may not have beside its others."""
    return TooLarge(
        f"{n} more sessions would exceed the limit stored_sessions of this key, {most}; delete a "
        "session, or wait until one expires"
    )


def incomplete_log(key: SessionKey) -> SessionLost:
    """Return the error for a log that lacks tokens."""
    return SessionLost(f"the log of the session {key.id!r} is incomplete: the store has lost data")


def damaged_log(key: SessionKey, first: int, last: int) -> SessionDamaged:
    """Return the error for a log whose tokens from `first` to `last` are not those written."""
    return SessionDamaged(
        f"the log of the session {key.id!r} is damaged between the positions {first} and {last}: "
        f"the store has other bytes than were written; rewind it to {first} or before, or delete it"
    )


def _turn(fields: dict[str, str]) -> Turn:
    epoch, number, start, first = (
        int(fields[name]) for name in ("turn_epoch", "turn", "start", "first")
    )
    finish = int(fields["finish"]) if fields["finish"] else None
    return Turn(
        epoch, number, start, first, finish, TurnStatus(fields["status"] or TurnStatus.RUNNING)
    )


def _fields(pairs: list[bytes]) -> dict[str, str]:
    texts = [part.decode() for part in pairs]
    return dict(zip(texts[::2], texts[1::2], strict=True))
