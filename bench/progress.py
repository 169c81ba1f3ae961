"""The progress of a benchmark, on standard error: what was measured, and how far it is."""

import sys
import time


def duration(seconds: float) -> str:
    """Return minutes and seconds as people read them."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class Progress:
    """Prints one line for each step of a benchmark whose number of steps is known."""

    def __init__(self, title: str, steps: int, expected_s: float) -> None:
        """Say what begins and how long it may take."""
        self._title, self._steps, self._done = title, steps, 0
        self._expected_s, self._began_s = expected_s, time.monotonic()
        self._print(f"{title}: {steps} steps, about {duration(expected_s)} on a quiet machine")

    def done(self, what: str) -> None:
        """Say that a step has ended, with its figure."""
        self._done += 1
        passed = f"{duration(time.monotonic() - self._began_s)} of {duration(self._expected_s)}"
        self._print(f"  {self._done}/{self._steps}, {passed}: {what}")

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
