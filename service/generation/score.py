"""Scoring of a given text: the logprob of each token, and their sum."""

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from service.errors import UnknownCharacter, Validation
from service.generation.engine import Engine
from service.generation.request import Chunk, scoring_request
from service.generation.stream import Stream  # noqa: TC001 (as every import here)
from service.models.steering import Steering
from service.models.step import State
from service.models.tokenizers.tokenizer import Tokenizer

MAX_WORD_CHARACTERS = 1_000_000
PIECE_CHARACTERS = 4_096
"""Characters in the engine at a time, which bounds the memory for a long text."""


@dataclass(frozen=True, slots=True)
class Score:
    """The sums of the text that has been scored so far. A value that is undefined is None."""

    characters: int = 0  # those with a logprob
    size_bytes: int = 0  # the same in UTF-8
    nats: float = 0.0
    token_count: int = 0  # those with a logprob

    @property
    def bits_per_character(self) -> float | None:
        """Mean bits of the characters that have a logprob."""
        return self.nats / math.log(2) / self.characters if self.characters else None

    @property
    def bits_per_byte(self) -> float | None:
        """The same bits per byte of UTF-8."""
        return self.nats / math.log(2) / self.size_bytes if self.size_bytes else None

    @property
    def nats_per_token(self) -> float | None:
        """Mean nats of the tokens that have a logprob."""
        return self.nats / self.token_count if self.token_count else None

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
        owner: str = "",
        steer: Steering = (),
        piece_characters: int = PIECE_CHARACTERS,
    ) -> None:
        """Raises as `Engine.check_capacity`."""
        engine.check_capacity(1, owner)
        self._reservation = engine.reserve(0, owner)
        self._owner, self._steer = owner, steer
        self._engine, self._tokenizer = engine, tokenizer
        self._state, self._pending = initial_state, tuple(pending)
        self._piece_characters = piece_characters
        self._is_plain = not tokenizer.options  # each character is a token, or is skipped
        self._skipped = ""  # the text between the last token and the next one
        self._rest = ""  # a text that has no blank after it yet, so that a word may go on
        self._n_scored = 0  # characters
        self._stream: Stream | None = None
        self._is_cancelled = False
        self.score = Score()

    async def read(self, text: str, *, is_last: bool = True) -> AsyncIterator[Chunk]:
        """Score the next part of the text; `score` counts each chunk. Raises UnknownCharacter.

        Where tokens are longer than a character, a text is cut before a blank only, and the end of
        a part waits for the next one unless this one `is_last`.
        """
        async for chunk in (
            self._read_characters(text)
            if self._is_plain
            else self._read_words(text, is_last=is_last)
        ):
            yield chunk

    async def _read_words(self, text: str, *, is_last: bool) -> AsyncIterator[Chunk]:
        self._rest += text
        while self._rest and not self._is_cancelled:
            n = len(self._rest)
            if n > self._piece_characters or not is_last:
                n = last_cut(self._rest, self._piece_characters)
                if not n and len(self._rest) > MAX_WORD_CHARACTERS:
                    raise Validation(
                        f"the text has {len(self._rest)} characters without a blank after "
                        f"{self._n_scored}; at most {MAX_WORD_CHARACTERS} are scored"
                    )
                if not n and not is_last:
                    return
                n = n or len(self._rest)
            piece, self._rest = self._rest[:n], self._rest[n:]
            found, end, texts = self._tokenizer.encode_with_offsets(piece), 0, []
            for _, _, stop in found:
                texts.append(self._skipped + piece[end:stop])
                end, self._skipped = max(end, stop), ""
            self._skipped += piece[end:]
            async for chunk in self._read([token for token, _, _ in found], texts):
                yield chunk
            self._n_scored += n

    async def _read_characters(self, text: str) -> AsyncIterator[Chunk]:
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

    async def _read(self, tokens: Sequence[int], text: Sequence[str]) -> AsyncIterator[Chunk]:
        """Score tokens; `text` has the part of the text of each."""
        if tokens and not self._pending:
            self._pending = (tokens[0],)
            yield Chunk(self._pending, (math.nan,))
            tokens, text = tokens[1:], text[1:]
        if not tokens or self._is_cancelled:
            return
        request = scoring_request(
            self._pending, tokens, self._state, owner=self._owner, steer=self._steer
        )
        self._pending = (tokens[-1],)
        self._stream = stream = self._engine.open_stream(request)
        try:
            async for chunk in stream:
                self._state = chunk.state
                if chunk.tokens:  # else it has consumed the pending tokens
                    self._add("".join(text[: len(chunk.tokens)]), chunk.logprobs)
                    text = text[len(chunk.tokens) :]
                    yield chunk
        finally:
            stream.cancel()

    def _add(self, text: str, logprobs: Sequence[float]) -> None:
        old, nats = self.score, self.score.nats
        for logprob in logprobs:  # one by one, so that the sum does not depend on the bursts
            nats -= logprob
        self.score = Score(
            old.characters + len(text),
            old.size_bytes + len(text.encode()),
            nats,
            old.token_count + len(logprobs),
        )


def last_cut(text: str, limit: int) -> int:
    """Return where to cut a text: before a blank that follows a word, within `limit` if possible.

    Returns 0 if there is no such place.
    """
    for n in range(min(limit, len(text) - 1), 0, -1):
        if text[n].isspace() and not text[n - 1].isspace():
            return n
    for n in range(limit + 1, len(text)):
        if text[n].isspace() and not text[n - 1].isspace():
            return n
    return 0
