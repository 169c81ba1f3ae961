"""Server-sent events out of bytes that come in pieces cut anywhere."""

from dataclasses import dataclass

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `id` is the last that the stream has named, as browsers have it."""

    data: str
    id: str = ""
    name: str = "message"


class EventParser:
    r"""Feed it what has come; it gives what is complete. One for each connection.

    Lines are cut in bytes, where neither \r nor \n can be part of another character, and read as
    UTF-8 one by one: so no piece is ever read that may go on. Source: "Parsing an event stream"
    in the WHATWG's HTML standard.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of a line that goes on
        self._is_first, self._skips_newline = True, False
        self._data: list[str] = []
        self._id = self._name = ""

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes."""
        if self._skips_newline and piece:
            piece = piece.removeprefix(b"\n")  # the other half of a \r\n that was cut in two
            self._skips_newline = False
        if b"\n" not in piece and b"\r" not in piece:
            self._parts.append(piece)
            return []
        lines = b"".join((*self._parts, piece)).splitlines(keepends=True)
        last = lines[-1]
        self._parts = [] if last.endswith((b"\n", b"\r")) else [lines.pop()]
        self._skips_newline = last.endswith(b"\r")
        found = []
        for line in lines:
            event = self._take(line.rstrip(b"\r\n"))
            if event is not None:
                found.append(event)
        return found

    def _take(self, line: bytes) -> Event | None:
        if self._is_first:
            line, self._is_first = line.removeprefix(_BYTE_ORDER_MARK), False
        if not line:
            return self._dispatch()
        field, _, rest = line.partition(b":")
        value = rest.removeprefix(b" ").decode(errors="replace")
        if field == b"data":
            self._data.append(value)
        elif field == b"id" and "\0" not in value:
            self._id = value
        elif field == b"event":
            self._name = value
        return None  # a comment has the empty field's name; every other field means nothing here

    def _dispatch(self) -> Event | None:
        event = None
        if self._data:
            event = Event("\n".join(self._data), self._id, self._name or "message")
        self._data, self._name = [], ""
        return event
