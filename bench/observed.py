"""The cost of keys, metrics and logs: streams with them and without, by turns on two servers.

Both servers run at the same time and only one of them has work. On a machine with other work
compare the processor time of a character, which that work changes less than the rate. The one
without observes nothing: its app has no middleware for keys and the log, and its streams do not
note their deliveries.
"""

import json
import sys
import tempfile
from pathlib import Path

from bench import load
from bench.machine import machine, paired_ratio
from bench.progress import Progress
from bench.server import server

ROUNDS, STREAMS = 7, 16


def main() -> None:
    """`python -m bench.observed [rounds] [streams]` prints both ratios as JSON."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    streams = int(sys.argv[2]) if len(sys.argv) > 2 else STREAMS
    about, progress = machine(), Progress("observed", 2 * rounds, 10 + 15.0 * rounds)
    rates: dict[str, list[float]] = {"with": [], "without": []}
    costs: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in rates:
            (root / name).mkdir()
            (root / name / "demo").symlink_to(Path("model_store/demo").resolve())
        with (
            server(root / "with", CAROUSEL_LOG_LEVEL="info") as port,
            server(root / "without", module="bench.unobserved") as bare,
        ):
            for _ in range(rounds):
                for name, where in (("without", bare), ("with", port)):
                    measured = load.run(where, "demo", streams)
                    rates[name].append(measured.characters_per_s)
                    costs[name].append(measured.server_cpu_us)
                    progress.done(f"{name}: {costs[name][-1]:.1f} µs a character")
    print(
        json.dumps(
            {
                "machine": about,
                "streams": streams,
                "characters_per_s": rates,
                "server_cpu_us": costs,
                "ratio_of_rates": paired_ratio(rates["with"], rates["without"]),
                "ratio_of_cpu": paired_ratio(costs["with"], costs["without"]),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
