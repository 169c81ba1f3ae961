"""The choices of a request, of one prompt or of several, read as one stream."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.generation.completions import Source, merged
from service.generation.prefill import PromptLogprobs
from service.generation.request import Chunk


class Leaves(Protocol):
    """What is told that nobody reads it any more."""

    def cancel(self) -> None:
        """Stop."""
        ...


class Choices(Protocol):
    """One or more texts of one prompt that grow together."""

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt were not computed."""
        ...

    @property
    def dropped_tokens(self) -> int:
        """How many tokens texts have that are not told, because others are better."""
        ...

    @property
    def prompt(self) -> PromptLogprobs | None:
        """The prompt's tokens with their logprobs, where they were asked for."""
        ...

    def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        """Each choice's chunks under its index, once."""
        ...

    def cancel(self) -> None:
        """Nobody reads them any more."""
        ...


@dataclass(frozen=True, slots=True)
class Only:
    """The one choice of a turn."""

    chunks: Source[Chunk]
    cached_tokens: int = 0
    dropped_tokens: int = 0
    prompt: None = None

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        async for chunk in self.chunks:
            yield 0, chunk

    def cancel(self) -> None:
        """Nobody reads it any more."""
        self.chunks.cancel()


@dataclass(frozen=True, slots=True)
class Together:
    """The choices of several prompts, `n` each: those of the second come after the first's."""

    prompts: Sequence[Choices]
    n: int

    @property
    def cached_tokens(self) -> int:
        """How many tokens of all prompts were not computed."""
        return sum(choices.cached_tokens for choices in self.prompts)

    @property
    def dropped_tokens(self) -> int:
        """How many tokens texts of all prompts have that are not told."""
        return sum(choices.dropped_tokens for choices in self.prompts)

    def scored(self, index: int) -> PromptLogprobs | None:
        """The tokens of the prompt of a choice."""
        return self.prompts[index // self.n].prompt

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        if len(self.prompts) == 1:
            async for news in self.prompts[0]:
                yield news
            return
        async for i, (index, chunk) in merged(self.prompts):
            yield i * self.n + index, chunk

    def cancel(self) -> None:
        """Nobody reads them any more."""
        for choices in self.prompts:
            choices.cancel()
