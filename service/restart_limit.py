"""When a process that has ended is started again, and when it no longer is."""

from collections import deque

RESTART_AFTER_S = 0.5
MOST_RESTARTS, WINDOW_S = 5, 60.0


class RestartLimit:
    """Counts the ends of one process, by a clock that the caller reads."""

    def __init__(self) -> None:
        self._ends_s: deque[float] = deque()

    def next_start_s(self, now_s: float) -> float | None:
        """Return when to start it again after an end at `now_s`; None if it ends too often."""
        self._ends_s.append(now_s)
        while now_s - self._ends_s[0] > WINDOW_S:
            self._ends_s.popleft()
        return None if len(self._ends_s) > MOST_RESTARTS else now_s + RESTART_AFTER_S
