"""A client of the store at a URL: of one server, or of a cluster."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from service.errors import BadRequest, StoreUnavailable
from service.sessions.cluster_client import ClusterClient
from service.sessions.config import SessionConfig
from service.sessions.key_names import KeyNames
from service.sessions.redis_client import Redirected, Reply, ScriptClient, check_store_config
from service.sessions.redis_connection import Value
from service.store_address import is_cluster_url


class StoreClient(Protocol):
    """What a client of one server and a client of a cluster have in common."""

    greeting: Sequence[Value]
    run_id: str

    async def call(
        self,
        script: str,
        keys: Sequence[str],
        args: Sequence[Value] | Callable[[], Sequence[Value]],
    ) -> Reply:
        """Run a script."""

    async def execute(self, *command: Value) -> Any:
        """Send a command with one key at most."""

    async def everywhere(self, *command: Value) -> list[Any]:
        """Send a command to every server."""

    async def close(self) -> None:
        """Disconnect."""


def open_client(
    url: str, config: SessionConfig, scripts: dict[str, str] | None = None
) -> StoreClient:
    """Return a client, which connects when it is used. Raises BadRequest."""
    made = ClusterClient if is_cluster_url(url) else ScriptClient
    return made(url, config, scripts)


def names_of(url: str) -> KeyNames:
    """Return the names of the keys of the store at a URL."""
    return KeyNames(is_cluster=is_cluster_url(url))


async def check_store_at(url: str, config: SessionConfig) -> None:
    """Check that the store at a URL answers, within `start_wait_s`, and may be used.

    A store that is loading its data, or is a replica, may be usable later. Raises BadRequest.
    """
    if not is_cluster_url(url):
        await check_store_config(url, config)
        return
    client, until_s = ClusterClient(url, config, {}), time.monotonic() + config.start_wait_s
    try:
        while True:
            try:
                await client.check()
            except (OSError, StoreUnavailable, Redirected) as error:
                if time.monotonic() + config.retry_pause_s < until_s:
                    await asyncio.sleep(config.retry_pause_s)
                    continue
                raise BadRequest(
                    f"no cluster can be used at {', '.join(client.places)} ({error}); start it, "
                    "or set CAROUSEL_REDIS_URL to another store"
                ) from error
            return
    finally:
        await client.close()
