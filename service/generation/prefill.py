"""A prompt on its way to its last token: read once, and not again as far as it is known."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from service.generation.engine import Engine
from service.generation.prefix_cache import SHORTEST, PrefillSnapshots, ScopedPrefixCache
from service.generation.request import (
    PENALTY_WINDOW,
    GenerationRequest,
    SamplingParams,
    Token,
)
from service.generation.stream import Stream  # noqa: TC001 (as every import here)
from service.models.step import State


@dataclass(slots=True)
class PromptLogprobs:
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


class Prefill:
    """Brings a request to its prompt's last token. Belongs to the engine's event loop.

    Whoever makes one has seen that the engine has room.
    """

    def __init__(
        self,
        engine: Engine,
        request: GenerationRequest,
        prompt_logprobs: int | None,
        prefix_cache: ScopedPrefixCache | None,
    ) -> None:
        """With `prompt_logprobs` the prompt is `scored`, so all of it is read."""
        self._engine, self.request, self._n_top = engine, request, prompt_logprobs
        self.prompt_logprobs = None if prompt_logprobs is None else PromptLogprobs()
        is_kept = self.prompt_logprobs is None and request.initial_state is None
        is_kept = is_kept and len(request.prompt) >= SHORTEST
        self._prefix_cache = prefix_cache if is_kept else None
        self._known = self._prefix_cache.longest(request.prompt) if self._prefix_cache else None
        self._stream: Stream | None = None

    @property
    def is_separate(self) -> bool:
        """Whether something is won or told by reading it before, and not with, what follows."""
        return self.prompt_logprobs is not None or self._prefix_cache is not None

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt are not read again."""
        return self._known.position if self._known else 0

    def begin(self) -> None:
        """Let the engine read what is not known."""
        if self.prompt_logprobs is not None or self.cached_tokens < len(self.request.prompt) - 1:
            self._stream = self._engine.open_stream(self._prefill_request())

    async def rest(self) -> GenerationRequest:
        """The request with the prompt's last token alone, once the others are read.

        Where a deadline comes before, more of the prompt is left. Raises as `Stream`.
        """
        prompt = self.request.prompt
        trail = PrefillSnapshots(len(prompt))
        try:
            await self._read(trail)
        finally:
            if self._prefix_cache is not None:
                self._prefix_cache.keep(prompt, trail)
        if self.prompt_logprobs is not None:
            self.prompt_logprobs.complete(len(prompt))
        return self._from(trail.last or self._known)

    def cancel(self) -> None:
        """Read no further. Harmless when it is over."""
        if self._stream is not None:
            self._stream.cancel()

    async def _read(self, trail: PrefillSnapshots) -> None:
        if self.prompt_logprobs is not None:
            self.prompt_logprobs.logprobs.append(None)
            self.prompt_logprobs.top_tokens.append(())
        if self._stream is None:
            return
        async for chunk in self._stream:
            if chunk.state is not None:
                trail.add(chunk.state)
            if self.prompt_logprobs is not None:
                self.prompt_logprobs.logprobs += chunk.logprobs
                self.prompt_logprobs.top_tokens += chunk.top_tokens or [()] * len(chunk.tokens)

    def _prefill_request(self) -> GenerationRequest:
        """What feeds the prompt, all but its last token, and tells of it where that is wanted."""
        request = self._from(self._known)
        scored = request.prompt[1:] if self.prompt_logprobs is not None else ()
        return GenerationRequest(
            request.prompt[:1] if self.prompt_logprobs is not None else request.prompt,
            len(scored),
            SamplingParams(seed=0, temperature=0.0),
            top_tokens=self._n_top or 0,
            initial_state=request.initial_state,
            forced_tokens=scored,
            return_state=True,
            deadline_s=request.deadline_s,
        )

    def _from(self, state: State | None) -> GenerationRequest:
        """The request as it goes on from a state that has consumed some of its prompt."""
        whole = self.request
        if state is None:
            return whole
        consumed = state.position - (whole.initial_state.position if whole.initial_state else 0)
        prompt = whole.prompt
        recent = (*whole.penalty_context, *prompt[max(0, consumed - PENALTY_WINDOW) : consumed])
        return replace(whole, prompt=prompt[consumed:], initial_state=state, penalty_context=recent)
