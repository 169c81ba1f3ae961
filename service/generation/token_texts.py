"""The texts of a vocabulary's tokens, and the text of a whole completion."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from service.models.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextRules:
    """How the texts of tokens make up a text, and which tokens end it."""

    joiner: str = ""  # left out at the beginning of a text
    are_bytes: bool = False  # whether each character of a token's text stands for one byte
    end_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """Return the rules of a tokenizer."""
        return cls(tokenizer.joiner, tokenizer.has_partial_characters, tokenizer.end_ids)

    def stops(self, stops: Sequence[str]) -> tuple[str, ...]:
        """Return stop strings as they are found in the texts of tokens."""
        return tuple(map(self._unit_text, stops)) if self.are_bytes else tuple(stops)

    def encoded(self, text: str) -> bytes:
        """Return a part of the tokens' texts in UTF-8."""
        return text.encode("latin-1" if self.are_bytes else "utf-8")

    @staticmethod
    def _unit_text(text: str) -> str:
        return text.encode().decode("latin-1")


CHARACTERS = TextRules()


def texts_of(tokenizer: Tokenizer) -> list[str]:
    """Return the text of every token, in which stop strings are matched.

    Where some token is a part of a character, each character of these texts stands for one byte:
    UTF-8 has a text at the same places as its bytes.
    """
    if not tokenizer.has_partial_characters:
        return [tokenizer.text_of(i) for i in range(len(tokenizer))]
    return [tokenizer.bytes_of(i).decode("latin-1") for i in range(len(tokenizer))]


def completion_text(
    tokenizer: Tokenizer, tokens: Iterable[int], partial: bytes = b"", *, is_start: bool = False
) -> str:
    """Return the text of generated tokens, and of the part of a token before a stop string.

    A character that is not complete at the end is U+FFFD.
    """
    if not partial:
        return tokenizer.decode(tokens, is_start=is_start)
    ids = list(tokens)
    text = b"".join((*map(tokenizer.bytes_of, ids), partial)).decode("utf-8", "replace")
    return text.removeprefix(tokenizer.joiner) if is_start and ids else text


def begins_text(tokenizer: Tokenizer, prompt: Iterable[int]) -> bool:
    """Whether a prompt has no text, so that what follows it begins the text.

    An unknown token stands for a text.
    """
    unknown = tokenizer.special.unknown
    return not any(token == unknown or tokenizer.bytes_of(token) for token in prompt)
