"""The cost of keys, metrics and logs: streams with them and without, by turns on two servers.

Both servers run at the same time and only one of them has work. The one without observes nothing:
its app has no middleware for keys and the log, and its streams do not note their deliveries. A
turn is a second or less of the same requests, each to its end, on connections that stay open. Four
turns are a round, without, with, with, without, so that a machine that becomes faster or slower
during a round changes both sides alike. Both are started several times, in both orders: two
processes of the same program differ by a few hundredths. What counts is the median of the rounds'
ratios, with its limits of 95 % confidence. The model is that of the README's tables, or the demo
model, whose characters cost a third: a request's costs are a larger part there.
"""

import json
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from bench.load import ClientGroup, Request, Work, streaming
from bench.machine import machine, median_limits
from bench.progress import Progress
from bench.seed_model import write_seed_model
from bench.server import server
from service.models.bundle import Precision
from service.models.compile import own_instructions

ROUNDS, STREAMS, CHARACTERS = 40, 16, 256
STARTS = 4  # of both servers
MODEL = "seed-int8"
REPEATS = 5  # requests of a client in a turn
START_S, ROUND_S = 12.0, 4.0
ADMIN_KEY = "k" * 40
TURNS = ("without", "with", "with", "without")


def main() -> None:
    """`python -m bench.observed [rounds] [streams] [model]` prints the ratios as JSON."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    streams = int(sys.argv[2]) if len(sys.argv) > 2 else STREAMS
    model = sys.argv[3] if len(sys.argv) > 3 else MODEL
    about = machine()
    a_start = -(-rounds // STARTS)
    progress = Progress("observed", STARTS * a_start, STARTS * (START_S + ROUND_S * a_start))
    found = Ratios()
    for i in range(STARTS):
        measure(model, streams, a_start, found, progress, is_bare_first=i % 2 == 0)
    print(
        json.dumps(
            {"machine": about, "model": model, "streams": streams, **found.summary()}, indent=1
        )
    )


@dataclass(slots=True)
class Ratios:
    """The ratios of the rounds, and the processor time of a character on each side."""

    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    spent_us: dict[str, list[float]] = field(default_factory=lambda: {"with": [], "without": []})

    def add(self, works: Mapping[str, Sequence[Work]]) -> None:
        """Take the turns of a round."""
        wall_s, cpu_s = {}, {}
        for name, turns in works.items():
            wall_s[name] = sum(one.wall_s for one in turns)
            cpu_s[name] = sum(one.server_cpu_s for one in turns)
            self.spent_us[name].append(1e6 * cpu_s[name] / sum(one.characters for one in turns))
        self.rates.append(wall_s["without"] / wall_s["with"])
        self.costs.append(cpu_s["with"] / cpu_s["without"])

    def summary(self) -> dict[str, object]:
        """Return the medians and their limits."""
        return {
            "rounds": len(self.rates),
            "ratio_of_rates": round(median(self.rates), 4),
            "its_limits": [round(limit, 4) for limit in median_limits(self.rates)],
            "ratio_of_cpu": round(median(self.costs), 4),
            "the_limits_of_that": [round(limit, 4) for limit in median_limits(self.costs)],
            "server_cpu_us": {name: round(median(us), 2) for name, us in self.spent_us.items()},
        }


def measure(
    model: str,
    streams: int,
    rounds: int,
    found: Ratios,
    progress: Progress,
    *,
    is_bare_first: bool,
) -> None:
    """Start both servers, measure so many rounds, and stop them."""
    # One kernel for both: each store would choose its own by a measurement.
    kernel = {"CAROUSEL_INT8_KERNEL": "own" if own_instructions() else "onnxruntime"}
    observing = {"CAROUSEL_LOG_LEVEL": "info", "CAROUSEL_ADMIN_KEY": ADMIN_KEY, **kernel}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        groups = {}
        for name in ("without", "with") if is_bare_first else ("with", "without"):
            root = Path(folder) / name
            root.mkdir()
            if model == MODEL:
                write_seed_model(root, Precision.INT8)
            else:
                (root / model).symlink_to(Path("model_store", model).resolve())
            if name == "with":
                port = stack.enter_context(server(root, log=f"{folder}/log", **observing))
            else:
                port = stack.enter_context(server(root, module="bench.unobserved", **kernel))
            key = new_key(port) if name == "with" else ""
            groups[name] = stack.enter_context(ClientGroup(port, requests(model, streams, key)))
            groups[name].work(REPEATS)  # warm
        for _ in range(rounds):
            works: dict[str, list[Work]] = {"with": [], "without": []}
            for name in TURNS:
                works[name].append(groups[name].work(REPEATS))
            found.add(works)
            progress.done(f"rate {found.rates[-1]:.3f}, processor time {found.costs[-1]:.3f}")


def requests(model: str, streams: int, key: str) -> list[Request]:
    """Return a request of each client."""
    return [replace(streaming(model, seed, CHARACTERS), key=key) for seed in range(streams)]


def new_key(port: int) -> str:
    """Make a key that may generate; return its secret."""
    body = json.dumps({"name": "bench", "scopes": ["generate"]}).encode()
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}/admin/keys"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as reply:
        return str(json.load(reply)["secret"])


if __name__ == "__main__":
    main()
