"""One server of 1, 2 or 4 processes, as `--processes` starts it."""

import contextlib
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

from tests.api.conftest import new_home
from tests.process import Server, free_port, serving

HEADER = "X-Carousel-Process"
STORE = "valkey-server"
SERVICE_MANAGER = """
trap 'kill -TERM $child; wait $child; exit' TERM
while :; do "$@" & child=$!; wait $child; sleep 0.2; done
"""
"""Starts a command again whenever it has ended, as systemd does."""


def until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "the condition does not hold"
        time.sleep(0.05)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class House:
    """A server of `n` processes."""

    server: Server
    metrics_port: int
    n: int

    def get(self, path: str) -> httpx2.Response:
        """One request on a connection of its own."""
        return httpx2.get(f"{self.server.url}{path}", timeout=30)

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.server.url, timeout=90)

    def names(self) -> set[str]:
        """The processes that answer now."""
        return {self.get("/info").json()["process"] for _ in range(12 * self.n)}

    def serving(self) -> dict[str, int]:
        """The processes that serve, by name, and their ids."""
        with contextlib.suppress(httpx2.HTTPError, KeyError):  # a process has just been killed
            listed = self.get("/admin/fleet").json()["processes"]
            return {one["process"]: one["pid"] for one in listed if one["phase"] == "serving"}
        return {}

    def pids(self, phase: str) -> list[int]:
        """The ids of the processes that are in a phase."""
        with contextlib.suppress(httpx2.HTTPError, KeyError):
            listed = self.get("/admin/fleet").json()["processes"]
            return [one["pid"] for one in listed if one["phase"] == phase]
        return []

    def position(self, session: str) -> int:
        """How far a session is; 0 where the answer has to wait, as the store's."""
        return int(self.get(f"/sessions/{session}").json().get("position", 0))

    def children(self) -> list[psutil.Process]:
        found = psutil.Process(self.server.process.pid).children(recursive=True)
        return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]

    def store(self) -> psutil.Process | None:
        """The private Valkey."""
        return next((one for one in self.children() if one.name() == STORE), None)

    def metrics(self, index: int) -> str:
        url = f"http://127.0.0.1:{self.metrics_port + index}/metrics"
        with urllib.request.urlopen(url, timeout=30) as reply:
            return reply.read().decode()

    def everywhere(self, is_so: Callable[[httpx2.Client], bool]) -> bool:
        """Whether something holds for requests to every process."""
        seen, end = set(), time.monotonic() + 60
        while len(seen) < self.n:
            assert time.monotonic() < end, f"only {seen} answer"
            with self.client() as http:  # one connection: one process
                seen.add(http.get("/info").json()["process"])
                if not is_so(http):
                    return False
        return True


def free_ports(n: int) -> int:
    """The first of `n` ports in a row that are free."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + n):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


@contextlib.contextmanager
def a_house(
    folder: Path, n: int = 2, command: tuple[str, ...] = (), **more: str
) -> Iterator[House]:
    port = free_ports(n)
    settings = {
        "CAROUSEL_PROCESSES": str(n),
        "CAROUSEL_METRICS_PORT": str(port),
        "CAROUSEL_DRAIN_S": "5",
        **more,
    }
    with serving(new_home(folder), command, **settings) as server:
        house = House(server, port, n)
        until(lambda: len(house.serving()) == n)
        yield house
