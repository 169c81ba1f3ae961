"""Script calls to Redis: by name, with retries for a bounded time, and with typed errors.

Every script is safe to repeat after its reply was lost (`scripts/`), so a call is retried until it
is answered or times out. Each new connection checks the server again.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hiredis import ReplyError
from redis.asyncio.connection import parse_url

from service.errors import BadRequest, CarouselError, StoreFull, StoreUnavailable
from service.sessions.config import SessionConfig
from service.sessions.redis_connection import RedisConnection, Value, open_connection

SCRIPTS = Path(__file__).parent / "scripts"

Reply = list[Any]

_EARLIEST = (7, 0)

# Scripts that read or free memory may run in a full store. None is declared as read-only, so a
# replica, whose answers may be outdated, refuses all of them.
_RUNS_WHEN_FULL = {
    *("heartbeat", "resume", "release", "read", "list", "state", "rewind", "cancel", "delete"),
}

# Redis error codes of a store that is temporarily unusable, and the messages for clients.
_UNAVAILABLE = {
    "LOADING": "the store is still loading its data; try again in a moment",
    "READONLY": "the store is a replica: its answers may be outdated",
    "MASTERDOWN": "the store is a replica: its answers may be outdated",
    "MISCONF": "the store cannot write to its disk; its log says why",
    "BUSY": "the store is busy with a script; try again in a moment",
    "NOPERM": "the store denies a command to this server; check its access control list",
    "NOAUTH": "the store denies access to this server; check CAROUSEL_REDIS_URL",
}
_REDIRECTIONS = {"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"}
_FULL = "the store is full; delete sessions, or give it more memory"
_SILENT = "the session store does not answer; try again in a moment"

_log = logging.getLogger(__name__)


def read_scripts(folder: Path = SCRIPTS) -> dict[str, str]:
    """Read every script by name, with its flags and the common part."""
    common = (folder / "common.lua").read_text()
    return {
        path.stem: f"#!lua flags={'allow-oom' if path.stem in _RUNS_WHEN_FULL else ''}\n"
        + common
        + path.read_text()
        for path in sorted(folder.glob("*.lua"))
        if path.stem != "common"
    }


class Redirected(Exception):
    """A node of a cluster does not serve the key now; the text says which one does, or why."""


class ScriptClient:
    """Calls scripts of one server over one connection, which it opens again.

    Not thread-safe: one event loop only.
    """

    def __init__(
        self, url: str, config: SessionConfig, scripts: dict[str, str] | None = None
    ) -> None:
        self._url, self._config = url, config
        self._scripts = scripts or read_scripts()
        self._digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._scripts.items()
        }
        self._connection: RedisConnection | None = None
        self._opening: asyncio.Task[RedisConnection] | None = None
        self.greeting: Sequence[Value] = ()  # the first command of each new connection
        self.run_id = ""  # of the server's process; a restarted one may have lost the last writes
        self.is_node = False  # of a cluster

    async def call(
        self,
        script: str,
        keys: Sequence[str],
        args: Sequence[Value] | Callable[[], Sequence[Value]],
    ) -> Reply:
        """Run a script. Arguments that depend on `run_id` are a function, called at each attempt.

        Raises StoreUnavailable if the call times out or the store may not be used, and StoreFull.
        """
        reply: Reply = await self._with_retries(lambda: self.evaluation(script, keys, args))
        return reply

    async def execute(self, *command: Value) -> Any:
        """Send a command until it is answered or times out. Raises as `call`."""
        return await self._with_retries(lambda: command)

    async def everywhere(self, *command: Value) -> list[Any]:
        """Send a command to every server, here to the one. Raises as `call`."""
        return [await self.execute(*command)]

    def evaluation(
        self,
        script: str,
        keys: Sequence[str],
        args: Sequence[Value] | Callable[[], Sequence[Value]],
    ) -> Sequence[Value]:
        """Return the command that runs a script."""
        made = args() if callable(args) else args
        return ("EVALSHA", self._digests[script], len(keys), *keys, *made)

    async def attempt(
        self, command: Callable[[], Sequence[Value]], *, is_asking: bool = False
    ) -> Any:
        """Send a command once, twice where the server lacks the scripts.

        Raises OSError, Redirected, BadRequest, and as `call`.
        """
        while True:
            connection = await self._connected()
            if is_asking:  # the next command may use a slot that is being moved here
                connection.call("ASKING")
            reply = await connection.call(*command())
            if not isinstance(reply, ReplyError):
                return reply
            await self._handle_error(connection, reply)

    async def _with_retries(self, command: Callable[[], Sequence[Value]]) -> Any:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._config.call_timeout_s
        while True:
            try:
                return await self.attempt(command)
            except BadRequest as error:  # the server was reconfigured or replaced
                raise StoreUnavailable(str(error)) from error
            except (OSError, StoreUnavailable) as error:  # TimeoutError is an OSError
                if loop.time() + self._config.retry_pause_s > until_s:
                    if isinstance(error, CarouselError):
                        raise
                    if isinstance(error, ConnectionRefusedError):
                        _log.warning("the store cannot be reached: %s", error)
                    raise StoreUnavailable(_SILENT) from error
                await asyncio.sleep(self._config.retry_pause_s)

    async def close(self) -> None:
        """Disconnect."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._connection is not None:
            self._connection.close()

    async def _connected(self) -> RedisConnection:
        if self._connection is not None and self._connection.is_open:
            return self._connection
        if self._opening is None or self._opening.done():  # all waiting calls share one attempt
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> RedisConnection:
        connection = await open_connection(self._url, self._config.answer_timeout_s)
        try:
            found = await connection.call("INFO")
            if isinstance(found, ReplyError):
                raise _refusal(found)
            self.run_id = check_store(found.decode(), is_node=self.is_node)
            if self.greeting:
                await connection.call(*self.greeting)  # a full store may refuse it
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    async def _handle_error(self, connection: RedisConnection, error: ReplyError) -> None:
        """Load the scripts if the store lacks them, so that a retry succeeds, else raise."""
        if not str(error).startswith("NOSCRIPT"):
            if self.is_node and str(error).split(" ")[0] in _REDIRECTIONS:
                raise Redirected(str(error))
            if str(error).split(" ")[0] in {"READONLY", "LOADING"}:
                connection.close()  # the next connection checks the store again
            raise _refusal(error)
        for text in self._scripts.values():
            reply = await connection.call("SCRIPT", "LOAD", text)
            if isinstance(reply, ReplyError):
                raise _refusal(reply)


def check_store(text: str, *, is_node: bool = False) -> str:
    """Check a store by its reply to INFO; return the first 8 characters of its run id.

    Raises BadRequest if it evicts keys, is too old, or is a node of a cluster or none against
    `is_node`; StoreUnavailable if it loads or is a replica.
    """
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    version = tuple(int(part) for part in found["redis_version"].split(".")[:2])
    if version < _EARLIEST:
        raise BadRequest(f"the store is Redis {found['redis_version']}; 7.0 or later is needed")
    if (found.get("cluster_enabled", "0") == "1") != is_node:
        raise BadRequest(
            "the store is no cluster: write redis:// for redis+cluster:// in CAROUSEL_REDIS_URL"
            if is_node
            else "the store is a node of a cluster, where keys have other names: write "
            "redis+cluster:// for redis:// in CAROUSEL_REDIS_URL"
        )
    if found.get("loading", "0") != "0":
        raise StoreUnavailable(_UNAVAILABLE["LOADING"])
    if found.get("role") != "master":
        raise StoreUnavailable(_UNAVAILABLE["READONLY"])
    policy = found.get("maxmemory_policy")
    if policy != "noeviction":
        raise BadRequest(
            f"the store's maxmemory-policy is {policy}: it would evict sessions; "
            "set it to noeviction"
        )
    return found["run_id"][:8]


async def check_store_config(url: str, config: SessionConfig) -> None:
    """Check that a store answers at a URL, within `start_wait_s`, and may be used.

    A store that is loading its data, or is a replica, may be usable later. Raises BadRequest.
    """
    where = place_of(url)
    until_s = time.monotonic() + config.start_wait_s
    client = ScriptClient(url, config, {})
    try:
        while True:
            try:
                await client._connected()  # noqa: SLF001 (this module's own class)
            except StoreUnavailable:
                return
            except OSError as error:
                if time.monotonic() + config.retry_pause_s < until_s:
                    await asyncio.sleep(config.retry_pause_s)
                    continue
                reason = str(error) or "it does not answer"
                raise BadRequest(
                    f"no Redis can be used at {where} ({reason}); start it, or set "
                    "CAROUSEL_REDIS_URL to another one, or to none for a private Valkey"
                ) from error
            else:
                return
    finally:
        await client.close()


def place_of(url: str) -> str:
    """Return a URL without its password. Raises BadRequest if it is not the URL of a store."""
    try:
        options = parse_url(url)
        parts = urlsplit(url)
        host, port = options.get("host", "localhost"), options.get("port", 6379)
    except ValueError:
        parts, options = None, {}
    is_url = parts is not None and (parts.path if parts.scheme == "unix" else parts.hostname)
    if parts is None or not is_url:
        raise BadRequest(
            "CAROUSEL_REDIS_URL is not the URL of a Redis, such as redis://127.0.0.1:6379/0, "
            "rediss:// or unix:///run/redis.sock"
        )
    return f"unix://{options['path']}" if "path" in options else f"{parts.scheme}://{host}:{port}"


def _refusal(reply: ReplyError) -> CarouselError:
    text = str(reply)
    code = text.split(" ", maxsplit=1)[0].removeprefix("-")
    if code == "OOM" or "OOM command not allowed" in text:
        return StoreFull(_FULL)
    if code in _UNAVAILABLE:
        return StoreUnavailable(_UNAVAILABLE[code])
    if "READONLY" in text or "read only replica" in text.lower():
        return StoreUnavailable(_UNAVAILABLE["READONLY"])
    _log.error("the store has refused a command: %s", text)
    return StoreUnavailable("the store has refused a command; the server's log has its error")
