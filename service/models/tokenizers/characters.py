"""The tokenizer of characters: one token for each Unicode code point."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from pydantic import JsonValue

from service.errors import UnknownCharacter
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.tokenizer import Tokenizer, TokenOffsets


class CharacterTokenizer(Tokenizer):
    """A token of one character represents it; a token of any other length is special."""

    kind = "characters"

    def __init__(self, tokens: Iterable[str], unknown: UnknownPolicy = UnknownPolicy.ERROR) -> None:
        """Raises BadCheckpoint if the tokens are not a valid vocabulary."""
        tokens = tuple(tokens)
        super().__init__(tokens, unknown, SpecialTokens.by_name(tokens))
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self._special_ids = tuple(i for i, token in enumerate(self.tokens) if len(token) != 1)
        self._texts = tuple("" if len(token) != 1 else token for token in self.tokens)

    @classmethod
    def read(
        cls, tokens: Sequence[str], unknown: UnknownPolicy, _: Mapping[str, JsonValue]
    ) -> Self:
        """Read the tokenizer of a bundle."""
        return cls(tokens, unknown)

    def encode_with_offsets(self, text: str) -> list[TokenOffsets]:
        """Return (id, start, stop) of each token. Raises UnknownCharacter under `error`."""
        ids, out = self._ids, []
        for offset, character in enumerate(text):
            token = ids.get(character)
            if token is None:
                token = self._unknown_token(character, offset)
            if token is not None:
                out.append((token, offset, offset + 1))
        return out

    def bytes_of(self, token: int) -> bytes:
        """Return the character in UTF-8."""
        return self._texts[token].encode()

    def text_of(self, token: int) -> str:
        """Return the character."""
        return self._texts[token]

    def decode(self, ids: Iterable[int], *, is_start: bool = False) -> str:  # noqa: ARG002 (no joiner)
        """Return the text of token ids. Raises IndexError on an id outside the vocabulary."""
        texts = self._texts
        return "".join([texts[i] for i in ids])

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of the tokens that are no single character."""
        return self._special_ids

    @property
    def options(self) -> Mapping[str, JsonValue]:
        """Nothing: a bundle without options has characters."""
        return {}

    def _unknown_token(self, character: str, offset: int) -> int | None:
        if self.unknown is UnknownPolicy.SKIP:
            return None
        if self.unknown is UnknownPolicy.UNK:
            return self.special.unknown
        raise UnknownCharacter(
            f"the model has no token for {character!r} (U+{ord(character):04X}) at offset {offset} "
            "of the text; leave it out, or import the model to skip unknown characters"
        )
