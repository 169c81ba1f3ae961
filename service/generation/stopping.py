"""Stop strings: tokens are held back until it is decided whether they belong to one.

A token has one character here, so a matcher over characters decides about tokens too.
"""

import copy
from collections.abc import Sequence

from service.generation.request import Chunk, Finish, GenerationRequest, Token
from service.models.step import State

TokenWithTop = tuple[Token, Sequence[Token]]  # A token, and the most likely tokens at its position

_PLACEHOLDER: TokenWithTop = (Token(-1, 0.0), ())
"""Stands for a token of the stop context: it is counted and never returned."""


class StopMatcher:
    """Matches stop strings in one text, character by character, after its first `min_tokens`."""

    def __init__(self, stops: Sequence[str], min_tokens: int = 0) -> None:
        self._stops = tuple(stops)
        self.n_exempt = min_tokens  # the next characters that belong to no stop string
        self.held = ""  # the characters held back, oldest first

    def fork(self) -> "StopMatcher":
        """Return a copy, for another text with the same beginning."""
        return copy.copy(self)

    def push(self, character: str) -> tuple[int, str | None]:
        r"""Take the next character.

        Returns how many of the characters held back, oldest first and this one counted, may be
        shown now, and the stop string that is complete: of several the one that begins first. If
        there is one, the characters still held are the stop string.

        >>> matcher = StopMatcher(["\n\n"])
        >>> [matcher.push(c) for c in "a\nb\n\n"]
        [(1, None), (0, None), (2, None), (0, None), (0, '\n\n')]
        """
        if self.n_exempt > 0:
            self.n_exempt -= 1
            return 1, None
        self.held += character
        complete = [stop for stop in self._stops if self.held.endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return len(self.held) - len(stop), stop
        length = len(self.held)
        free = next((i for i in range(length) if self._may_begin_at(i)), length)
        self.held = self.held[free:]
        return free, None

    def _may_begin_at(self, start: int) -> bool:
        suffix = self.held[start:]
        return any(stop.startswith(suffix) for stop in self._stops)


class HeldTokens:
    """The tokens of one completion that are held back because they may belong to a stop string.

    Push every generated token in order and show what `push` returns. When `stop` is set, the stop
    string is complete, and its tokens stay held. At any other end show what `release` returns.
    """

    def __init__(self, stops: Sequence[str], min_tokens: int = 0, context: str = "") -> None:
        """Watch for `stops` after the first `min_tokens` tokens.

        `context` is the end of the text generated before the first pushed token: a stop string may
        begin in it, but its characters are never returned.
        """
        self._matcher = StopMatcher(stops, min_tokens)
        self._tokens: list[TokenWithTop] = []
        self.stop: str | None = None  # the stop string that is complete
        for character in context:
            self._take(character, _PLACEHOLDER)

    def push(self, text: str, token: Token, top_tokens: Sequence[Token] = ()) -> list[TokenWithTop]:
        """Take the next token, whose text is one character; return the tokens that may be shown."""
        return self._take(text, (token, top_tokens))

    @property
    def last(self) -> Token:
        """The latest token held: of a complete stop string its last one."""
        return self._tokens[-1][0]

    def release(self) -> list[TokenWithTop]:
        """Return the tokens that are held, at an end without a stop string."""
        tokens, self._tokens = self._tokens, []
        return _shown(tokens)

    def _take(self, text: str, token: TokenWithTop) -> list[TokenWithTop]:
        self._tokens.append(token)
        free, self.stop = self._matcher.push(text)
        shown = self._tokens[:free]
        del self._tokens[:free]
        return _shown(shown)


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


def _shown(tokens: list[TokenWithTop]) -> list[TokenWithTop]:
    return [token for token in tokens if token is not _PLACEHOLDER]
