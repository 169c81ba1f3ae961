"""Several steps in a row, each of the network and then of the sampler."""

from typing import Protocol

from service.generation.sampling import Sampler
from service.generation.state_snapshots import StateSnapshots
from service.models.step import Batch, KernelProgram, StepProgram


class Burst(Protocol):
    """A way to take steps with a batch."""

    def run(self, rows: int, steps: int) -> None:
        """Take `steps` steps with the first `rows` rows. One thread at a time; blocks."""
        ...

    def close(self) -> None:
        """Give back what it runs on."""
        ...


class StepwiseBurst:
    """The network's step, then the sampler's, by turns: what any program can do."""

    def __init__(
        self, program: StepProgram, batch: Batch, sampler: Sampler, kept: StateSnapshots
    ) -> None:
        self._program, self._batch, self._sampler, self._kept = program, batch, sampler, kept

    def run(self, rows: int, steps: int) -> None:
        """Take `steps` steps with the first `rows` rows."""
        for step in range(steps):
            self._program.step(self._batch, rows)
            self._kept.keep(rows, step)
            self._sampler.advance(self._batch, rows, step)

    def close(self) -> None:
        """Nothing to give back."""


def burst_of(
    program: StepProgram, batch: Batch, sampler: Sampler, kept: StateSnapshots, threads: int
) -> Burst:
    """The fastest way to take steps with a program; `threads` are for one that has none itself."""
    if isinstance(program, KernelProgram):
        from service.generation.threaded_burst import ThreadedBurst  # noqa: PLC0415 (compiled where it is used)

        return ThreadedBurst(program, batch, sampler, kept, threads)
    return StepwiseBurst(program, batch, sampler, kept)
