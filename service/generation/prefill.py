"""Prefill: the computation of a prompt up to its last token, from a cached state if any."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from service.generation.engine import Engine
from service.generation.prefix_cache import MIN_PROMPT, PrefillSnapshots, ScopedPrefixCache
from service.generation.request import PENALTY_WINDOW, GenerationRequest, Token, scoring_request
from service.generation.stream import Stream  # noqa: TC001 (as every import here)
from service.models.step import State


@dataclass(slots=True)
class PromptLogprobs:
    """The logprob of each token of a prompt, and the most likely tokens at its position.

    The first token has none, nor has a token that was not computed before the deadline.
    """

    logprobs: list[float | None] = field(default_factory=list)
    top_tokens: list[Sequence[Token]] = field(default_factory=list)

    def complete(self, n: int) -> None:
        """Fill up to `n` tokens, after a deadline."""
        n_unread = n - len(self.logprobs)
        self.logprobs += [None] * n_unread
        self.top_tokens += [()] * n_unread


class Prefill:
    """Computes a prompt up to its last token, once the capacity is checked. For the event loop."""

    def __init__(
        self,
        engine: Engine,
        request: GenerationRequest,
        prompt_logprobs: int | None,
        prefix_cache: ScopedPrefixCache | None,
    ) -> None:
        """With `prompt_logprobs` all of the prompt is computed, with so many top tokens each."""
        self._engine, self.request, self._n_top = engine, request, prompt_logprobs
        self.prompt_logprobs = None if prompt_logprobs is None else PromptLogprobs()
        is_cacheable = self.prompt_logprobs is None and request.initial_state is None
        is_cacheable = is_cacheable and len(request.prompt) >= MIN_PROMPT
        is_cacheable = is_cacheable and engine.prompts.needs_steps
        self._prefix_cache = prefix_cache if is_cacheable else None
        self._cached = self._prefix_cache.longest(request.prompt) if self._prefix_cache else None
        self._stream: Stream | None = None

    @property
    def is_separate(self) -> bool:
        """Whether the prompt has to be computed by a request of its own."""
        return self.prompt_logprobs is not None or self._prefix_cache is not None

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt are in the cached state."""
        return self._cached.position if self._cached else 0

    def begin(self) -> None:
        """Submit the part of the prompt that is not cached."""
        n_left = len(self.request.prompt) - 1 - self.cached_tokens
        if self.prompt_logprobs is not None or (n_left and self._engine.prompts.needs_steps):
            request = self._from(self._cached)
            n_prompt = len(request.prompt) if self.prompt_logprobs is None else 1
            prompt, scored = request.prompt[:n_prompt], request.prompt[n_prompt:]
            top, deadline_s = self._n_top or 0, request.deadline_s
            request = scoring_request(
                prompt,
                scored,
                request.initial_state,
                top_tokens=top,
                deadline_s=deadline_s,
                owner=request.owner,
                steer=request.steer,
            )
            request = replace(request, timing=self.request.timing)
            self._stream = self._engine.open_stream(request)

    async def rest(self) -> GenerationRequest:
        """Wait for the prefill; return the request that continues it with the last token.

        If the deadline passes before, more of the prompt is left. Raises as `Stream`.
        """
        prompt = self.request.prompt
        snapshots = PrefillSnapshots(len(prompt))
        try:
            await self._read(snapshots)
        finally:
            if self._prefix_cache is not None:
                self._prefix_cache.keep(prompt, snapshots)
        if self.prompt_logprobs is not None:
            self.prompt_logprobs.complete(len(prompt))
        return self._engine.prompts.read(self._from(snapshots.last or self._cached))

    def cancel(self) -> None:
        """Stop the prefill. Does nothing if it has finished."""
        if self._stream is not None:
            self._stream.cancel()

    async def _read(self, snapshots: PrefillSnapshots) -> None:
        if self.prompt_logprobs is not None:
            self.prompt_logprobs.logprobs.append(None)
            self.prompt_logprobs.top_tokens.append(())
        if self._stream is None:
            return
        async for chunk in self._stream:
            if chunk.state is not None:
                snapshots.add(chunk.state)
            if self.prompt_logprobs is not None:
                self.prompt_logprobs.logprobs += chunk.logprobs
                self.prompt_logprobs.top_tokens += chunk.top_tokens or [()] * len(chunk.tokens)

    def _from(self, state: State | None) -> GenerationRequest:
        """The request continued from a state that has consumed a part of its prompt."""
        whole = self.request
        if state is None:
            return whole
        consumed = state.position - (whole.initial_state.position if whole.initial_state else 0)
        prompt = whole.prompt
        context = (*whole.penalty_context, *prompt[max(0, consumed - PENALTY_WINDOW) : consumed])
        return replace(
            whole, prompt=prompt[consumed:], initial_state=state, penalty_context=context
        )
