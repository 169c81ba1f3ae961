"""A listener of its own for the metrics: it answers GET /metrics and nothing else."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Self

from service.errors import BadRequest
from service.metrics.exposition import CONTENT_TYPE

DEFAULT_PORT = 9100
MAX_HEAD_BYTES, HEAD_LIMIT_S = 8 * 1024, 5.0
MAX_CONNECTIONS = 16
_TEXT = "text/plain; charset=utf-8"

_log = logging.getLogger(__name__)


class MetricsListener:
    """Serves the metrics to whoever reaches its address. Belongs to one event loop.

    There is no key here, so the address is the border: by default only this machine. On a loopback
    address the request's host has to be one too, so that no page of a browser reads the metrics
    under a name that it has pointed here.
    """

    def __init__(self, bound: socket.socket | None, scrape: Callable[[], Awaitable[bytes]]) -> None:
        """`bound` is from `bind`, None: it does not listen; `scrape` returns the exposition."""
        self._socket, self._scrape = bound, scrape
        address = "0.0.0.0" if bound is None else bound.getsockname()[0]  # noqa: S104 (no bind)
        self._is_local = ipaddress.ip_address(address).is_loopback
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    async def __aenter__(self) -> Self:
        if self._socket is not None:
            self._server = await asyncio.start_server(
                self._accept, sock=self._socket, limit=MAX_HEAD_BYTES
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close the connection."""
        try:
            async with asyncio.timeout(HEAD_LIMIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            status, kind, content = await self._answer(head)
            lines = (
                f"HTTP/1.1 {status}",
                f"Content-Type: {kind}",
                f"Content-Length: {len(content)}",
                "Connection: close",
                "Cache-Control: no-store",
                "X-Content-Type-Options: nosniff",
            )
            writer.write("\r\n".join((*lines, "\r\n")).encode("ascii") + content)
            async with asyncio.timeout(HEAD_LIMIT_S):
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):  # TimeoutError is an OSError
            writer.transport.abort()
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> tuple[str, str, bytes]:
        """Return the status, the content type and the content for a request's head."""
        first, *fields = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        path, _, version = rest.partition(" ")
        if version not in {"HTTP/1.0", "HTTP/1.1"}:
            return "400 Bad Request", _TEXT, b"this is no HTTP/1.1 request\n"
        hosts = [one[5:].strip() for one in fields if one[:5].lower() == "host:"]
        if self._is_local and not all(_is_local_host(host) for host in hosts):
            return "421 Misdirected Request", _TEXT, b"use 127.0.0.1 or localhost as the host\n"
        if path.partition("?")[0] != "/metrics":
            return "404 Not Found", _TEXT, b"there is only /metrics here\n"
        if method != "GET":
            return "405 Method Not Allowed", _TEXT, b"there is only GET here\n"
        try:
            return "200 OK", CONTENT_TYPE, await self._scrape()
        except Exception:  # noqa: BLE001 (the next scrape may succeed)
            _log.exception("the metrics cannot be read")
            return "500 Internal Server Error", _TEXT, b"the server's log has the error\n"


def bind(host: str, port: int | None, offset: int = 0) -> socket.socket | None:
    """Return a socket of the metrics' address; None for port 0, which turns the listener off.

    `offset` is added to the port: each process of a server has one of its own. None as `port` is
    the default one if it is free. Raises BadRequest where a port cannot be used.
    """
    if port == 0:
        return None
    wanted = (DEFAULT_PORT if port is None else port) + offset
    try:
        address = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(address[0], address[1])
        with contextlib.ExitStack() as undo:
            undo.callback(bound.close)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address[4])
            bound.listen()
            undo.pop_all()
    except OSError as error:
        message = f"the metrics cannot be served at {host}:{wanted}: {error.strerror or error}"
        if port is None:
            _log.warning("%s; CAROUSEL_METRICS_PORT names another port, 0 turns them off", message)
            return None
        raise BadRequest(
            f"{message}; set CAROUSEL_METRICS_PORT to a free port, or to 0 for none"
        ) from error
    return bound


def _is_local_host(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.lower() == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    return False
