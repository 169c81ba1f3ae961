"""The latest states of sessions in memory: a next turn on the same process fetches none."""

from collections import OrderedDict
from dataclasses import dataclass

from service.models.step import State
from service.sessions.session import Session, SessionKey

_TOKEN_BYTES = 8


@dataclass(frozen=True, slots=True)
class CachedState:
    """A session as this process committed it. Valid only while the record has its version."""

    session: Session
    state: State
    tokens: tuple[int, ...]  # the last ones of the log, with those that the state has not consumed

    @property
    def size_bytes(self) -> int:
        """Memory that the arrays and tokens take."""
        return sum(a.nbytes for a in self.state.arrays) + _TOKEN_BYTES * len(self.tokens)


class StateCache:
    """States by session, least recently used first out. Not thread-safe: one event loop only."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes, self._used_bytes = budget_bytes, 0
        self._items: OrderedDict[SessionKey, CachedState] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, key: SessionKey, cached: CachedState) -> None:
        """Store a session's state, and evict others while the budget is exceeded."""
        self.drop(key)
        self._items[key] = cached
        self._used_bytes += cached.size_bytes
        while self._used_bytes > self._budget_bytes:
            _, oldest = self._items.popitem(last=False)
            self._used_bytes -= oldest.size_bytes

    def get(self, key: SessionKey) -> CachedState | None:
        """Return a session's state, or None."""
        cached = self._items.get(key)
        if cached is not None:
            self._items.move_to_end(key)
        return cached

    def drop(self, key: SessionKey) -> None:
        """Remove a session's state, if there is one."""
        cached = self._items.pop(key, None)
        if cached is not None:
            self._used_bytes -= cached.size_bytes
