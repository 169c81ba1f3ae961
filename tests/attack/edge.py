"""The service's HTTP protocol over a small app, with limits of a second, on real sockets."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import uvicorn

from service.connection_limits import ConnectionLimits
from service.connections import Connections
from service.socket_server import SocketServer
from service.start_checks import listen

SHORT = ConnectionLimits(
    max_head_bytes=16_384,
    head_timeout_s=0.6,
    idle_timeout_s=0.6,
    leftover_timeout_s=0.6,
    linger_s=0.3,
    write_timeout_s=0.6,
    leftover_pause_s=0.001,
    ahead_pause_s=0.0005,
    max_ahead_pause_s=0.0005,
    probe_after_s=0.1,
    probe_interval_s=0.1,
    half_closed_timeout_s=0.5,
)
PATIENCE_S = 30.0  # of a test on a busy machine
GET = b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /now HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Edge:
    """A running server, and what its app has seen."""

    connections: Connections
    port: int = 0
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    n_left: int = 0  # requests whose client has left
    n_running: int = 0

    async def app(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        self.paths.append(path)
        self.headers.append(list(scope["headers"]))
        self.n_running += 1
        try:
            await self._answer(path, receive, send)
        finally:
            self.n_running -= 1

    async def _answer(self, path: str, receive, send) -> None:
        if path == "/wait":  # for the client to leave, or for a body and then a while
            while (await receive())["type"] != "http.disconnect":
                pass
            self.n_left += 1
            return
        if path == "/later":
            await asyncio.sleep(0.5)
        if path == "/body":
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.n_left += 1
                    return
                body, more = body + message["body"], message["more_body"]
            self.bodies.append(body)
        size = 50_000_000 if path == "/large" else 2
        length = (b"content-length", b"%d" % size)
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": b"k" * size})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def exchange(self, *pieces: bytes, is_half_closed: bool = False) -> bytes:
        """Send, and read until the server closes."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            if is_half_closed:
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)


@contextlib.contextmanager
def edge(
    limits: ConnectionLimits = SHORT, most: int = 1_000, most_of_address: int = 1_000, proxies=()
) -> Iterator[Edge]:
    """A server in a thread."""
    connections = Connections(most, most_of_address, proxies)
    running = Edge(connections)
    config = uvicorn.Config(
        running.app,
        loop="uvloop",
        ws="none",
        log_config=None,
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = SocketServer(config, connections, limits)
    listeners = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=(listeners,))
    thread.start()
    wait_until(lambda: server.started)
    running.port = listeners[0].getsockname()[1]
    try:
        yield running
    finally:
        server.should_exit = True
        thread.join()


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            pieces.append(piece)
    return b"".join(pieces)


def is_closed(connection: socket.socket, drip: bytes = b"") -> bool:
    """Whether the server ends the connection, though a byte comes again and again."""
    connection.settimeout(0.1)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            if drip:
                connection.sendall(drip)
            if not connection.recv(65_536):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def wait_until(is_so) -> None:
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


async def until(is_so) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.001)
