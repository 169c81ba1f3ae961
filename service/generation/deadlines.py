"""The times at which generations end with the tokens they have."""

import time
from collections.abc import Iterable

from service.generation.plan import Key


class Deadlines:
    """Deadlines of generations. Not thread-safe: the engine's lock guards it."""

    def __init__(self) -> None:
        self._until_s: dict[Key, float] = {}  # monotonic seconds

    def __len__(self) -> int:
        return len(self._until_s)

    def add(self, key: Key, unix_s: float | None) -> None:
        """Set a deadline, if there is one."""
        if unix_s is not None:
            self._until_s[key] = time.monotonic() + unix_s - time.time()

    def drop(self, keys: Iterable[Key]) -> None:
        """Forget generations that have ended."""
        for key in keys if self._until_s else ():
            self._until_s.pop(key, None)

    def take_overdue(self) -> list[Key]:
        """Return the generations whose deadline has passed, once."""
        now_s = time.monotonic()
        overdue = [key for key, until_s in self._until_s.items() if until_s <= now_s]
        self.drop(overdue)
        return overdue

    @property
    def wait_s(self) -> float | None:
        """The time until the next deadline; None: there is none."""
        until_s = min(self._until_s.values(), default=None)
        return None if until_s is None else until_s - time.monotonic()
