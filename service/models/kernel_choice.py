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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from llvmlite import binding

from service.errors import BadCheckpoint
from service.models.bundle import Bundle, Precision
from service.models.compile import Int8Kernel, compile_program, has_vnni, own_instructions
from service.models.parity import MAX_INT8_COST, check_here, cost_over_float32
from service.models.spec import ModelSpec, Weights
from service.models.step import KernelProgram, StepProgram

FOLDER = ".kernels"
ROWS = (16, 64)
MIN_GAIN = 1.1
"""The own kernel is chosen where it has so many times ONNX Runtime's speed, at each of `ROWS`."""

WantedKernel = Literal["auto", "own", "onnxruntime"]
Gains = Mapping[int, float]
"""How many times ONNX Runtime's speed the own kernel has, by rows."""

_TURNS, _FEWEST_TURNS, _LIMIT_S = 24, 6, 1.0
_ROW_STEPS, _FEWEST_STEPS = 64, 2
"""A turn takes one to three milliseconds: on a busy machine a longer one is never without a pause,
and the best of many short ones is."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KernelChoices:
    """The choices of a model store. Any thread may use it."""

    model_store: Path
    wanted: WantedKernel = "auto"
    int4_weights: bool = False

    def compile(
        self, bundle: Bundle, precision: Precision, threads: int = 1, *, spins: bool = True
    ) -> StepProgram:
        """Compile a model with the chosen kernel. Raises as `compile_program`."""
        model = bundle.spec, bundle.weights, precision
        kernel = self.choose(*model, threads)
        if self.weight_bits(*model, kernel, bundle.tokenizer.special_ids) == 4:
            program = compile_program(*model, threads, spins=spins, kernel=kernel, weight_bits=4)
            try:
                check_here(program, bundle, precision)
            except BadCheckpoint as error:
                _log.info("%s has weights of 8 bits: %s", bundle.ref, error)
            else:
                return program
        return compile_program(*model, threads, spins=spins, kernel=kernel)

    def weight_bits(
        self,
        spec: ModelSpec,
        weights: Weights,
        precision: Precision,
        kernel: Int8Kernel,
        special_ids: Sequence[int] = (),
        cost: Callable[..., float] = cost_over_float32,
    ) -> Literal[4, 8]:
        """Return how many bits the weights of the recurrent layers have.

        They are 4 if that is wanted and costs at most `MAX_INT8_COST` over float32. That takes
        seconds to measure, and depends on the model alone, so it is remembered.
        """
        if (
            not self.int4_weights
            or kernel is not Int8Kernel.OWN
            or not _has_choice(spec, precision)
        ):
            return 8
        path = self.model_store / FOLDER / f"{_key(spec, weights)}.json"
        try:
            found = float(json.loads(path.read_bytes())["cost_nats"])
        except (OSError, ValueError, KeyError, TypeError):
            program = compile_program(spec, weights, precision, weight_bits=4)
            found = cost(program, spec, weights, special_ids)
            _log.info("int4 weights cost %.4f nats in %s", found, spec.summary)
            values = {"cost_nats": found, "model": spec.summary, "processor": _processor()}
            try:
                with _incoming(path) as incoming:
                    incoming.write_text(json.dumps(values, indent=2) + "\n")
                    incoming.replace(path)
            except OSError as error:
                _log.info("%s cannot be written: %s", path, error)
        return 4 if found <= MAX_INT8_COST else 8

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
        if self.wanted != "auto":
            return Int8Kernel(self.wanted)
        if not _has_choice(spec, precision):
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
                yield _line(values)


def _line(values: Mapping[str, Any]) -> str:
    if "cost_nats" in values:
        return f"4 bits cost {values['cost_nats']:.4f} nats in {values['model']}"
    gains = ", ".join(f"{gain} × at {rows}" for rows, gain in values["gain"].items())
    return f"{values['kernel']} for {values['model']} ({gains} rows)"


def _has_choice(spec: ModelSpec, precision: Precision) -> bool:
    from service.models.int8_step import is_fusible  # noqa: PLC0415 (compiled where it is used)

    return precision is Precision.INT8 and has_vnni() and is_fusible(spec)


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


def _steps(rows: int) -> int:
    return max(_FEWEST_STEPS, _ROW_STEPS // rows)


def _run_of(program: StepProgram, threads: int, pool: ThreadPoolExecutor) -> Callable[[int], None]:
    """Return a function that takes some steps of a program with some rows, as a burst does."""
    batch = program.new_batch(max(ROWS))
    if not isinstance(program, KernelProgram):

        def run_stepwise(rows: int) -> None:
            for _ in range(_steps(rows)):
                program.step(batch, rows)

        return run_stepwise
    from service.models.int8_step import block_rows, step_rows  # noqa: PLC0415

    arguments = program.arguments(batch)

    def take(blocks: Iterator[int], size: int, rows: int) -> None:
        for first in blocks:
            for _ in range(_steps(rows)):
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
    with _incoming(path) as incoming:
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
    return _read(path) or chosen


@contextlib.contextmanager
def _incoming(path: Path) -> Iterator[Path]:
    """Yield a new file beside `path`, deleted at the end. Raises OSError at once if none can be."""
    path.parent.mkdir(exist_ok=True)
    incoming = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    incoming.touch()
    try:
        yield incoming
    finally:
        incoming.unlink(missing_ok=True)


def _read(path: Path) -> Int8Kernel | None:
    try:
        return Int8Kernel(json.loads(path.read_bytes())["kernel"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _processor() -> str:
    """Return the kind of this processor, as the compiler names it."""
    return f"{binding.get_host_cpu_name()} with {own_instructions()}"


def onnx_version() -> str:
    """Return ONNX Runtime's version; the package for CUDA has another name."""
    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        return version("onnxruntime-gpu")


def _key(spec: ModelSpec, weights: Weights | None = None) -> str:
    from service.models.int8_step import CALLED_KERNELS  # noqa: PLC0415

    parts: list[Any] = [_processor(), onnx_version(), CALLED_KERNELS, spec.to_json()]
    digest = sha256(json.dumps(parts, sort_keys=True).encode())
    for array in (weights or {}).values():
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]
