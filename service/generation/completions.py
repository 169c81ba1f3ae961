"""Completions of one or more prompts: a prompt is processed once, and its state is copied."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from service.errors import CarouselError
from service.generation.beams import BeamParams
from service.generation.engine import Engine
from service.generation.prefill import Prefill, PromptLogprobs
from service.generation.prefix_cache import ScopedPrefixCache
from service.generation.request import Chunk, GenerationRequest
from service.generation.reservation import Reservation  # noqa: TC001 (as every import here)
from service.generation.stream import Stream  # noqa: TC001 (as every import here)

READ_AHEAD = 64  # chunks of several completions that may wait for the reader

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the returned completions do not show."""

    cached_tokens: int = 0  # prompt tokens whose state was in the prefix cache
    discarded_tokens: int = 0  # generated tokens of completions that are not returned


class CompletionStream(Protocol):
    """Completions that are generated together, read once with `async for` as (index, chunk).

    Belongs to the engine's event loop. Reading raises as `Stream`. There may be fewer completions
    than were requested: a beam search under a constraint may not find more.
    """

    @property
    def usage(self) -> Usage:
        """Tokens that the completions do not show; final when the stream has ended."""

    @property
    def generated_tokens(self) -> int:
        """How many tokens were sampled so far, those that nobody reads included."""

    def prompt_logprobs(self, index: int) -> PromptLogprobs | None:
        """The prompt logprobs of a completion, if requested; final before its first chunk."""

    def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        """The chunks of all completions as they are generated."""

    def cancel(self) -> None:
        """Stop generating. Does nothing if the stream has finished."""


def start(
    engine: Engine,
    requests: Sequence[GenerationRequest],
    *,
    n: int = 1,
    best_of: int = 1,
    prompt_logprobs: int | None = None,
    prefix_cache: ScopedPrefixCache | None = None,
    beams: BeamParams | None = None,
) -> CompletionStream:
    """Start `n` completions of each request, or none of them.

    With `best_of` > `n`, `best_of` are sampled and the `n` best are returned after their end; with
    `beams` a beam search finds `beams.n`. The first completion of a request is what the request
    gives alone, to the last bit. The completions of the second request are numbered after those of
    the first. With `prompt_logprobs` all of a prompt is processed, and its tokens come with their
    logprobs and so many of the most likely tokens; else `prefix_cache` is used. Raises as
    `PromptReader.check` and `Engine.check_capacity`.
    """
    for request in requests:
        n_before = request.initial_state.position if request.initial_state else 0
        engine.prompts.check(n_before + len(request.prompt))
    n_sampled = max(n, best_of)
    owner = requests[0].owner if requests else ""
    if len(requests) > 1 or beams:  # else the stream's own reservation checks it
        engine.check_capacity(len(requests) * (1 if beams else n_sampled), owner)
    streams: list[ParallelSampling | BeamSearch] = []
    with contextlib.ExitStack() as undo:
        for request in requests:
            prefill = Prefill(engine, request, prompt_logprobs, prefix_cache)
            streams.append(
                BeamSearch(engine, prefill, beams)
                if beams
                else ParallelSampling(engine, prefill, n_sampled, is_alone=len(requests) == 1)
            )
            undo.callback(streams[-1].cancel)
        for stream in streams:
            stream.begin()
        undo.pop_all()
    if best_of > n and not beams:
        return _joined([BestOf(stream, n) for stream in streams], n)
    return _joined(streams, beams.n if beams else n)


def _joined(streams: Sequence[CompletionStream], n: int) -> CompletionStream:
    return streams[0] if len(streams) == 1 else SeveralPrompts(streams, n)


class ParallelSampling:
    """`n` sampled completions of one prompt, each with a seed of its own."""

    def __init__(self, engine: Engine, prefill: Prefill, n: int, *, is_alone: bool = False) -> None:
        """Reserve capacity for `n`. Raises as `Engine.check_capacity`.

        The only sample of an only prompt begins at once, so its capacity is checked and not kept.
        """
        self._engine, self._prefill, self._n = engine, prefill, n
        self._reservation: Reservation | None = None
        if is_alone and n == 1 and not prefill.is_separate:
            engine.check_capacity(1, prefill.request.owner)
        else:
            self._reservation = engine.reserve(n, prefill.request.owner)
        self._is_cancelled = False
        self._streams: list[Stream] = []

    def begin(self) -> None:
        """Submit the prompt."""
        if self._n == 1 and not self._prefill.is_separate:
            self._start_samples(self._prefill.request)
        else:
            self._prefill.begin()

    @property
    def usage(self) -> Usage:
        """The tokens of the prompt that were cached."""
        return Usage(self._prefill.cached_tokens)

    @property
    def generated_tokens(self) -> int:
        """How many tokens were sampled so far."""
        return sum(stream.generated_tokens for stream in self._streams)

    def prompt_logprobs(self, _: int) -> PromptLogprobs | None:
        """The prompt logprobs, if requested."""
        return self._prefill.prompt_logprobs

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        if not self._streams:
            try:
                self._start_samples(await self._prefill.rest())
            finally:
                self._free()
        try:
            if len(self._streams) == 1:  # the common case, without a queue and one generator less
                async for chunk in self._streams[0]:
                    yield 0, chunk
            else:
                async for index, chunk in merged(self._streams):
                    yield index, chunk
        finally:
            self.cancel()

    def _start_samples(self, request: GenerationRequest) -> None:
        """Submit every completion, from the prompt's last token on."""
        try:
            for index in range(0 if self._is_cancelled else self._n):
                self._streams.append(self._engine.open_stream(with_seed(request, index)))
        finally:
            self._free()

    def _free(self) -> None:
        if self._reservation is not None:
            self._reservation.free()

    def cancel(self) -> None:
        """Stop generating. Does nothing if the stream has finished."""
        self._is_cancelled = True
        self._prefill.cancel()
        self._free()
        for stream in self._streams:
            stream.cancel()


class BestOf:
    """The `n` best of the completions of one prompt, the best first, after all have ended.

    The best have the highest mean logprob of the tokens that are shown; ties go to the lower index.
    """

    def __init__(self, completions: CompletionStream, n: int) -> None:
        self._completions, self._n = completions, n
        self._discarded_tokens = 0

    @property
    def usage(self) -> Usage:
        """The cached tokens, and the generated tokens of the completions that are left out."""
        return replace(self._completions.usage, discarded_tokens=self._discarded_tokens)

    @property
    def generated_tokens(self) -> int:
        """How many tokens were sampled so far."""
        return self._completions.generated_tokens

    def prompt_logprobs(self, index: int) -> PromptLogprobs | None:
        """The prompt logprobs, if requested."""
        return self._completions.prompt_logprobs(index)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        chunks: dict[int, list[Chunk]] = {}
        async for index, chunk in self._completions:
            chunks.setdefault(index, []).append(chunk)
        ranked = sorted(sorted(chunks), key=lambda i: mean_logprob(chunks[i]), reverse=True)
        ends = [chunk.finish for index in ranked[self._n :] for chunk in chunks[index]]
        self._discarded_tokens = sum(end.generated_tokens for end in ends if end)
        for rank, index in enumerate(ranked[: self._n]):
            for chunk in chunks[index]:
                yield rank, chunk

    def cancel(self) -> None:
        """Stop generating. Does nothing if the stream has finished."""
        self._completions.cancel()


class BeamSearch:
    """The most likely completions of one prompt that a beam search finds, the best first.

    A single completion comes as soon as its tokens are certain, several come together at the end.
    """

    def __init__(self, engine: Engine, prefill: Prefill, params: BeamParams) -> None:
        """Admit the search. Raises as `Engine.admit_beam_search`."""
        self._engine, self._prefill, self._params = engine, prefill, params
        self._updates: asyncio.Queue[tuple[int, Chunk] | CarouselError | None] = asyncio.Queue()
        self.is_over, self._n_delivered = False, 0
        engine.admit_beam_search(self, prefill.request.owner)

    def begin(self) -> None:
        """Submit the prompt."""
        self._prefill.begin()

    @property
    def usage(self) -> Usage:
        """The tokens of the prompt that were cached."""
        return Usage(self._prefill.cached_tokens)

    @property
    def generated_tokens(self) -> int:
        """How many tokens were sampled so far."""
        return self._n_delivered

    def prompt_logprobs(self, _: int) -> PromptLogprobs | None:
        """The prompt logprobs, if requested."""
        return self._prefill.prompt_logprobs

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        try:
            request = await self._prefill.rest()
            if not self.is_over:
                self._engine.beam_worker.submit(self, request, self._params)
            while (update := await self._updates.get()) is not None:
                if isinstance(update, CarouselError):
                    raise update
                yield update
        finally:
            self.cancel()

    def deliver(self, updates: Sequence[tuple[int, Chunk]], *, is_last: bool) -> None:
        """Receive the new chunks of some completions."""
        if self.is_over:
            return
        for update in updates:
            self._engine.stats.beam_tokens += len(update[1].tokens)
            self._n_delivered += len(update[1].tokens)
            self._updates.put_nowait(update)
        if is_last:
            self._end(None)

    def fail(self, error: CarouselError) -> None:
        """End with an error. Does nothing after the end."""
        if not self.is_over:
            self._end(error)

    def cancel(self) -> None:
        """Stop generating. Does nothing if the stream has finished."""
        self._prefill.cancel()
        if not self.is_over:
            self._end(None)

    def _end(self, error: CarouselError | None) -> None:
        self.is_over = True
        self._engine.end_beam_search(self)
        self._updates.put_nowait(error)


@dataclass(frozen=True, slots=True)
class SeveralPrompts:
    """The completions of several prompts, `n` each: those of the second prompt come second."""

    streams: Sequence[CompletionStream]
    n: int

    @property
    def usage(self) -> Usage:
        """The sums over all prompts."""
        usages = [stream.usage for stream in self.streams]
        return Usage(
            sum(usage.cached_tokens for usage in usages),
            sum(usage.discarded_tokens for usage in usages),
        )

    @property
    def generated_tokens(self) -> int:
        """How many tokens were sampled so far."""
        return sum(stream.generated_tokens for stream in self.streams)

    def prompt_logprobs(self, index: int) -> PromptLogprobs | None:
        """The prompt logprobs of a completion, if requested."""
        return self.streams[index // self.n].prompt_logprobs(index % self.n)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        try:
            async for i, (index, chunk) in merged(self.streams):
                yield i * self.n + index, chunk
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop generating. Does nothing if the stream has finished."""
        for stream in self.streams:
            stream.cancel()


@dataclass(frozen=True, slots=True)
class SingleCompletion:
    """One generation, read from any iterable of chunks, as a `CompletionStream`."""

    chunks: AsyncIterable[Chunk]
    cancel: Callable[[], None]
    usage: Usage = Usage()

    @property
    def generated_tokens(self) -> int:
        """How many tokens were sampled so far."""
        return 0  # of a turn, which counts them itself

    def prompt_logprobs(self, _: int) -> None:
        """There are none."""

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        async for chunk in self.chunks:
            yield 0, chunk


def seed_of(seed: int, index: int) -> int:
    """The seed of a completion: that of a session's fork with the same number."""
    if index == 0:
        return seed
    digest = hashlib.sha1(f"{seed:016x}:{index}".encode(), usedforsecurity=False)
    return int(digest.hexdigest()[:16], 16)


def with_seed(request: GenerationRequest, index: int) -> GenerationRequest:
    """The request of one of the completions: only the seed differs from the first one's."""
    if index == 0:
        return request
    seed = seed_of(request.sampling.seed, index)
    return replace(request, sampling=replace(request.sampling, seed=seed))


def mean_logprob(chunks: Sequence[Chunk]) -> float:
    """The mean of the model's own logprobs of a completion's tokens, which `best_of` compares."""
    logprobs = [logprob for chunk in chunks for logprob in chunk.logprobs]
    return sum(logprobs) / len(logprobs) if logprobs else float("-inf")


async def merged(sources: Sequence[AsyncIterable[T]]) -> AsyncIterator[tuple[int, T]]:
    """The items of several sources as they come, each with the index of its source."""
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(READ_AHEAD)

    async def read(index: int, source: AsyncIterable[T]) -> None:
        end: Exception | None = None
        try:
            async for item in source:
                await queue.put((index, item))
        except Exception as error:  # noqa: BLE001 (the reader raises it)
            end = error
        await queue.put(end)

    tasks = [asyncio.create_task(read(i, source)) for i, source in enumerate(sources)]
    n_open = len(tasks)
    try:
        while n_open:
            received = await queue.get()
            if isinstance(received, Exception):
                raise received
            if received is None:
                n_open -= 1
            else:
                yield received
    finally:
        for task in tasks:
            task.cancel()
