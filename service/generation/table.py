"""The slot table: each row's state, parameters and next token, and bursts of steps over them."""

import time
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from service.generation.burst import StateSnapshots, StepwiseBurst
from service.generation.plan import Change, Plan, Preempt, Restore, Start, Swap
from service.generation.sampling import Sampler, Samples
from service.models.steered_batch import SteeredBatch
from service.models.step import KernelProgram, StepProgram


class SlotTable:
    """Executes a scheduler's plans. Belongs to one thread."""

    def __init__(
        self, program: StepProgram, sampler: Sampler, capacity: int, threads: int = 1
    ) -> None:
        """`threads` share the sampler, and a step of a program that has no threads itself."""
        self.capacity, self._batch = capacity, program.new_batch(capacity)
        self.steers = isinstance(self._batch, SteeredBatch)  # whether its rows can be steered
        self._sampler = sampler
        self._snapshots = StateSnapshots(self._batch)
        parts = self._batch, sampler, self._snapshots
        if isinstance(program, KernelProgram):
            from service.generation.threaded_burst import ThreadedBurst  # noqa: PLC0415 (compiled where it is used)

            burst: StepwiseBurst | ThreadedBurst = ThreadedBurst(program, *parts, threads)
        else:
            burst = StepwiseBurst(program, *parts, threads)
        self._burst = burst

    def warm_up(self, rows: int) -> float:
        """Have everything compiled before the first request; return the seconds of a step."""
        times_s = []
        for _ in range(3):
            began_s = time.perf_counter()
            self._burst.run(rows, 1, is_threaded=False)
            times_s.append(time.perf_counter() - began_s)
        for row in range(rows):
            self._batch.put(row, None)
        return min(times_s)

    def run(
        self, plan: Plan, *, is_threaded: bool = True
    ) -> tuple[Samples, Mapping[int, tuple[npt.NDArray[Any], ...]]]:
        """Apply the plan's changes, feed its prompts, take its steps, by other threads too or not.

        Returns the sampled tokens, and by row the states of the plan's `snapshots`. Blocks for the
        whole burst, most of it with the GIL released. The samples are views that the next
        burst overwrites.
        """
        for change in plan.changes:
            self._apply(change)
        for feed in plan.feeds:
            self._sampler.feed(feed.row, feed.tokens, feed.n_prompt)
        self._snapshots.request(plan.snapshots)
        self._burst.run(plan.rows, plan.steps, plan.first, is_threaded=is_threaded)
        return self._sampler.take(plan.rows, plan.steps), self._snapshots.take()

    def _apply(self, change: Change) -> None:
        if isinstance(change, Swap):
            self.swap(change)
        elif isinstance(change, Start):
            self.start(change)
        elif isinstance(change, Preempt):
            self.preempt(change)
        else:
            self.restore(change)

    def close(self) -> None:
        """Stop the threads of the bursts, and free the batch. Does nothing the second time."""
        parts = vars(self)  # a stream may keep the engine for a while, but not this memory
        burst = parts.pop("_burst", None)
        parts.clear()
        if burst is not None:
            burst.close()

    def start(self, change: Start) -> None:
        """Put a request into a free row: its state, its parameters, its first token."""
        self._batch.put(change.row, change.request.initial_state)
        if isinstance(self._batch, SteeredBatch):
            self._batch.steer(change.row, change.request.steer)
        self._batch.tokens[change.row] = change.request.prompt[0]
        self._sampler.start(change.row, change.request)

    def swap(self, change: Swap) -> None:
        """Exchange two rows, with all that belongs to them."""
        self._batch.swap(change.a, change.b)
        self._sampler.swap(change.a, change.b)

    def preempt(self, change: Preempt) -> None:
        """Save a row with all that belongs to it."""
        saved, row, batch = change.saved, change.row, self._batch
        saved.token = int(batch.tokens[row])
        saved.states = batch.save(row)
        saved.sampling = self._sampler.save(row)

    def restore(self, change: Restore) -> None:
        """Continue a saved row in a free one, as if it had never left the table."""
        saved, row = change.saved, change.row
        assert saved.sampling is not None
        self._batch.tokens[row] = saved.token
        self._batch.restore(row, saved.states)
        self._sampler.restore(row, saved.sampling)
