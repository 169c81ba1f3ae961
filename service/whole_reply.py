"""The way of a reply to its connection: one that is whole is written at once."""

from collections.abc import Awaitable, Generator

from starlette.types import Message, Send
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

_OF_UVICORN = {b"connection", b"transfer-encoding"}
_WITHOUT_BODY = {204, 304}
_COPIED_BYTES = 64 * 1024  # of a body, at most: a copy of a larger one costs more than a write


class _Done:
    """An awaitable that is over."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield  # a generator function has one


_DONE = _Done()


class WholeReply:
    """Sends a reply; where head and body come one after the other they are one write.

    A head that says how long its body is waits for it. What is rare, such as a reply after which
    the connection is closed, uvicorn sends message by message. For the event loop.
    """

    __slots__ = ("_cycle", "_head", "_send")

    def __init__(self, cycle: RequestResponseCycle, send: Send) -> None:
        """`send` is uvicorn's own."""
        self._cycle, self._send = cycle, send
        self._head: Message | None = None

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message. Raises as uvicorn's."""
        head = self._head
        if head is None:
            if message["type"] == "http.response.start" and _has_length(message):
                self._head = message
                return _DONE
            return self._send(message)
        self._head = None
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            content = self._content(head, message.get("body", b""))
            if content is not None:
                self._write(content)
                return _DONE
        return self._send_both(head, message)

    async def _send_both(self, head: Message, message: Message) -> None:
        await self._send(head)
        await self._send(message)

    def _content(self, head: Message, body: bytes) -> bytes | None:
        """Return the bytes of a whole reply; None where uvicorn has more to look at."""
        cycle, status = self._cycle, head["status"]
        if cycle.disconnected or cycle.flow.write_paused or not cycle.keep_alive:
            return None
        if cycle.response_started or cycle.scope["method"] == "HEAD" or status in _WITHOUT_BODY:
            return None
        pieces: list[bytes] = [STATUS_LINE[status]]
        names: list[bytes] = []
        values: list[bytes] = []
        length = -1
        for name, value in (*cycle.default_headers, *head["headers"]):
            low = name.lower()
            if low in _OF_UVICORN:
                return None
            if low == b"content-length":
                length = int(value)
            pieces += (low, b": ", value, b"\r\n")
            names.append(low)
            values.append(value)
        if length != len(body) or length > _COPIED_BYTES or _is_invalid(names, values):
            return None
        pieces += (b"\r\n", body)
        return b"".join(pieces)

    def _write(self, content: bytes) -> None:
        cycle = self._cycle
        cycle.waiting_for_100_continue = False
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(content)
        cycle.message_event.set()
        cycle.on_response()


def _is_invalid(names: list[bytes], values: list[bytes]) -> bool:
    """Whether a header could be read as another one, by the rules of uvicorn."""
    has_name = HEADER_RE.search(b"".join(names)) is not None
    return has_name or HEADER_VALUE_RE.search(b"".join(values)) is not None


def _has_length(head: Message) -> bool:
    return any(name == b"content-length" for name, _ in head.get("headers", ()))
