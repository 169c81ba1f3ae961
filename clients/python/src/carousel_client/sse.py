"""Decode server-sent events from bytes that arrive in chunks of any size."""

from dataclasses import dataclass

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. `id` is the last one that the stream has set, as the standard defines it."""

    data: str
    id: str = ""
    name: str = "message"


class EventDecoder:
    r"""Decode the events of one connection.

    Lines are split as bytes, because \r and \n are never part of another character, and each whole
    line is decoded as UTF-8: a character that is split between two chunks is decoded correctly.
    Source: "Parsing an event stream" in the WHATWG's HTML standard.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of the incomplete line
        self._is_first_line, self._skips_newline = True, False
        self._data: list[str] = []
        self._id = self._name = ""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that a chunk completes."""
        if self._skips_newline and chunk:
            chunk = chunk.removeprefix(b"\n")  # the second half of a \r\n that was split
            self._skips_newline = False
        if b"\n" not in chunk and b"\r" not in chunk:
            self._parts.append(chunk)
            return []
        lines = b"".join((*self._parts, chunk)).splitlines(keepends=True)
        last = lines[-1]
        self._parts = [] if last.endswith((b"\n", b"\r")) else [lines.pop()]
        self._skips_newline = last.endswith(b"\r")
        events = []
        for line in lines:
            event = self._take(line.rstrip(b"\r\n"))
            if event is not None:
                events.append(event)
        return events

    def _take(self, line: bytes) -> ServerSentEvent | None:
        if self._is_first_line:
            line, self._is_first_line = line.removeprefix(_BYTE_ORDER_MARK), False
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
        return None  # comments (an empty field name) and unknown fields are ignored

    def _dispatch(self) -> ServerSentEvent | None:
        event = None
        if self._data:
            event = ServerSentEvent("\n".join(self._data), self._id, self._name or "message")
        self._data, self._name = [], ""
        return event
