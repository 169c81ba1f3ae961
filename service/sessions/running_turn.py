"""A turn that runs in this process: between the engine, the ledger and whoever reads it."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from service.errors import (
    CarouselError,
    GenerationFailed,
    PositionMismatch,
    SessionBusy,
    SessionLost,
)
from service.generation.engine import BACKLOG_LIMIT, Engine, Stream
from service.generation.request import FinishReason, GenerationRequest
from service.generation.scheduler import Progress
from service.sessions.codec import pack_state, pack_tokens
from service.sessions.session import OnDisconnect, Session, TurnStatus
from service.sessions.state_cache import CachedState
from service.sessions.store import MARK_EVERY, SNAPSHOT_EVERY, WINDOW, CommitEntry

RECENT = WINDOW + 64
"""Tokens a turn leaves to the next: those that penalties see and those no state has consumed."""

WHOLE_NEWS = 512
"""Tokens a commit of a turn that is read whole: nobody waits for them, only a crash would."""

_STATUSES = {
    FinishReason.EOS_TOKEN: TurnStatus.EOS_TOKEN,
    FinishReason.LENGTH: TurnStatus.LENGTH,
    FinishReason.STOP_SEQUENCE: TurnStatus.STOP_SEQUENCE,
}

_CANCELLED = "the turn was cancelled"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a turn is read: what if its reader leaves, and whether he waits for its end anyway."""

    on_disconnect: OnDisconnect
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What a turn leaves behind. `error` where it could not be brought to its end here."""

    turn: "RunningTurn"
    status: TurnStatus | None
    hot: CachedState | None
    error: CarouselError | None


class RunningTurn:
    """One writer of one session. Belongs to the event loop.

    The engine delivers to it, the ledger commits for it, and only then its reader's stream gets
    what was committed. It never waits for a reader: one that is too far behind pauses the row.
    """

    def __init__(
        self,
        session: Session,
        nonce: str,
        engine: Engine,
        request: GenerationRequest,
        reading: Delivery,
        snapshot_position: int,
        on_end: Callable[[TurnResult], None],
    ) -> None:
        self.session, self.nonce = session, nonce
        self.stream = Stream(self, self._reader_left)
        self.ended = asyncio.Event()
        self._engine, self._mode, self._on_end = engine, reading.on_disconnect, on_end
        self._least_news = WHOLE_NEWS if reading.is_whole else 1
        self._has_reader = True
        self._followers: set[object] = set()
        self._waits_for: set[str] = set()  # why the engine's row is paused
        self._position = session.position  # of the log, as committed
        self._drawn: list[int] = []  # not in an entry yet
        self._news: list[Progress] = []  # likewise
        self._under_way: tuple[list[int], list[Progress]] = ([], [])
        self._state, self._settled_state = request.initial_state, request.initial_state
        self._recent = deque((*request.penalty_context, *request.prompt), RECENT)
        self._snapshot_position = snapshot_position
        self._status: TurnStatus | None = None
        self._sent_status: TurnStatus | None = None
        self._add: Callable[[RunningTurn], None] | None = None

    @property
    def position(self) -> int:
        """The log's length, as committed."""
        return self._position

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in the store too."""
        return self.ended.is_set()

    def is_of(self, session: Session) -> bool:
        """Whether it is the last turn of a session as the store has it."""
        mine, its = self.session.turn, session.turn
        is_same = (mine.epoch, mine.number) == (its.epoch, its.number)
        return is_same and self.session.birth == session.birth

    def start(self, request: GenerationRequest, add: Callable[["RunningTurn"], None]) -> None:
        """Let the engine begin; `add` tells the ledger of news."""
        self._add = add
        self._engine.submit_admitted(request, self)

    def close(self, status: TurnStatus, add: Callable[["RunningTurn"], None]) -> None:
        """Instead of `start`: there is nothing to generate any more."""
        self._add, self._status = add, status
        add(self)

    def detach(self) -> None:
        """Go on without a reader."""
        self._has_reader, self._mode = False, OnDisconnect.CONTINUE

    def follow(self) -> Callable[[], None]:
        """Count one who reads the log here as a reader; returns how he leaves, even twice."""
        follower = object()
        self._followers.add(follower)

        def leave() -> None:
            self._followers.discard(follower)
            self._end_unread()

        return leave

    def cancel(self) -> None:
        """End the turn at what is committed or being committed."""
        if self._status is None and not self.is_over:
            self._engine.cancel(self)
            self._drawn.clear()
            self._news.clear()
            self._state = self._settled_state
            self._end_with(TurnStatus.CANCELLED)

    # -- the engine's side

    def deliver(self, progress: Progress) -> None:
        """Take what a burst made."""
        if self._status is not None or self.is_over:
            return
        chunk = progress.chunk
        self._drawn += chunk.drawn
        if chunk.drawn or progress.is_last:  # else it has fed the prompt
            self._news.append(progress)
        self._state = chunk.state or self._state
        if progress.failure is not None:
            self._end_with(TurnStatus.FAILED)
        elif chunk.finish is not None:
            self._end_with(_STATUSES[chunk.finish.reason])
        else:
            if len(self._drawn) > BACKLOG_LIMIT:
                self._wait_for("store")
            if len(self._drawn) >= self._least_news or self._wants_snapshot():
                self._tell()

    def fail(self, error: CarouselError) -> None:
        """The engine can do no more; somebody else may."""
        if self._status is None:
            self._leave(error)

    # -- the reader's side

    def pause(self, _: Stream) -> None:
        """The reader is far behind."""
        self._wait_for("reader")

    def resume(self, _: Stream) -> None:
        """The reader has caught up."""
        self._go_on("reader")

    def _reader_left(self, _: Stream) -> None:
        """The reader has left."""
        self._has_reader = False
        self._end_unread()
        self._go_on("reader")

    # -- the ledger's side

    def entry(self, stamp: str, number: int) -> CommitEntry:
        """What is new since the last entry."""
        drawn, self._drawn = self._drawn, []
        news, self._news = self._news, []
        self._under_way, self._sent_status = (drawn, news), self._status
        self._settled_state = state = self._state
        name, packed, mark = "", b"", ""
        if state is not None and self._wants_snapshot():
            packed = pack_state(state, self.session.digest)
            name = f"{stamp}{number}:{state.position}"
            if state.position // MARK_EVERY > self._snapshot_position // MARK_EVERY:
                mark = str(state.position // MARK_EVERY)
            self._snapshot_position = state.position
        return CommitEntry(
            self.session.key,
            self.nonce,
            self._position,
            pack_tokens(drawn, self.session.width),
            self._status,
            name,
            packed,
            mark,
        )

    def settle(self, outcome: str, position: int, stamp: str) -> None:
        """Send what is committed, or end."""
        if self.is_over:
            return
        if outcome != "COMMITTED":
            self._leave(self._refused(outcome, position))
            return
        drawn, news = self._under_way
        self._position = position
        self._recent.extend(drawn)
        if len(self._drawn) < BACKLOG_LIMIT // 2:
            self._go_on("store")
        if self._sent_status is not None:
            self._finish(stamp)
        if self._has_reader:
            for progress in news:
                self.stream.deliver(progress)
            if self._sent_status is TurnStatus.CANCELLED:
                self.stream.fail(GenerationFailed(_CANCELLED))

    def lose(self, error: CarouselError) -> None:
        """The store does not say what it has; whoever resumes will see."""
        is_known = not self._under_way[0] and self._sent_status is None  # nothing that counts
        if not self.is_over and not is_known:
            self._leave(error)

    # --

    def _end_unread(self) -> None:
        if self._mode is OnDisconnect.CANCEL and not self._has_reader and not self._followers:
            self.cancel()

    def _wants_snapshot(self) -> bool:
        news = self._state.position - self._snapshot_position if self._state is not None else 0
        return news >= SNAPSHOT_EVERY or (self._status is not None and news > 0)

    def _wait_for(self, whom: str) -> None:
        if not self._waits_for:
            self._engine.pause(self)
        self._waits_for.add(whom)

    def _go_on(self, whom: str) -> None:
        if whom in self._waits_for:
            self._waits_for.discard(whom)
            if not self._waits_for:
                self._engine.resume(self)

    def _end_with(self, status: TurnStatus) -> None:
        self._status = status
        self._tell()

    def _tell(self) -> None:
        assert self._add is not None
        self._add(self)

    def _finish(self, stamp: str) -> None:
        self.ended.set()
        hot = None
        if self._state is not None and self._position - self._state.position <= len(self._recent):
            hot = CachedState(self._as_left(stamp), self._state, tuple(self._recent))
        self._on_end(TurnResult(self, self._status, hot, None))

    def _as_left(self, stamp: str) -> Session:
        turn = self.session.turn
        if self.session.active == "turn" and self._status is not None:
            turn = replace(turn, finish=self._position, status=self._status)
        return replace(self.session, stamp=stamp, position=self._position, active="", turn=turn)

    def _leave(self, error: CarouselError) -> None:
        """End here without an end in the store."""
        self._engine.cancel(self)
        self.ended.set()
        self._on_end(TurnResult(self, None, None, error))
        self.stream.fail(error)

    def _refused(self, outcome: str, position: int) -> CarouselError:
        if outcome == "NOT_FOUND":
            return SessionLost("the session was deleted, or the store has lost it")
        if outcome == "GAP":
            return PositionMismatch(
                f"the store has lost what it had acknowledged; the session is at position "
                f"{position}, not at {self._position}"
            )
        if outcome == "CANCELLED":
            return GenerationFailed(_CANCELLED)
        if outcome == "CONFLICT":
            _log.error("a turn drew other tokens than its log has")
        return SessionBusy("another process has taken over the turn")
