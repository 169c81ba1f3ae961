"""Random seeds for generations whose requests give none."""

import secrets


class SeedPool:
    """Draws random seeds of 64 bits, many of them with one call of the system.

    Each such call gives the interpreter to another thread. For one event loop.
    """

    def __init__(self, at_once: int = 512) -> None:
        self._at_once = at_once
        self._drawn: list[int] = []

    def draw(self) -> int:
        """Return a seed that cannot be known from others."""
        if not self._drawn:
            self._drawn += memoryview(secrets.token_bytes(8 * self._at_once)).cast("Q")
        return self._drawn.pop()
