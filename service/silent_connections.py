"""Connections that have sent nothing yet: each is a socket with a deadline, and has no protocol."""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Any

from service.connections import Connections

SWEEP_S = 0.5
SWEEP_PORTION, SWEEP_PAUSE_S = 4, 0.001
"""Closed at once where many are late: requests go on before the next ones."""

EVENTS = 32
"""Connections that begin at once; the others do so in the next pass of the event loop."""


class SilentConnection:
    """A socket that waits for its first byte."""

    __slots__ = ("deadline_s", "owner", "socket")

    def __init__(
        self, owner: "SilentConnections", connection: socket.socket, deadline_s: float
    ) -> None:
        self.owner, self.socket, self.deadline_s = owner, connection, deadline_s

    def give_way(self) -> None:
        """Close the connection, to make room for another one."""
        self.owner.close_one(self)


class SilentConnections:
    """Keeps new connections until their first byte, and only then makes what reads them.

    One that sends nothing costs its socket: no protocol, no timer of its own, and a tenth of the
    objects for the collector of cycles. Raises nothing. Belongs to the event loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connections: Connections,
        timeout_s: float,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        **tls: Any,
    ) -> None:
        """`timeout_s` is the time for the first byte.

        `tls` is what `loop.connect_accepted_socket` takes of it.
        """
        self._loop, self._connections, self._timeout_s = loop, connections, timeout_s
        self._factory, self._tls = protocol_factory, tls
        self._waiting: dict[int, SilentConnection] = {}  # by file number, the oldest first
        self._beginning: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._begin_ready)

    def add(self, connection: socket.socket, address: str) -> None:
        """Count a new connection, and wait for its first byte.

        Where there is no room for it, its protocol begins at once, and refuses it.
        """
        if self._epoll is None:
            self._begin(connection)
            return
        one = SilentConnection(self, connection, self._loop.time() + self._timeout_s)
        if self._connections.admit(one, address) is not None:
            self._connections.leave(one)
            self._begin(connection)
            return
        fd = connection.fileno()
        self._waiting[fd] = one
        self._epoll.register(fd, select.EPOLLIN)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def close_one(self, one: SilentConnection) -> None:
        """Close a connection."""
        fd = one.socket.fileno()
        self._waiting.pop(fd, None)
        if self._epoll is not None:  # a child process may have the socket until it runs its program
            self._epoll.unregister(fd)
        one.socket.close()
        self._connections.leave(one)

    def close(self) -> None:
        """Close them all. Does nothing the second time."""
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        for one in list(self._waiting.values()):
            self.close_one(one)

    def _begin_ready(self) -> None:
        assert self._epoll is not None
        for fd, _ in self._epoll.poll(0, EVENTS):
            one = self._waiting.pop(fd)
            self._epoll.unregister(fd)
            self._connections.leave(one)
            self._begin(one.socket)

    def _begin(self, connection: socket.socket) -> None:
        beginning = self._loop.connect_accepted_socket(self._factory, connection, **self._tls)
        task = self._loop.create_task(beginning)
        self._beginning.add(task)
        task.add_done_callback(self._begun)

    def _begun(self, task: "asyncio.Task[Any]") -> None:
        self._beginning.discard(task)
        if not task.cancelled():
            task.exception()  # of a TLS handshake that has failed: the connection is closed

    def _sweep(self) -> None:
        """Close those whose time is over, the first ones, a few at a time."""
        now_s = self._loop.time()
        for _ in range(SWEEP_PORTION):
            one = next(iter(self._waiting.values()), None)
            if one is None or one.deadline_s > now_s:
                pause_s = SWEEP_S
                break
            self.close_one(one)
        else:
            pause_s = SWEEP_PAUSE_S
        self._sweeper = self._loop.call_later(pause_s, self._sweep) if self._waiting else None
