"""One pipelined connection to Redis: calls of one event loop iteration share one write.

It replaces redis-py's because every turn and every commit waits for it: forty concurrent calls take
19 µs each here and 340 there, a single one 160 and 290 (`make bench` measures whole turns). A
cancelled call keeps its place in the queue, so its reply cannot reach another caller.
"""

import asyncio
import ssl
import time
from collections import deque
from typing import Any

import hiredis
from redis.asyncio.connection import parse_url

Value = str | bytes | int | float  # one argument of a command


class RedisConnection(asyncio.Protocol):
    """A connection to Redis, made by `open_connection`. Not thread-safe: one event loop only.

    If the oldest call gets no answer for `answer_timeout_s`, the connection closes and all fail.
    """

    def __init__(self, answer_timeout_s: float) -> None:
        self._answer_timeout_s = answer_timeout_s
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []  # commands of this event loop iteration
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._was_late = False
        self.is_open = False

    def call(self, *command: Value) -> "asyncio.Future[Any]":
        """Send a command. The future's result is the reply, or a hiredis.ReplyError as a value.

        It raises ConnectionError if the connection is lost or times out: the command may have been
        executed or not.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self.is_open or self._transport is None:
            future.set_exception(ConnectionError("the connection is closed"))
            return future
        self._pending.append((future, time.monotonic()))
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.append(hiredis.pack_command(command))  # type: ignore[arg-type]
        return future

    def close(self) -> None:
        """Disconnect; pending calls fail."""
        if self._transport is not None:
            self._transport.abort()

    # -- called by the event loop

    def connection_made(self, transport: Any) -> None:
        """Start the timer for unanswered calls."""
        self._transport, self.is_open = transport, True
        self._check_answers()

    def data_received(self, data: bytes) -> None:
        """Resolve pending calls with their replies."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            future, _ = self._pending.popleft()
            if not future.done():
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all pending calls."""
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        error = ConnectionError(str(exc) if exc else "the connection was closed")
        while self._pending:
            future, _ = self._pending.popleft()
            if not future.done():
                future.set_exception(error)
                future.exception()  # retrieved here, because a cancelled caller would not

    def _send(self) -> None:
        if self._transport is not None and self.is_open:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _check_answers(self) -> None:
        timeout_s = self._answer_timeout_s
        is_late = bool(self._pending) and time.monotonic() - self._pending[0][1] > timeout_s
        # Late once may be this event loop's own delay: data that has arrived is read before the
        # second check.
        if is_late and self._was_late:
            self.close()
            return
        self._was_late = is_late
        self._timer = asyncio.get_running_loop().call_later(timeout_s / 4, self._check_answers)


async def open_connection(url: str, answer_timeout_s: float) -> RedisConnection:
    """Connect to a redis://, rediss:// or unix:// URL, with its user, password and database.

    Raises OSError if the server does not answer in time, or denies access.
    """
    options: dict[str, Any] = dict(parse_url(url))
    async with asyncio.timeout(answer_timeout_s):
        connection = await _connect(options, answer_timeout_s)
    setup: list[list[Value]] = []
    if options.get("password"):
        name = [options["username"]] if options.get("username") else []
        setup.append(["AUTH", *name, options["password"]])
    if options.get("db"):
        setup.append(["SELECT", options["db"]])
    try:
        for command in setup:
            reply = await connection.call(*command)
            if isinstance(reply, hiredis.ReplyError):
                raise ConnectionRefusedError(str(reply))
    except BaseException:
        connection.close()
        raise
    return connection


async def _connect(options: dict[str, Any], answer_timeout_s: float) -> RedisConnection:
    loop = asyncio.get_running_loop()

    def make() -> RedisConnection:
        return RedisConnection(answer_timeout_s)

    if "path" in options:
        _, connection = await loop.create_unix_connection(make, options["path"])
        return connection
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    is_tls = "connection_class" in options
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs")) if is_tls else None
    _, connection = await loop.create_connection(make, host, port, ssl=context)
    return connection
