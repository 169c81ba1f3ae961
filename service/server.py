"""uvicorn with the app: limits on a request's head, and a stop that drains streams."""

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

from service.announcement import address_of, announce
from service.api.errors import body_for
from service.app import DRAIN_S, check_exposure, create_app, drain, open_store
from service.settings import Settings
from service.start_checks import check_folders, check_training, listen
from service.telemetry import log_to_stderr
from service.worker_supervisor import WorkerSupervisor

MAX_HEAD_BYTES = 64 * 1024
HEAD_LIMIT_S = 10.0
CLOSE_S = 1
"""The time for connections to receive their last bytes after every stream has ended."""

STOP_LIMIT_S = DRAIN_S + 1.8

_log = logging.getLogger(__name__)


class HeadTooLarge(Exception):
    """A request's head has more than MAX_HEAD_BYTES."""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's fast parser, with limits of bytes and time for each request's head."""

    url = b""  # of the request being parsed
    _head_bytes = 0  # of the complete fields
    _raw_bytes = 0  # received of an incomplete head
    _head_timer: asyncio.TimerHandle | None = None
    _is_in_head = False
    _unanswered: tuple[RequestResponseCycle, ...] = ()

    def connection_made(self, transport: Any) -> None:
        """Start the time limit of the first head."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Parse bytes; refuse a head that is too large, complete or not."""
        was_in_head = self._is_in_head
        super().data_received(data)
        if was_in_head and self._is_in_head and not self.transport.is_closing():
            self._raw_bytes += len(data)
            if self._raw_bytes > MAX_HEAD_BYTES:
                self._refuse_head()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refuses with an error body of the API."""
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        else:
            self._refuse(b"400 Bad Request", msg, "bad_request")

    def on_message_begin(self) -> None:
        """Start the limits of a new head."""
        super().on_message_begin()
        self._is_in_head, self._head_bytes, self._raw_bytes = True, 0, 0
        self._start_timer()

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes of a header field."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the limits of a complete head."""
        self._is_in_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()
        waiting = (cycle for cycle in self._unanswered if not cycle.response_complete)
        self._unanswered = (*waiting, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Disconnect every request of the connection; uvicorn does so with the last one only."""
        self._stop_timer()
        super().connection_lost(exc)
        for cycle in self._unanswered:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge  # the parser stops and calls send_400_response

    def _start_timer(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(HEAD_LIMIT_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_head(self) -> None:
        message = f"the request's head has more than {MAX_HEAD_BYTES} bytes"
        self._refuse(b"431 Request Header Fields Too Large", message, "too_large")

    def _refuse(self, status: bytes, message: str, code: str) -> None:
        self._stop_timer()
        path = self.url.decode("latin-1")
        body = body_for(path, int(status[:3]), message, code)
        head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Type: application/json\r\n" % status
        self.transport.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()


class DrainingServer(uvicorn.Server):
    """A server that prints when it is ready, and drains its streams before it stops."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._state = app.state.carousel

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and print the address when the models are loaded."""
        await super().startup(sockets)
        address = address_of(self.config.host, self.config.port)
        self._announcement = asyncio.create_task(announce(self._state, address))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for streams while new requests are refused (`draining`); then close connections."""
        self._announcement.cancel()
        time_limit = threading.Timer(STOP_LIMIT_S, _exit_now)
        time_limit.daemon = True
        time_limit.start()
        draining = asyncio.create_task(drain(self._state))
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.1)
        await super().shutdown(sockets)


def _exit_now() -> None:
    """End the process at once, without waiting for threads that hang."""
    _log.error("stopping took longer than %s s; the running requests are cut off", STOP_LIMIT_S)
    os._exit(1)


def _exit_normally(*_: object) -> None:
    """Exit with status 0 through the context managers, so that the private Valkey is stopped."""
    raise SystemExit(0)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises BadRequest where something that it needs is missing."""
    check_folders(settings)
    if settings.workers:
        check_training(f"a training worker (CAROUSEL_WORKERS is {settings.workers})")
    sockets = listen(settings.host, settings.port)
    log_to_stderr(settings.log_level)
    signal.signal(signal.SIGTERM, _exit_normally)  # uvicorn raises caught signals again at its end
    with open_store(settings) as redis_url:
        check_exposure(settings, redis_url)
        workers = WorkerSupervisor(settings, redis_url, settings.workers)
        workers.start()
        try:
            app = create_app(settings, redis_url)
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
            DrainingServer(config, app).run(sockets)
        finally:
            workers.stop()
