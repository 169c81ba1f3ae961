"""Latency of polite streams beside hostile clients, by turns with the same streams alone.

`python -m bench.hostile [--turns N] [NAME…]` prints the table of
docs/explanation/hostile-clients.md. Each attack runs in a process of its own for some seconds, and
everything ends by itself. `nothing` and `spin` do nothing to the server: they show what the
machine adds by itself, and what a busy process does that only takes processor time. Beside other
work, `chrt -r 1 python -m bench.hostile` has the server and the streams go before it.
"""

import argparse
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.attacks import ATTACKS, CONTROLS
from bench.server import server

STREAMS, CHARACTERS = 4, 64
TURNS, WINDOW_S, RISE_S, WARM_UP_S = 9, 1.5, 0.7, 2.0
SLOW = {  # turns, time before the window, and the window, where the attack itself takes long
    "idle": (6, 2.5, 6.0),  # from the limit of an address until all have been opened
    "idle_held": (6, 10.5, 1.5),  # when all are open
}
LIMIT = 1.2
END = b"0\r\n\r\n"
HELD = {"CAROUSEL_MAX_CONNECTIONS_PER_ADDRESS": "20000", "CAROUSEL_MAX_CONNECTIONS": "20000"}


@dataclass(slots=True)
class Side:
    """Polite requests of all turns, and the processor time that passed meanwhile."""

    times_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    server_s: float = 0.0
    attacker_s: float = 0.0
    reached: list[dict[str, float]] = field(default_factory=list)  # by the attacker, each turn

    @property
    def request_ms(self) -> float:
        """The server's processor time for each polite request, the attack's part included."""
        return 1e3 * self.server_s / len(self.times_ms)

    def least(self, what: str) -> float:
        """The lowest rate of any turn that the attacker has reached."""
        return min(one[what] for one in self.reached)


@dataclass(frozen=True, slots=True)
class Result:
    """The polite requests alone and beside an attack."""

    name: str
    alone: Side
    beside: Side
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


def measure(name: str, port: int, serving: psutil.Process, turns: int | None = None) -> Result:
    """Measure the polite streams alone and beside an attack, by turns."""
    urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json").close()  # made at the first
    usual, rise_s, window_s = SLOW.get(name, (TURNS, RISE_S, WINDOW_S))
    attack = name.removesuffix("_held")
    command = [sys.executable, "-m", "bench.attacks", attack, str(port)]
    command.append(str(rise_s + window_s + 0.5))
    polite = Polite(port)
    polite.run(WARM_UP_S)
    alone, beside = Side(), Side()
    ratios: list[float] = []
    for _ in range(turns or usual):
        before = _watch(alone, polite, WINDOW_S, serving)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:
            polite.run(rise_s)
            during = _watch(beside, polite, window_s, serving, psutil.Process(attacker.pid))
            printed, _ = attacker.communicate(timeout=30)
        beside.reached.append(json.loads(printed))
        polite.run(0.5)
        ratios.append(p99(during) / p99(before))
    return Result(name, alone, beside, ratios)


def _watch(
    side: Side,
    polite: Polite,
    seconds: float,
    serving: psutil.Process,
    attacker: psutil.Process | None = None,
) -> list[float]:
    server_s, attacker_s, begin_s = _used_s(serving), _used_s(attacker), time.perf_counter()
    times_ms = polite.run(seconds)
    side.seconds += time.perf_counter() - begin_s
    side.server_s += _used_s(serving) - server_s
    side.attacker_s += _used_s(attacker) - attacker_s
    side.times_ms += times_ms
    return times_ms


def _used_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    used = process.cpu_times()
    return float(used.user + used.system)


HEAD = (
    "attack",
    "requests",
    "p50 (ms)",
    "p99 (ms)",
    "server's processor a request (ms)",
    "attacker's cores",
    "connections a second",
    "MB a second",
    "ratio of p99: median (quarters)",
    "of all turns",
)


def rows(results: Sequence[Result]) -> list[str]:
    """Return the table in Markdown: two figures of one cell are alone · beside."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for one in results:
        alone, beside = one.alone, one.beside

        def pair(of: Callable[[Side], float], a: Side = alone, b: Side = beside) -> str:
            return f"{of(a):.1f} · {of(b):.1f}"

        low, _, high = statistics.quantiles([*one.ratios_p99, *one.ratios_p99], n=4)
        cells = (
            f"`{one.name}`",
            f"{len(alone.times_ms)} · {len(beside.times_ms)}",
            pair(lambda side: statistics.median(side.times_ms)),
            pair(lambda side: p99(side.times_ms)),
            pair(lambda side: side.request_ms),
            f"{beside.attacker_s / beside.seconds:.2f}",
            f"{beside.least('connections'):.1f}",
            f"{beside.least('mb'):.2f}",
            f"{one.ratio:.2f} ({low:.2f} to {high:.2f})",
            f"{p99(beside.times_ms) / p99(alone.times_ms):.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print the table; exit 1 where a median is over the limit."""
    known = [*CONTROLS, *ATTACKS, "idle_held"]
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--turns", type=int, help="in place of the usual number")
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        parser.error(f"there is no attack {', '.join(unknown)}; there are {', '.join(known)}")
    results = []
    for name in options.names or known:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "model_store"
            shutil.copytree(Path(__file__).parents[1] / "model_store" / "demo", store / "demo")
            settings = {"CAROUSEL_THREADS": "1"} | (HELD if name == "idle_held" else {})
            with server(store, **settings) as port:
                results.append(measure(name, port, _server_of(port), options.turns))
        print(rows(results)[-1], flush=True)
    print("\n".join(["", f"{os.cpu_count()} processors", *rows(results)]))
    sys.exit(any(one.ratio > LIMIT for one in results))


def _server_of(port: int) -> psutil.Process:
    """Return the process that listens on a port."""
    for process in psutil.Process().children(recursive=True):
        if any(one.laddr.port == port for one in process.net_connections("tcp")):
            return process
    raise ProcessLookupError(f"no process of this bench listens on port {port}")


if __name__ == "__main__":
    main()
