"""Scoring of a given text: the logprob of each token, and their sum."""

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from service.errors import UnknownCharacter
from service.generation.engine import Engine
from service.generation.request import Chunk, scoring_request
from service.generation.stream import Stream  # noqa: TC001 (as every import here)
from service.models.step import State
from service.models.tokenizers.tokenizer import Tokenizer

PIECE_CHARACTERS = 4_096
"""Characters in the engine at a time, which bounds the memory for a long text."""


@dataclass(frozen=True, slots=True)
class Score:
    """The sums of the text that has been scored so far. A value that is undefined is None."""

    characters: int = 0  # those with a logprob
    size_bytes: int = 0  # the same in UTF-8
    nats: float = 0.0

    @property
    def bits_per_character(self) -> float | None:
        """Mean bits of the characters that have a logprob."""
        return self.nats / math.log(2) / self.characters if self.characters else None

    @property
    def bits_per_byte(self) -> float | None:
        """The same bits per byte of UTF-8."""
        return self.nats / math.log(2) / self.size_bytes if self.size_bytes else None

    @property
    def perplexity(self) -> float | None:
        """exp(nats per character)."""
        try:
            return math.exp(self.nats / self.characters)
        except (ZeroDivisionError, OverflowError):
            return None


class Scorer:
    """Scores one text, given whole or in pieces. Belongs to the engine's event loop.

    The text continues `initial_state` and the `pending` tokens, which this state has not consumed.
    Without pending tokens nothing predicts the first token: its logprob is NaN and is not summed.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        initial_state: State | None = None,
        pending: Sequence[int] = (),
        *,
        piece_characters: int = PIECE_CHARACTERS,
    ) -> None:
        """Raises as `Engine.check_capacity`."""
        engine.check_capacity()
        self._reservation = engine.reserve(0)
        self._engine, self._tokenizer = engine, tokenizer
        self._state, self._pending = initial_state, tuple(pending)
        self._piece_characters = piece_characters
        self._n_scored = 0  # characters
        self._stream: Stream | None = None
        self._is_cancelled = False
        self.score = Score()

    async def read(self, text: str) -> AsyncIterator[Chunk]:
        """Score the next part of the text; `score` counts each chunk. Raises UnknownCharacter."""
        for first in range(0, len(text), self._piece_characters):
            piece = text[first : first + self._piece_characters]
            try:
                tokens = self._tokenizer.encode(piece)
            except UnknownCharacter as error:
                if not self._n_scored:
                    raise
                raise UnknownCharacter(f"after {self._n_scored} characters: {error}") from error
            is_whole = len(tokens) == len(piece)  # else the tokenizer skips characters
            known = piece if is_whole else self._tokenizer.decode(tokens)
            async for chunk in self._read(tokens, known):
                yield chunk
            self._n_scored += len(piece)

    def cancel(self) -> None:
        """Stop scoring and free the reservation. Has to be called at the end in any case."""
        self._is_cancelled = True
        self._reservation.free()
        if self._stream is not None:
            self._stream.cancel()

    async def _read(self, tokens: Sequence[int], text: str) -> AsyncIterator[Chunk]:
        if tokens and not self._pending:
            self._pending = (tokens[0],)
            yield Chunk(self._pending, (math.nan,))
            tokens, text = tokens[1:], text[1:]
        if not tokens or self._is_cancelled:
            return
        request = scoring_request(self._pending, tokens, self._state)
        self._pending = (tokens[-1],)
        self._stream = stream = self._engine.open_stream(request)
        try:
            async for chunk in stream:
                self._state = chunk.state
                if chunk.tokens:  # else it has consumed the pending tokens
                    self._add(text[: len(chunk.tokens)], chunk.logprobs)
                    text = text[len(chunk.tokens) :]
                    yield chunk
        finally:
            stream.cancel()

    def _add(self, text: str, logprobs: Sequence[float]) -> None:
        old, nats = self.score, self.score.nats
        for logprob in logprobs:  # one by one, so that the sum does not depend on the bursts
            nats -= logprob
        self.score = Score(old.characters + len(text), old.size_bytes + len(text.encode()), nats)
