"""Several texts from one prompt: it is fed once, and its state is copied for each of them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from service.errors import CarouselError
from service.generation.beams import BeamParams
from service.generation.engine import Engine, Stream
from service.generation.prefill import Prefill, PromptLogprobs
from service.generation.prefix_cache import ScopedPrefixCache
from service.generation.request import Chunk, GenerationRequest

READ_AHEAD = 64
"""Chunks of several texts that wait for the reader."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ParallelSampling:
    """The texts of one prompt, to be read by `async for` once, as (index, chunk).

    Belongs to the engine's event loop. Reading raises what `Stream` raises. `prompt` is complete
    before the first chunk.
    """

    dropped_tokens = 0

    def __init__(
        self,
        engine: Engine,
        request: GenerationRequest,
        n: int,
        prompt_logprobs: int | None,
        prefixes: ScopedPrefixCache | None,
    ) -> None:
        """Begin. Raises as `Engine.submit`."""
        engine.check_room(n)
        self._engine, self._n = engine, n
        self._reading = Prefill(engine, request, prompt_logprobs, prefixes)
        self._is_cancelled = False
        self._streams: list[Stream] = []
        if n == 1 and not self._reading.is_apart:
            self._streams = [engine.submit(request)]
        else:
            engine.hold(self, n)
            self._reading.begin()

    @property
    def prompt(self) -> PromptLogprobs | None:
        """The prompt's tokens, if they were asked for."""
        return self._reading.scored

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt were not computed."""
        return self._reading.cached_tokens

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        if not self._streams:
            try:
                self._fork(await self._reading.rest())
            finally:
                self._engine.release(self)
        if len(self._streams) == 1:
            async for chunk in self._streams[0]:
                yield 0, chunk
            return
        async for news in merged(self._streams):
            yield news

    def _fork(self, request: GenerationRequest) -> None:
        """Let every choice go on from the prompt's last token."""
        for index in range(0 if self._is_cancelled else self._n):
            stream = Stream(self._engine)
            self._streams.append(stream)
            seed = seed_of(request.sampling.seed, index)
            self._engine.enter(
                replace(request, sampling=replace(request.sampling, seed=seed)), stream
            )

    def cancel(self) -> None:
        """Nobody reads them any more. Harmless when they are over."""
        self._is_cancelled = True
        self._reading.cancel()
        self._engine.release(self)
        for stream in self._streams:
            stream.cancel()


class BestOf:
    """The `n` best of some choices, the best one first, once all of them have ended.

    The best have the highest mean logprob of the tokens that are shown; of equals the first.
    """

    def __init__(self, choices: ParallelSampling, n: int) -> None:
        self._choices, self._n = choices, n
        self.dropped_tokens = 0  # of those that are not told

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt were not computed."""
        return self._choices.cached_tokens

    @property
    def prompt(self) -> PromptLogprobs | None:
        """The prompt's tokens, if they were asked for."""
        return self._choices.prompt

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        chunks: dict[int, list[Chunk]] = {}
        async for index, chunk in self._choices:
            chunks.setdefault(index, []).append(chunk)
        ranked = sorted(sorted(chunks), key=lambda i: mean_logprob(chunks[i]), reverse=True)
        ends = [chunk.finish for index in ranked[self._n :] for chunk in chunks[index]]
        self.dropped_tokens = sum(end.generated_tokens for end in ends if end)
        for rank, index in enumerate(ranked[: self._n]):
            for chunk in chunks[index]:
                yield rank, chunk

    def cancel(self) -> None:
        """Nobody reads them any more."""
        self._choices.cancel()


class BeamSearch:
    """The likeliest texts of one prompt that a beam search finds, read as `ParallelSampling` are.

    The one text comes as it becomes certain, several together at the end. There may be fewer than
    were asked for: a constraint may have no more.
    """

    dropped_tokens = 0

    def __init__(
        self,
        engine: Engine,
        request: GenerationRequest,
        params: BeamParams,
        prompt_logprobs: int | None,
        prefixes: ScopedPrefixCache | None,
    ) -> None:
        """Begin. Raises as `Engine.open_search`."""
        self._engine, self._params = engine, params
        self._reading = Prefill(engine, request, prompt_logprobs, prefixes)
        self.is_over = False
        self._news: asyncio.Queue[tuple[int, Chunk] | CarouselError | None] = asyncio.Queue()
        engine.open_search(self)
        self._reading.begin()

    @property
    def prompt(self) -> PromptLogprobs | None:
        """The prompt's tokens, if they were asked for."""
        return self._reading.scored

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt were not computed."""
        return self._reading.cached_tokens

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        try:
            request = await self._reading.rest()
            if not self.is_over:
                self._engine.searches.enter(self, request, self._params)
            while (news := await self._news.get()) is not None:
                if isinstance(news, CarouselError):
                    raise news
                yield news
        finally:
            self.cancel()

    def deliver(self, news: Sequence[tuple[int, Chunk]], *, is_last: bool) -> None:
        """Take what is new of some texts."""
        if self.is_over:
            return
        for one in news:
            self._news.put_nowait(one)
        if is_last:
            self._end(None)

    def fail(self, error: CarouselError) -> None:
        """Hear that there is no more to come."""
        if not self.is_over:
            self._end(error)

    def cancel(self) -> None:
        """Nobody reads them any more. Harmless when they are over."""
        self._reading.cancel()
        if not self.is_over:
            self._end(None)

    def _end(self, error: CarouselError | None) -> None:
        self.is_over = True
        self._engine.close_search(self)
        self._news.put_nowait(error)


def start(
    engine: Engine,
    request: GenerationRequest,
    *,
    n: int = 1,
    best_of: int = 1,
    prompt_logprobs: int | None = None,
    prefixes: ScopedPrefixCache | None = None,
    beams: BeamParams | None = None,
) -> ParallelSampling | BestOf | BeamSearch:
    """Begin `n` texts, or `best_of` of which the `n` best are told once all have ended.

    Choice 0 is what the request says alone, to the last bit. With `prompt_logprobs` the prompt's
    own tokens come with their logprobs and as many of the likeliest, so all of it is read; else
    what `prefixes` has of it is not read again. With `beams` texts are looked for instead of drawn,
    as many as these say. Raises as `Engine.submit`.
    """
    if beams is not None:
        return BeamSearch(engine, request, beams, prompt_logprobs, prefixes)
    choices = ParallelSampling(engine, request, max(n, best_of), prompt_logprobs, prefixes)
    return BestOf(choices, n) if best_of > n else choices


def seed_of(seed: int, index: int) -> int:
    """The seed of a choice: that of a session's fork with the same number."""
    if index == 0:
        return seed
    digest = hashlib.sha1(f"{seed:016x}:{index}".encode(), usedforsecurity=False)
    return int(digest.hexdigest()[:16], 16)


def mean_logprob(chunks: Sequence[Chunk]) -> float:
    """What `best_of` compares: the model's own logprob of a token, on average."""
    logprobs = [logprob for chunk in chunks for logprob in chunk.logprobs]
    return sum(logprobs) / len(logprobs) if logprobs else float("-inf")


class Source(Protocol[T_co]):
    """What can be read once by `async for`, and left."""

    def __aiter__(self) -> AsyncIterator[T_co]:
        """What comes out of it."""
        ...

    def cancel(self) -> None:
        """Nobody reads it any more."""
        ...


async def merged(sources: Sequence[Source[T]]) -> AsyncIterator[tuple[int, T]]:
    """What comes out of several sources as it comes, each with the number of its own."""
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(READ_AHEAD)

    async def read(number: int, source: Source[T]) -> None:
        end: Exception | None = None
        try:
            async for one in source:
                await queue.put((number, one))
        except Exception as error:  # noqa: BLE001 (the reader raises it)
            end = error
        await queue.put(end)

    tasks = [asyncio.create_task(read(i, source)) for i, source in enumerate(sources)]
    n_open = len(tasks)
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
        for task in tasks:
            task.cancel()
        for source in sources:
            source.cancel()
