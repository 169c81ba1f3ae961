"""When a request entered the engine's queue, and when its batch."""

import time
from dataclasses import dataclass


@dataclass(slots=True)
class RequestTiming:
    """Two moments of one request, in monotonic seconds (time.perf_counter); None: not yet.

    Requests that are derived from one share its timing: the first of them counts. The engine
    writes, anyone reads.
    """

    submitted_s: float | None = None
    started_s: float | None = None

    def submitted(self) -> None:
        """Note that the engine has got a request of these."""
        if self.submitted_s is None:
            self.submitted_s = time.perf_counter()

    @property
    def queue_s(self) -> float | None:
        """How long it waited for a row."""
        if self.submitted_s is None or self.started_s is None:
            return None
        return self.started_s - self.submitted_s
