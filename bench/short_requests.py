"""The price of a request: short whole replies, beside a bare route that validates the same body.

Both servers run at the same time and only one of them has work; they take turns. The processor
time of a request tells more than the rate on a machine that does other work.
"""

import json
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import load
from bench.machine import machine, paired_ratio
from bench.progress import Progress
from bench.server import free_port, listening, server

LENGTHS, CLIENTS, ROUNDS = (1, 16), (1, 16, 64), 3
WARM_UP_S, MEASURE_S = 0.3, 1.5
LONE_STREAMS, STREAM_LENGTH = 300, 9


@dataclass(frozen=True, slots=True)
class Figures:
    """What one server did with one kind of request; times in the unit of their name."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the server's process, for each request
    client_cpu_us: float


def run(port: int, length: int, clients: int) -> Figures:
    """Keep so many clients asking for texts of so many characters for a while."""
    requests = [load.whole("demo", seed, length) for seed in range(clients)]
    found = load.closed_loop(port, requests, warm_up_s=WARM_UP_S, measure_s=MEASURE_S)
    if found.reply_p50_ms is None or found.reply_p99_ms is None:
        raise TimeoutError(f"no reply within {MEASURE_S} s")
    return Figures(
        found.requests_per_s,
        found.reply_p50_ms,
        found.reply_p99_ms,
        length * found.server_cpu_us,
        length * found.client_cpu_us,
    )


def lone_stream_ms(port: int, bare: int) -> dict[str, float]:
    """Measure the first event of a lone stream, beside the answer of the bare route."""
    streamed, plain = (make("demo", 1, STREAM_LENGTH) for make in (load.streaming, load.whole))
    with load.Connection(port, streamed) as stream, load.Connection(bare, plain) as answer:
        times_s = [(stream.first_event_s(), answer.reply_s()) for _ in range(LONE_STREAMS)]
    event_ms, answer_ms = (1e3 * statistics.median(each) for each in zip(*times_s, strict=True))
    return {"first_event_ms": event_ms, "answer_ms": answer_ms, "over_ms": event_ms - answer_ms}


def compare(port: int, bare: int, rounds: int, clients: tuple[int, ...]) -> list[dict[str, Any]]:
    """Measure both servers by turns; the figures are the medians of the rounds."""
    rows = []
    n_runs = 2 * rounds * len(clients) * len(LENGTHS)
    progress = Progress("short requests", n_runs, n_runs * (WARM_UP_S + MEASURE_S))
    for length in LENGTHS:
        for n in clients:
            found: defaultdict[str, list[Figures]] = defaultdict(list)
            for _ in range(rounds):
                for name, where in (("bare", bare), ("carousel", port)):
                    found[name].append(run(where, length, n))
                    cpu_us = found[name][-1].cpu_us
                    progress.done(f"{name}, {n} clients, {length} characters: {cpu_us:.0f} µs each")
            median = {name: median_of(each) for name, each in found.items()}
            ours, theirs = found["carousel"], found["bare"]
            rows.append(
                {"characters": length, "clients": n}
                | {name: asdict(one) for name, one in median.items()}
                | {
                    f"ratio_of_{name}": paired_ratio(
                        [getattr(one, field) for one in ours],
                        [getattr(one, field) for one in theirs],
                    )
                    for name, field in (("rates", "requests_per_s"), ("p99", "p99_ms"))
                }
            )
    return rows


def median_of(each: list[Figures]) -> Figures:
    """Return the median of each figure."""
    columns = zip(*(asdict(one).values() for one in each), strict=True)
    return Figures(*map(statistics.median, columns))


def main() -> None:
    """`python -m bench.short_requests [rounds] [clients …]` prints the figures as JSON."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    clients = tuple(map(int, sys.argv[2:])) or CLIENTS
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "demo").symlink_to(Path("model_store/demo").resolve())
        bare = free_port()
        command = [sys.executable, "-m", "bench.bare_route", str(bare)]
        with (
            server(root, CAROUSEL_LOG_LEVEL="info", CAROUSEL_INT8_KERNEL="own") as port,
            listening(command, bare, "/health/ready"),
        ):
            result = {
                "machine": machine(),
                "requests": compare(port, bare, rounds, clients),
                "lone_stream": lone_stream_ms(port, bare),
            }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
