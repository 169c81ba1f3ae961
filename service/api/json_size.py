"""The size of a JSON text in values: what its parsing costs, known before it is parsed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JsonLimit:
    """The most values that a body may have.

    Parsing holds the interpreter, so nobody else is served meanwhile: a list or an object costs a
    hundred times as much as a character, a number ten times. A text costs what its characters do.
    """

    containers: int  # lists and objects
    values: int  # elements and members; a member counts twice, for its name and its value


class JsonSize:
    """Counts the values of a JSON text whose pieces arrive one after the other.

    What is within a string does not count. Belongs to one reader.
    """

    def __init__(self) -> None:
        self.containers = self.values = 0
        self._is_in_string, self._is_escaped = False, False

    def add(self, piece: bytes) -> None:
        """Count a piece of the text."""
        if self._is_escaped and piece:
            self._is_escaped, piece = False, piece[1:]
        if piece.endswith(b"\\"):  # an odd number of them escapes what comes next
            n_last = len(piece) - len(piece.rstrip(b"\\"))
            self._is_escaped = n_last % 2 == 1
            piece = piece[:-n_last]
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        outside = b"".join(parts[self._is_in_string :: 2])
        self._is_in_string ^= len(parts) % 2 == 0
        self.containers += outside.count(b"[") + outside.count(b"{")
        self.values += outside.count(b",") + outside.count(b":")

    def excess(self, limit: JsonLimit) -> str | None:
        """Return which limit the text exceeds, as a sentence; None if it exceeds none."""
        if self.containers > limit.containers:
            return f"the body has more than {limit.containers:,} lists and objects"
        if self.values > limit.values:
            return (
                f"the body has more than {limit.values:,} values, where a member of an object is"
                " two; send a text rather than its tokens, or send it in parts"
            )
        return None
