"""A turn that runs in this process: from the engine through the group commit to its reader."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from service.errors import (
    CarouselError,
    PositionMismatch,
    SessionBusy,
    SessionLost,
    TurnCancelled,
)
from service.generation.engine import Engine
from service.generation.plan import Progress
from service.generation.request import PENALTY_WINDOW, GenerationRequest
from service.generation.stream import Stream
from service.sessions.codec import pack_state, pack_tokens
from service.sessions.config import SessionConfig
from service.sessions.log_checksum import LogChecksum
from service.sessions.restore import RestoredState
from service.sessions.session import OnDisconnect, Session, TurnStatus
from service.sessions.state_cache import CachedState
from service.sessions.steer_spans import cut
from service.sessions.store_replies import CommitEntry

RECENT_TOKENS = PENALTY_WINDOW + 64
"""Tokens that a turn caches for the next: the penalties' window, and those not consumed yet."""

_CANCELLED = "the turn was cancelled"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a turn's tokens are read: streamed or at the end, and what a disconnect does."""

    on_disconnect: OnDisconnect
    is_streamed: bool = True


class RunningTurn:
    """The only writer of one session. Not thread-safe: one event loop only.

    The engine delivers tokens to it, the group commit commits them, and only then its reader's
    stream gets them. It does not wait for the reader: a reader that is too far behind pauses the
    engine's row.
    """

    def __init__(
        self,
        session: Session,
        fencing_token: str,
        engine: Engine,
        delivery: Delivery,
        restored: RestoredState,
        on_end: Callable[["RunningTurn", CachedState | None, CarouselError | None], None],
        config: SessionConfig,
    ) -> None:
        """`on_end` gets the state for the next turn, or the error that left this one unfinished."""
        self.session, self.fencing_token = session, fencing_token
        self.stream = Stream(self, self._reader_left, engine.config.backlog_limit)
        self.ended = asyncio.Event()
        self._engine, self._on_disconnect, self._on_end = engine, delivery.on_disconnect, on_end
        self._config = config
        self._min_commit_tokens = 1 if delivery.is_streamed else config.whole_commit_tokens
        self._has_reader = True
        self._replays: set[object] = set()
        self._pause_reasons: set[str] = set()  # why the engine's row is paused
        self.position = session.position  # length of the committed log
        self._sampled: list[int] = []  # not in an entry yet
        self._progress: list[Progress] = []  # likewise
        self._in_flight: tuple[list[int], list[Progress]] = ([], [])
        self._state = self._entry_state = restored.state
        self._checksum = LogChecksum(session.width)
        self._recent = deque(restored.tokens, RECENT_TOKENS)
        self._snapshot_position = restored.snapshot_position
        self._status: TurnStatus | None = None
        self._entry_status: TurnStatus | None = None
        self._add: Callable[[RunningTurn], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended here."""
        return self.ended.is_set()

    def is_last_of(self, session: Session) -> bool:
        """Whether it is the last turn of a session as the store has it."""
        own, stored = self.session.turn, session.turn
        is_same = (own.epoch, own.number) == (stored.epoch, stored.number)
        return is_same and self.session.incarnation == session.incarnation

    def start(self, request: GenerationRequest, add: Callable[["RunningTurn"], None]) -> None:
        """Submit the request to the engine; `add` includes this turn in the next commit."""
        self._add = add
        owner = self.session.key.owner
        owned = request if request.owner == owner else replace(request, owner=owner)
        self._engine.submit_admitted(owned, self)

    def commit_end(self, status: TurnStatus, add: Callable[["RunningTurn"], None]) -> None:
        """Commit the end without generating: the log has all tokens already."""
        self._add, self._status = add, status
        add(self)

    def detach(self) -> None:
        """Continue without a reader."""
        self._has_reader, self._on_disconnect = False, OnDisconnect.CONTINUE

    def add_reader(self) -> Callable[[], None]:
        """Count a replay on this process as a reader; return an idempotent `unsubscribe`."""
        replay = object()
        self._replays.add(replay)

        def unsubscribe() -> None:
            self._replays.discard(replay)
            self._cancel_if_unread()

        return unsubscribe

    def cancel(self) -> None:
        """End the turn at the tokens that are committed or in flight."""
        if self._status is None and not self.is_over:
            self._engine.cancel(self)
            self._sampled.clear()
            self._progress.clear()
            self._state = self._entry_state
            self._end_with(TurnStatus.CANCELLED)

    # -- called by the engine

    def deliver(self, progress: Progress) -> None:
        """Receive the tokens of a burst."""
        if self._status is not None or self.is_over:
            return
        chunk = progress.chunk
        self._sampled += chunk.sampled
        if chunk.sampled or progress.is_last:  # otherwise the burst has fed the prompt only
            self._progress.append(progress)
        self._state = chunk.state or self._state
        if progress.failure is not None:
            self._end_with(TurnStatus.FAILED)
        elif chunk.finish is not None:
            self._end_with(TurnStatus(chunk.finish.reason))
        else:
            if len(self._sampled) > self._engine.config.backlog_limit:
                self._pause_row("store")
            if len(self._sampled) >= self._min_commit_tokens or self._is_snapshot_due():
                self._commit()

    def fail(self, error: CarouselError) -> None:
        """End here, because the engine has stopped; another process may take over."""
        if self._status is None:
            self._abandon(error)

    # -- called by the stream

    def pause(self, _: Stream) -> None:
        """Pause the row: the reader is far behind."""
        self._pause_row("reader")

    def resume(self, _: Stream) -> None:
        """Resume the row: the reader has caught up."""
        self._resume_row("reader")

    def _reader_left(self, _: Stream) -> None:
        self._has_reader = False
        self._cancel_if_unread()
        self._resume_row("reader")

    # -- called by the group commit

    def take_entry(self, record_version: str, number: int) -> CommitEntry:
        """Return the tokens since the last entry, with a snapshot if one is due."""
        sampled, self._sampled = self._sampled, []
        progress, self._progress = self._progress, []
        self._in_flight, self._entry_status = (sampled, progress), self._status
        self._entry_state = state = self._state
        name, packed, retained = "", b"", ""
        if state is not None and self._is_snapshot_due():
            packed = pack_state(state, self.session.digest)
            name = f"{record_version}{number}:{state.position}"
            retain_every = self._config.retain_every
            if state.position // retain_every > self._snapshot_position // retain_every:
                retained = str(state.position // retain_every)
            self._snapshot_position = state.position
        tokens = pack_tokens(sampled, self.session.width)
        return CommitEntry(
            self.session.key,
            self.fencing_token,
            self.position,
            tokens,
            self._status,
            name,
            packed,
            retained,
            self._checksum.add(tokens) if tokens else "",
        )

    def committed(self, outcome: str, position: int, record_version: str) -> None:
        """Send the committed tokens to the reader, or end."""
        if self.is_over:
            return
        if outcome != "COMMITTED":
            self._abandon(_refusal(outcome, position, self.position))
            return
        sampled, progress = self._in_flight
        self.position = position
        self._recent.extend(sampled)
        if len(self._sampled) < self._engine.config.backlog_limit // 2:
            self._resume_row("store")
        if self._entry_status is not None:
            self._finish(record_version)
        if self._has_reader:
            for one in progress:
                self.stream.deliver(one)
            if self._entry_status is TurnStatus.CANCELLED:
                self.stream.fail(TurnCancelled(_CANCELLED))

    def commit_outcome_unknown(self, error: CarouselError) -> None:
        """End here if tokens were in flight; a take-over reads from the store what it has."""
        is_empty = not self._in_flight[0] and self._entry_status is None
        if not self.is_over and not is_empty:
            self._abandon(error)

    def _cancel_if_unread(self) -> None:
        is_read = self._has_reader or self._replays
        if self._on_disconnect is OnDisconnect.CANCEL and not is_read:
            self.cancel()

    def _is_snapshot_due(self) -> bool:
        distance = self._state.position - self._snapshot_position if self._state is not None else 0
        return distance >= self._config.snapshot_every or (
            self._status is not None and distance > 0
        )

    def _pause_row(self, reason: str) -> None:
        if not self._pause_reasons:
            self._engine.pause(self)
        self._pause_reasons.add(reason)

    def _resume_row(self, reason: str) -> None:
        if reason in self._pause_reasons:
            self._pause_reasons.discard(reason)
            if not self._pause_reasons:
                self._engine.resume(self)

    def _end_with(self, status: TurnStatus) -> None:
        self._status = status
        self._commit()

    def _commit(self) -> None:
        assert self._add is not None
        self._add(self)

    def _finish(self, record_version: str) -> None:
        self.ended.set()
        cached, session, turn = None, self.session, self.session.turn
        if self._state is not None and self.position - self._state.position <= len(self._recent):
            if session.active == "turn" and self._status is not None:
                turn = replace(turn, completion_end=self.position, status=self._status)
            session = replace(
                session,
                record_version=record_version,
                position=self.position,
                active="",
                turn=turn,
                steer=cut(session.steer, self.position),
            )
            cached = CachedState(session, self._state, tuple(self._recent))
        self._on_end(self, cached, None)

    def _abandon(self, error: CarouselError) -> None:
        """Stop in this process. The stored turn stays open, for a take-over."""
        self._engine.cancel(self)
        self.ended.set()
        self._on_end(self, None, error)
        self.stream.fail(error)


def _refusal(outcome: str, stored_position: int, position: int) -> CarouselError:
    match outcome:
        case "NOT_FOUND":
            return SessionLost("the session was deleted, or the store has lost it")
        case "GAP":
            return PositionMismatch(
                "the store has lost tokens that it had acknowledged; the session is at position "
                f"{stored_position}, not at {position}"
            )
        case "CANCELLED":
            return TurnCancelled(_CANCELLED)
        case "CONFLICT":
            _log.error("the tokens of a commit differ from those in the log at %d", stored_position)
    return SessionBusy("another process has taken over the turn")
