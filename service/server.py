"""uvicorn with the app: its limits of connections, its TLS, and a stop that drains streams."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.announcement import Announcer, address_of, announce, explain_wait, ready, show
from service.api.metrics_listener import bind
from service.app import check_exposure, create_app, make_secret, open_store, stop
from service.connection_limits import ConnectionLimits
from service.connections import Connections
from service.errors import StoreUnavailable
from service.fleet.fleet_store import forget_wish
from service.garbage_collector import keep_aside, set_aside
from service.keys.key_store import count_keys
from service.models.compile import own_instructions
from service.open_files import connections_within, raise_open_file_limit
from service.process_supervisor import BEGIN_DRAIN, RETIRE, PlaceSockets, ProcessSupervisor
from service.settings import Settings
from service.socket_server import SocketServer
from service.start_checks import (
    admin_key_of,
    check_device,
    check_folders,
    check_int8_kernel,
    check_training,
    listen_in_places,
    lost_secret_of,
)
from service.telemetry import log_to_stderr
from service.tls import Certificate, server_context
from service.worker_supervisor import STOP_LIMIT_S, WorkerSupervisor

CLOSE_S = 1
"""The time for connections to receive their last bytes after every stream has ended."""

LAST_STEPS_S = 1.5
"""The part of the next time that is left when the training workers have ended or were killed."""

STOP_MARGIN_S = 4.5
"""The most that a stop takes after the drain. A service manager kills later than this: see
`stop_grace_period` in docker-compose.yml, which is more than lame duck, drain and this together."""

HURRY_LIMIT_S = 3.0
RETIRE_PAUSE_S = 0.3
PROCESS_HEADER = "X-Carousel-Process"

_log = logging.getLogger(__name__)


class DrainingServer(SocketServer):
    """A server that prints when it is ready, and drains before it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        limits: ConnectionLimits,
        app: FastAPI,
        on_stop: Callable[[], None] = lambda: None,
        announcer: Announcer | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        """`on_stop` is called when new requests begin to be refused."""
        super().__init__(config, connections, limits)
        self._state, self._on_stop = app.state.carousel, on_stop
        self._announcer = announcer or Announcer()
        self._certificate = certificate
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_retiring = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and print the address when the models are loaded."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        set_aside()
        config = self.config
        address = address_of(config.host, config.port, is_tls=config.is_ssl)
        greeting = announce(self._state, address, self._announcer)
        work = [greeting, explain_wait(self._state)]
        work.append(keep_aside(lambda: frozenset(self._state.registry.digests().items())))
        if self._certificate is not None:
            work.append(self._certificate.watch())
        self._tasks = [asyncio.create_task(each) for each in work]
        if self._announcer.on_ready is not None:
            self._loop.add_signal_handler(RETIRE, self._retire)
            self._loop.add_signal_handler(BEGIN_DRAIN, self._state.drain.begin)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop, and at the second signal at once: what runs is told so and ended."""
        is_repeated = self._announcer.on_ready is not None and sig == signal.SIGTERM
        if self.should_exit and is_repeated:
            return  # by a service manager that signals every process, beside the parent
        if self.should_exit and self._loop is not None:
            _exit_after(HURRY_LIMIT_S)
            self._loop.call_soon_threadsafe(self._state.drain.hurry)
        elif not self.should_exit:
            self._captured_signals.append(sig)  # it decides the exit code
        self.should_exit = True

    def _retire(self) -> None:
        """Stop as one of several processes, whose successor accepts connections already."""
        self._is_retiring = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for requests while new ones are refused (`draining`); then close connections."""
        for each in self._tasks:
            each.cancel()
        drain = self._state.drain
        if self._is_retiring:
            self.stop_accepting()
            await asyncio.sleep(RETIRE_PAUSE_S)  # for requests of connections just accepted
            self.close_idle()
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


def _connections_of(settings: Settings) -> Connections:
    """Return the count of connections, which all of them share."""
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
    return Connections(
        min(most, settings.max_connections),
        settings.max_connections_per_address,
        settings.proxy_networks,
    )


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, in one process or in `settings.n_processes`.

    SIGHUP is ignored by one: a terminal that closes ends nothing. Of several it replaces each, one
    after the other. Raises BadRequest where something that it needs is missing.
    """
    check_folders(settings)
    check_int8_kernel(settings, own_instructions())
    check_device(settings)
    if settings.workers:
        check_training(f"a training worker (CAROUSEL_WORKERS is {settings.workers})")
    server_context(settings.tls_cert, settings.tls_key)
    n = settings.n_processes
    places = listen_in_places(settings.host, settings.port, n)
    log_to_stderr(settings.log_level, settings.log_format)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the child processes inherit it
    signal.signal(signal.SIGTERM, _exit_normally)  # uvicorn raises caught signals again at its end
    host, port = settings.metrics_host, settings.metrics_port
    metrics = [bind(host, port, offset) for offset in range(n)]
    if lost := lost_secret_of(settings):  # the store would have made its folder
        _log.warning(lost)
    with open_store(settings) as redis_url:
        check_exposure(settings, redis_url)
        workers = WorkerSupervisor(settings, redis_url, settings.workers)
        workers.start()
        try:
            if n == 1:
                app = create_app(settings, redis_url, metrics_socket=metrics[0])
                serve(settings, app, places[0], on_stop=workers.begin_stop)
            else:
                _serve_in_processes(settings, redis_url, places, metrics)
        finally:
            workers.stop(min(STOP_LIMIT_S, settings.drain_s + STOP_MARGIN_S - LAST_STEPS_S))


def serve(
    settings: Settings,
    app: FastAPI,
    sockets: list[socket.socket],
    *,
    on_stop: Callable[[], None] = lambda: None,
    announcer: Announcer | None = None,
) -> None:
    """Serve an app in this process until a signal; without an `announcer` it prints its state."""
    tls = server_context(settings.tls_cert, settings.tls_key)
    name = app.state.carousel.fleet.process
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=CLOSE_S,
        headers=[(PROCESS_HEADER, name)] if settings.has_shared_store else [],
        proxy_headers=bool(settings.proxy_networks),
        forwarded_allow_ips=[str(network) for network in settings.proxy_networks],
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
    certificate = None
    if tls is not None and settings.tls_cert is not None:
        certificate = Certificate(tls, settings.tls_cert, settings.tls_key)
    limits = ConnectionLimits(
        idle_timeout_s=settings.idle_timeout_s,
        slow_reader_timeout_s=settings.slow_reader_timeout_s,
    )
    connections = _connections_of(settings)
    server = DrainingServer(config, connections, limits, app, on_stop, announcer, certificate)
    server.run(sockets)


def _serve_in_processes(
    settings: Settings,
    redis_url: str,
    places: list[list[socket.socket]],
    metrics: list[socket.socket | None],
) -> None:
    """Serve in processes of their own, and supervise them."""
    make_secret(settings)  # before several would
    if not settings.has_shared_store:
        asyncio.run(forget_wish(redis_url))  # between two runs the folder of models has it

    def greet() -> None:
        address = address_of(settings.host, settings.port, is_tls=settings.tls_cert is not None)
        needs_key = admin_key_of(settings) is not None
        with contextlib.suppress(StoreUnavailable):  # not known is none: this is an example only
            needs_key = needs_key or asyncio.run(count_keys(redis_url)) > 0
        show(ready(address, needs_key=needs_key))

    stop_limit_s = settings.lame_duck_s + settings.drain_s + STOP_MARGIN_S
    supervisor = ProcessSupervisor(
        list(map(PlaceSockets, places, metrics)),
        os.environ | settings.for_process(redis_url),
        "shared" if settings.has_shared_store else "private",
        greet,
        stop_limit_s + 1.0,
    )
    number = supervisor.run()
    if number is None:
        raise SystemExit(1)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
