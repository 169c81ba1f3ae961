"""Several texts from one prompt: it is fed once, and its state is copied for each of them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from service.generation.engine import Engine, Stream
from service.generation.prefixes import SHORTEST, Prefixes, Trail
from service.generation.request import (
    PENALTY_WINDOW,
    Chunk,
    GenerationRequest,
    SamplingParams,
    Token,
)
from service.models.step import State

READ_AHEAD = 64
"""Chunks of several texts that wait for the reader."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(slots=True)
class Scored:
    """A prompt's tokens as the model foretold them; the first of a text has no logprob.

    Nor has one that a deadline has left unread.
    """

    logprobs: list[float | None] = field(default_factory=list)
    top_tokens: list[Sequence[Token]] = field(default_factory=list)

    def complete(self, n: int) -> None:
        """Let all `n` tokens be there, where the time was up before they were read."""
        n_unread = n - len(self.logprobs)
        self.logprobs += [None] * n_unread
        self.top_tokens += [()] * n_unread


class Choices:
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
        prefixes: Prefixes | None,
    ) -> None:
        """Begin. Raises as `Engine.submit`."""
        self._engine, self._request, self._n = engine, request, n
        self.prompt: Scored | None = None if prompt_logprobs is None else Scored()
        is_kept = prompt_logprobs is None and len(request.prompt) >= SHORTEST
        self._prefixes = prefixes if is_kept and request.origin is None else None
        self._known = self._prefixes.longest(request.prompt) if self._prefixes else None
        self._is_cancelled = False
        self._streams: list[Stream] = []
        self._feed: Stream | None = None
        if n == 1 and self.prompt is None and self._prefixes is None:
            self._streams = [engine.submit(request)]
        elif self.prompt is None and self.cached_tokens == len(request.prompt) - 1:
            engine.check_room()
            self._fork(self._known)
        else:
            feeding = _feeding(self._rest(self._known), prompt_logprobs)
            self._feed = engine.submit(replace(feeding, deadline_s=request.deadline_s))

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt were not computed."""
        return self._known.position if self._known else 0

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        if self._feed is not None:
            await self._read_prompt(self._feed)
        if len(self._streams) == 1:
            async for chunk in self._streams[0]:
                yield 0, chunk
            return
        async for news in merged(self._streams):
            yield news

    async def _read_prompt(self, feed: Stream) -> None:
        """Read the prompt, all but its last token, then let every choice go on from there."""
        trail = Trail(len(self._request.prompt))
        if self.prompt is not None:
            self.prompt.logprobs.append(None)
            self.prompt.top_tokens.append(())
        try:
            async for chunk in feed:
                if chunk.state is not None:
                    trail.add(chunk.state)
                if self.prompt is not None:
                    self.prompt.logprobs += chunk.logprobs
                    self.prompt.top_tokens += chunk.top_tokens or [()] * len(chunk.tokens)
        finally:
            if self._prefixes is not None:
                self._prefixes.keep(self._request.prompt, trail)
        if self.prompt is not None:
            self.prompt.complete(len(self._request.prompt))
        if not self._is_cancelled:
            self._fork(trail.last)  # where the time is up it is on the way, and no text comes of it

    def _fork(self, state: State | None) -> None:
        """Let every choice go on from a state before the prompt's last token."""
        request = self._rest(state)
        for index in range(self._n):
            stream = Stream(self._engine)
            self._streams.append(stream)
            seed = seed_of(request.sampling.seed, index)
            self._engine.enter(
                replace(request, sampling=replace(request.sampling, seed=seed)), stream
            )

    def _rest(self, state: State | None) -> GenerationRequest:
        """The request as it goes on from a state that has consumed some of its prompt."""
        whole = self._request
        if state is None:
            return whole
        consumed = state.position - (whole.origin.position if whole.origin else 0)
        prompt = whole.prompt
        recent = (*whole.recent, *prompt[max(0, consumed - PENALTY_WINDOW) : consumed])
        return replace(whole, prompt=prompt[consumed:], origin=state, recent=recent)

    def cancel(self) -> None:
        """Nobody reads them any more. Harmless when they are over."""
        self._is_cancelled = True
        for stream in (self._feed, *self._streams):
            if stream is not None:
                stream.cancel()


class Best:
    """The `n` best of some choices, the best one first, once all of them have ended.

    The best have the highest mean logprob of the tokens that are shown; of equals the first.
    """

    def __init__(self, choices: Choices, n: int) -> None:
        self._choices, self._n = choices, n
        self.dropped_tokens = 0  # of those that are not told

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt were not computed."""
        return self._choices.cached_tokens

    @property
    def prompt(self) -> Scored | None:
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


def begin(
    engine: Engine,
    request: GenerationRequest,
    *,
    n: int = 1,
    best_of: int = 1,
    prompt_logprobs: int | None = None,
    prefixes: Prefixes | None = None,
) -> Choices | Best:
    """Begin `n` texts, or `best_of` of which the `n` best are told once all have ended.

    Choice 0 is what the request says alone, to the last bit. With `prompt_logprobs` the prompt's
    own tokens come with their logprobs and as many of the likeliest, so all of it is read; else
    what `prefixes` has of it is not read again. Raises as `Engine.submit`.
    """
    choices = Choices(engine, request, max(n, best_of), prompt_logprobs, prefixes)
    return Best(choices, n) if best_of > n else choices


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


def _feeding(request: GenerationRequest, prompt_logprobs: int | None) -> GenerationRequest:
    """What feeds the prompt, all but its last token, and tells of its tokens if that is wanted."""
    plain = SamplingParams(seed=0, temperature=0.0)
    if prompt_logprobs is None:
        return GenerationRequest(request.prompt, 0, plain, origin=request.origin, keeps_state=True)
    rest = request.prompt[1:]
    return GenerationRequest(
        request.prompt[:1],
        len(rest),
        plain,
        top_tokens=prompt_logprobs,
        origin=request.origin,
        replayed=rest,
        keeps_state=True,
    )
