"""uvicorn around the app: limits of what may come in, and a stop that lets streams end."""

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import DRAIN_S, create_app, drain
from service.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
HEAD_LIMIT_S = 10.0
STOP_MARGIN_S = 1.0


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's fast parser, with a limit of bytes and of time for each request's head."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Give the first head its time."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Count what comes before a head is complete."""
        if self._head_timer is None and self._is_between_requests():
            self._await_head()
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and b"\r\n\r\n" not in data[:MAX_HEAD_BYTES]:
                self._refuse()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """A head is complete: its limits end here."""
        self._forget_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer with the connection."""
        self._forget_head()
        super().connection_lost(exc)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_LIMIT_S, self.transport.close)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self) -> None:
        self._forget_head()
        body = (
            b'{"error": "the request\'s head has more than 65536 bytes", "error_type": "too_large"}'
        )
        head = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
        head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)
        self.transport.close()


class DrainingServer(uvicorn.Server):
    """Tells the app of a stop when it is asked for, not when the last connection has closed."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._draining: asyncio.Task[None] | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to drain, then let uvicorn wait for the connections."""
        self._draining = asyncio.create_task(drain(self._app.state.serving))
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where the server is once it listens."""
        await super().startup(sockets)
        if self.started:
            address = f"http://{self.config.host}:{self.config.port}"
            print(f"Carousel is ready at {address}; try:")
            print(
                f"  curl -N {address}/generate_stream -H 'Content-Type: application/json' "
                """-d '{"inputs": "The "}'""",
                flush=True,
            )


def run(settings: Settings) -> None:
    """Serve until a signal says stop."""
    level = settings.log_level.upper()
    logging.basicConfig(level=level, format="%(levelname)s %(name)s %(message)s")
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=GuardedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(DRAIN_S + STOP_MARGIN_S),
    )
    DrainingServer(config, app).run()
