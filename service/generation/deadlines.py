"""The deadlines of running generations, on the monotonic clock."""

import time

from service.generation.plan import Key


class Deadlines:
    """Deadlines by generation. Not safe for several threads: the owner holds a lock."""

    def __init__(self) -> None:
        self._until: dict[Key, float] = {}  # monotonic seconds

    def __len__(self) -> int:
        return len(self._until)

    def set(self, key: Key, deadline_s: float) -> None:
        """Add a deadline, given as Unix time."""
        self._until[key] = time.monotonic() + deadline_s - time.time()

    def remove(self, key: Key) -> None:
        """Remove a generation's deadline, if it has one."""
        self._until.pop(key, None)

    def take_overdue(self) -> list[Key]:
        """Remove the deadlines that have passed and return their generations."""
        now = time.monotonic()
        overdue = [key for key, until in self._until.items() if until <= now]
        for key in overdue:
            del self._until[key]
        return overdue

    @property
    def next_s(self) -> float | None:
        """Seconds to the next deadline, if there is one."""
        return min(self._until.values()) - time.monotonic() if self._until else None
