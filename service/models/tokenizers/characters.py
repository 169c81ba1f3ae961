"""The tokenizer of characters: one token for each Unicode code point."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from pydantic import JsonValue

from service.errors import BadCheckpoint, UnknownCharacter
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.tokenizer import Tokenizer, TokenOffsets
from service.models.tokenizers.word_rules import lower_offsets


class CharacterTokenizer(Tokenizer):
    """A token of one character represents it; a token of any other length has no text."""

    kind = "characters"

    def __init__(
        self,
        tokens: Iterable[str],
        unknown: UnknownPolicy = UnknownPolicy.ERROR,
        special: SpecialTokens | None = None,
        *,
        is_lower: bool = False,
    ) -> None:
        """`special` None finds special tokens by their names; a character may be one, too.

        With `is_lower` a text is encoded in lower case (`str.lower`, as a Keras `Tokenizer` with
        `char_level` does). Raises BadCheckpoint if the tokens are not a valid vocabulary.
        """
        tokens = tuple(tokens)
        by_name = SpecialTokens.by_name(tokens)
        super().__init__(tokens, unknown, by_name if special is None else special)
        self._has_names, self._is_lower = self.special == by_name, is_lower
        hidden = {i for i, token in enumerate(tokens) if len(token) != 1} | {*self.special.ids}
        self._special_ids = tuple(sorted(hidden))
        self._texts = tuple("" if i in hidden else token for i, token in enumerate(tokens))
        self._ids = {token: i for i, token in enumerate(tokens) if len(token) == 1}

    @classmethod
    def read(
        cls,
        tokens: Sequence[str],
        unknown: UnknownPolicy,
        options: Mapping[str, JsonValue],
        _: Mapping[str, bytes],
    ) -> Self:
        """Read the tokenizer of a bundle. Raises BadCheckpoint."""
        try:
            special = SpecialTokens.from_json(options["special"]) if "special" in options else None
        except (KeyError, TypeError) as error:
            raise BadCheckpoint(f"the tokenizer's options cannot be read: {error}") from error
        return cls(tokens, unknown, special, is_lower=options.get("is_lower") is True)

    def encode_with_offsets(self, text: str) -> list[TokenOffsets]:
        """Return (id, start, stop) of each token. Raises UnknownCharacter under `error`."""
        ids, out = self._ids, []
        lowered = text.lower() if self._is_lower else text
        # Lower case may have more characters than the text as it is given.
        offsets = range(len(text)) if len(lowered) == len(text) else lower_offsets(text)
        for character, offset in zip(lowered, offsets, strict=True):
            token = ids.get(character)
            if token is None:
                token = self._unknown_token(character, offset)
            if token is not None:
                out.append((token, offset, offset + 1))
        return out

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`. Raises as `encode_with_offsets`."""
        if not self._is_lower:
            with contextlib.suppress(KeyError):
                return list(map(self._ids.__getitem__, text))
        return super().encode(text)

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
        """The ids of the tokens that are no single character, and of special characters."""
        return self._special_ids

    @property
    def options(self) -> Mapping[str, JsonValue]:
        """What differs from a bundle without options: lower case, special tokens by their ids."""
        options: dict[str, JsonValue] = {"is_lower": True} if self._is_lower else {}
        return options if self._has_names else options | {"special": self.special.to_json()}

    def _unknown_token(self, character: str, offset: int) -> int | None:
        if self.unknown is UnknownPolicy.SKIP:
            return None
        if self.unknown is UnknownPolicy.UNK:
            return self.special.unknown
        raise UnknownCharacter(
            f"the model has no token for {character!r} (U+{ord(character):04X}) at offset {offset} "
            "of the text; leave it out, or import the model to skip unknown characters"
        )
