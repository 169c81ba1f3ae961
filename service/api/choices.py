"""The choices of a request, of one prompt or of several, read as one stream."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.generation.request import Chunk

READ_AHEAD = 64
"""Chunks of several prompts' choices that wait for the reader."""

News = tuple[int, Chunk] | Exception | None


class Choices(Protocol):
    """One or more texts that grow together."""

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt were not computed."""
        ...

    def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        """Each choice's chunks under its index, once."""
        ...

    def cancel(self) -> None:
        """Nobody reads them any more."""
        ...


class Leaves(Protocol):
    """What is told that nobody reads it any more."""

    def cancel(self) -> None:
        """Stop."""
        ...


class Chunks(Protocol):
    """Where the chunks of one text come from."""

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """The chunks, once."""
        ...

    def cancel(self) -> None:
        """Nobody reads them any more."""
        ...


@dataclass(frozen=True, slots=True)
class Only:
    """The one choice of a turn."""

    chunks: Chunks
    cached_tokens: int = 0

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        async for chunk in self.chunks:
            yield 0, chunk

    def cancel(self) -> None:
        """Nobody reads it any more."""
        self.chunks.cancel()


class Together:
    """The choices of several prompts: those of the second come after those of the first."""

    def __init__(self, prompts: Sequence[Choices], n: int) -> None:
        """`n` choices each."""
        self._prompts, self._n = prompts, n
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def cached_tokens(self) -> int:
        """How many tokens of all prompts were not computed."""
        return sum(choices.cached_tokens for choices in self._prompts)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        queue: asyncio.Queue[News] = asyncio.Queue(READ_AHEAD)
        self._tasks = [
            asyncio.create_task(self._read(choices, i * self._n, queue))
            for i, choices in enumerate(self._prompts)
        ]
        n_open = len(self._tasks)
        try:
            while n_open:
                news = await queue.get()
                if isinstance(news, Exception):
                    raise news
                if news is None:
                    n_open -= 1
                else:
                    yield news
        finally:
            for task in self._tasks:
                task.cancel()
            self.cancel()

    @staticmethod
    async def _read(choices: Choices, first: int, queue: "asyncio.Queue[News]") -> None:
        end: Exception | None = None
        try:
            async for index, chunk in choices:
                await queue.put((first + index, chunk))
        except Exception as error:  # noqa: BLE001 (the reader raises it)
            end = error
        await queue.put(end)

    def cancel(self) -> None:
        """Nobody reads them any more."""
        for choices in self._prompts:
            choices.cancel()
