"""A burst without the interpreter: the rows shared out to lanes of one thread each.

Numba keeps the compiled kernel until this file changes, and does not see that what it calls has
changed. Whoever changes the sampler's or the network's kernels changes this number: 2.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from numba import njit

from service.generation.sampling import Sampler, advance_rows
from service.generation.state_snapshots import StateSnapshots
from service.models.int8_gemm import ROWS, padded
from service.models.int8_step import step_rows
from service.models.step import Batch, KernelProgram

SHARES_A_LANE = 4
"""More shares level out what holds up a lane; fewer read the weights more seldom."""


class ThreadedBurst:
    """Takes all steps of a burst for a share of the rows in one call; lanes take shares by turns.

    Shares are small, so that a lane that something else holds up leaves more of them to others.
    """

    def __init__(
        self,
        program: KernelProgram,
        batch: Batch,
        sampler: Sampler,
        kept: StateSnapshots,
        threads: int,
    ) -> None:
        self._program = program.arguments(batch)
        self._kept = (kept.after, kept.arrays)
        self._sampler = sampler.arguments
        self._threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="lane")

    def run(self, rows: int, steps: int) -> None:
        """Take `steps` steps with the first `rows` rows."""
        size = min(-(-rows // self._threads), padded(rows // (self._threads * SHARES_A_LANE), ROWS))
        size = max(1, size)
        shares = iter(range(0, rows, size))
        n_others = min(self._threads, -(-rows // size)) - 1
        others = [self._pool.submit(self._work, shares, size, rows, steps) for _ in range(n_others)]
        self._work(shares, size, rows, steps)
        for other in others:
            other.result()

    def _work(self, shares: Iterator[int], size: int, rows: int, steps: int) -> None:
        for first in shares:  # the next of an iterator is taken by one thread alone
            _share(self._program, self._sampler, self._kept, first, min(first + size, rows), steps)

    def close(self) -> None:
        """End the lanes' threads."""
        self._pool.shutdown()


@njit(nogil=True, cache=True, error_model="numpy")
def _share(program, sampler, kept, first, last, steps):  # type: ignore[no-untyped-def]
    tokens, states, logits = program[0], program[1], program[2]
    after, arrays = kept
    for step in range(steps):
        step_rows(program, first, last)
        for row in range(first, last):
            if after[row] == step:
                for i in range(len(states)):
                    arrays[i][row] = states[i][row]
        advance_rows(sampler, logits, tokens, first, last, step)
