"""What every program is: a step for many rows, and the memory it works on."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from service.models.spec import FloatArray, ModelSpec


@dataclass(frozen=True, slots=True)
class State:
    """Every layer's h and c after `position` tokens: a value, never shared and never written to."""

    position: int
    arrays: tuple[npt.NDArray[Any], ...]  # each (width,), in the order of ModelSpec.state_units


@dataclass(frozen=True, slots=True)
class Batch:
    """The memory that steps work on: one row for each generation under way.

    Only whoever made it writes to it, and only between steps.
    """

    tokens: npt.NDArray[np.int64]  # (capacity,), what each row is fed next
    states: tuple[npt.NDArray[Any], ...]  # each (capacity, width)
    logits: FloatArray  # (capacity, vocabulary), after the last step
    bindings: dict[int, Any] = field(default_factory=dict)  # the program's own, by row count

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        for array in (self.tokens, *self.states):
            array[[a, b]] = array[[b, a]]

    def put(self, row: int, state: State | None) -> None:
        """Put a state into a row: the zero state where there is none."""
        for i, array in enumerate(self.states):
            array[row] = 0 if state is None else state.arrays[i]


def zero_batch(spec: ModelSpec, capacity: int) -> Batch:
    """Memory for up to `capacity` rows of a model, all in the zero state."""
    return Batch(
        tokens=np.zeros(capacity, np.int64),
        states=tuple(np.zeros((capacity, n), np.float32) for n in spec.state_units),
        logits=np.zeros((capacity, spec.vocabulary_size), np.float32),
    )


class StepProgram(Protocol):
    """What a model does once a character, for many rows at a time.

    A row's results depend on that row alone, bit for bit: not on its place, nor on its
    neighbours, nor on how many there are.
    """

    @property
    def vocabulary_size(self) -> int:
        """Number of logits a row."""
        ...

    def new_batch(self, capacity: int) -> Batch:
        """Memory for up to `capacity` rows, all in the zero state."""
        ...

    def step(self, batch: Batch, rows: int) -> None:
        """Feed `tokens` of the first `rows` rows; update their states, write their logits.

        Blocks for one pass through the network. One thread at a time for one batch.
        """
        ...


@runtime_checkable
class KernelProgram(StepProgram, Protocol):
    """A step program whose steps compiled code can take by itself."""

    def arguments(self, batch: Batch) -> tuple[Any, ...]:
        """What `fused.step_rows` needs of this program and a batch: tokens first, logits third."""
        ...
