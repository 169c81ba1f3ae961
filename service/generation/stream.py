"""The chunks of one generation on their way from the engine's thread to a reader."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from service.errors import CarouselError, GenerationFailed
from service.generation.plan import Progress
from service.generation.request import Chunk


class Producer(Protocol):
    """Produces the chunks of a stream, and waits while its reader is behind."""

    def pause(self, stream: "Stream") -> None:
        """Produce no more chunks until `resume`."""

    def resume(self, stream: "Stream") -> None:
        """Produce chunks again."""


class Stream:
    """The chunks of one generation, read once with `async for` in the engine's event loop.

    A reader that stops early calls `cancel`. Reading raises GenerationFailed if the row failed, and
    Draining if the server stopped first.
    """

    def __init__(
        self, producer: Producer, on_cancel: Callable[["Stream"], None], backlog_limit: int
    ) -> None:
        """Pause the producer while `backlog_limit` tokens wait for the reader.

        `on_cancel` is called when the reader cancels the stream before its end.
        """
        self._producer, self._on_cancel = producer, on_cancel
        self._backlog_limit = backlog_limit
        self._chunks: deque[Chunk] = deque()
        self._backlog = 0  # tokens
        self.generated_tokens = 0  # whether they are read or not
        self._is_paused = False
        self._end: CarouselError | None = None
        self._is_over = False
        self._reader: asyncio.Future[None] | None = None

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Chunk:
        while not self._chunks:
            if self._end is not None:
                end, self._end = self._end, None
                raise end
            if self._is_over:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        chunk = self._chunks.popleft()
        self._backlog -= len(chunk.tokens)
        if self._is_paused and self._backlog < self._backlog_limit // 2:
            self._is_paused = False
            self._producer.resume(self)
        return chunk

    def cancel(self) -> None:
        """Stop the generation before its next burst. Does nothing if it has finished."""
        if not self._is_over:
            self._finish(None)
            self._on_cancel(self)

    def deliver(self, progress: Progress) -> None:
        """Event loop only: receive the result of a burst."""
        if self._is_over:
            return
        self._chunks.append(progress.chunk)
        self.generated_tokens += len(progress.chunk.sampled)
        self._backlog += len(progress.chunk.tokens)
        if progress.is_last:
            self._finish(None if progress.failure is None else GenerationFailed(progress.failure))
        elif self._backlog > self._backlog_limit and not self._is_paused:
            self._is_paused = True
            self._producer.pause(self)
        else:
            self._wake()

    def fail(self, error: CarouselError) -> None:
        """Event loop only: end the stream with an error. Does nothing after the end."""
        if not self._is_over:
            self._finish(error)

    def _finish(self, error: CarouselError | None) -> None:
        self._is_over, self._end = True, error
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
