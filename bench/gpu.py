"""The program of a GPU beside that of the processor: steps alone, and bursts with the sampler.

The network and the sampler run as in the engine, 16 steps a burst, without an event loop.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from bench.machine import processor
from bench.seed_model import SPEC, seed_weights
from service.errors import Validation
from service.generation.plan import Plan, Start
from service.generation.request import GenerationRequest, SamplingParams
from service.generation.sampling import Sampler
from service.generation.table import SlotTable
from service.models.bundle import Precision
from service.models.compile import compile_program
from service.models.device import Device
from service.models.gpu_memory import gpu_bytes
from service.models.gpu_program import GpuProgram, check_rows_are_independent
from service.models.onnx_device import OnnxDevice, check_gpu
from service.models.spec import ModelSpec, Weights
from service.models.step import StepProgram

ROWS, STEPS = (1, 64, 256, 1_024, 2_048, 4_096), 16
LIMIT_S, FEWEST_TURNS = 1.0, 3
HEAD = (
    "| program | rows | step alone, µs | characters/s with the sampler | processor, µs/character |"
)


@dataclass(frozen=True, slots=True)
class Figures:
    """The best turns of a program at a number of rows."""

    name: str
    rows: int
    step_s: float
    burst_s: float
    cpu_s: float  # of a burst

    @property
    def line(self) -> str:
        """A row of the table."""
        n = self.rows * STEPS
        return (
            f"| {self.name} | {self.rows:,} | {1e6 * self.step_s:,.0f} | {n / self.burst_s:,.0f} | "
            f"{1e6 * self.cpu_s / n:.2f} |"
        )


def measure(name: str, program: StepProgram, rows: int, threads: int) -> Figures:
    """Measure a program; `threads` share the sampler, and the step of a program of ours."""
    table = SlotTable(program, Sampler(program.vocabulary_size, rows), rows, threads)
    starts = (
        Start(row, GenerationRequest((1,), 1 << 30, SamplingParams(row, 0.8)))
        for row in range(rows)
    )
    table.run(Plan(tuple(starts), (), rows, STEPS))
    batch, n_steps = program.new_batch(rows), 4

    def steps() -> None:
        for _ in range(n_steps):
            program.step(batch, rows)

    step_s, _ = _best(steps)
    burst_s, cpu_s = _best(lambda: table.run(Plan((), (), rows, STEPS)))
    table.close()
    return Figures(name, rows, step_s / n_steps, burst_s, cpu_s)


def _best(run: Callable[[], object]) -> tuple[float, float]:
    run()
    found: list[tuple[float, float]] = []
    began_s = time.perf_counter()
    while len(found) < FEWEST_TURNS or time.perf_counter() < began_s + LIMIT_S:
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        run()
        found.append((time.perf_counter() - start_s, time.process_time() - start_cpu_s))
    return min(seconds for seconds, _ in found), min(cpu for _, cpu in found)


def rows_of_table(
    spec: ModelSpec,
    weights: Weights,
    threads: int,
    sizes: tuple[int, ...],
    device: OnnxDevice | None,
) -> Iterator[str]:
    """Yield the table's lines: at each size the processor in int8, then each program of a GPU."""
    own = compile_program(spec, weights, Precision.INT8, threads)
    for rows in sizes:
        yield measure("processor, int8", own, rows, threads).line
        if device is None:
            continue
        for precision in (Precision.FLOAT16, Precision.FLOAT32):
            program = GpuProgram(spec, weights, precision, device, rows)
            try:
                check_rows_are_independent(program)
                note = ""
            except Validation:
                note = ", rows depend on their place"
            name = f"{device.device}, {precision}, {rows:,} rows a step{note}"
            yield measure(name, program, rows, threads).line
    if device is not None:
        size_bytes = gpu_bytes(spec, max(sizes))
        yield f"\nThe estimate of its memory at {max(sizes):,} rows: {size_bytes / 2**20:,.0f} MiB."


def training_lines() -> Iterator[str]:
    """Yield the table of training: the own step and cuDNN's layers, in each precision."""
    import numpy as np  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415 (seconds, and its own log)

    from service.models.initializers import initial_weights  # noqa: PLC0415
    from service.training.corpus import BPTTChunk  # noqa: PLC0415
    from service.training.recipe import Architecture, Hyperparameters, Recipe  # noqa: PLC0415
    from service.training.recurrence_choice import gpu_name  # noqa: PLC0415
    from service.training.train_step import TrainStep  # noqa: PLC0415

    found = gpu_name()
    names = ("own", "cudnn") if found else ("own",)
    if not found:
        yield "TensorFlow finds no GPU here: only our own step is measured, on the processor."
    yield f"TensorFlow {tf.__version__}, {found or processor()}; LSTM(1024), 64 × 100 characters.\n"
    yield "| step | precision | characters/s |\n|---|---|--:|"
    recipe = Recipe(
        Architecture(units=1024, dropout=0.0),
        Hyperparameters(batch_size=64, sequence_length=100, recurrent_weight_drop=0.0),
    )
    spec = recipe.architecture.spec(65)
    tokens = np.random.default_rng(0).integers(65, size=(2, 64, 100)).astype(np.int32)
    for precision in ("float32", "bfloat16"):
        for name in names:
            step = TrainStep(spec, recipe, 1_000, initial_weights(spec, 0), precision, name)
            chunk = BPTTChunk(tokens[0], tokens[1])
            seconds, _ = _best(partial(step.learn, chunk, is_first=True))
            yield f"| {name} | {precision} | {tokens[0].size / seconds:,.0f} |"


def main() -> None:
    """`python -m bench.gpu [--rows N,…] [--training] [--rehearse]` prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="sizes of the batch")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--rehearse", action="store_true", help="run the program of a GPU on the processor"
    )
    parser.add_argument("--training", action="store_true", help="measure training instead")
    given = parser.parse_args()
    if given.training:
        for line in training_lines():
            print(line, flush=True)
        return
    sizes = tuple(int(size) for size in given.rows.split(","))
    device = None
    if given.rehearse:
        print("A rehearsal: the program of a GPU runs on the processor. No figure is one of a GPU.")
        device = OnnxDevice(Device.CPU, given.threads)
    else:
        try:
            check_gpu()
            device = OnnxDevice(Device.GPU, given.threads)
        except Validation as error:
            print(f"There is no GPU here: {error}.\nOnly the processor is measured.")
    print(f"\n{processor()}, {given.threads} threads; {SPEC.summary}, random weights.\n")
    print(f"{HEAD}\n|---|--:|--:|--:|--:|", flush=True)
    for line in rows_of_table(SPEC, seed_weights(), given.threads, sizes, device):
        print(line, flush=True)


if __name__ == "__main__":
    main()
