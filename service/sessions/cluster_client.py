"""Script calls to a cluster: each goes to the node that has the slot of its keys."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hiredis import ReplyError
from redis.crc import key_slot

from service.errors import BadRequest, CarouselError, StoreUnavailable
from service.sessions.config import SessionConfig
from service.sessions.key_names import KeyNames
from service.sessions.redis_client import Redirected, Reply, ScriptClient, read_scripts
from service.sessions.redis_connection import Value, open_connection
from service.store_address import ClusterAddress

_SESSIONS_REMEMBERED = 8_192
_ROUNDS = 8  # of a call, each with the keys that the one before has lacked
_ALIVE_S = 0.5  # for so long a process that was found alive is taken to be
_ASKS_FOR_LIFE = {"begin", "resume", "rewind", "read"}  # scripts
_CHANGING = "the cluster of the store is changing; try again in a moment"
_SILENT = "a node of the store does not answer; try again in a moment"


@dataclass(frozen=True, slots=True)
class _Known:
    """What the last call for a session has told: its keys, and the process that runs its turn."""

    names: tuple[str, ...] = ()
    holder: str = ""


class ClusterClient:
    """Calls scripts over one connection to each node. It has what ScriptClient has.

    Not thread-safe: one event loop only.
    """

    def __init__(
        self, url: str, config: SessionConfig, scripts: dict[str, str] | None = None
    ) -> None:
        """Raises BadRequest if the URL is not that of a cluster."""
        self._address, self._config = ClusterAddress.parse(url), config
        self._scripts = scripts or read_scripts()
        self._key_names = KeyNames(is_cluster=True)
        self._nodes: dict[str, ScriptClient] = {}
        self._slots: dict[int, str] = {}
        self._reading: asyncio.Task[None] | None = None
        self._known: OrderedDict[str, _Known] = OrderedDict()  # by session's record
        self._alive_until_s: dict[str, float] = {}
        self.greeting: Sequence[Value] = ()  # of each new connection; its key's node takes it
        self.run_id = ""  # of the node that a call is being sent to

    @property
    def places(self) -> tuple[str, ...]:
        """The nodes of the URL."""
        return self._address.nodes

    async def call(
        self,
        script: str,
        keys: Sequence[str],
        args: Sequence[Value] | Callable[[], Sequence[Value]],
    ) -> Reply:
        """Run a script on the node of its keys. Raises as ScriptClient's."""
        record = keys[0]
        known = self._known.get(record, _Known())
        stated = await self._stated(known.holder, script)
        for _ in range(_ROUNDS):
            given = (*keys, *(name for name in known.names if name not in keys))
            reply: Reply = await self._routed(record, self._evaluation(script, given, args, stated))
            if not reply or reply[0] != b"KEYS":
                return reply
            known = _Known(tuple(name.decode() for name in reply[1]), reply[2].decode())
            self._remember(record, known)
            stated = await self._stated(known.holder, script)
        raise StoreUnavailable("the session changes too often; try again in a moment")

    async def execute(self, *command: Value) -> Any:
        """Send a command with one key, or none, to its node. Raises as `call`."""
        key = str(command[1]) if len(command) > 1 else ""
        return await self._routed(key, lambda _: command)

    async def everywhere(self, *command: Value) -> list[Any]:
        """Send a command to every node. Raises as `call`."""
        if not self._slots:
            await self._routed("", lambda _: ("PING",))
        nodes = [self._node(name) for name in sorted(set(self._slots.values()))]
        return list(await asyncio.gather(*(node.execute(*command) for node in nodes)))

    async def close(self) -> None:
        """Disconnect."""
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    async def check(self) -> None:
        """Connect to every node once. Raises OSError, and as `ScriptClient.attempt`."""
        await self._read_slots()
        for name in sorted(set(self._slots.values())):
            await self._node(name).attempt(lambda: ("PING",))

    def _evaluation(
        self,
        script: str,
        keys: Sequence[str],
        args: Sequence[Value] | Callable[[], Sequence[Value]],
        stated: Sequence[Value],
    ) -> Callable[[ScriptClient], Sequence[Value]]:
        def command(node: ScriptClient) -> Sequence[Value]:
            self.run_id = node.run_id  # `args` reads it
            return (*node.evaluation(script, keys, args), *stated)

        return command

    async def _routed(self, key: str, command: Callable[[ScriptClient], Sequence[Value]]) -> Any:
        """Send a command to the node of a key until it is answered or times out."""
        slot, loop = key_slot(key.encode()), asyncio.get_running_loop()
        until_s = loop.time() + self._config.call_timeout_s
        asked = ""  # the node that has to be asked once, while the slot is moved there
        while True:
            pause_s = self._config.retry_pause_s
            try:
                if not asked and slot not in self._slots:
                    await self._read_slots()
                node = self._node(asked or self._slots[slot])
                is_asking, asked = bool(asked), ""
                return await node.attempt(partial(command, node), is_asking=is_asking)
            except BadRequest as error:
                raise StoreUnavailable(str(error)) from error
            except Redirected as error:
                asked, is_known = self._redirect(slot, str(error), node)
                pause_s = 0.0 if is_known else pause_s
                late: Exception = StoreUnavailable(_CHANGING)
            except (OSError, StoreUnavailable) as error:
                self._slots.pop(slot, None)  # a replica may have taken its place
                late = error
            if loop.time() + pause_s > until_s:
                if isinstance(late, CarouselError):
                    raise late
                raise StoreUnavailable(_SILENT) from late
            await asyncio.sleep(pause_s)

    def _redirect(self, slot: int, text: str, node: ScriptClient) -> tuple[str, bool]:
        """Return the node to ask once, and whether it is known who has the slot now."""
        code, *where = text.split(" ")
        if code == "MOVED":
            self._slots[slot] = self._name_of(where[1], node)
            return "", True
        if code == "ASK":
            return self._name_of(where[1], node), True
        if code == "CLUSTERDOWN":
            self._slots.pop(slot, None)
        return "", False

    def _node(self, name: str) -> ScriptClient:
        node = self._nodes.get(name)
        if node is None:
            node = ScriptClient(self._address.url_of(name), self._config, self._scripts)
            node.is_node, node.greeting = True, self.greeting
            self._nodes[name] = node
        return node

    def _name_of(self, place: str, node: ScriptClient) -> str:
        """Return the node of a redirection; one without a host is on the host that has sent it."""
        if not place.startswith(":"):
            return place
        here = next(name for name, one in self._nodes.items() if one is node)
        return here.rpartition(":")[0] + place

    async def _read_slots(self) -> None:
        """Read which node has which slot; all waiting calls share one reading."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        error: Exception = StoreUnavailable("no node of the store's cluster answers")
        for name in dict.fromkeys((*self._address.nodes, *self._nodes)):
            try:
                slots = await self._slots_by(name)
            except (OSError, StoreUnavailable) as found:
                error = found
                continue
            self._slots = slots
            return
        raise error

    async def _slots_by(self, name: str) -> dict[int, str]:
        url = self._address.url_of(name)
        connection = await open_connection(url, self._config.answer_timeout_s)
        try:
            found = await connection.call("CLUSTER", "SLOTS")
        finally:
            connection.close()
        if isinstance(found, ReplyError):
            if "cluster support disabled" in str(found):
                raise BadRequest(
                    f"the store at {name} is no cluster: write redis:// for redis+cluster:// in "
                    "CAROUSEL_REDIS_URL"
                )
            raise StoreUnavailable(f"the store at {name} does not tell its slots: {found}")
        slots: dict[int, str] = {}
        for first, last, (host, port, *_), *_replicas in found:
            where = _host(host.decode()) if host else name.rpartition(":")[0]
            slots.update(dict.fromkeys(range(first, last + 1), f"{where}:{port}"))
        if not slots:
            raise StoreUnavailable(f"the cluster of {name} has no slots yet")
        return slots

    def _remember(self, record: str, known: _Known) -> None:
        self._known[record] = known
        self._known.move_to_end(record)
        if len(self._known) > _SESSIONS_REMEMBERED:
            self._known.popitem(last=False)

    async def _stated(self, holder: str, script: str) -> Sequence[Value]:
        """Return what a script is told of the process that runs the session's turn, if it asks."""
        if not holder or script not in _ASKS_FOR_LIFE:
            return ()
        now_s = asyncio.get_running_loop().time()
        if self._alive_until_s.get(holder, 0.0) < now_s:
            if not await self.execute("EXISTS", self._key_names.process(holder)):
                return (f"{holder}:0",)
            if len(self._alive_until_s) > _SESSIONS_REMEMBERED:
                self._alive_until_s.clear()
            self._alive_until_s[holder] = now_s + _ALIVE_S
        return (f"{holder}:1",)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
