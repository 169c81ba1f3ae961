"""A burst: several steps, each of the network and then of the sampler (multi-step decode)."""

from typing import Protocol

from service.generation.sampling import Sampler
from service.generation.state_snapshots import StateSnapshots
from service.models.step import Batch, KernelProgram, StepProgram


class Burst(Protocol):
    """Takes the steps of a batch."""

    def run(self, rows: int, steps: int) -> None:
        """Take `steps` steps with the first `rows` rows. One thread at a time; blocks."""
        ...

    def close(self) -> None:
        """Stop its threads."""
        ...


class StepwiseBurst:
    """Calls the program's step and the sampler's alternately; works with any program."""

    def __init__(
        self, program: StepProgram, batch: Batch, sampler: Sampler, snapshots: StateSnapshots
    ) -> None:
        self._program, self._batch, self._sampler = program, batch, sampler
        self._snapshots = snapshots

    def run(self, rows: int, steps: int) -> None:
        """Take `steps` steps with the first `rows` rows."""
        for step in range(steps):
            self._program.step(self._batch, rows)
            self._snapshots.copy(rows, step)
            self._sampler.advance(self._batch, rows, step)

    def close(self) -> None:
        """Do nothing: there are no threads."""


def make_burst(
    program: StepProgram, batch: Batch, sampler: Sampler, snapshots: StateSnapshots, threads: int
) -> Burst:
    """The fastest burst for a program; `threads` are for a program that has none itself."""
    if isinstance(program, KernelProgram):
        from service.generation.threaded_burst import ThreadedBurst  # noqa: PLC0415 (compiled where it is used)

        return ThreadedBurst(program, batch, sampler, snapshots, threads)
    return StepwiseBurst(program, batch, sampler, snapshots)
