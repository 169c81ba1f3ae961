"""The prompt of a turn: tokens that depend on whether a text precedes them in the session."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from service.generation.token_texts import begins_text
from service.models.tokenizers.tokenizer import Tokenizer

LATER = 2  # stands for every position from 2 on


@dataclass(frozen=True, slots=True)
class TurnPrompt:
    """The tokens of a new text, made for one position of the session.

    The record of a session may be older than its log, so `Store.begin` compares `made_for`.
    """

    tokens: Sequence[int]
    is_start: bool = False  # whether what is generated begins the session's text
    made_for: int | None = None  # 0, 1 or LATER; None: the tokens are the same at every position

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, text: str | Sequence[int], position: int, *, has_text: bool
    ) -> Self:
        """Return the prompt of a text, or of token ids, at a position.

        At position 0 the model's begin token may precede it. `has_text` says whether the tokens of
        the log have a text. Raises UnknownCharacter.
        """
        if not isinstance(text, str):
            tokens = text
        else:
            tokens = tokenizer.encode(text) if position else tokenizer.encode_prompt(text)
        if not depends_on_position(tokenizer):
            return cls(tokens)
        is_start = not has_text and begins_text(tokenizer, tokens)
        return cls(tokens, is_start, min(position, LATER))


def depends_on_position(tokenizer: Tokenizer) -> bool:
    """Whether the first tokens of a text differ from others: by a begin token or by a joiner."""
    return tokenizer.special.begin is not None or bool(tokenizer.joiner)
