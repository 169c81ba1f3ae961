"""One process of every core beside one process for each core: streams, by turns.

`python -m bench.processes [ROUNDS]` prints characters a second, as ratios to the first way, and the
server's processor time for each, over its whole tree of processes. It takes about a minute a round.
"""

import contextlib
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from bench.load import Load, run, table_row
from bench.progress import Progress
from bench.seed_model import write_seed_model
from bench.server import server
from service.models.bundle import Precision

STREAMS = (1, 16, 64)
STEP_S = 8.0
FIRST = "1 process"
WAYS = {
    FIRST: {"CAROUSEL_PROCESSES": "1"},
    "1 process, 1 thread": {"CAROUSEL_PROCESSES": "1", "CAROUSEL_THREADS": "1"},
    "auto": {"CAROUSEL_PROCESSES": "auto"},
}


def main() -> None:
    """Measure and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    n_steps = rounds * len(STREAMS) * len(WAYS)
    progress = Progress("processes", n_steps, n_steps * STEP_S)
    found: dict[tuple[str, int], list[Load]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        ports = {}
        for i, (way, settings) in enumerate(WAYS.items()):
            store = Path(name) / str(i)
            write_seed_model(store, Precision.INT8)
            ports[way] = running.enter_context(server(store, **settings))
        for _ in range(rounds):
            for n in STREAMS:
                for way, port in ports.items():
                    load = run(port, "seed-int8", n)
                    found[way, n].append(load)
                    progress.done(f"{way}, {n} streams: {load.characters_per_s:,.0f} characters/s")
    print("| streams | way | characters/s | ratio | server's µs a character | first event, ms |")
    print("|--:|---|--:|--:|--:|--:|")
    for n in STREAMS:
        for way in WAYS:
            print(table_row(n, way, found[way, n], found[FIRST, n]))


if __name__ == "__main__":
    main()
