"""States that stay in the process, so that the next turn of a session need not fetch its own."""

from collections import OrderedDict
from dataclasses import dataclass

from service.models.step import State
from service.sessions.session import Session, SessionKey

BUDGET_BYTES = 64 * 1024 * 1024
_TOKEN_BYTES = 8


@dataclass(frozen=True, slots=True)
class CachedState:
    """A session as this process left it. Of use only while the record still has its stamp."""

    session: Session
    state: State
    tokens: tuple[int, ...]  # the log's last ones; those that the state has not consumed included

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return sum(a.nbytes for a in self.state.arrays) + _TOKEN_BYTES * len(self.tokens)


class StateCache:
    """The latest of them, within a budget of bytes. Belongs to one event loop."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget_bytes, self._used_bytes = budget_bytes, 0
        self._items: OrderedDict[SessionKey, CachedState] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, key: SessionKey, hot: CachedState) -> None:
        """Keep one; the ones not used for longest go."""
        self.drop(key)
        self._items[key] = hot
        self._used_bytes += hot.size_bytes
        while self._used_bytes > self._budget_bytes:
            _, oldest = self._items.popitem(last=False)
            self._used_bytes -= oldest.size_bytes

    def get(self, key: SessionKey) -> CachedState | None:
        """The one of a session, if there is one."""
        hot = self._items.get(key)
        if hot is not None:
            self._items.move_to_end(key)
        return hot

    def drop(self, key: SessionKey) -> None:
        """Forget one."""
        hot = self._items.pop(key, None)
        if hot is not None:
            self._used_bytes -= hot.size_bytes
