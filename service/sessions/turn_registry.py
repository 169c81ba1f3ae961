"""The running turns of one process, and those that it has begun and cannot continue."""

import contextlib
from collections.abc import Iterator

from service.errors import CarouselError, StoreFull, StoreUnavailable
from service.generation.engine import Engine
from service.sessions.config import SessionConfig
from service.sessions.group_commit import GroupCommit
from service.sessions.restore import RestoredState
from service.sessions.running_turn import Delivery, RunningTurn
from service.sessions.session import Session, SessionKey
from service.sessions.state_cache import CachedState, StateCache
from service.sessions.store import Store
from service.sessions.store_replies import random_id


class TurnRegistry:
    """The running turns by session. Not thread-safe: one event loop only."""

    def __init__(
        self, store: Store, group_commit: GroupCommit, cache: StateCache, config: SessionConfig
    ) -> None:
        self._store, self._group_commit, self._cache, self._config = (
            store,
            group_commit,
            cache,
            config,
        )
        self._running: dict[SessionKey, RunningTurn] = {}
        self._beginning: set[str] = set()  # fencing tokens of calls that are in flight
        self._to_release: set[tuple[SessionKey, str]] = set()
        self.takeovers = 0

    def running(self, key: SessionKey) -> RunningTurn | None:
        """Return a session's turn that runs here, or None."""
        return self._running.get(key)

    def __len__(self) -> int:
        return len(self._running)

    def n_running(self, digest: str) -> int:
        """Count the running turns of a model."""
        return sum(turn.session.digest == digest for turn in self._running.values())

    def make(
        self,
        session: Session,
        fencing_token: str,
        engine: Engine,
        delivery: Delivery,
        restored: RestoredState,
    ) -> RunningTurn:
        """Make a turn and register it until it ends."""
        turn = RunningTurn(
            session, fencing_token, engine, delivery, restored, self._ended, self._config
        )
        self._running[session.key] = turn
        return turn

    def commit(self, key: SessionKey) -> None:
        """Include a session's turn in the next commit, so that it notices a deleted session."""
        if key in self._running:
            self._group_commit.add(self._running[key])

    def commit_all(self) -> None:
        """Include every turn in the next commit, which refreshes the expiry of its session."""
        for turn in self._running.values():
            self._group_commit.add(turn)

    @contextlib.contextmanager
    def new_fencing_token(self, key: SessionKey) -> Iterator[str]:
        """Yield a fencing token for a begin or take-over; release it if the outcome is unknown."""
        fencing_token = random_id()
        self._beginning.add(fencing_token)
        try:
            yield fencing_token
        except BaseException as error:  # including the cancellation of the caller
            is_unavailable = isinstance(error, StoreUnavailable | StoreFull)
            if is_unavailable or not isinstance(error, CarouselError):  # else nothing has begun
                self._to_release.add((key, fencing_token))
            raise
        finally:
            self._beginning.discard(fencing_token)

    @contextlib.contextmanager
    def release_on_error(self, key: SessionKey, fencing_token: str) -> Iterator[None]:
        """Release a turn that has begun if any error prevents it from running here."""
        try:
            yield
        except BaseException:
            self._to_release.add((key, fencing_token))
            raise

    def release_unknown(self, key: SessionKey, fencing_token: str) -> None:
        """Release a turn that the store attributes to this process and that does not run here."""
        running = self._running.get(key)
        is_known = fencing_token in self._beginning or (
            running is not None and running.fencing_token == fencing_token
        )
        if fencing_token and not is_known:
            self._to_release.add((key, fencing_token))

    async def release(self) -> None:
        """Tell the store which turns other processes may take over. Raises as `Store`."""
        for key, fencing_token in list(self._to_release):
            await self._store.release(key, fencing_token)
            self._to_release.discard((key, fencing_token))

    def _ended(
        self, turn: RunningTurn, cached: CachedState | None, error: CarouselError | None
    ) -> None:
        key = turn.session.key
        if self._running.get(key) is turn:
            del self._running[key]
        self._cache.drop(key)
        if cached is not None:
            self._cache.put(key, cached)
        if error is not None:
            self._to_release.add((key, turn.fencing_token))
