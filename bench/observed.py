"""The cost of keys, metrics and logs: streams with them and without, by turns on two servers.

Both servers run at the same time and only one of them has work. The one without observes nothing:
its app has no middleware for keys and the log, and its streams do not note their deliveries. A
turn is a second or less of the same requests, each to its end, on connections that stay open. Four
turns are a round, without, with, with, without, so that a machine that becomes faster or slower
during a round changes both sides alike. What counts is the median of the rounds' ratios, with its
limits of 95 % confidence.
"""

import json
import statistics
import sys
import tempfile
import urllib.request
from dataclasses import replace
from pathlib import Path

from bench.load import ClientGroup, Request, Work, streaming
from bench.machine import machine, median_limits
from bench.progress import Progress
from bench.server import server
from service.models.compile import own_instructions

ROUNDS, STREAMS, CHARACTERS = 40, 16, 256
REPEATS = 6  # requests of a client in a turn
START_S, ROUND_S = 15.0, 5.0
ADMIN_KEY = "k" * 40
TURNS = ("without", "with", "with", "without")


def main() -> None:
    """`python -m bench.observed [rounds] [streams]` prints the ratios as JSON."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    streams = int(sys.argv[2]) if len(sys.argv) > 2 else STREAMS
    about = machine()
    progress = Progress("observed", rounds, START_S + ROUND_S * rounds)
    rates: list[float] = []
    costs: list[float] = []
    spent: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in spent:
            (root / name).mkdir()
            (root / name / "demo").symlink_to(Path("model_store/demo").resolve())
        # One kernel for both: each store would choose its own by a measurement.
        kernel = {"CAROUSEL_INT8_KERNEL": "own" if own_instructions() else "onnxruntime"}
        observing = {"CAROUSEL_LOG_LEVEL": "info", "CAROUSEL_ADMIN_KEY": ADMIN_KEY, **kernel}
        with (
            server(root / "with", log=str(root / "log"), **observing) as port,
            server(root / "without", module="bench.unobserved", **kernel) as bare,
            ClientGroup(port, requests(streams, new_key(port))) as observed,
            ClientGroup(bare, requests(streams, "")) as unobserved,
        ):
            groups = {"with": observed, "without": unobserved}
            for group in groups.values():
                group.work(REPEATS)  # warm
            for _ in range(rounds):
                works: dict[str, list[Work]] = {"with": [], "without": []}
                for name in TURNS:
                    works[name].append(groups[name].work(REPEATS))
                wall_s, cpu_s = {}, {}
                for name, found in works.items():
                    wall_s[name] = sum(one.wall_s for one in found)
                    cpu_s[name] = sum(one.server_cpu_s for one in found)
                    spent[name].append(1e6 * cpu_s[name] / sum(one.characters for one in found))
                rates.append(wall_s["without"] / wall_s["with"])
                costs.append(cpu_s["with"] / cpu_s["without"])
                progress.done(f"rate {rates[-1]:.3f}, processor time {costs[-1]:.3f}")
    print(
        json.dumps(
            {
                "machine": about,
                "streams": streams,
                "rounds": rounds,
                "ratio_of_rates": round(statistics.median(rates), 4),
                "its_limits": [round(limit, 4) for limit in median_limits(rates)],
                "ratio_of_cpu": round(statistics.median(costs), 4),
                "the_limits_of_that": [round(limit, 4) for limit in median_limits(costs)],
                "server_cpu_us": {
                    name: round(statistics.median(found), 2) for name, found in spent.items()
                },
            },
            indent=1,
        )
    )


def requests(streams: int, key: str) -> list[Request]:
    """Return a request of each client."""
    return [replace(streaming("demo", seed, CHARACTERS), key=key) for seed in range(streams)]


def new_key(port: int) -> str:
    """Make a key that may generate; return its secret."""
    body = json.dumps({"name": "bench", "scopes": ["generate"]}).encode()
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}/admin/keys"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as reply:
        return str(json.load(reply)["secret"])


if __name__ == "__main__":
    main()
