"""The way to the store: scripts by name, attempts for a bounded time, named errors.

Every script can be called again after its reply was lost (`scripts/`), so a call is repeated until
it is answered or its time is up. What the store is, is asked again after each lost connection.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hiredis import ReplyError

from service.errors import BadRequest, CarouselError, StoreFull, StoreUnavailable
from service.sessions.redis_connection import RedisConnection, Value, open_connection

CALL_LIMIT_S = 2.0
PAUSE_S = 0.05
SCRIPTS = Path(__file__).parent / "scripts"

Reply = list[Any]

_EARLIEST = (7, 0)

# A script that only makes room or reads may run where the store is full. All may write, so a
# replica refuses every one of them: what it would answer may be old.
_RUNS_WHEN_FULL = {"beat", "resume", "release", "read", "state", "rewind", "cancel", "delete"}

# What a store that cannot be used just now begins its refusal with, and what we make of it.
_NOT_NOW = {
    "LOADING": "the store is still loading its data; try again in a moment",
    "READONLY": "the store is a replica: it may answer with what is no longer so",
    "MASTERDOWN": "the store is a replica: it may answer with what is no longer so",
    "MISCONF": "the store cannot write to its disk; its log says why",
    "BUSY": "the store is busy with a script; try again in a moment",
    "NOPERM": "the store does not let this server do its work; look at its access list",
    "NOAUTH": "the store does not let this server in; look at CAROUSEL_REDIS_URL",
}
_FULL = "the store has no room for more; delete sessions, or give it more memory"
_SILENT = "the store of sessions does not answer; try again in a moment"

_log = logging.getLogger(__name__)


def read_scripts(folder: Path = SCRIPTS) -> dict[str, str]:
    """Every script by name, as it is sent."""
    common = (folder / "common.lua").read_text()
    return {
        path.stem: f"#!lua flags={'allow-oom' if path.stem in _RUNS_WHEN_FULL else ''}\n"
        + common
        + path.read_text()
        for path in sorted(folder.glob("*.lua"))
        if path.stem != "common"
    }


class ScriptClient:
    """Calls scripts over one connection, which it opens again where it is lost.

    Belongs to one event loop.
    """

    def __init__(self, url: str, scripts: dict[str, str] | None = None) -> None:
        self._url = url
        self._scripts = scripts or read_scripts()
        self._digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._scripts.items()
        }
        self._wire: RedisConnection | None = None
        self._opening: asyncio.Task[RedisConnection] | None = None
        self.greeting: Sequence[Value] = ()  # a command that each new connection begins with
        self.run = ""  # names the store's process; a new one may have lost the old one's end

    async def call(
        self,
        script: str,
        keys: Sequence[str],
        args: Sequence[Value] | Callable[[], Sequence[Value]],
    ) -> Reply:
        """Run a script. Arguments that depend on `run` come from a function, once an attempt.

        Raises:
            StoreUnavailable: there is no answer in CALL_LIMIT_S, or the store may not be used.
            StoreFull: it has no room.

        """
        digest = self._digests[script]

        def command() -> Sequence[Value]:
            made = args() if callable(args) else args
            return ("EVALSHA", digest, len(keys), *keys, *made)

        reply: Reply = await self._insist(command)
        return reply

    async def insist(self, *command: Value) -> Any:
        """Send a command until it is answered or CALL_LIMIT_S has passed. Raises as `call`."""
        return await self._insist(lambda: command)

    async def _insist(self, command: Callable[[], Sequence[Value]]) -> Any:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + CALL_LIMIT_S
        while True:
            try:
                wire = await self._opened()
                reply = await wire.call(*command())
                if not isinstance(reply, ReplyError):
                    return reply
                await self._understand(wire, reply)
            except BadRequest as error:  # it was another store when we started
                raise StoreUnavailable(str(error)) from error
            except (OSError, StoreUnavailable) as error:  # TimeoutError is an OSError
                if loop.time() + PAUSE_S > until_s:
                    raise _named(error) from error
                await asyncio.sleep(PAUSE_S)

    async def close(self) -> None:
        """Hang up."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._wire is not None:
            self._wire.close()

    async def _opened(self) -> RedisConnection:
        if self._wire is not None and self._wire.is_open:
            return self._wire
        if self._opening is None or self._opening.done():  # one attempt for all who wait
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> RedisConnection:
        wire = await open_connection(self._url)
        try:
            found = await wire.call("INFO")
            if isinstance(found, ReplyError):
                raise _refusal(found)
            self.run = check_store(found.decode())
            if self.greeting:
                await wire.call(*self.greeting)  # a store that has no room may refuse it
        except BaseException:
            wire.close()
            raise
        self._wire = wire
        return wire

    async def _understand(self, wire: RedisConnection, refusal: ReplyError) -> None:
        """Raise what a refusal means, or do what makes the next attempt better."""
        if not str(refusal).startswith("NOSCRIPT"):
            if str(refusal).split(" ")[0] in {"READONLY", "LOADING"}:
                wire.close()  # the next connection looks at what the store is
            raise _refusal(refusal)
        for text in self._scripts.values():
            reply = await wire.call("SCRIPT", "LOAD", text)
            if isinstance(reply, ReplyError):
                raise _refusal(reply)


def check_store(text: str) -> str:
    """Whether a store of which INFO says this may be used; returns its run's name.

    Raises:
        BadRequest: it throws keys away, or is older than what is supported.
        StoreUnavailable: it is not ready, or a replica.

    """
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    version = tuple(int(part) for part in found["redis_version"].split(".")[:2])
    if version < _EARLIEST:
        raise BadRequest(f"the store is Redis {found['redis_version']}; 7.0 is the least")
    if found.get("loading", "0") != "0":
        raise StoreUnavailable(_NOT_NOW["LOADING"])
    if found.get("role") != "master":
        raise StoreUnavailable(_NOT_NOW["READONLY"])
    policy = found.get("maxmemory_policy")
    if policy != "noeviction":
        raise BadRequest(
            f"the store's maxmemory-policy is {policy}: it would throw sessions away for room; "
            "set it to noeviction"
        )
    return found["run_id"][:8]


async def check_store_config(url: str) -> None:
    """See whether the store may be used, if it is there at all.

    Raises:
        BadRequest: it may not, whatever it does next.

    """
    link = ScriptClient(url, {})
    with contextlib.suppress(OSError, StoreUnavailable):
        await link._opened()  # noqa: SLF001 (it is the same noun)
    await link.close()


def _refusal(reply: ReplyError) -> CarouselError:
    text = str(reply)
    code = text.split(" ", maxsplit=1)[0].removeprefix("-")
    if code == "OOM" or "OOM command not allowed" in text:
        return StoreFull(_FULL)
    if code in _NOT_NOW:
        return StoreUnavailable(_NOT_NOW[code])
    if "READONLY" in text or "read only replica" in text.lower():
        return StoreUnavailable(_NOT_NOW["READONLY"])
    _log.error("the store refuses a command: %s", text)
    return StoreUnavailable("the store refuses its work; the log says why")


def _named(error: Exception) -> CarouselError:
    if isinstance(error, CarouselError):
        return error
    if isinstance(error, ConnectionRefusedError):
        _log.warning("the store cannot be reached: %s", error)
    return StoreUnavailable(_SILENT)
