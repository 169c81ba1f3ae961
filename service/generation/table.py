"""The slot table's memory: each row's state, parameters and next token, and a burst over them."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from service.generation.burst import burst_of
from service.generation.sampling import Sampler, Samples
from service.generation.scheduler import Plan, Start, Swap
from service.generation.state_snapshots import StateSnapshots
from service.models.step import StepProgram


class SlotTable:
    """Carries out what a scheduler plans. One thread."""

    def __init__(
        self, program: StepProgram, sampler: Sampler, capacity: int, threads: int = 1
    ) -> None:
        """`threads` is for programs that have none of their own."""
        self._batch = program.new_batch(capacity)
        self._sampler = sampler
        self._kept = StateSnapshots(self._batch)
        self._burst = burst_of(program, self._batch, sampler, self._kept, threads)

    def warm_up(self) -> None:
        """Take one step for nobody, so that whatever is compiled late is compiled now."""
        self._burst.run(1, 1)
        self._batch.put(0, None)

    def run(self, plan: Plan) -> tuple[Samples, Mapping[int, tuple[npt.NDArray[Any], ...]]]:
        """Do the plan's changes, feed its prompts, take its steps.

        Returns what they drew, and by row the states that the plan wants kept.

        Blocks for the whole burst, nearly all of it without the interpreter's lock. The draws are
        views that the next burst overwrites.
        """
        for change in plan.changes:
            if isinstance(change, Start):
                self.start(change)
            else:
                self.swap(change)
        for feed in plan.feeds:
            self._sampler.feed(feed.row, feed.tokens, feed.silent)
        self._kept.ask(plan.keeps)
        self._burst.run(plan.rows, plan.steps)
        return self._sampler.draws(plan.rows, plan.steps), self._kept.take()

    def close(self) -> None:
        """Give back what the bursts run on."""
        self._burst.close()

    def start(self, change: Start) -> None:
        """Put a request into a free row: its state, its parameters, its first token."""
        self._batch.put(change.row, change.request.initial_state)
        self._batch.tokens[change.row] = change.request.prompt[0]
        self._sampler.start(change.row, change.request)

    def swap(self, change: Swap) -> None:
        """Let two rows trade places, with all that belongs to them."""
        self._batch.swap(change.a, change.b)
        self._sampler.swap(change.a, change.b)
