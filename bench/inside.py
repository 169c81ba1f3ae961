"""16 streams beside a running inspection, by turns with the same streams alone; a long trace.

`python -m bench.inside [ROUNDS] [CHARACTERS]` prints the figures as JSON. Four turns are a round:
alone, beside, beside, alone. The inspection traces every cell of the same model, and its reader
takes all that comes. The memory is the server's resident set while a trace of 64 cells is streamed.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench.load import ClientGroup, Work, streaming
from bench.machine import caption, machine, median_limits
from bench.progress import Progress
from bench.seed_model import write_seed_model
from bench.server import server
from bench.tracing import peak_bytes, trace
from service.models.bundle import Precision

ROUNDS, STREAMS, REPEATS, CHARACTERS = 10, 16, 2, 1_000_000
TURNS = ("alone", "beside", "beside", "alone")
ENDLESS = 1_000_000_000
FEW_CELLS = ",".join(map(str, range(64)))
RISE_S = 0.5
EXPECTED_S = 240.0


@contextmanager
def inspection(port: int, model: str, counts: list[float]) -> Iterator[None]:
    """Trace in a process of its own until the context ends; add its tokens a second to `counts`."""
    command = [sys.executable, "-m", "bench.tracing", str(port), model, str(ENDLESS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise ConnectionError("the inspection has not begun")
            began_s = time.perf_counter()
            time.sleep(RISE_S)
            yield
        finally:
            process.terminate()
        elapsed_s = time.perf_counter() - began_s
        counts.append(int(process.stdout.readline()) / elapsed_s)


def beside(port: int, model: str, rounds: int, progress: Progress) -> dict[str, Any]:
    """Return the ratios of the streams' rate and of the server's processor time, by rounds."""
    rates, costs, counts, found = list[float](), list[float](), list[float](), list[float]()
    spent_us: dict[str, list[float]] = {"alone": [], "beside": []}
    with ClientGroup(port, [streaming(model, seed) for seed in range(STREAMS)]) as group:
        group.work(1)  # warm
        for _ in range(rounds):
            works: dict[str, list[Work]] = {"alone": [], "beside": []}
            for name in TURNS:
                if name == "beside":
                    with inspection(port, model, counts):
                        works[name].append(group.work(REPEATS))
                else:
                    works[name].append(group.work(REPEATS))
            wall_s = {name: sum(one.wall_s for one in each) for name, each in works.items()}
            cpu_s = {name: sum(one.server_cpu_s for one in each) for name, each in works.items()}
            n_characters = sum(one.characters for one in works["alone"])
            for name, seconds in cpu_s.items():
                spent_us[name].append(1e6 * seconds / n_characters)
            rates.append(wall_s["alone"] / wall_s["beside"])
            costs.append(cpu_s["beside"] / cpu_s["alone"])
            found.append(n_characters / wall_s["alone"])
            progress.done(f"share kept {rates[-1]:.2f}, processor time {costs[-1]:.2f}")
    return {
        "streams": STREAMS,
        "characters_per_s": median(found),
        "share_kept": median(rates),
        "its_limits": median_limits(rates),
        "ratio_of_cpu": median(costs),
        "server_cpu_us": {name: median(each) for name, each in spent_us.items()},
        "inspected_tokens_per_s": median(counts),
    }


def long_trace(port: int, model: str, characters: int, progress: Progress) -> dict[str, Any]:
    """Return the server's memory before and at most during traces of a tenth and of the whole."""
    query = f"model={model}&cells={FEW_CELLS}"
    trace(port, query, characters // 100)  # what is allocated once
    found = {}
    for n in (characters // 10, characters):
        began_s = time.perf_counter()
        before, most = peak_bytes(port, query, n)
        seconds = time.perf_counter() - began_s
        found[str(n)] = {"before_mib": before / 2**20, "most_mib": most / 2**20, "s": seconds}
        progress.done(f"{n:,} characters: {(most - before) / 2**20:+.1f} MiB, {seconds:.0f} s")
    return found


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, each with its baseline."""
    streams, lines = result["beside"], [caption(result["machine"]), ""]
    low, high = streams["its_limits"]
    cpu_us = streams["server_cpu_us"]
    lines += ["| inside | result | baseline |", "|---|--:|---|"]
    lines.append(
        f"| {streams['streams']} streams beside an inspection of every cell at "
        f"{streams['inspected_tokens_per_s']:,.0f} tokens/s | {streams['share_kept']:.2f}× the "
        f"throughput ({low:.2f} to {high:.2f}), {cpu_us['beside']:.0f} µs of the server's "
        f"processor time a character | {streams['characters_per_s']:,.0f} characters/s, "
        f"{cpu_us['alone']:.0f} µs |"
    )
    (short, less), (long, more) = result["trace"].items()
    lines.append(
        f"| memory of a trace of {int(long):,} characters | "
        f"{more['most_mib']:,.0f} MiB, {more['most_mib'] - less['most_mib']:+.1f} "
        f"| {less['most_mib']:,.0f} MiB with {int(short):,} |"
    )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    characters = int(sys.argv[2]) if len(sys.argv) > 2 else CHARACTERS
    expected_s = EXPECTED_S * (rounds / ROUNDS + characters / CHARACTERS) / 2
    about, progress = machine(), Progress("inside", rounds + 2, expected_s)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        ref = str(write_seed_model(store, Precision.INT8))
        with server(store) as port:
            figures = {
                "machine": about,
                "beside": beside(port, ref, rounds, progress),
                "trace": long_trace(port, ref, characters, progress),
            }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
