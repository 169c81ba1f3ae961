"""uvicorn around the app: limits of what may come in, and a stop that lets streams end."""

import asyncio
import logging
import os
import signal
import socket
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.api.errors import body_for
from service.app import DRAIN_S, create_app, drain, open_store
from service.settings import Settings
from service.telemetry import log_to_stderr
from service.worker_supervisor import WorkerSupervisor

MAX_HEAD_BYTES = 64 * 1024
HEAD_LIMIT_S = 10.0
CLOSE_S = 1
"""How long connections have to take their last bytes once every stream has ended."""

STOP_LIMIT_S = DRAIN_S + 1.8

_log = logging.getLogger(__name__)


class HeadTooLarge(Exception):
    """A request's head has more bytes than are read."""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's fast parser, with a limit of bytes and of time for each request's head."""

    url = b""  # of the request that is being read
    _head_bytes = 0  # of the fields that are complete
    _raw_bytes = 0  # of a head that goes on and on
    _head_timer: asyncio.TimerHandle | None = None
    _is_in_head = False
    _unanswered: tuple[RequestResponseCycle, ...] = ()

    def connection_made(self, transport: Any) -> None:
        """Give the first head its time."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Parse; refuse a head that is too large, complete or not."""
        was_in_head = self._is_in_head
        super().data_received(data)
        if was_in_head and self._is_in_head and not self.transport.is_closing():
            self._raw_bytes += len(data)
            if self._raw_bytes > MAX_HEAD_BYTES:
                self._refuse_head()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser gave up, in the contract's shape."""
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        else:
            self._refuse(b"400 Bad Request", msg, "bad_request")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._is_in_head, self._head_bytes, self._raw_bytes = True, 0, 0
        self._start_timer()

    def on_url(self, url: bytes) -> None:
        """Count."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is complete: its limits end here."""
        self._is_in_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()
        waiting = (cycle for cycle in self._unanswered if not cycle.response_complete)
        self._unanswered = (*waiting, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request of the connection; uvicorn tells only the one that came last."""
        self._stop_timer()
        super().connection_lost(exc)
        for cycle in self._unanswered:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge  # the parser stops, and send_400_response is called

    def _start_timer(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(HEAD_LIMIT_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_head(self) -> None:
        sentence = f"the request's head has more than {MAX_HEAD_BYTES} bytes"
        self._refuse(b"431 Request Header Fields Too Large", sentence, "too_large")

    def _refuse(self, status: bytes, sentence: str, code: str) -> None:
        self._stop_timer()
        path = self.url.decode("latin-1")
        body = body_for(path, int(status[:3]), sentence, code)
        head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Type: application/json\r\n" % status
        self.transport.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()


class DrainingServer(uvicorn.Server):
    """Says when it is ready, and stops by draining first: it answers while its streams end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._state = app.state.carousel

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then greet as soon as the models are loaded."""
        await super().startup(sockets)
        self._greeting = asyncio.create_task(self._greet())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let streams end, telling newcomers that it is draining; then close connections."""
        self._greeting.cancel()
        last_resort = threading.Timer(STOP_LIMIT_S, _give_up)
        last_resort.daemon = True
        last_resort.start()
        draining = asyncio.create_task(drain(self._state))
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.1)
        await super().shutdown(sockets)

    async def _greet(self) -> None:
        await self._state.opened.wait()
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        address = f"http://{host}:{self.config.port}"
        print(f"Carousel is ready at {address}; try:")
        print(
            f"  curl -N {address}/generate_stream -H 'Content-Type: application/json' "
            """-d '{"inputs": "The "}'""",
            flush=True,
        )


def _give_up() -> None:
    """End the process whatever hangs: what stops it waits for no thread."""
    _log.error("the stop took longer than %s s; what still ran was cut off", STOP_LIMIT_S)
    os._exit(1)


def _leave(*_: object) -> None:
    """End as a program that has done its work, so that the private store is ended too."""
    raise SystemExit(0)


def run(settings: Settings) -> None:
    """Serve until a signal says stop."""
    log_to_stderr(settings.log_level)
    signal.signal(signal.SIGTERM, _leave)  # uvicorn raises what it has caught again at its end
    with open_store(settings) as redis_url:
        workforce = WorkerSupervisor(settings, redis_url, settings.workers)
        workforce.start()
        try:
            _serve(settings, create_app(settings, redis_url))
        finally:
            workforce.stop()


def _serve(settings: Settings, app: FastAPI) -> None:
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=GuardedProtocol,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=CLOSE_S,
    )
    DrainingServer(config, app).run()
