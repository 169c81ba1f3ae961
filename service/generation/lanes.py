"""A burst without the interpreter: the rows shared out to lanes of one thread each."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from numba import njit

from service.generation.sampling import Sampler, advance_rows
from service.models.fused import step_rows
from service.models.step import Batch, KernelProgram

ROWS_A_LANE = 2
"""Below this many rows a lane does not pay for its thread."""


class LaneBurst:
    """Takes all steps of a burst in one call, in as many lanes as pay."""

    def __init__(
        self, program: KernelProgram, batch: Batch, sampler: Sampler, threads: int
    ) -> None:
        self._program = program.arguments(batch)
        self._sampler = sampler.arguments
        self._threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="lane")

    def run(self, rows: int, steps: int) -> None:
        """Take `steps` steps with the first `rows` rows."""
        lanes = max(1, min(self._threads, rows // ROWS_A_LANE))
        edges = [rows * lane // lanes for lane in range(lanes + 1)]
        others = [
            self._pool.submit(_lane, self._program, self._sampler, first, last, steps)
            for first, last in pairwise(edges[1:])
        ]
        _lane(self._program, self._sampler, 0, edges[1], steps)
        for other in others:
            other.result()

    def close(self) -> None:
        """End the lanes' threads."""
        self._pool.shutdown()


@njit(nogil=True, cache=True, error_model="numpy")
def _lane(program, sampler, first, last, steps):  # type: ignore[no-untyped-def]
    tokens, logits = program[0], program[2]
    for step in range(steps):
        step_rows(program, first, last)
        advance_rows(sampler, logits, tokens, first, last, step)
