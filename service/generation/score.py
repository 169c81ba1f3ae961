"""What a model thinks of a text that is there: a logprob for each token, and what they sum to."""

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from service.errors import UnknownCharacter
from service.generation.engine import Engine, Stream
from service.generation.request import Chunk, GenerationRequest, SamplingParams
from service.models.step import State
from service.models.tokenizer import Tokenizer

PIECE = 4_096
"""Characters in the engine at a time: what a text takes there, however long it is."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a text sums to, as far as it has been read. What would be no number is None."""

    characters: int = 0  # those that have a logprob
    size_bytes: int = 0  # the same in UTF-8
    nats: float = 0.0

    @property
    def bits_per_character(self) -> float | None:
        """Of the characters that have a logprob."""
        return self.nats / math.log(2) / self.characters if self.characters else None

    @property
    def bits_per_byte(self) -> float | None:
        """The same bits a byte of UTF-8."""
        return self.nats / math.log(2) / self.size_bytes if self.size_bytes else None

    @property
    def perplexity(self) -> float | None:
        """exp(nats a character)."""
        try:
            return math.exp(self.nats / self.characters)
        except (ZeroDivisionError, OverflowError):
            return None


class Scorer:
    """Reads one text, whole or in pieces. Belongs to the engine's event loop.

    It goes on from `origin` and the tokens that this state has not consumed. Where there are none,
    nothing has foretold the first token: its logprob is NaN, and no sum counts it.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        origin: State | None = None,
        ready: Sequence[int] = (),
    ) -> None:
        """Raises as `Engine.check_capacity`."""
        engine.check_capacity()
        self._reservation = engine.reserve(0)
        self._engine, self._tokenizer = engine, tokenizer
        self._state, self._ready = origin, tuple(ready)
        self._read_before = 0  # characters
        self._stream: Stream | None = None
        self._is_cancelled = False
        self.score = Score()

    async def read(self, text: str) -> AsyncIterator[Chunk]:
        """Read on; each chunk has the tokens of a burst, and then `score` counts them.

        Raises:
            UnknownCharacter, Generation, Draining.

        """
        for first in range(0, len(text), PIECE):
            piece = text[first : first + PIECE]
            tokens = self._encode(piece)
            is_whole = len(tokens) == len(piece)  # else the tokenizer has skipped some
            async for chunk in self._read(tokens, piece if is_whole else None):
                yield chunk
            self._read_before += len(piece)

    def cancel(self) -> None:
        """Stop reading and free what the engine holds. Must be called at the end in any case."""
        self._is_cancelled = True
        self._reservation.free()
        if self._stream is not None:
            self._stream.cancel()

    def _encode(self, piece: str) -> list[int]:
        try:
            return self._tokenizer.encode(piece)
        except UnknownCharacter as error:
            if not self._read_before:
                raise
            raise UnknownCharacter(f"after {self._read_before} characters: {error}") from error

    async def _read(self, tokens: Sequence[int], said: str | None) -> AsyncIterator[Chunk]:
        text = self._tokenizer.decode(tokens) if said is None else said
        if tokens and not self._ready:
            self._ready = (tokens[0],)
            yield Chunk(self._ready, (math.nan,))
            tokens, text = tokens[1:], text[1:]
        if not tokens or self._is_cancelled:
            return
        request = GenerationRequest(
            self._ready,
            len(tokens),
            SamplingParams(0, temperature=0.0),
            initial_state=self._state,
            forced_tokens=tokens,
            return_state=True,
        )
        self._ready = (tokens[-1],)
        self._stream = stream = self._engine.open_stream(request)
        try:
            async for chunk in stream:
                self._state = chunk.state
                if chunk.tokens:  # else it has consumed what lay ready
                    self._add(text[: len(chunk.tokens)], chunk.logprobs)
                    text = text[len(chunk.tokens) :]
                    yield chunk
        finally:
            stream.cancel()

    def _add(self, text: str, logprobs: Sequence[float]) -> None:
        old, nats = self.score, self.score.nats
        for logprob in logprobs:  # one by one: the sum does not depend on where bursts ended
            nats -= logprob
        self.score = Score(old.characters + len(text), old.size_bytes + len(text.encode()), nats)
