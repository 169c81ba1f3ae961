"""The cost of a constraint, and the gain of the prefix cache."""

import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import load
from bench.machine import caption, machine, paired_ratio
from bench.progress import Progress
from bench.seed_model import VOCABULARY, write_seed_model
from bench.server import server
from service.models.bundle import Precision

STREAMS, ROUNDS = 16, 3
PATTERN = r"([A-Z][a-z]+[,.;]? |[a-z]+[,.;]?[ \n])*[a-z]+[.]"
"""Words and sentences of any length."""

PROMPT, EXTENSION, PROMPTS, REPEATS = 20_000, 10, 5, 5
EXPECTED_S = 75.0


def constrained(port: int, model: str, progress: Progress) -> dict[str, Any]:
    """Measure characters per second without and with a constraint, by turns."""
    grammar = {"grammar": {"type": "regex", "value": PATTERN}}
    loads: dict[str, list[load.Load]] = {"free": [], "constrained": []}
    for _ in range(ROUNDS):
        for name, more in (("free", {}), ("constrained", grammar)):
            loads[name].append(load.run(port, model, STREAMS, **more))
            progress.done(f"{name}: {loads[name][-1].characters_per_s:,.0f} characters/s")
    speeds = {name: [each.characters_per_s for each in rounds] for name, rounds in loads.items()}
    costs = {name: [each.server_cpu_us for each in rounds] for name, rounds in loads.items()}
    return {
        "streams": STREAMS,
        **speeds,
        "server_cpu_us": {name: statistics.median(each) for name, each in costs.items()},
        "ratio": paired_ratio(speeds["constrained"], speeds["free"]),
        "ratio_of_cpu": paired_ratio(costs["constrained"], costs["free"]),
    }


def known(port: int, model: str, progress: Progress) -> dict[str, float]:
    """Measure the time to the first event of a long prompt: new, cached, and extended."""
    random = np.random.default_rng(3)
    times: dict[str, list[float]] = {"first": [], "again": [], "extended": []}

    def first_s(prompt: str) -> float:
        request = load.streaming(model, 1, 2)
        with load.Connection(port, replace(request, body=request.body | {"inputs": prompt})) as one:
            return one.first_event_s()

    first_s("warm")
    for _ in range(PROMPTS):
        prompt = "".join(random.choice(list(VOCABULARY), PROMPT + REPEATS * EXTENSION))
        times["first"].append(first_s(prompt[:PROMPT]))
        for i in range(1, REPEATS + 1):
            times["again"].append(first_s(prompt[:PROMPT]))
            longer = prompt[: PROMPT + i * EXTENSION]
            times["extended"].append(first_s(longer))
        progress.done(f"first event of a new prompt: {1e3 * times['first'][-1]:,.0f} ms")
    return {f"{name}_ms": 1e3 * statistics.median(each) for name, each in times.items()}


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, each with its baseline."""
    bound, known_ms = result["constrained"], result["known"]
    first = known_ms["first_ms"]
    lines = [caption(result["machine"]), "", "| decoding | result | baseline |", "|---|--:|---|"]
    lines.append(
        f"| {STREAMS} streams with a regular expression | {bound['ratio']:.2f}× the throughput, "
        f"{bound['ratio_of_cpu']:.2f}× the server's processor time a character "
        "| the same streams without it |"
    )
    for name, kind in (
        ("again", f"{PROMPT:,} characters in the prefix cache"),
        ("extended", f"{PROMPT:,} characters in the prefix cache and {EXTENSION} new ones"),
    ):
        one = known_ms[f"{name}_ms"]
        lines.append(
            f"| first event, prompt of {kind} | {one:.1f} ms, 1/{first / one:.0f} "
            f"| {first:,.0f} ms without the cache |"
        )
    return "\n".join(lines)


def main() -> None:
    """`python -m bench.decoding` prints the figures as JSON."""
    about, progress = machine(), Progress("decoding", 2 * ROUNDS + PROMPTS, EXPECTED_S)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        ref = str(write_seed_model(store, Precision.INT8))
        with server(store) as port:
            figures = {
                "machine": about,
                "constrained": constrained(port, ref, progress),
                "known": known(port, ref, progress),
            }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
