"""uvicorn with the app: its limits of connections, its TLS, and a stop that drains streams."""

import asyncio
import logging
import os
import signal
import socket
import threading
from functools import partial
from typing import Any, cast

import uvicorn
import uvloop
from fastapi import FastAPI

from service.announcement import address_of, announce
from service.app import DRAIN_S, check_exposure, create_app, drain, open_store
from service.connection_limits import ConnectionLimits
from service.connections import Connections
from service.http_protocol import HttpProtocol
from service.open_files import connections_within, raise_open_file_limit
from service.settings import Settings
from service.start_checks import check_folders, check_training, listen
from service.telemetry import log_to_stderr
from service.tls import server_context
from service.worker_supervisor import WorkerSupervisor

TLS_HANDSHAKE_TIMEOUT_S = 10.0
CLOSE_S = 1
"""The time for connections to receive their last bytes after every stream has ended."""

STOP_LIMIT_S = DRAIN_S + 1.8

_log = logging.getLogger(__name__)


class Loop(uvloop.Loop):
    """uvloop's event loop, in which a TLS handshake has less time than its 60 s."""

    async def create_server(self, *given: Any, **more: Any) -> asyncio.Server:
        """Listen. Raises as uvloop's."""
        if more.get("ssl") is not None:
            more.setdefault("ssl_handshake_timeout", TLS_HANDSHAKE_TIMEOUT_S)
        return cast("asyncio.Server", await super().create_server(*given, **more))


class DrainingServer(uvicorn.Server):
    """A server that prints when it is ready, and drains its streams before it stops."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._state = app.state.carousel

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and print the address when the models are loaded."""
        await super().startup(sockets)
        config = self.config
        address = address_of(config.host, config.port, is_tls=config.is_ssl)
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
    """Serve until SIGTERM or SIGINT. Raises BadRequest where something that it needs is missing."""
    check_folders(settings)
    if settings.workers:
        check_training(f"a training worker (CAROUSEL_WORKERS is {settings.workers})")
    tls = server_context(settings.tls_cert, settings.tls_key)
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
            DrainingServer(config, app).run(sockets)
        finally:
            workers.stop()
