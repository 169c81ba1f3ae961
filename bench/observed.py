"""The cost of keys, metrics and logs: streams with them and without, by turns on two servers.

Both servers run at the same time and only one of them has work. On a machine with other work
compare the processor time of a character, which that work changes less than the rate. The one
without observes nothing: its app has no middleware for keys and the log, and its streams do not
note their deliveries.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import psutil

from bench import load
from bench.server import server

ROUNDS, STREAMS = 7, 16


def main() -> None:
    """`python -m bench.observed [rounds] [streams]` prints both ratios as JSON."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    streams = int(sys.argv[2]) if len(sys.argv) > 2 else STREAMS
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
                    before_s = cpu_s(where)
                    measured = load.run(where, "demo", streams)
                    took_s = load.WARM_UP_S + load.MEASURE_S
                    rates[name].append(measured.characters_per_s)
                    used_s = cpu_s(where) - before_s
                    costs[name].append(1e6 * used_s / (measured.characters_per_s * took_s))
    print(
        json.dumps(
            {
                "processor": processor(),
                "streams": streams,
                "characters_per_s": rates,
                "cpu_us_per_character": costs,
                "ratio_of_rates": statistics.median(rates["with"])
                / statistics.median(rates["without"]),
                "ratio_of_cpu": statistics.median(costs["with"])
                / statistics.median(costs["without"]),
            },
            indent=1,
        )
    )


def cpu_s(port: int) -> float:
    """Return the processor time of the process that listens on a port."""
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    for process in mine:
        for one in process.net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port:
                times = process.cpu_times()
                return float(times.user + times.system)
    raise ProcessLookupError(f"no process listens on port {port}")


def processor() -> str:
    """Return the processor's name and how many of its threads there are."""
    found = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    name = found[0].split(": ")[1] if found else platform.processor()
    return f"{name}, {os.cpu_count()} threads"


if __name__ == "__main__":
    main()
