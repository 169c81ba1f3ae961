"""The texts of a model's tokens, as a constraint reads them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class TokenTexts:
    """What each token adds to a text; None for a token that no constrained text has.

    The first token of a generated text is read without the `joiner` that it begins with. A token
    of `end_ids` has no text and ends one.
    """

    texts: tuple[str | None, ...]
    joiner: str = ""
    end_ids: tuple[int, ...] = ()

    @classmethod
    def of_bytes(
        cls, tokens: Iterable[bytes], joiner: str = "", end_ids: Iterable[int] = ()
    ) -> Self:
        """Read tokens in UTF-8. One that is empty, or not whole characters, has no text."""
        return cls(tuple(map(_text, tokens)), joiner, tuple(end_ids))

    @classmethod
    def of_characters(cls, tokens: Sequence[str | None]) -> Self:
        """Return the texts of a vocabulary of characters: a token of another length has none."""
        return cls(tuple(text if text and len(text) == 1 else None for text in tokens))

    def only(self, allowed: Collection[int]) -> Self:
        """Return the texts with None for each token that is not allowed."""
        kept = tuple(text if i in allowed else None for i, text in enumerate(self.texts))
        ends = tuple(i for i in self.end_ids if i in allowed)
        return type(self)(kept, self.joiner, ends)

    @property
    def is_of_characters(self) -> bool:
        """Whether each text is one character, and the first token is read as all others."""
        return not self.joiner and all(text is None or len(text) == 1 for text in self.texts)

    @property
    def characters(self) -> list[str]:
        """The characters of all texts, each once, in order."""
        return sorted(set().union(*(text for text in self.texts if text)))

    def first(self, text: str) -> str:
        """Return what a token adds as the first one."""
        return text.removeprefix(self.joiner)


def _text(token: bytes) -> str | None:
    try:
        return token.decode() or None
    except UnicodeDecodeError:
        return None
