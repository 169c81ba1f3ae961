"""The runner of batches: it claims those that are not over, answers their lines, and ends them."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from service.batch.batch_store import (
    BatchError,
    BatchRecord,
    BatchSpec,
    BatchState,
    BatchStatus,
    BatchStore,
)
from service.batch.call import Answer
from service.batch.file_store import FileStore, write_whole
from service.batch.line import BatchLine, LineFormat, LineReader
from service.batch.output import BatchOutput
from service.batch.row import is_failed, refused_row
from service.batch.run import RunConfig, rows_of
from service.errors import CarouselError

_log = logging.getLogger(__name__)
_Ending = tuple[BatchStatus, tuple[BatchError, ...]]
_NO_KEY = BatchError("forbidden", "the key that the batch was made with is no longer valid")
_EXPIRED = "the completion window ended before the line was answered"


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """How a server answers batches beside its requests."""

    poll_s: float = 1.0
    look_s: float = 0.5  # between two looks for a cancellation, and two writes of the counts
    retry_s: float = 10.0  # after the store or the disk has failed
    in_flight: int = 32  # lines of one batch: throughput is flat from 16 rows up
    max_running: int = 4  # batches of a process, each of another owner
    max_lines: int = 50_000


class BatchHost(Protocol):
    """What a runner needs of its server."""

    @property
    def is_stopping(self) -> bool:
        """Whether no new work is begun."""

    def excess(self, text: bytes) -> str | None:
        """Return which limit a line's JSON exceeds."""

    async def answer_for(self, spec: BatchSpec) -> Answer | None:
        """Return what answers the lines; None where its key is no longer valid."""

    async def free_bytes(self, spec: BatchSpec) -> int | None:
        """Return how much the owner may store besides the batch; None is no limit."""

    def pin(self, name: str | None) -> tuple[str, str] | None:
        """Return the version that a name means, and its digest; None where there is none."""

    def count(self, row: bytes) -> None:
        """Count a row for the metrics."""

    def ended(self, batch: BatchRecord) -> None:
        """Be told of a batch that is over."""


@dataclass(slots=True)
class BatchRunner:
    """Runs the batches of a store. Every server has one; for its event loop."""

    files: FileStore
    batches: BatchStore
    host: BatchHost
    config: RunnerConfig = RunnerConfig()
    running: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # by owner
    _resting: dict[str, float] = field(default_factory=dict)  # ids, until when: monotonic seconds

    async def run(self) -> None:
        """Run batches until it is cancelled; what is in flight then is answered again later."""
        swept_s = float("-inf")
        try:
            while True:
                try:
                    if time.monotonic() - swept_s > 60:
                        await asyncio.to_thread(self.files.sweep)
                        await asyncio.to_thread(self.batches.sweep)
                        swept_s = time.monotonic()
                    if not self.host.is_stopping:
                        self._begin(await asyncio.to_thread(self.batches.open))
                except Exception:  # noqa: BLE001 (the next round may succeed)
                    _log.exception("the batches cannot be read")
                await asyncio.sleep(self.config.poll_s)
        finally:
            for task in self.running.values():
                task.cancel()
            await asyncio.gather(*self.running.values(), return_exceptions=True)

    def _begin(self, batches: list[BatchRecord]) -> None:
        now_s = time.monotonic()
        for batch in batches:
            owner, batch_id = batch.spec.owner, batch.spec.id
            is_free = owner not in self.running and len(self.running) < self.config.max_running
            if is_free and self._resting.get(batch_id, 0.0) <= now_s:
                task = asyncio.create_task(self._claimed(batch))
                self.running[owner] = task
                task.add_done_callback(partial(self._ended, owner))

    def _ended(self, owner: str, _: asyncio.Task[None]) -> None:
        del self.running[owner]

    async def _claimed(self, batch: BatchRecord) -> None:
        batch_id = batch.spec.id
        rest_s = 0.0
        with batch.claim() as is_ours:
            if not is_ours:
                rest_s = self.config.look_s
            else:
                try:
                    current = await asyncio.to_thread(
                        self.batches.get, batch.spec.owner, batch.spec.id
                    )
                    if not current.state.status.is_over:
                        await self._run(current)
                except (CarouselError, OSError) as error:
                    _log.warning("the batch %s is tried again: %s", batch_id, error)
                    rest_s = self.config.retry_s
                except Exception:  # noqa: BLE001 (it is not lost, and others go on)
                    _log.exception("the batch %s is tried again", batch_id)
                    rest_s = self.config.retry_s
        self._resting[batch_id] = time.monotonic() + rest_s
        if not rest_s:
            del self._resting[batch_id]

    async def _run(self, batch: BatchRecord) -> None:
        """Bring a batch to its end, or leave it where the server stops."""
        state = batch.state
        if state.status is BatchStatus.VALIDATING:
            n_lines = await asyncio.to_thread(_count_lines, batch.input)
            limit = self.config.max_lines
            if not 0 < n_lines <= limit:
                told = "no line" if not n_lines else f"{n_lines:,} lines"
                error = BatchError(
                    "validation", f"the input file has {told}; a batch has 1 to {limit:,} lines"
                )
                failed = state.begin(BatchStatus.FAILED, total=n_lines, errors=(error,))
                ended = await asyncio.to_thread(batch.write, failed)
                self.host.ended(ended)
                await asyncio.to_thread(batch.clear)
                return
            state = state.begin(BatchStatus.IN_PROGRESS, total=n_lines)
            batch = await asyncio.to_thread(batch.write, state)
        if state.status is BatchStatus.IN_PROGRESS:
            done = await self._answer(batch)
            if done is None:
                return
            state = done.begin(BatchStatus.FINALIZING)
            batch = await asyncio.to_thread(batch.write, state)
        self.host.ended(await asyncio.to_thread(self._finalize, batch))

    async def _answer(self, batch: BatchRecord) -> BatchState | None:
        """Answer the lines that have no row; return the state then, None where the server stops."""
        state, spec = batch.state, batch.spec
        with batch.input.open("rb") as file, BatchOutput(batch.rows) as output:
            lines = await asyncio.to_thread(output.resume, iter(self._reader(batch, file)))
            outcome = await self._ending(batch, output)
            if outcome is None:
                answer = await self.host.answer_for(spec)
                assert answer is not None
                config = RunConfig(
                    in_flight=self.config.in_flight,
                    unavailable_s=float("inf"),
                    created_s=spec.created_at,
                )
                async with aclosing(_with_looks(lines, answer, config, self.config.look_s)) as rows:
                    async for row in rows:
                        if row is not None:
                            output.write(row)
                            self.host.count(row)
                            continue
                        outcome = await self._ending(batch, output)
                        state = _counted(state, output)
                        batch = await asyncio.to_thread(batch.write, state)
                        if outcome is not None or self.host.is_stopping:
                            break
            await asyncio.to_thread(output.sync)
            state = _counted(state, output)
            if outcome is None and output.rows < state.total:
                return None
            outcome = outcome or await self._excess(batch, output)
            end, errors = outcome or (BatchStatus.COMPLETED, ())
            return replace(state, outcome=end, errors=errors)

    async def _ending(self, batch: BatchRecord, output: BatchOutput) -> _Ending | None:
        """Return how a batch ends before its last line; None if it goes on."""
        if batch.shall_end:
            return BatchStatus.CANCELLED, ()
        if time.time() >= batch.spec.expires_at:
            return BatchStatus.EXPIRED, ()
        if await self.host.answer_for(batch.spec) is None:
            return BatchStatus.FAILED, (_NO_KEY,)
        return await self._excess(batch, output)

    async def _excess(self, batch: BatchRecord, output: BatchOutput) -> _Ending | None:
        free_bytes = await self.host.free_bytes(batch.spec)
        if free_bytes is None or output.size_bytes <= free_bytes:
            return None
        message = (
            f"the answers have {output.size_bytes} bytes, and {max(0, free_bytes)} are left of the "
            "limit stored_bytes of the key; delete files"
        )
        return BatchStatus.FAILED, (BatchError("too_large", message),)

    def _reader(self, batch: BatchRecord, file: BinaryIO) -> LineReader:
        pins = _Pins(batch.pins, self.host.pin)
        line_format = LineFormat(
            only_route=batch.spec.endpoint,
            default_route=batch.spec.endpoint,
            excess=self.host.excess,
            pin=pins,
        )
        return LineReader(file, line_format)

    def _finalize(self, batch: BatchRecord) -> BatchRecord:
        """Sort the rows into the files of answers and of errors, and end the batch."""
        state, spec = batch.state, batch.spec
        outcome = state.outcome
        assert outcome is not None
        ids: list[str | None] = []
        for kind, wants_failed in (("output", False), ("error", True)):
            incoming = self.files.incoming()
            n = 0
            try:
                with incoming.open("xb") as file:
                    for row in self._all_rows(batch, has_rest=outcome is BatchStatus.EXPIRED):
                        if is_failed(row) is wants_failed:
                            file.write(row)
                            n += 1
                name = f"{spec.id}_{kind}"
                stored = n and self.files.put(
                    spec.owner,
                    incoming,
                    f"{name}.jsonl",
                    "batch_output",
                    expires_in_s=spec.output_expires_in_s,
                    name=name,
                )
            finally:
                incoming.unlink(missing_ok=True)
            ids.append(stored.id if stored else None)
        if outcome is BatchStatus.EXPIRED:
            state = replace(state, failed=state.total - state.completed)
        output_id, error_id = ids
        ended = state.begin(outcome, output_file_id=output_id, error_file_id=error_id)
        written = batch.write(ended)
        batch.clear()
        return written

    def _all_rows(self, batch: BatchRecord, *, has_rest: bool) -> Iterator[bytes]:
        """Iterate over the rows, and with `has_rest` over one for each line without an answer."""
        if not batch.rows.exists():
            batch.rows.touch()
        with batch.rows.open("rb") as file:
            n_rows = 0
            for row in file:
                n_rows += 1
                yield row
        if has_rest:
            with batch.input.open("rb") as source:
                for i, line in enumerate(self._reader(batch, source)):
                    if i >= n_rows:
                        yield refused_row(line, "batch_expired", _EXPIRED)


class _Pins:
    """The versions that names meant when a batch first named them, also after a restart."""

    def __init__(self, path: Path, pin: Callable[[str | None], tuple[str, str] | None]) -> None:
        self._path, self._pin = path, pin
        self._found: dict[str, tuple[str, str] | None] = {}
        with contextlib.suppress(FileNotFoundError):
            for name, found in json.loads(path.read_bytes()).items():
                self._found[name] = None if found is None else (found[0], found[1])

    def __call__(self, name: str | None) -> tuple[str, str] | None:
        key = name or ""
        if key not in self._found:
            self._found[key] = self._pin(name)
            write_whole(self._path, json.dumps(self._found).encode())
        return self._found[key]


async def _with_looks(
    lines: Iterator[BatchLine], answer: Answer, config: RunConfig, look_s: float
) -> AsyncGenerator[bytes | None, None]:
    """Yield the rows, and None every `look_s`, also while no row comes."""
    rows = rows_of(lines, answer, config)
    next_row: asyncio.Future[bytes] | None = None
    looked_s = time.monotonic()
    try:
        while True:
            next_row = next_row or asyncio.ensure_future(anext(rows))
            left_s = max(0.0, looked_s + look_s - time.monotonic())
            if not next_row.done():
                await asyncio.wait([next_row], timeout=left_s)
            if next_row.done():
                try:
                    row = next_row.result()
                except StopAsyncIteration:
                    return
                next_row = None
                yield row
            if time.monotonic() - looked_s >= look_s:
                looked_s = time.monotonic()
                yield None
    finally:
        if next_row is not None:
            next_row.cancel()
            await asyncio.gather(next_row, return_exceptions=True)
        await rows.aclose()


def _counted(state: BatchState, output: BatchOutput) -> BatchState:
    failed = output.failed_rows
    return replace(state, completed=output.rows - failed, failed=failed)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
