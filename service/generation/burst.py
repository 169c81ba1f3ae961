"""A burst: several steps, each of the network and then of the sampler (multi-step decode)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from service.generation.sampling import Sampler
from service.models.step import Batch, StepProgram

NEVER = -1
LOGITS_PER_THREAD = 32 * 1024
"""The fewest logits that another thread samples from: about 80 µs, well above starting it."""


class StateSnapshots:
    """Holds the states that a burst copies. Belongs to one thread between bursts."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        n = len(batch.tokens)
        self.arrays = tuple(np.zeros((n, *one.shape[1:]), one.dtype) for one in batch.read([0]))
        self.after = np.full(len(batch.tokens), NEVER, np.int64)  # (capacity,), a step of the burst
        self._rows: list[int] = []

    def request(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Copy these rows' states in the next burst, each after the step given with it."""
        self._rows = [row for row, _ in wanted]
        for row, step in wanted:
            self.after[row] = step

    def copy(self, rows: int, step: int) -> None:
        """Copy the states that were requested after step number `step`."""
        if self._rows:
            rows_now = np.flatnonzero(self.after[:rows] == step)
            if rows_now.size:
                for array, states in zip(self.arrays, self._batch.read(rows_now), strict=True):
                    array[rows_now] = states

    def take(self) -> dict[int, tuple[npt.NDArray[Any], ...]]:
        """Return the copies by row, and clear the requests."""
        copies = {row: tuple(array[row].copy() for array in self.arrays) for row in self._rows}
        self.after[self._rows] = NEVER
        self._rows = []
        return copies


class StepwiseBurst:
    """Calls the program's step and the sampler's alternately; works with any program."""

    def __init__(
        self,
        program: StepProgram,
        batch: Batch,
        sampler: Sampler,
        snapshots: StateSnapshots,
        threads: int = 1,
    ) -> None:
        """`threads` share the rows of the sampler. The program has its own threads."""
        self._program, self._batch, self._sampler = program, batch, sampler
        self._snapshots, self._threads = snapshots, threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="sampler")

    def run(self, rows: int, steps: int, first: int = 0, *, is_threaded: bool = True) -> None:
        """Take `steps` steps with the rows from `first` up to `rows`, with other threads or not."""
        n, threads = rows - first, self._threads if is_threaded else 1
        logits = n * self._program.vocabulary_size
        n_blocks = max(1, min(threads, n, logits // LOGITS_PER_THREAD))
        edges = [first + n * i // n_blocks for i in range(n_blocks + 1)]
        part = self._batch.after(first) if first else self._batch
        blocks = list(pairwise(edges))
        for step in range(steps):
            self._program.step(part, n)
            self._snapshots.copy(rows, step)
            others = [
                self._pool.submit(self._sampler.advance, self._batch, last, step, start)
                for start, last in blocks[1:]
            ]
            self._sampler.advance(self._batch, blocks[0][1], step, first)
            for other in others:
                other.result()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()
