"""What a scheduler decides for one burst, and what came of it: frozen values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from service.constraints.constraint import Constraint
from service.generation.request import Chunk, GenerationRequest

Key = object  # identifies a generation in a scheduler


@dataclass(frozen=True, slots=True)
class Swap:
    """Exchange two rows."""

    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Start:
    """Put a request into a free row, with its initial state and its first prompt token."""

    row: int
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class SavedSampling:
    """The sampler's values of a row that was preempted."""

    parameters: Any  # a record of the sampler's table
    bias_tokens: npt.NDArray[Any]  # (n_biases,)
    biases: npt.NDArray[Any]  # (n_biases,)
    window: npt.NDArray[Any]  # (window_length,), the tokens that penalties count, oldest first
    constraint: Constraint | None


@dataclass(slots=True, eq=False)
class SavedRow:
    """Everything from which a preempted row continues; the table fills it in and reads it."""

    token: int = 0  # the next one
    states: tuple[npt.NDArray[Any], ...] = ()
    sampling: SavedSampling | None = None


@dataclass(frozen=True, slots=True)
class Preempt:
    """Save a row, whose generation gives way to one that waits."""

    row: int
    saved: SavedRow


@dataclass(frozen=True, slots=True)
class Restore:
    """Put a preempted generation into a free row."""

    row: int
    saved: SavedRow


Change = Swap | Start | Preempt | Restore


@dataclass(frozen=True, slots=True)
class Feed:
    """Give a row these tokens, one after each step, before it samples."""

    row: int
    tokens: Sequence[int]
    n_prompt: int  # of the tokens, those of its prompt; the others count as sampled


@dataclass(frozen=True, slots=True)
class Plan:
    """One burst: do the changes in order, feed, then take `steps` steps.

    They are taken with the rows from `first` up to `rows`, which is not among them.
    """

    changes: tuple[Change, ...]
    feeds: tuple[Feed, ...]
    rows: int
    steps: int
    snapshots: tuple[tuple[int, int], ...] = ()  # (row, step after which its state is copied)
    first: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """The result of a burst for one generation. With a `failure` nothing follows."""

    key: Key
    chunk: Chunk
    failure: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether the generation is over."""
        return self.failure is not None or self.chunk.finish is not None
