"""The article's loop, the step alone, the engine and HTTP streaming, by turns in one run.

`python -m bench.layers [STREAMS…] [--threads N]` prints the figures as JSON; each is the median of
the rounds, each ratio the median of the rounds' ratios. On cores that other programs use, one
thread tells more: the threads of a step wait for each other in a loop.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from math import nan
from pathlib import Path
from typing import Any

from bench import load
from bench.contender import Contender
from bench.machine import caption, machine, paired_ratio
from bench.progress import Progress
from bench.seed_model import write_seed_model
from bench.server import server
from service.models.bundle import Precision

STREAMS, ROUNDS = (1, 16, 64), 3
PRECISIONS = (Precision.FLOAT32, Precision.INT8)  # float16 is for a GPU: `bench.gpu`
WARM_UP_S, MEASURE_S = 0.5, 2.0
STEP_S, START_S = 2.1, 45.0
"""What a step of the progress takes on average, and what comes before the first one."""

LAYERS = ("step", "engine", "http")


def expected_s(streams: Sequence[int] = STREAMS) -> float:
    """Return about how long `measured` takes."""
    return START_S + STEP_S * steps(streams)


def steps(streams: Sequence[int]) -> int:
    """Return the number of measurements."""
    return ROUNDS * (1 + len(PRECISIONS) * len(streams) * len(LAYERS))


def measured(
    streams: Sequence[int] = STREAMS, threads: int = os.cpu_count() or 1
) -> dict[str, Any]:
    """Measure every layer in each precision for each number of streams."""
    about, progress = machine(), Progress("layers", steps(streams), expected_s(streams))
    found: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)

    def note(key: tuple[str, ...], figures: dict[str, Any]) -> None:
        found[key].append(figures)
        progress.done(f"{', '.join(key)}: {figures['characters_per_s']:,.0f} characters/s")

    with contextlib.ExitStack() as stack:
        store = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = {each: str(write_seed_model(store, each)) for each in PRECISIONS}
        inside = {
            each: stack.enter_context(Contender("decode", each, str(threads))) for each in Precision
        }
        article = stack.enter_context(Contender("baseline"))
        port = stack.enter_context(server(store, CAROUSEL_THREADS=str(threads)))
        for _ in range(ROUNDS):
            note(("article",), article.measure())
            for precision in PRECISIONS:
                for n in streams:
                    for layer in LAYERS[:2]:
                        figures = inside[precision].measure(layer, n)
                        note((precision, str(n), layer), figures)
                    requests = [load.streaming(models[precision], seed) for seed in range(n)]
                    http = load.closed_loop(
                        port, requests, warm_up_s=WARM_UP_S, measure_s=MEASURE_S
                    )
                    note((precision, str(n), "http"), asdict(http))
        paths = {precision.value: inside[precision].about for precision in PRECISIONS}
    return {
        "machine": about | {"code_paths": paths},
        "rounds": ROUNDS,
        "threads": threads,
        "article": _median(found["article",]),
        "rows": [_row(found, precision, n) for precision in PRECISIONS for n in streams],
    }


def _row(
    found: dict[tuple[str, ...], list[dict[str, Any]]], precision: str, streams: int
) -> dict[str, Any]:
    rates = {
        layer: [each["characters_per_s"] for each in found[precision, str(streams), layer]]
        for layer in LAYERS
    }
    article = [each["characters_per_s"] for each in found["article",]]
    return {
        "precision": precision,
        "streams": streams,
        **{layer: _median(found[precision, str(streams), layer]) for layer in LAYERS},
        "rounds_characters_per_s": rates,
        "engine_of_step": paired_ratio(rates["engine"], rates["step"]),
        "http_of_step": paired_ratio(rates["http"], rates["step"]),
        "http_of_article": paired_ratio(rates["http"], article),
    }


def _median(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    columns = {name: [each[name] for each in rounds] for name in rounds[0]}
    return {name: statistics.median(each) for name, each in columns.items() if None not in each}


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    about, article = result["machine"], result["article"]
    paths = ", ".join(f"{precision}: {name}" for precision, name in about["code_paths"].items())
    how = f"threads: {result['threads']}. {paths} (ONNX Runtime {about['onnxruntime']})"
    loop = f"{article['characters_per_s']:.0f} characters/s, {article['cpu_us']:,.0f} µs each"
    heads = "precision | streams | the step alone, characters/s | engine (of the step)"
    heads += " | HTTP (of the step) | × the article"
    heads += " | µs of processor time a character: step · engine · server · client"
    heads += " | first event p50 / p99 ms | between deliveries p50 / p99 ms"
    lines = [
        f"{caption(about)}; {how}. The article: {loop}.",
        "",
        f"| {heads} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        step, engine, http = (row[layer] for layer in LAYERS)
        costs = step["cpu_us"], engine["cpu_us"], http["server_cpu_us"], http["client_cpu_us"]
        times = " | ".join(
            f"{http.get(f'{name}_p50_ms', nan):.1f} / {http.get(f'{name}_p99_ms', nan):.1f}"
            for name in ("first_event", "delivery_gap")
        )
        lines.append(
            f"| {row['precision']} | {row['streams']} | {step['characters_per_s']:,.0f} "
            f"| {engine['characters_per_s']:,.0f} ({row['engine_of_step']:.2f}) "
            f"| {http['characters_per_s']:,.0f} ({row['http_of_step']:.2f}) "
            f"| {row['http_of_article']:,.0f} "
            f"| {' · '.join(f'{cost:.1f}' for cost in costs)} | {times} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the figures as JSON; on a terminal also the table, on standard error."""
    options = argparse.ArgumentParser(prog="python -m bench.layers")
    options.add_argument("streams", type=int, nargs="*", default=STREAMS)
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of a step")
    chosen = options.parse_args()
    result = measured(chosen.streams, chosen.threads)
    print(json.dumps(result, indent=1))
    if sys.stdout.isatty():  # else `python -m bench` prints it
        print(table(result), file=sys.stderr)


if __name__ == "__main__":
    main()
