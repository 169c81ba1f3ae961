"""Stop strings: tokens are held back until it is decided whether they belong to one.

A stop string may begin and end within tokens. The text of a token is what `texts_of` returns.
"""

import copy
from collections.abc import Sequence

from service.generation.request import Chunk, Finish, FinishReason, GenerationRequest, Token
from service.generation.token_texts import CHARACTERS, TextRules
from service.models.step import State

TokenWithTop = tuple[Token, Sequence[Token]]  # A token, and the most likely tokens at its position


class StopMatcher:
    """Matches stop strings in one text, token by token, after its first `min_tokens`."""

    def __init__(self, stops: Sequence[str], min_tokens: int = 0) -> None:
        self._stops = tuple(stops)
        self.n_exempt = min_tokens  # the next tokens whose text belongs to no stop string
        self.held = ""  # the characters held back, oldest first

    def fork(self) -> "StopMatcher":
        """Return a copy, for another text with the same beginning."""
        return copy.copy(self)

    def push(self, text: str) -> tuple[int, str | None]:
        r"""Take the text of the next token.

        Returns how many of the characters held back, oldest first and these ones counted, may be
        shown now, and the stop string that is complete: of several the one that ends first, and of
        those the one that begins first. If there is one, it follows the characters shown.

        >>> matcher = StopMatcher(["\n\n"])
        >>> [matcher.push(c) for c in "a\nb\n\n"]
        [(1, None), (0, None), (2, None), (0, None), (0, '\n\n')]
        >>> StopMatcher(["the end"]).push(" at the end of")
        (4, 'the end')
        """
        if self.n_exempt > 0:
            self.n_exempt -= 1
            return len(text), None
        n_free = 0
        for character in text:
            self.held += character
            complete = [stop for stop in self._stops if self.held.endswith(stop)]
            if complete:
                stop = max(complete, key=len)
                return n_free + len(self.held) - len(stop), stop
            length = len(self.held)
            free = next((i for i in range(length) if self._may_begin_at(i)), length)
            self.held = self.held[free:]
            n_free += free
        return n_free, None

    def _may_begin_at(self, start: int) -> bool:
        suffix = self.held[start:]
        return any(stop.startswith(suffix) for stop in self._stops)


class HeldTokens:
    """The tokens of one completion that are held back because they may belong to a stop string.

    Push every generated token in order and show what `push` returns. When `stop` is set, the stop
    string is complete, and its tokens stay held. At any other end show what `release` returns.
    """

    def __init__(
        self,
        request: GenerationRequest,
        texts: Sequence[str],
        rules: TextRules = CHARACTERS,
        context: Sequence[int] = (),
    ) -> None:
        """Watch for the request's stop strings and stop tokens after its first `min_new_tokens`.

        `texts` is the text of every token, as `rules` say. `context` is the last tokens generated
        before the first pushed one: they count, and a stop string may begin in them, but they are
        never returned.
        """
        stops = rules.stops(request.stop)
        self._matcher = StopMatcher(stops, request.min_new_tokens)
        self._stops = dict(zip(stops, request.stop, strict=True))
        self._stop_ids, self._texts, self._rules = request.stop_token_ids, texts, rules
        self._joiner = rules.joiner if request.is_start else ""
        self._held: list[tuple[TokenWithTop | None, str]] = []  # None: of the context
        self._n_free = 0  # characters of the first token held that belong to no stop string
        self.stop: str | None = None  # the stop string that is complete
        for token in context:
            self._take(token, None)

    def push(self, token: Token, top_tokens: Sequence[Token] = ()) -> list[TokenWithTop]:
        """Take the next token; return the tokens that may be shown."""
        return self._take(token.id, (token, top_tokens))

    @property
    def partial(self) -> bytes:
        """The text in UTF-8 before the stop string, of the token in which this begins."""
        token, text = self._held[0] if self._held else (None, "")
        return b"" if token is None else self._rules.encoded(text[: self._n_free])

    @property
    def last(self) -> Token:
        """The latest token held: of a complete stop string its last one."""
        token, _ = self._held[-1]
        assert token is not None
        return token[0]

    def finish(self, generated_tokens: int) -> Finish:
        """Return the end that the stop string makes."""
        reason = FinishReason.STOP_SEQUENCE
        return Finish(reason, generated_tokens, self.last, self.stop, self.partial)

    def release(self) -> list[TokenWithTop]:
        """Return the tokens that are held, at an end without a stop string."""
        held, self._held = self._held, []
        self._n_free = 0
        return [token for token, _ in held if token is not None]

    def _take(self, token_id: int, token: TokenWithTop | None) -> list[TokenWithTop]:
        text = self._texts[token_id]
        if self._joiner and text:
            text, self._joiner = text.removeprefix(self._joiner), ""
        if token_id in self._stop_ids and self._matcher.n_exempt <= 0:
            shown, self.stop = self.release(), self._rules.encoded(text).decode("utf-8", "replace")
            self._held = [(token, text)]
            return shown
        self._held.append((token, text))
        free, stop = self._matcher.push(text)
        self.stop = None if stop is None else self._stops[stop]
        self._n_free += free
        n = 0
        while n < len(self._held) and len(self._held[n][1]) <= self._n_free:
            self._n_free -= len(self._held[n][1])
            n += 1
        shown = [token for token, _ in self._held[:n] if token is not None]
        del self._held[:n]
        return shown


def stop_completions(stops: Sequence[str], texts: Sequence[str]) -> dict[str, list[int]]:
    """The tokens that complete a stop string, by the beginning of it that is held before them."""
    found: dict[str, list[int]] = {}
    by_first: dict[str, list[int]] = {}
    for i, text in enumerate(texts if stops else ()):
        by_first.setdefault(text[:1], []).append(i)
    for stop in stops:
        found.setdefault("", []).extend(i for i, text in enumerate(texts) if stop in text)
        for n in range(1, len(stop)):
            ids = [i for i in by_first.get(stop[n], ()) if texts[i].startswith(stop[n:])]
            found.setdefault(stop[:n], []).extend(ids)
    return {head: ids for head, ids in found.items() if ids}


def chunk_of(
    shown: Sequence[TokenWithTop],
    request: GenerationRequest,
    finish: Finish | None,
    sampled: Sequence[int],
    state: State | None = None,
) -> Chunk:
    """Return the chunk of a request that shows these tokens."""
    return Chunk(
        [token.id for token, _ in shown],
        [token.logprob for token, _ in shown],
        [top for _, top in shown] if request.top_tokens else (),
        finish,
        sampled,
        state,
    )
