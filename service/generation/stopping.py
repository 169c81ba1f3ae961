"""Stop strings: characters are held back until it is decided whether they begin one."""

import copy
from collections.abc import Sequence


class StopMatcher:
    """Watches one generation's text, a character at a time, and lets the first `least` pass."""

    def __init__(self, stops: Sequence[str], least: int = 0) -> None:
        self._stops, self._least = tuple(stops), least
        self._held = ""

    @property
    def held(self) -> str:
        """The characters held back, oldest first."""
        return self._held

    @property
    def lets_pass(self) -> bool:
        """Whether the next character is none of a stop string, whatever it is."""
        return self._least > 0

    def fork(self) -> "StopMatcher":
        """Another one, for a text that begins with what this one has seen."""
        return copy.copy(self)

    def push(self, character: str) -> tuple[int, str | None]:
        r"""Take the next character.

        Returns how many of the characters held back, oldest first and this one counted, may be
        shown now, and the stop string that is complete: of several the one that begins first. If
        there is one, what is still held is it.

        >>> matcher = StopMatcher(["\n\n"])
        >>> [matcher.push(c) for c in "a\nb\n\n"]
        [(1, None), (0, None), (2, None), (0, None), (0, '\n\n')]
        """
        if self._least > 0:
            self._least -= 1
            return 1, None
        self._held += character
        complete = [stop for stop in self._stops if self._held.endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return len(self._held) - len(stop), stop
        length = len(self._held)
        free = next((i for i in range(length) if self._may_begin_at(i)), length)
        self._held = self._held[free:]
        return free, None

    def _may_begin_at(self, start: int) -> bool:
        suffix = self._held[start:]
        return any(stop.startswith(suffix) for stop in self._stops)
