"""A burst without the interpreter: worker threads take all steps of blocks of rows."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from numba import njit

from service.generation.burst import StateSnapshots
from service.generation.sampling import Sampler, advance_rows
from service.models.int8_gemm import ROWS, padded
from service.models.int8_step import step_rows
from service.models.step import Batch, KernelProgram

CALLED_KERNELS = "fee76badd9ae014f"
"""Hash of the kernels that this file calls; `sampling.py` says why."""

BLOCKS_PER_THREAD = 4
"""More blocks balance the load of the threads better; fewer read the weights less often."""


class ThreadedBurst:
    """Takes all steps of a burst for one block of rows in one call of a compiled kernel.

    Each thread takes the next block when it is free, so a thread that is delayed takes fewer.
    """

    def __init__(
        self,
        program: KernelProgram,
        batch: Batch,
        sampler: Sampler,
        snapshots: StateSnapshots,
        threads: int,
    ) -> None:
        self._program = program.arguments(batch)
        self._snapshots = (snapshots.after, snapshots.arrays)
        self._sampler = sampler.arguments
        self._threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="burst")

    def run(self, rows: int, steps: int) -> None:
        """Take `steps` steps with the first `rows` rows."""
        balanced = padded(rows // (self._threads * BLOCKS_PER_THREAD), ROWS)
        size = max(1, min(-(-rows // self._threads), balanced))
        blocks = iter(range(0, rows, size))
        n_others = min(self._threads, -(-rows // size)) - 1
        others = [self._pool.submit(self._work, blocks, size, rows, steps) for _ in range(n_others)]
        self._work(blocks, size, rows, steps)
        for other in others:
            other.result()

    def _work(self, blocks: Iterator[int], size: int, rows: int, steps: int) -> None:
        for first in blocks:  # each value of an iterator goes to one thread
            _run_block(
                self._program, self._sampler, self._snapshots, first, min(first + size, rows), steps
            )

    def close(self) -> None:
        """Stop the worker threads."""
        self._pool.shutdown()


@njit(nogil=True, cache=True, error_model="numpy")
def _run_block(program, sampler, snapshots, first, last, steps):  # type: ignore[no-untyped-def]
    tokens, states, logits = program[0], program[1], program[2]
    after, arrays = snapshots
    for step in range(steps):
        step_rows(program, first, last)
        for row in range(first, last):
            if after[row] == step:
                for i in range(len(states)):
                    arrays[i][row] = states[i][row]
        advance_rows(sampler, logits, tokens, first, last, step)
