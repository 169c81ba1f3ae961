"""Latency of polite streams beside hostile clients, by turns with the same streams alone.

`python -m bench.hostile [NAME…]` prints the table of docs/explanation/hostile-clients.md. Each
attack runs in a process of its own for some seconds, and everything ends by itself.
"""

import json
import os
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.attacks import ATTACKS
from bench.server import server

STREAMS, CHARACTERS = 4, 64
TURNS, WINDOW_S, RISE_S, WARM_UP_S = 3, 2.0, 1.0, 3.0
RISES_S = {"idle": 10.5}  # to open them all
LIMIT = 1.2
END = b"0\r\n\r\n"
HELD = {"CAROUSEL_MAX_CONNECTIONS_PER_ADDRESS": "20000", "CAROUSEL_MAX_CONNECTIONS": "20000"}


@dataclass(frozen=True, slots=True)
class Result:
    """The times of polite requests in all turns, alone and beside an attack, in milliseconds."""

    name: str
    alone: Sequence[float]
    beside: Sequence[float]
    ratios_p99: Sequence[float]  # of each turn

    @property
    def ratio(self) -> float:
        """The median of the turns' ratios of p99."""
        return statistics.median(self.ratios_p99)


class Polite:
    """A few streams, one request after another on connections that stay open."""

    def __init__(self, port: int) -> None:
        self._port, self._selector = port, selectors.DefaultSelector()
        body = {"inputs": "The ", "parameters": {"max_new_tokens": CHARACTERS, "seed": 7}}
        content = json.dumps(body).encode()
        head = f"POST /generate_stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self._request = head.encode() + content
        for _ in range(STREAMS):
            self._open()

    def run(self, seconds: float) -> list[float]:
        """Return the time of each request that ended within `seconds`, in milliseconds."""
        times_ms, until_s = [], time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            for key, _ in self._selector.select(0.5):
                connection, state = key.fileobj, key.data
                assert isinstance(connection, socket.socket)
                data = connection.recv(1 << 18)
                if not data:
                    raise ConnectionError("the server closed a polite connection")
                state["tail"] = (state["tail"] + data)[-5:]
                if state["tail"] == END:
                    now_s = time.perf_counter()
                    times_ms.append(1e3 * (now_s - state["begin_s"]))
                    self._ask(connection, state)
        return times_ms

    def _open(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        state = {"begin_s": 0.0, "tail": b""}
        self._selector.register(connection, selectors.EVENT_READ, state)
        self._ask(connection, state)

    def _ask(self, connection: socket.socket, state: dict[str, object]) -> None:
        state |= {"begin_s": time.perf_counter(), "tail": b""}
        connection.sendall(self._request)


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return sorted(values)[int(0.99 * (len(values) - 1))]


def measure(name: str, port: int) -> Result:
    """Measure the polite streams alone and beside an attack, by turns."""
    urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json").close()  # made at the first
    polite = Polite(port)
    polite.run(WARM_UP_S)
    alone: list[float] = []
    beside: list[float] = []
    ratios: list[float] = []
    for _ in range(TURNS):
        before = polite.run(WINDOW_S)
        rise_s = RISES_S.get(name, RISE_S)
        seconds = rise_s + WINDOW_S
        command = [sys.executable, "-m", "bench.attacks", name, str(port), str(seconds + 0.5)]
        with subprocess.Popen(command) as attack:
            polite.run(rise_s)
            during = polite.run(WINDOW_S)
            attack.wait(30)
        polite.run(0.5)
        alone += before
        beside += during
        ratios.append(p99(during) / p99(before))
    return Result(name, alone, beside, ratios)


def rows(results: Sequence[Result]) -> list[str]:
    """Return the table in Markdown."""
    head = (
        "| attack | requests alone · beside | p50 alone · beside (ms) | p99 alone · beside (ms) |"
    )
    lines = [head + " ratio of p99: median (turns) |", "|---|---|---|---|---|"]
    for one in results:
        medians = f"{statistics.median(one.alone):.1f} · {statistics.median(one.beside):.1f}"
        tails = f"{p99(one.alone):.1f} · {p99(one.beside):.1f}"
        turns = ", ".join(f"{ratio:.2f}" for ratio in one.ratios_p99)
        count = f"{len(one.alone)} · {len(one.beside)}"
        lines.append(
            f"| `{one.name}` | {count} | {medians} | {tails} | {one.ratio:.2f} ({turns}) |"
        )
    return lines


def main() -> None:
    """Print the table; exit 1 where a median is over the limit."""
    names = sys.argv[1:] or [*ATTACKS, "idle_held"]
    results = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "model_store"
            shutil.copytree(Path(__file__).parents[1] / "model_store" / "demo", store / "demo")
            settings = {"CAROUSEL_THREADS": "1"} | (HELD if name == "idle_held" else {})
            with server(store, **settings) as port:
                result = measure(name.removesuffix("_held"), port)
        results.append(Result(name, result.alone, result.beside, result.ratios_p99))
        print(rows(results)[-1], flush=True)
    print("\n".join(["", f"{os.cpu_count()} processors", *rows(results)]))
    sys.exit(any(one.ratio > LIMIT for one in results))


if __name__ == "__main__":
    main()
