"""`carousel batch`: the answers to a file of requests, written to another file."""

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from service.batch.line import LineFormat, LineReader
from service.batch.output import BatchOutput
from service.batch.run import IN_FLIGHT, RunConfig, rows_of
from service.batch_app import PinnedModels, json_excess
from service.batch_process import open_answer
from service.cgroup import machine_share
from service.errors import Validation

_PROGRESS_S, _SYNC_S = (0.5, 10.0), 5.0  # between two lines of progress: on a terminal, in a log


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What a person gives to the command."""

    source: Path
    output: Path
    model_store: Path
    model: str  # name@version
    processes: int
    default_route: str


@dataclass(slots=True)
class BatchProgress:
    """Tells on standard error how far a run is, at most every few seconds."""

    size_bytes: int  # of the input
    done_rows: int  # of an earlier run
    out: TextIO
    _began_s: float = 0.0
    _told_s: float = 0.0

    def __post_init__(self) -> None:
        self._began_s = self._told_s = time.monotonic()

    def tell(self, output: BatchOutput, reader: LineReader) -> None:
        """Write a line if the last one is old enough."""
        now_s = time.monotonic()
        is_terminal = self.out.isatty()
        if now_s - self._told_s < _PROGRESS_S[not is_terminal]:
            return
        self._told_s = now_s
        per_s = (output.rows - self.done_rows) / (now_s - self._began_s)
        n_lines = reader.number * self.size_bytes / max(1, reader.read_bytes)  # if all are as long
        share = 100 * output.rows / max(1.0, n_lines)
        text = f"{_counted(output)}, {per_s:,.1f} a second, about {share:.0f} % of the input"
        self.out.write(f"\r{text}\x1b[K" if is_terminal else f"{text}\n")
        self.out.flush()

    def end(self, output: BatchOutput) -> None:
        """Write the last line."""
        span_s = time.monotonic() - self._began_s
        before = f", of which {self.done_rows:,} were there" if self.done_rows else ""
        start = "\r\x1b[K" if self.out.isatty() else ""
        self.out.write(f"{start}{_counted(output)}{before}, in {span_s:,.1f} s: {output.path}\n")


def run_batch(options: BatchOptions) -> int:
    """Answer every line that has no row yet; return how many rows of the output are errors.

    Raises Validation where the output is not of this input, or another process writes it; OSError.
    """
    if options.output.exists() and options.output.samefile(options.source):
        raise Validation(f"{options.output} is the input; give another output")
    threads = max(1, machine_share().cores // options.processes)
    models = PinnedModels(options.model_store, options.model)
    line_format = LineFormat(
        default_route=options.default_route, excess=json_excess, pin=models.pin
    )
    with options.source.open("rb") as file, BatchOutput(options.output) as output:
        reader = LineReader(file, line_format)
        lines = output.resume(iter(reader))
        progress = BatchProgress(options.source.stat().st_size, output.rows, sys.stderr)
        config = RunConfig(in_flight=IN_FLIGHT * options.processes)

        async def run() -> None:
            opened = open_answer(options.model_store, options.model, options.processes, threads)
            async with opened as answer:
                synced_s = time.monotonic()
                async for row in rows_of(lines, answer, config):
                    output.write(row)
                    progress.tell(output, reader)
                    if time.monotonic() - synced_s > _SYNC_S:
                        await asyncio.to_thread(output.sync)
                        synced_s = time.monotonic()

        asyncio.run(run())
        output.sync()
        progress.end(output)
        return output.failed_rows


def _counted(output: BatchOutput) -> str:
    failed = output.failed_rows
    return f"{output.rows:,} lines" + (f" ({failed:,} failed)" if failed else "")
