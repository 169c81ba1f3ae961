"""The cost of a constraint, and the gain of the prefix cache."""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from bench import load
from bench.first_event import first_event_s
from bench.seed_model import VOCABULARY, write_seed_model
from bench.server import server
from service.models.bundle import Precision

STREAMS, ROUNDS = 16, 3
PATTERN = r"([A-Z][a-z]+[,.;]? |[a-z]+[,.;]?[ \n])*[a-z]+[.]"
"""Words and sentences of any length."""

PROMPT, EXTENSION, PROMPTS, REPEATS = 20_000, 10, 5, 5


def constrained(port: int, model: str) -> dict[str, Any]:
    """Measure characters per second without and with a constraint, alternating."""
    grammar = {"type": "regex", "value": PATTERN}
    speeds: dict[str, list[float]] = {"free": [], "constrained": []}
    for _ in range(ROUNDS):
        speeds["free"].append(load.run(port, model, STREAMS).characters_per_s)
        bound = load.run(port, model, STREAMS, grammar=grammar)
        speeds["constrained"].append(bound.characters_per_s)
    ratio = statistics.median(speeds["constrained"]) / statistics.median(speeds["free"])
    return {"streams": STREAMS, **speeds, "ratio": ratio}


def known(port: int, model: str) -> dict[str, float]:
    """Measure the time to the first event of a long prompt: new, cached, and extended."""
    random = np.random.default_rng(3)
    times: dict[str, list[float]] = {"first": [], "again": [], "extended": []}
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:

        def first_s(prompt: str) -> float:
            return first_event_s(http, {"inputs": prompt, "model": model}, 2)

        first_s("warm")
        for _ in range(PROMPTS):
            prompt = "".join(random.choice(list(VOCABULARY), PROMPT + REPEATS * EXTENSION))
            times["first"].append(first_s(prompt[:PROMPT]))
            for i in range(1, REPEATS + 1):
                times["again"].append(first_s(prompt[:PROMPT]))
                longer = prompt[: PROMPT + i * EXTENSION]
                times["extended"].append(first_s(longer))
    return {f"{name}_ms": 1e3 * statistics.median(each) for name, each in times.items()}


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, each with its baseline."""
    bound, known_ms = result["constrained"], result["known"]
    first = known_ms["first_ms"]
    lines = [
        "| decoding | result | baseline |",
        "|---|--:|---|",
    ]
    lines.append(
        f"| {STREAMS} streams with a regular expression | {bound['ratio']:.2f}× the throughput "
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
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        ref = str(write_seed_model(store, Precision.INT8))
        with server(store) as port:
            figures = {"constrained": constrained(port, ref), "known": known(port, ref)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
