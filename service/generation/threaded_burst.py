"""A burst with the GIL released: worker threads take all steps of blocks of rows."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from numba import njit

from service.generation import sampling
from service.generation.burst import StateSnapshots
from service.generation.sampling import Sampler, advance_rows
from service.models import int8_step
from service.models.int8_step import block_rows, step_rows
from service.models.step import Batch, KernelProgram


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

    def run(self, rows: int, steps: int, first: int = 0, *, is_threaded: bool = True) -> None:
        """Take `steps` steps with the rows from `first` up to `rows`, with other threads or not."""
        n, threads = rows - first, self._threads if is_threaded else 1
        size = block_rows(n, threads)
        blocks = iter(range(first, rows, size))
        n_others = min(threads, -(-n // size)) - 1
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


def _compiled(called: str) -> Callable[..., None]:
    """Return the kernel of a block of rows. `called` is the hash of the kernels that it calls.

    Numba caches a compiled kernel until its own file changes. It also compares the variables of a
    closure, so a kernel with `called` is compiled again when the hash has changed.
    """

    @njit(nogil=True, cache=True, error_model="numpy")
    def run_block(program, sampler, snapshots, first, last, steps):  # type: ignore[no-untyped-def]
        _ = called
        tokens, states, logits = program[0], program[1], program[2]
        after, arrays = snapshots
        for step in range(steps):
            step_rows(program, first, last)
            for row in range(first, last):
                if after[row] == step:
                    for i in range(len(states)):
                        arrays[i][row] = states[i][row]
            advance_rows(sampler, logits, tokens, first, last, step)

    return run_block


def _hash_of(*paths: str) -> str:
    return sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()


_run_block = _compiled(_hash_of(sampling.__file__, int8_step.__file__))
