"""What a scheduler decides for one burst, and what came of it: frozen values."""

from collections.abc import Sequence
from dataclasses import dataclass

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
class Feed:
    """Give a row these tokens, one after each step, before it samples."""

    row: int
    tokens: Sequence[int]
    n_prompt: int  # of the tokens, those of its prompt; the others count as sampled


@dataclass(frozen=True, slots=True)
class Plan:
    """One burst: do the changes in order, feed, then take `steps` steps with the first `rows`."""

    changes: tuple[Swap | Start, ...]
    feeds: tuple[Feed, ...]
    rows: int
    steps: int
    snapshots: tuple[tuple[int, int], ...] = ()  # (row, step after which its state is copied)


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
