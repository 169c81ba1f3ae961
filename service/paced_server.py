"""A server that accepts connections a few at a time, so that others' requests go on meanwhile."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable

PORTION = 2
PAUSE_S = 0.001
"""After a portion, in which requests go on. A hundred at once would hold all of them."""

NO_ROOM_PAUSE_S = 0.1
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class PacedServer:
    """Accepts the connections of a listening socket in portions, with a pause after each.

    The system keeps those that wait. Raises nothing. Belongs to the event loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        take: Callable[[socket.socket, str], None],
    ) -> None:
        """`take` is called with each connection and the address of its client."""
        self._loop, self._listener, self._take = loop, listener, take
        self._timer: asyncio.TimerHandle | None = None
        self._is_waiting = self._is_closed = False
        listener.setblocking(False)
        self._wait()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening socket, until the server is closed."""
        return () if self._is_closed else (self._listener,)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return not self._is_closed

    def close(self) -> None:
        """Accept what has connected already, and no more. Does nothing the second time."""
        if self._is_closed:
            return
        with contextlib.suppress(OSError):  # no file handle or memory is left
            while self._accept_one():
                pass
        self._stop_waiting()
        self._is_closed = True
        self._listener.close()

    async def wait_closed(self) -> None:
        """Return at once: the connections have a life of their own."""

    def _accept(self) -> None:
        """Accept a portion; then pause, or wait for the next connection."""
        self._timer, pause_s = None, PAUSE_S
        try:
            for _ in range(PORTION):
                if not self._accept_one():
                    self._wait()
                    return
        except OSError:  # no file handle or memory is left
            pause_s = NO_ROOM_PAUSE_S
        self._stop_waiting()
        self._timer = self._loop.call_later(pause_s, self._accept)

    def _accept_one(self) -> bool:
        """Accept a connection; return whether there was one. Raises OSError if there is no room."""
        try:
            connection, address = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise
            return True  # it has gone before it was accepted
        self._take(connection, address[0])
        return True

    def _wait(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self._loop.add_reader(self._listener, self._accept)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_waiting:
            self._is_waiting = False
            self._loop.remove_reader(self._listener)
