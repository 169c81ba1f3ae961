"""The interface of a compiled model: one step for a batch of rows, and the batch's memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from service.models.spec import FloatArray, ModelSpec
from service.models.window import Window

StateArrays = tuple[npt.NDArray[Any], ...]


@dataclass(frozen=True, slots=True)
class State:
    """The state tensors of one sequence after `position` tokens. Read-only by convention."""

    position: int
    arrays: tuple[npt.NDArray[Any], ...]  # each (width,), in the order of ModelSpec.state_units


@dataclass(frozen=True, slots=True)
class Batch:
    """The memory of a batch: one row per running generation.

    Only its creator writes to it, and only between steps. Where the states are in the memory of a
    device (`DeviceBatch`) there are no arrays of them here: the methods reach them.
    """

    tokens: npt.NDArray[np.int64]  # (capacity,), the next token of each row
    states: tuple[npt.NDArray[Any], ...]  # each (capacity, width)
    logits: FloatArray  # (capacity, vocabulary), after the last step
    bindings: dict[int, Any] = field(default_factory=dict)  # cached by the program, by row count

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        for array in (self.tokens, *self.states):
            array[[a, b]] = array[[b, a]]

    def after(self, first: int) -> "Batch":
        """Return the rows from `first`, in the same memory, as a batch of its own."""
        states = tuple(array[first:] for array in self.states)
        return Batch(self.tokens[first:], states, self.logits[first:])

    def put(self, row: int, state: State | None) -> None:
        """Write a state into a row; None is the zero state."""
        self.write(row, None if state is None else state.arrays)

    def write(self, row: int, states: StateArrays | None) -> None:
        """Write the states of a row, each (width,); None are zeros."""
        for i, array in enumerate(self.states):
            array[row] = 0 if states is None else states[i]

    def read(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> StateArrays:
        """Return a copy of the states of these rows, each (rows, width)."""
        return tuple(array[rows] for array in self.states)

    def save(self, row: int) -> StateArrays:
        """Return a copy of all that belongs to a row but its token, for `restore`."""
        return tuple(array[0] for array in self.read([row]))

    def restore(self, row: int, saved: StateArrays) -> None:
        """Write what `save` has returned into a row."""
        self.write(row, saved)

    def take(self, rows: Sequence[int]) -> None:
        """Give the first rows the states that `rows` have now."""
        for array in self.states:
            array[: len(rows)] = array[rows]


def zero_batch(spec: ModelSpec, capacity: int) -> Batch:
    """Allocate a batch of `capacity` rows of a model, all in the zero state."""
    return Batch(
        tokens=np.zeros(capacity, np.int64),
        states=tuple(np.zeros((capacity, n), np.float32) for n in spec.state_units),
        logits=np.zeros((capacity, spec.vocabulary_size), np.float32),
    )


class StepProgram(Protocol):
    """A compiled model: computes one step of a batch.

    A row's results depend on that row alone, bit for bit: not on its index, on other rows or on
    their number.
    """

    @property
    def vocabulary_size(self) -> int:
        """Number of logits per row."""
        ...

    def new_batch(self, capacity: int) -> Batch:
        """Allocate a batch of `capacity` rows, all in the zero state."""
        ...

    def step(self, batch: Batch, rows: int) -> None:
        """Feed `tokens` of the first `rows` rows; update their states, write their logits.

        Blocks until the step is computed. One thread at a time per batch.
        """
        ...


@dataclass(frozen=True, slots=True)
class Trace:
    """A batch whose steps are traced: each leaves its gates here, and computes the same bytes."""

    step: Callable[[int], None]  # as `StepProgram.step` of the batch
    gates: tuple[Mapping[str, FloatArray], ...]  # by recurrent layer, each (capacity, units)


@runtime_checkable
class TracedProgram(StepProgram, Protocol):
    """A step program that can show the gates of its steps."""

    def trace(self, batch: Batch) -> Trace:
        """Return the trace of a batch. Its steps may be mixed with those of `step`."""
        ...


@runtime_checkable
class KernelProgram(StepProgram, Protocol):
    """A step program that compiled code can run with the GIL released."""

    def arguments(self, batch: Batch) -> tuple[Any, ...]:
        """Return the arguments of `int8_step.step_rows`: tokens, states and logits come first."""
        ...


@runtime_checkable
class WindowedProgram(StepProgram, Protocol):
    """A step program whose state is the window itself, so that a prompt needs no steps."""

    @property
    def window(self) -> Window:
        """The window."""
        ...

    def prefill(self, state: State | None, prompt: Sequence[int], n_sampled: int = 0) -> State:
        """Return the state that has read all tokens of a prompt but the last.

        The last `n_sampled` tokens of the prompt were sampled earlier.
        """
        ...
