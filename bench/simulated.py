"""The simulation beside the server: costs are measured with one process, rates are compared.

The costs are processor times of threads: of the engine's, of the event loop's, and of the clients.
No rate and no figure of two processes is among them, so each rate is a prediction.
"""

import json
import selectors
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from bench.load import Connection, Tally, serve, streaming
from bench.machine import caption, machine, server_processes
from bench.progress import Progress
from bench.seed_model import write_seed_model
from bench.server import server
from bench.simulation import Case, Cost, Simulation
from service.models.bundle import Precision

COSTED, PROCESSES, ROUNDS = (1, 2, 4, 16, 64), (1, 2), 3
HELD_OUT = 8
"""Streams whose costs are not measured: between two numbers of them."""

SHARING, ROUND_TRIP_S, COMMIT_US = (1, 4, 8, 16, 32), 0.0005, 30.0
"""Processes that share one store, and what a commit costs it (`python -m bench.store_cost`)."""

WARM_UP_S, MEASURE_S, SIMULATED_S = 1.0, 3.0, 4.0
EXPECTED_S = 160.0


class Clients:
    """Clients of one or more servers in turn, which ask again and again."""

    def __init__(self, ports: Sequence[int], model: str, streams: int, stack: ExitStack) -> None:
        """Connect and ask; `stack` closes the connections."""
        self._selector = stack.enter_context(selectors.DefaultSelector())
        for i in range(streams):
            request = streaming(model, i)
            port = ports[i % len(ports)]
            stack.enter_context(Connection(port, request, self._selector)).ask()

    def serve(self, seconds: float) -> float:
        """Read for a while, and return the characters of a second."""
        tally, began_s = Tally(), time.perf_counter()
        serve(self._selector, tally, seconds)
        return tally.characters / (time.perf_counter() - began_s)


@contextmanager
def clients(ports: Sequence[int], model: str, streams: int) -> Iterator[Clients]:
    """Clients whose streams have begun."""
    with ExitStack() as stack:
        made = Clients(ports, model, streams, stack)
        made.serve(WARM_UP_S)
        yield made


def thread_times(process: psutil.Process) -> tuple[float, float]:
    """Return the processor seconds of a server's event loop, and of its other threads."""
    times = {one.id: one.user_time + one.system_time for one in process.threads()}
    loop_s = times.pop(process.pid)
    return loop_s, sum(times.values())


def measured(ports: Sequence[int], model: str, streams: int) -> tuple[float, Cost]:
    """Measure the rate of streams, and the processor times of a character of the first server."""
    process = next(one for one in server_processes(ports[0]) if one.name() != "valkey-server")
    with clients(ports, model, streams) as made:
        before, client_s = thread_times(process), time.process_time()
        began_s = time.perf_counter()
        rate = made.serve(MEASURE_S)
        n = rate * (time.perf_counter() - began_s)
        client_s = time.process_time() - client_s
        loop_s, engine_s = (b - a for a, b in zip(before, thread_times(process), strict=True))
    return rate, Cost(streams, 1e6 * engine_s / n, 1e6 * loop_s / n, 1e6 * client_s / n)


def compared(ports: Sequence[int], model: str) -> dict[str, Any]:
    """Measure every case by turns, and simulate it."""
    progress = Progress("simulated", ROUNDS * (1 + len(COSTED)) * len(PROCESSES), EXPECTED_S)
    rates: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    found: defaultdict[int, list[Cost]] = defaultdict(list)
    for _ in range(ROUNDS):
        for streams in (*COSTED, HELD_OUT):
            for processes in PROCESSES:
                rate, cost = measured(ports[:processes], model, streams)
                rates[processes, streams].append(rate)
                if processes == 1 and streams != HELD_OUT:
                    found[streams].append(cost)
                progress.done(f"{processes} processes, {streams} streams: {rate:,.0f}")
    costs = [_median(each) for each in found.values()]
    cases = []
    for (processes, streams), each in sorted(rates.items()):
        case = Case(processes, streams, psutil.cpu_count() or 1)
        outcome = Simulation(costs, case).run(SIMULATED_S)
        cases.append(
            {
                "processes": processes,
                "streams": streams,
                "measured": statistics.median(each),
                "simulated": outcome.characters_per_s,
            }
        )
    return {
        "costs": [asdict(cost) for cost in costs],
        "rates": list(rates.items()),
        "cases": cases,
        "shared_store": shared_store(costs),
    }


def shared_store(costs: Sequence[Cost]) -> list[dict[str, float]]:
    """Simulate processes with sessions, each with two cores, whose clients are elsewhere."""
    free = [replace(cost, client_us=0.0) for cost in costs]
    found = []
    for processes in SHARING:
        case = Case(processes, 64 * processes, 2 * processes, store_s=ROUND_TRIP_S)
        case = replace(case, store_capacity_s=1e-6 * COMMIT_US)
        outcome = Simulation(free, case).run(SIMULATED_S)
        found.append({"processes": processes, **asdict(outcome)})
    return found


def _median(costs: Sequence[Cost]) -> Cost:
    names = ("engine_us", "loop_us", "client_us")
    medians = (statistics.median(getattr(one, name) for one in costs) for name in names)
    return Cost(costs[0].rows, *medians)


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = [caption(result["machine"]), ""]
    lines += ["| processes | streams | measured | simulated | |", "|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {one['processes']} | {one['streams']} | {one['measured']:,.0f} | "
        f"{one['simulated']:,.0f} | {one['simulated'] / one['measured'] - 1:+.0%} |"
        for one in result["cases"]
    ]
    lines += ["", "| processes | characters/s | store | first event p50, ms |", "|--:|--:|--:|--:|"]
    lines += [
        f"| {one['processes']} | {one['characters_per_s']:,.0f} | {one['store_share']:.0%} | "
        f"{1e3 * one['first_event_p50_s']:.0f} |"
        for one in result["shared_store"]
    ]
    return "\n".join(lines)


def main() -> None:
    """`python -m bench.simulated` prints the table, and the figures as JSON."""
    about = machine()
    settings = {"CAROUSEL_THREADS": "1"}
    with ExitStack() as stack:
        stores = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in PROCESSES]
        models = [str(write_seed_model(store, Precision.INT8)) for store in stores]
        ports = [stack.enter_context(server(store, **settings)) for store in stores]
        result = {"machine": about, **compared(ports, models[0])}
    print(table(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
