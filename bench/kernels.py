"""Both int8 kernels by turns: characters per second of bursts, and processor time a character.

The network and the sampler run as in the engine, 16 steps a burst, without an event loop.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from bench.seed_model import SPEC, seed_weights
from service.generation.plan import Plan, Start
from service.generation.request import GenerationRequest, SamplingParams
from service.generation.sampling import Sampler
from service.generation.table import SlotTable
from service.models.bundle import Bundle, Precision
from service.models.compile import Int8Kernel, compile_program
from service.models.parity import cost_over_float32
from service.models.spec import ModelSpec, Weights

ROWS, STEPS, TURNS = (1, 4, 16, 64), 16, 15
TEXTS = 8
DEMO = Path(__file__).parents[1] / "model_store" / "demo" / "1"


def _table(spec: ModelSpec, weights: Weights, kernel: Int8Kernel, threads: int) -> SlotTable:
    program = compile_program(spec, weights, Precision.INT8, threads, kernel=kernel)
    table = SlotTable(program, Sampler(spec.vocabulary_size, max(ROWS)), max(ROWS), threads)
    starts = tuple(
        Start(row, GenerationRequest((1,), 1 << 30, SamplingParams(row, 0.8)))
        for row in range(max(ROWS))
    )
    table.run(Plan(starts, (), max(ROWS), STEPS))
    return table


def _turn(table: SlotTable, rows: int) -> tuple[float, float]:
    """Return the seconds of a burst, and the processor time of all threads."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    table.run(Plan((), (), rows, STEPS))
    return time.perf_counter() - start_s, time.process_time() - start_cpu_s


def measure(spec: ModelSpec, weights: Weights, threads: int) -> dict[int, dict[str, Any]]:
    """Measure both kernels at each number of rows; `gain` is the ratio of their best turns."""
    tables = {kernel: _table(spec, weights, kernel, threads) for kernel in Int8Kernel}
    found: dict[int, dict[str, Any]] = {}
    for rows in ROWS:
        turns: dict[Int8Kernel, list[tuple[float, float]]] = {kernel: [] for kernel in Int8Kernel}
        for _ in range(TURNS):
            for kernel, table in tables.items():
                turns[kernel].append(_turn(table, rows))
        n = rows * STEPS
        speeds = {kernel: [n / seconds for seconds, _ in each] for kernel, each in turns.items()}
        own, other = speeds[Int8Kernel.OWN], speeds[Int8Kernel.ONNX_RUNTIME]
        found[rows] = {
            "best_per_s": {kernel: round(max(each)) for kernel, each in speeds.items()},
            "median_per_s": {kernel: round(statistics.median(s)) for kernel, s in speeds.items()},
            "cpu_us": {
                kernel: round(1e6 * min(cpu for _, cpu in each) / n, 1)
                for kernel, each in turns.items()
            },
            "gain": round(max(own) / max(other), 2),
            "median_gain": round(statistics.median(own) / statistics.median(other), 2),
        }
    for table in tables.values():
        table.close()
    return found


def costs(bundle: Bundle) -> dict[str, dict[str, float]]:
    """Return what programs cost over float32: the mean of eight texts, and its standard error."""
    model = bundle.spec, bundle.weights
    programs = {
        "int8": compile_program(*model, Precision.INT8),
        "int4": compile_program(*model, Precision.INT8, weight_bits=4),
        "float16": compile_program(*model, Precision.FLOAT16),
    }
    found = {}
    for name, program in programs.items():
        nats = [
            cost_over_float32(program, *model, bundle.tokenizer.special_ids, seed)
            for seed in range(TEXTS)
        ]
        error = statistics.stdev(nats) / TEXTS**0.5
        found[name] = {"nats": round(statistics.mean(nats), 5), "error": round(error, 5)}
    return found


def main() -> None:
    """`python -m bench.kernels [threads]` prints the figures of two models as JSON lines.

    `python -m bench.kernels cost` prints what each precision costs the bundled model instead.
    """
    demo = Bundle.read(DEMO)
    if sys.argv[1:] == ["cost"]:
        print(json.dumps(costs(demo)))
        return
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count() or 1
    models = {"seed": (SPEC, seed_weights()), "demo": (demo.spec, demo.weights)}
    for name, (spec, weights) in models.items():
        for rows, figures in measure(spec, weights, threads).items():
            print(json.dumps({"model": name, "threads": threads, "rows": rows} | figures))


if __name__ == "__main__":
    main()
