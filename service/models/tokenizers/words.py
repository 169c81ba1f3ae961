"""The tokenizer of words, which are joined by a blank; symbols such as notes are words, too."""

from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import JsonValue

from service.errors import BadCheckpoint, UnknownCharacter
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.tokenizer import Tokenizer, TokenOffsets
from service.models.tokenizers.word_rules import WordRules


class WordTokenizer(Tokenizer):
    """A token is a word. Every word but the first of a text has a blank before it."""

    kind = "words"
    joiner = " "

    def __init__(
        self,
        tokens: Sequence[str],
        unknown: UnknownPolicy = UnknownPolicy.ERROR,
        rules: WordRules | None = None,
        special: SpecialTokens | None = None,
        *,
        is_unknown_sampled: bool = False,
    ) -> None:
        """`rules` None splits at whitespace; `special` None finds special tokens by their names.

        With `is_unknown_sampled` the unknown token is a word of generated texts.
        Raises BadCheckpoint if the tokens are not a valid vocabulary.
        """
        if special is None:
            special = SpecialTokens.by_name(tokens, are_words=True)
        super().__init__(tokens, unknown, special)
        self.rules = rules or WordRules()
        self._is_unknown_sampled = is_unknown_sampled and special.unknown is not None
        words = (special.unknown,) if self._is_unknown_sampled else ()
        self._special_ids = tuple(i for i in special.ids if i not in words)
        hidden = frozenset(self._special_ids)
        self._ids = {word: i for i, word in enumerate(self.tokens)}
        self._bytes = tuple(
            b"" if i in hidden else f"{self.joiner}{word}".encode()
            for i, word in enumerate(self.tokens)
        )

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
            rules = options["rules"]
            if not isinstance(rules, dict):
                raise TypeError("rules is not an object")
            special = SpecialTokens.from_json(options["special"])
            return cls(
                tokens,
                unknown,
                WordRules.from_json(rules),
                special,
                is_unknown_sampled=options.get("is_unknown_sampled") is True,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadCheckpoint(f"the tokenizer's options cannot be read: {error}") from error

    def encode_with_offsets(self, text: str) -> list[TokenOffsets]:
        """Return (id, start, stop) of each word. Raises UnknownCharacter under `error`."""
        out = []
        for word, start, stop in self.rules.words(text):
            token = self._ids.get(word)
            if token is None:
                token = self._unknown_token(word, start)
            if token is not None:
                out.append((token, start, stop))
        return out

    def bytes_of(self, token: int) -> bytes:
        """Return a blank and the word in UTF-8; nothing if the token is special."""
        return self._bytes[token]

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of special tokens."""
        return self._special_ids

    @property
    def options(self) -> Mapping[str, JsonValue]:
        """The rules and the special tokens."""
        return {
            "kind": self.kind,
            "rules": self.rules.to_json(),
            "special": self.special.to_json(),
            **({"is_unknown_sampled": True} if self._is_unknown_sampled else {}),
        }

    def _unknown_token(self, word: str, offset: int) -> int | None:
        if self.unknown is UnknownPolicy.SKIP:
            return None
        if self.unknown is UnknownPolicy.UNK:
            return self.special.unknown
        raise UnknownCharacter(
            f"the model has no token for the word {word[:40]!r} at offset {offset} of the text; "
            "leave it out, or import the model to skip unknown words"
        )
