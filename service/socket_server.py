"""uvicorn on listening sockets: what is accepted at a pace, and has a protocol once it speaks."""

import asyncio
import socket
from functools import partial
from typing import Any, cast

import uvicorn

from service.connection_limits import ConnectionLimits
from service.connections import Connections
from service.http_protocol import HttpProtocol
from service.paced_server import PacedServer
from service.silent_connections import SilentConnections

TLS_HANDSHAKE_TIMEOUT_S = 10.0


class SocketServer(uvicorn.Server):
    """uvicorn's server, of which this service accepts the connections."""

    _silent: SilentConnections

    def __init__(
        self, config: uvicorn.Config, connections: Connections, limits: ConnectionLimits
    ) -> None:
        """Connections are counted in `connections`."""
        super().__init__(config)
        self._connections, self._limits = connections, limits

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then accept the connections of the sockets."""
        await super().startup([])
        config, loop = self.config, asyncio.get_running_loop()
        begin = partial(
            HttpProtocol,
            self._limits,
            self._connections,
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=loop,
        )
        tls: dict[str, Any] = {}
        if config.ssl is not None:
            tls = {"ssl": config.ssl, "ssl_handshake_timeout": TLS_HANDSHAKE_TIMEOUT_S}
        timeout_s = self._limits.head_timeout_s
        self._silent = SilentConnections(loop, self._connections, timeout_s, begin, **tls)
        accepting = [PacedServer(loop, each, self._silent.add) for each in sockets or ()]
        self.servers = cast("list[asyncio.base_events.Server]", accepting)

    def stop_accepting(self) -> None:
        """Accept what has connected already, and no more."""
        for each in self.servers:
            each.close()

    def close_idle(self) -> None:
        """Close each connection without a request, at once, and the others after their reply."""
        self._silent.close()
        for each in list(self.server_state.connections):
            each.shutdown()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, close every connection, and stop the app."""
        self.stop_accepting()
        self._silent.close()
        await super().shutdown(sockets)
