"""Checksums of a turn's tokens in the log, by which a damaged one is found when it is read."""

import hashlib

FRAME_TOKENS = 256
_SUM_CHARACTERS = 8  # of SHA-1 in hexadecimal: what the scripts can compute


class LogChecksum:
    """The checksum of each flush of one turn.

    Flushes are gathered in frames, so that a log of many small flushes has few checksums. Not
    thread-safe: one event loop only.
    """

    def __init__(self, width: int) -> None:
        """`width` is the bytes of a token."""
        self._frame_bytes = FRAME_TOKENS * width
        self._digest = hashlib.sha1(usedforsecurity=False)
        self._n_bytes = 0

    def add(self, tokens: bytes) -> str:
        """Return the checksum of the frame with these tokens; with a + where it has begun before.

        The tokens follow those of the last call, and are written once.
        """
        begun = "+" if 0 < self._n_bytes < self._frame_bytes else ""
        if not begun:
            self._digest, self._n_bytes = hashlib.sha1(usedforsecurity=False), 0
        self._digest.update(tokens)
        self._n_bytes += len(tokens)
        return begun + self._digest.hexdigest()[:_SUM_CHARACTERS]
