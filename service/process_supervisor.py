"""The supervisor of the processes of one server: it starts, restarts, rolls and ends them.

Each is an interpreter of its own with the listening sockets of its place, which stay open here:
connections that a dead process has not accepted wait for the next one.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from service.restart_limit import MOST_RESTARTS, WINDOW_S, RestartLimit

POLL_S = 0.1
READY, EMPTY, DRAIN = b"r", b"e", b"d"  # what a process writes into its pipe
FIRST, REPLACEMENT = "first", "replacement"  # which process of its place it is
RETIRE, BEGIN_DRAIN = signal.SIGUSR1, signal.SIGUSR2
START_LIMIT_S = 600.0  # of a process that replaces another one, until it is ready

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlaceSockets:
    """What the processes of one place listen on, one after the other."""

    listeners: Sequence[socket.socket]
    metrics: socket.socket | None

    @property
    def all(self) -> list[socket.socket]:
        """Every socket."""
        return [*self.listeners, *([] if self.metrics is None else [self.metrics])]

    @property
    def arguments(self) -> tuple[str, str]:
        """The descriptors, for the command of a process: of the listeners, and of the metrics."""
        listeners = ",".join(str(each.fileno()) for each in self.listeners)
        return listeners, "" if self.metrics is None else str(self.metrics.fileno())


@dataclass(slots=True, eq=False)
class ServerChild:
    """One running process, and what it has said."""

    process: subprocess.Popen[bytes]
    pipe: int
    started_s: float
    is_ready: bool = False
    is_empty: bool = False  # it has opened, and has no model to become ready with

    @property
    def is_up(self) -> bool:
        """Whether its start is over."""
        return self.is_ready or self.is_empty

    def close(self) -> None:
        """Close the pipe of a process that has ended."""
        os.close(self.pipe)


@dataclass(slots=True, eq=False)
class ServerPlace:
    """One of the places for a process: its sockets, and the process that has it now."""

    index: int
    sockets: PlaceSockets
    current: ServerChild | None = None
    next: ServerChild | None = None  # in a rolling restart: it takes the place when it is ready
    limit: RestartLimit = field(default_factory=RestartLimit)
    is_new: bool = True  # no process has served here
    start_s: float | None = 0.0  # when to start a process; None: not at all


class ProcessSupervisor:
    """Runs one process for each place, from the main thread, until SIGTERM or SIGINT."""

    def __init__(
        self,
        places: Sequence[PlaceSockets],
        environment: Mapping[str, str],
        kind: str,
        on_ready: Callable[[], None],
        stop_limit_s: float,
    ) -> None:
        """`kind` is that of the store; `on_ready` is called once, when all are ready."""
        self._places = [ServerPlace(i, sockets) for i, sockets in enumerate(places)]
        self._environment, self._kind = environment, kind
        self._on_ready, self._stop_limit_s = on_ready, stop_limit_s
        self._leaving: list[ServerChild] = []  # their places have another process
        self._to_roll: list[ServerPlace] = []
        self._roll_began_s = 0.0
        self._signals: list[int] = []
        self._has_greeted = self._is_draining = False

    def run(self) -> int | None:
        """Run until a signal, and return it; None if no process can be kept running.

        Returns when every process has ended.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        while True:
            for taken in self._taken_signals():
                if taken == signal.SIGHUP:
                    self._begin_roll()
                else:
                    self._stop(taken)
                    return taken
            self._reap()
            if not any(one.current or one.start_s is not None for one in self._places):
                _log.error("no process of the server can be kept running; it ends")
                self._stop(signal.SIGTERM)
                return None
            for place in self._places:
                if place.start_s is not None and time.monotonic() >= place.start_s:
                    self._fill(place)
            self._listen()
            self._roll()
            time.sleep(POLL_S)

    # -- the main loop's parts

    def _signalled(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)

    def _taken_signals(self) -> list[int]:
        taken, self._signals = self._signals, []
        return taken

    def _children(self) -> list[ServerChild]:
        found = [each for place in self._places for each in (place.current, place.next) if each]
        return found + self._leaving

    def _fill(self, place: ServerPlace) -> None:
        """Start a process for a place that has none."""
        try:
            place.start_s, place.current = None, self._start(place)
        except OSError as error:  # the system has no room for one now, and the others go on
            _log.error("process %s cannot be started: %s", place.index, error)
            self._restart_later(place, "it could not be started")

    def _start(self, place: ServerPlace) -> ServerChild:
        """Start a process. Raises OSError."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        first, place.is_new = FIRST if place.is_new else REPLACEMENT, False
        given = (str(os.getpid()), str(place.index), str(writer), self._kind, first)
        command = [sys.executable, "-m", "service.server_process", *given, *place.sockets.arguments]
        try:
            process = subprocess.Popen(  # noqa: S603 (our own module, and no shell)
                command,
                env=self._environment,
                pass_fds=(writer, *(each.fileno() for each in place.sockets.all)),
                process_group=0,  # a terminal's Ctrl-C reaches this process alone
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return ServerChild(process, reader, time.monotonic())

    def _listen(self) -> None:
        """Read what the processes have said."""
        for child in self._children():
            with contextlib.suppress(BlockingIOError):
                said = os.read(child.pipe, 64)
                child.is_ready = child.is_ready or READY in said
                child.is_empty = child.is_empty or EMPTY in said
                if DRAIN in said:
                    self._is_draining = True
                    self._signal_all(BEGIN_DRAIN)
                elif (READY in said or EMPTY in said) and self._is_draining:  # it has not heard
                    child.process.send_signal(BEGIN_DRAIN)
        if not self._has_greeted and all(
            one.current and one.current.is_ready for one in self._places
        ):
            self._has_greeted = True
            self._on_ready()

    def _reap(self) -> None:
        """See which processes have ended, and when their places get others."""
        for child in [one for one in self._leaving if one.process.poll() is not None]:
            self._leaving.remove(child)
            child.close()
        for place in self._places:
            if place.next is not None and place.next.process.poll() is not None:
                code = place.next.process.returncode
                _log.error("the process for place %s has ended with %s", place.index, code)
                place.next.close()
                place.next = None
                self._to_roll.clear()
            if place.current is not None and place.current.process.poll() is not None:
                self._lose(place, place.current)

    def _lose(self, place: ServerPlace, child: ServerChild) -> None:
        place.current, code = None, child.process.returncode
        child.close()
        if place.next is not None:  # it was to be replaced anyway
            place.current, place.next = place.next, None
            return
        self._restart_later(place, f"exit code {code}")

    def _restart_later(self, place: ServerPlace, why: str) -> None:
        place.start_s = place.limit.next_start_s(time.monotonic())
        if place.start_s is not None:
            _log.warning("process %s has ended (%s); it is restarted", place.index, why)
            return
        _log.error(
            "process %s has ended %s times in %.0f s, the last time with: %s; it is not started "
            "again, and the others go on",
            *(place.index, MOST_RESTARTS + 1, WINDOW_S, why),
        )
        for each in place.sockets.all:
            each.close()  # new connections go to the others

    # -- the rolling restart

    def _begin_roll(self) -> None:
        if self._to_roll:
            return
        _log.info("every process is replaced, one after the other")
        self._roll_began_s = time.monotonic()
        self._to_roll = [place for place in self._places if place.current]

    def _roll(self) -> None:
        """Replace the first place's process: start the next one, and then retire the other."""
        if not self._to_roll or self._leaving:
            return
        place = self._to_roll[0]
        if place.current is None or not place.current.is_up:
            return  # it is restarted already, which is as good
        if place.next is None:
            if place.current.started_s > self._roll_began_s:
                self._end_of_turn()
                return
            try:
                place.next = self._start(place)
            except OSError as error:
                _log.error("nothing is replaced: %s", error)
                self._to_roll.clear()
        elif place.next.is_ready or (place.next.is_empty and not place.current.is_ready):
            self._leaving.append(place.current)
            place.current.process.send_signal(RETIRE)
            place.current, place.next = place.next, None
            self._end_of_turn()
        elif place.next.is_empty or time.monotonic() - place.next.started_s > START_LIMIT_S:
            what = "has no model" if place.next.is_empty else "is not ready"
            _log.error("the process for place %s %s; nothing is replaced", place.index, what)
            place.next.process.kill()
            place.next.process.wait()  # so that this is said once

    def _end_of_turn(self) -> None:
        self._to_roll.pop(0)
        if not self._to_roll:
            _log.info("every process has been replaced")

    # -- the stop

    def _signal_all(self, number: int) -> None:
        for child in self._children():
            child.process.send_signal(number)

    def _stop(self, number: int) -> None:
        """End every process; a second signal ends what runs at once."""
        self._signal_all(signal.SIGTERM if number != signal.SIGINT else signal.SIGINT)
        until_s = time.monotonic() + self._stop_limit_s
        while any(child.process.poll() is None for child in self._children()):
            if any(each != signal.SIGHUP for each in self._taken_signals()):
                self._signal_all(signal.SIGINT)
            if time.monotonic() > until_s:
                _log.error("a process has not ended in %.0f s and is killed", self._stop_limit_s)
                self._signal_all(signal.SIGKILL)
                until_s = float("inf")
            time.sleep(POLL_S)
        for child in self._children():
            child.close()
