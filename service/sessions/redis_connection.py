"""One connection to Redis that many calls share: one write a round of the event loop.

Our own rather than redis-py's because every turn and every commit waits for it: forty calls at a
time take 19 µs each here and 340 there, a lone one 160 and 290 (`make bench` has the turn whole).
A caller that is cancelled leaves its place in the line, so no reply can reach anybody else.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import parse_url

ANSWER_LIMIT_S = 1.0
"""A store that has not answered the oldest call for so long is hung: every call in line fails."""

Value = str | bytes | int | float
"""What a command is made of."""


class RedisConnection(asyncio.Protocol):
    """A connection. Belongs to one event loop; make one with `open_wire`."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._line: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []  # of this round of the event loop: one write for all
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._was_late = False
        self.is_open = False

    def call(self, *command: Value) -> "asyncio.Future[Any]":
        """Send a command. The future has the reply, or a hiredis.ReplyError as a value.

        It fails with ConnectionError where the connection is lost or hangs: the command may have
        been carried out, or not.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self.is_open or self._transport is None:
            future.set_exception(ConnectionError("the connection is closed"))
            return future
        self._line.append((future, time.monotonic()))
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.append(hiredis.pack_command(command))  # type: ignore[arg-type]
        return future

    def close(self) -> None:
        """Hang up; what is in line fails."""
        if self._transport is not None:
            self._transport.abort()

    # -- the event loop's side

    def connection_made(self, transport: Any) -> None:
        """Begin to watch over the line."""
        self._transport, self.is_open = transport, True
        self._look()

    def data_received(self, data: bytes) -> None:
        """Hand out replies."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            future, _ = self._line.popleft()
            if not future.done():
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever waits."""
        self.is_open = False
        if self._watch is not None:
            self._watch.cancel()
        error = ConnectionError(str(exc) if exc else "the connection was closed")
        while self._line:
            future, _ = self._line.popleft()
            if not future.done():
                future.set_exception(error)
                future.exception()  # a caller that has gone does not ask

    def _send(self) -> None:
        if self._transport is not None and self.is_open:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _look(self) -> None:
        is_late = bool(self._line) and time.monotonic() - self._line[0][1] > ANSWER_LIMIT_S
        if (
            is_late and self._was_late
        ):  # once alone may be us: what has come is read before the next
            self.close()
            return
        self._was_late = is_late
        self._watch = asyncio.get_running_loop().call_later(ANSWER_LIMIT_S / 4, self._look)


async def open_connection(url: str) -> RedisConnection:
    """Connect as the URL says: redis://, rediss:// or unix://, with user, password and database.

    Raises:
        OSError: nobody answers there, within ANSWER_LIMIT_S, or lets us in.

    """
    options: dict[str, Any] = dict(parse_url(url))
    async with asyncio.timeout(ANSWER_LIMIT_S):
        wire = await _connect(options)
    try:
        for command in _greetings(options):
            reply = await wire.call(*command)
            if isinstance(reply, hiredis.ReplyError):
                raise ConnectionRefusedError(str(reply))
    except BaseException:
        wire.close()
        raise
    return wire


async def _connect(options: dict[str, Any]) -> RedisConnection:
    loop = asyncio.get_running_loop()
    if "path" in options:
        _, wire = await loop.create_unix_connection(RedisConnection, options["path"])
        return wire
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    is_tls = "connection_class" in options
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs")) if is_tls else None
    _, wire = await loop.create_connection(RedisConnection, host, port, ssl=context)
    return wire


def _greetings(options: dict[str, Any]) -> list[Sequence[Value]]:
    commands: list[Sequence[Value]] = []
    if options.get("password"):
        name = [options["username"]] if options.get("username") else []
        commands.append(["AUTH", *name, options["password"]])
    if options.get("db"):
        commands.append(["SELECT", options["db"]])
    return commands
