"""The limits of one connection, and the watch on what its client reads."""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of one connection. Each state of it ends by its own time."""

    max_head_bytes: int = 64 * 1024  # of a head, and of the trailer of a chunked body
    max_fields: int = 256  # likewise: each costs more than its bytes
    head_timeout_s: float = 10.0  # from the first byte of a head to its last
    idle_timeout_s: float = 30.0  # from a reply to the first byte of the next head
    leftover_timeout_s: float = 5.0  # for the rest of a body that was answered before its end
    leftover_pause_s: float = 0.01  # after each piece of it that has been read
    linger_s: float = 2.0  # between the reply to what cannot be parsed, and the end
    write_timeout_s: float = 15.0  # in which a client whose replies wait has to read write_bytes
    write_bytes: int = 15 * 1024
    slow_reader_timeout_s: float = 3600.0  # in total, in which one reply waits for its client
    free_ahead: int = 1  # requests sent ahead (pipelined) that are answered without a pause
    ahead_pause_s: float = 0.02  # before the next of them; it doubles from one to the next
    max_ahead_pause_s: float = 1.0
    probe_after_s: float = 0.25  # of a client that has closed its side
    probe_interval_s: float = 1.0
    half_closed_timeout_s: float = 5.0  # of an HTTP/1.0 client, which cannot be probed

    def pause_ahead_s(self, n: int) -> float:
        """Return how long the `n`th request in a row that was sent ahead waits."""
        doublings = min(n - self.free_ahead - 1, 30)
        return min(self.ahead_pause_s * 2.0**doublings, self.max_ahead_pause_s)


class ReadFlow(FlowControl):
    """uvicorn's flow control, with reading that stays paused while `is_held`."""

    is_held = False  # requests wait to be parsed, whatever the app awaits

    def resume_reading(self) -> None:
        """Read again, unless requests wait to be parsed."""
        if not self.is_held:
            super().resume_reading()

    def hold(self) -> None:
        """Pause reading until `release`."""
        self.pause_reading()
        self.is_held = True

    def release(self) -> None:
        """Read again."""
        self.is_held = False
        self.resume_reading()

    def rest(self, loop: asyncio.AbstractEventLoop, pause_s: float) -> None:
        """Pause reading for a while, so that others go first."""
        self.hold()
        loop.call_later(pause_s, self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self.release()


class WriteWatch:
    """Cuts a connection whose client does not read what waits for it, or reads it too slowly.

    Raises nothing. Belongs to the event loop.
    """

    __slots__ = ("_begin_s", "_limits", "_loop", "_timer", "_waited_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: ConnectionLimits) -> None:
        self._loop, self._limits = loop, limits
        self._timer: asyncio.TimerHandle | None = None
        self._begin_s = self._waited_s = 0.0  # of this wait; of the reply's waits before it

    def begin_reply(self) -> None:
        """Give the next reply the whole time."""
        self._begin_s, self._waited_s = self._loop.time(), 0.0

    def start(self, transport: Any) -> None:
        """Watch until `stop`, or until the connection is lost."""
        if self._timer is None:
            self._begin_s = self._loop.time()
            self._watch(transport)

    def stop(self) -> None:
        """End the watch."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._waited_s += self._loop.time() - self._begin_s

    def _watch(self, transport: Any) -> None:
        delay_s = min(self._limits.write_timeout_s, self._left_s())
        before_bytes = _unread_bytes(transport)
        self._timer = self._loop.call_later(delay_s, self._check, transport, before_bytes)

    def _check(self, transport: Any, before_bytes: int) -> None:
        self._timer = None
        is_unread = _unread_bytes(transport) > max(0, before_bytes - self._limits.write_bytes)
        if is_unread or not self._left_s():
            _reset(transport)
        else:
            self._watch(transport)

    def _left_s(self) -> float:
        waited_s = self._waited_s + self._loop.time() - self._begin_s
        return max(0.0, self._limits.slow_reader_timeout_s - waited_s)


class Timer:
    """One callback at a time, after a time that may be set again.

    It refers to nothing while it does not run, so that whoever owns it is freed when it is
    forgotten, and not by the next collection of cycles.
    """

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def start(self, timeout_s: float, callback: Callable[[], None]) -> None:
        """Call back after `timeout_s`, and not what was to be called before."""
        self.stop()
        self._handle = self._loop.call_later(timeout_s, callback)

    def stop(self) -> None:
        """Do not call back."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def _unread_bytes(transport: Any) -> int:
    """Return the bytes that wait here and those that wait in the system, which may be millions."""
    in_system = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(_fileno(transport), termios.TIOCOUTQ, in_system)
    return int(transport.get_write_buffer_size()) + int.from_bytes(in_system, sys.byteorder)


def _reset(transport: Any) -> None:
    """End a connection without the system keeping what the client does not read."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(_fileno(transport))) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _fileno(transport: Any) -> int:
    return int(transport.get_extra_info("socket").fileno())
