"""Which kernel computes the int8 models of a store: measured at the first load, then remembered.

The own kernel and ONNX Runtime round in another order, so servers that share a store have to agree:
the first measurement for a kind of processor and an architecture counts for all of them.
"""

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from llvmlite import binding

from service.models.bundle import Precision
from service.models.compile import Int8Kernel, compile_program, has_vnni, own_instructions
from service.models.spec import ModelSpec, Weights
from service.models.step import KernelProgram, StepProgram

FOLDER = ".kernels"
ROWS = (16, 64)
MIN_GAIN = 1.1
"""The own kernel is chosen where it has so many times ONNX Runtime's speed, at each of `ROWS`."""

WantedKernel = Literal["auto", "own", "onnxruntime"]
Gains = Mapping[int, float]
"""How many times ONNX Runtime's speed the own kernel has, by rows."""

_STEPS, _TURNS, _FEWEST_TURNS, _LIMIT_S = 8, 6, 2, 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KernelChoices:
    """The choices of a model store. Any thread may use it."""

    model_store: Path
    wanted: WantedKernel = "auto"

    def compile(
        self,
        spec: ModelSpec,
        weights: Weights,
        precision: Precision,
        threads: int = 1,
        *,
        spins: bool = True,
    ) -> StepProgram:
        """Compile a model with the chosen kernel. Raises as `compile_program`."""
        kernel = self.choose(spec, weights, precision, threads)
        return compile_program(spec, weights, precision, threads, spins=spins, kernel=kernel)

    def choose(
        self,
        spec: ModelSpec,
        weights: Weights,
        precision: Precision,
        threads: int = 1,
        measure: Callable[[ModelSpec, Weights, int], Gains] | None = None,
    ) -> Int8Kernel:
        """Return the kernel to compile a model with. Blocks for a second at the first load.

        Where there is nothing to choose, or the store cannot be written to, it is the own kernel,
        which `compile_program` uses where it can.
        """
        from service.models.int8_step import is_fusible  # noqa: PLC0415 (compiled where it is used)

        if self.wanted != "auto":
            return Int8Kernel(self.wanted)
        if precision is not Precision.INT8 or not has_vnni() or not is_fusible(spec):
            return Int8Kernel.OWN
        path = self.model_store / FOLDER / f"{_key(spec)}.json"
        found = _read(path)
        if found is None:
            try:
                found = _remember(path, spec, weights, threads, measure or measure_gains)
            except OSError as error:
                _log.info("%s cannot be written (%s): the own kernel computes int8", path, error)
                return Int8Kernel.OWN
        return found


def remembered(model_store: Path) -> Iterator[str]:
    """Yield a line for each choice in a store that was made on this kind of processor."""
    for path in sorted((model_store / FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            values = json.loads(path.read_bytes())
            if values["processor"] == _processor():
                gains = ", ".join(f"{gain} × at {rows}" for rows, gain in values["gain"].items())
                yield f"{values['kernel']} for {values['model']} ({gains} rows)"


def measure_gains(spec: ModelSpec, weights: Weights, threads: int) -> Gains:
    """Measure both kernels by turns, the best turn of each."""
    programs = [
        compile_program(spec, weights, Precision.INT8, threads, kernel=kernel)
        for kernel in (Int8Kernel.OWN, Int8Kernel.ONNX_RUNTIME)
    ]
    with ThreadPoolExecutor(threads) as pool:
        runs = [_run_of(program, threads, pool) for program in programs]
        return {rows: _gain(rows, *runs) for rows in ROWS}


def _gain(rows: int, own: Callable[[int], None], other: Callable[[int], None]) -> float:
    times_s: list[tuple[float, float]] = []
    own(rows)
    other(rows)
    began_s = time.perf_counter()
    while len(times_s) < _TURNS:
        times_s.append((_time_s(own, rows), _time_s(other, rows)))
        if len(times_s) >= _FEWEST_TURNS and time.perf_counter() > began_s + _LIMIT_S / len(ROWS):
            break
    of_own, of_other = zip(*times_s, strict=True)
    gain: float = min(of_other) / min(of_own)
    return gain


def _time_s(run: Callable[[int], None], rows: int) -> float:
    start_s = time.perf_counter()
    run(rows)
    return time.perf_counter() - start_s


def _run_of(program: StepProgram, threads: int, pool: ThreadPoolExecutor) -> Callable[[int], None]:
    """Return a function that takes some steps of a program with some rows, as a burst does."""
    batch = program.new_batch(max(ROWS))
    if not isinstance(program, KernelProgram):

        def run_stepwise(rows: int) -> None:
            for _ in range(_STEPS):
                program.step(batch, rows)

        return run_stepwise
    from service.models.int8_step import block_rows, step_rows  # noqa: PLC0415

    arguments = program.arguments(batch)

    def take(blocks: Iterator[int], size: int, rows: int) -> None:
        for first in blocks:
            for _ in range(_STEPS):
                step_rows(arguments, first, min(first + size, rows))

    def run(rows: int) -> None:
        size = block_rows(rows, threads)
        blocks = iter(range(0, rows, size))
        n_others = min(threads, -(-rows // size)) - 1
        others = [pool.submit(take, blocks, size, rows) for _ in range(n_others)]
        take(blocks, size, rows)
        for other in others:
            other.result()

    return run


def _remember(
    path: Path,
    spec: ModelSpec,
    weights: Weights,
    threads: int,
    measure: Callable[[ModelSpec, Weights, int], Gains],
) -> Int8Kernel:
    """Measure and write the choice, unless another process has been first. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    incoming = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    incoming.touch()  # where nothing can be written, nothing is measured
    try:
        gains = measure(spec, weights, threads)
        is_faster = all(gain >= MIN_GAIN for gain in gains.values())
        chosen = Int8Kernel.OWN if is_faster else Int8Kernel.ONNX_RUNTIME
        values = {
            "kernel": chosen,
            "gain": {str(rows): round(gain, 2) for rows, gain in gains.items()},
            "model": spec.summary,
            "processor": _processor(),
            "threads": threads,
        }
        incoming.write_text(json.dumps(values, indent=2) + "\n")
        if path.exists() and _read(path) is None:
            path.unlink()  # it is damaged
        with contextlib.suppress(FileExistsError):
            os.link(incoming, path)
        _log.info("int8 of %s by %s: %s", spec.summary, chosen, values["gain"])
    finally:
        incoming.unlink(missing_ok=True)
    return _read(path) or chosen


def _read(path: Path) -> Int8Kernel | None:
    try:
        return Int8Kernel(json.loads(path.read_bytes())["kernel"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _processor() -> str:
    """Return the kind of this processor, as the compiler names it."""
    return f"{binding.get_host_cpu_name()} with {own_instructions()}"


def _key(spec: ModelSpec) -> str:
    from service.models.int8_step import CALLED_KERNELS  # noqa: PLC0415

    parts: list[Any] = [_processor(), version("onnxruntime"), CALLED_KERNELS, spec.to_json()]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
