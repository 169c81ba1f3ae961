"""uvicorn with the app: its limits of connections, its TLS, and a stop that drains streams."""

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
import uvloop
from fastapi import FastAPI

from service.announcement import address_of, announce, explain_wait
from service.api.metrics_listener import bind
from service.app import check_exposure, create_app, open_store, stop
from service.connection_limits import ConnectionLimits
from service.connections import Connections
from service.http_protocol import HttpProtocol
from service.models.compile import own_instructions
from service.open_files import connections_within, raise_open_file_limit
from service.settings import Settings
from service.start_checks import check_folders, check_int8_kernel, check_training, listen
from service.telemetry import log_to_stderr
from service.tls import Certificate, server_context
from service.worker_supervisor import WorkerSupervisor

TLS_HANDSHAKE_TIMEOUT_S = 10.0
CLOSE_S = 1
"""The time for connections to receive their last bytes after every stream has ended."""

STOP_MARGIN_S = 4.5
"""The most that a stop takes after the drain. A service manager kills later than this: see
`stop_grace_period` in docker-compose.yml, which is more than lame duck, drain and this together."""

HURRY_LIMIT_S = 3.0

_log = logging.getLogger(__name__)


class Loop(uvloop.Loop):
    """uvloop's event loop, in which a TLS handshake has less time than its 60 s."""

    async def create_server(self, *given: Any, **more: Any) -> asyncio.Server:
        """Listen. Raises as uvloop's."""
        if more.get("ssl") is not None:
            more.setdefault("ssl_handshake_timeout", TLS_HANDSHAKE_TIMEOUT_S)
        return cast("asyncio.Server", await super().create_server(*given, **more))


class DrainingServer(uvicorn.Server):
    """A server that prints when it is ready, and drains before it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        on_stop: Callable[[], None] = lambda: None,
        certificate: Certificate | None = None,
    ) -> None:
        """`on_stop` is called when new requests begin to be refused."""
        super().__init__(config)
        self._state, self._on_stop = app.state.carousel, on_stop
        self._certificate = certificate
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and print the address when the models are loaded."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # what the start has made is not examined again: that took up to 0.1 s
        config = self.config
        address = address_of(config.host, config.port, is_tls=config.is_ssl)
        work = [announce(self._state, address), explain_wait(self._state)]
        if self._certificate is not None:
            work.append(self._certificate.watch())
        self._tasks = [asyncio.create_task(each) for each in work]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop, and at the second signal at once: what runs is told so and ended."""
        if self.should_exit and self._loop is not None:
            _exit_after(HURRY_LIMIT_S)
            self._loop.call_soon_threadsafe(self._state.drain.hurry)
        elif not self.should_exit:
            self._captured_signals.append(sig)  # it decides the exit code
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for requests while new ones are refused (`draining`); then close connections."""
        for each in self._tasks:
            each.cancel()
        drain = self._state.drain
        _exit_after(drain.config.lame_duck_s + drain.config.drain_s + STOP_MARGIN_S)
        await drain.begin()
        self._on_stop()
        await stop(self._state)
        await super().shutdown(sockets)
        # The loop would wait for the threads of its executor: one may compile a model, for minutes.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))


def _exit_after(limit_s: float) -> None:
    """End the process after `limit_s` if it still runs then, also where a thread hangs."""

    def exit_now() -> None:
        _log.error("stopping took longer than %s s; what still runs is cut off", limit_s)
        os._exit(1)

    timer = threading.Timer(limit_s, exit_now)
    timer.daemon = True
    timer.start()


def _exit_normally(*_: object) -> None:
    """Exit with status 0 through the context managers, so that the private Valkey is stopped."""
    raise SystemExit(0)


def _protocol_of(settings: Settings) -> type[asyncio.Protocol]:
    """Return what makes the protocol of each connection, all of which share their limits."""
    open_files = raise_open_file_limit()
    most = connections_within(open_files)
    if most < settings.max_connections:
        _log.warning(
            "this process may open %s files, so it serves %s connections at once and not the %s of"
            " CAROUSEL_MAX_CONNECTIONS; raise the limit (ulimit -n, LimitNOFILE=)",
            open_files,
            most,
            settings.max_connections,
        )
    connections = Connections(
        min(most, settings.max_connections),
        settings.max_connections_per_address,
        settings.proxy_networks,
    )
    limits = ConnectionLimits(idle_timeout_s=settings.idle_timeout_s)
    return cast("type[asyncio.Protocol]", partial(HttpProtocol, limits, connections))


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP is ignored: a terminal that closes ends nothing.

    Raises BadRequest where something that it needs is missing.
    """
    check_folders(settings)
    check_int8_kernel(settings, own_instructions())
    if settings.workers:
        check_training(f"a training worker (CAROUSEL_WORKERS is {settings.workers})")
    tls = server_context(settings.tls_cert, settings.tls_key)
    sockets = listen(settings.host, settings.port)
    log_to_stderr(settings.log_level, settings.log_format)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the child processes inherit it
    signal.signal(signal.SIGTERM, _exit_normally)  # uvicorn raises caught signals again at its end
    metrics_socket = bind(settings.metrics_host, settings.metrics_port)
    with open_store(settings) as redis_url:
        check_exposure(settings, redis_url)
        workers = WorkerSupervisor(settings, redis_url, settings.workers)
        workers.start()
        try:
            app = create_app(settings, redis_url, metrics_socket=metrics_socket)
            config = uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                loop="service.server:Loop",
                http=_protocol_of(settings),
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=CLOSE_S,
                proxy_headers=bool(settings.proxy_networks),
                forwarded_allow_ips=[str(network) for network in settings.proxy_networks],
                ssl_context_factory=None if tls is None else lambda *_: tls,
            )
            certificate = None
            if tls is not None and settings.tls_cert is not None:
                certificate = Certificate(tls, settings.tls_cert, settings.tls_key)
            DrainingServer(config, app, workers.begin_stop, certificate).run(sockets)
        finally:
            workers.stop()
