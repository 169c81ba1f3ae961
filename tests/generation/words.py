"""A small tokenizer of words, and one whose tokens are bytes."""

from collections.abc import Iterable

from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.tokenizer import Tokenizer, TokenOffsets


class WordTokenizer(Tokenizer):
    """Words joined by a blank; [START] begins and [END] ends a text."""

    kind = "test-words"
    joiner = " "

    def __init__(self, words: Iterable[str]) -> None:
        tokens = (*words, "[START]", "[END]")
        super().__init__(tokens, UnknownPolicy.SKIP, SpecialTokens.by_name(tokens))
        self._ids = {token: i for i, token in enumerate(tokens)}

    def encode_with_offsets(self, text: str) -> list[TokenOffsets]:
        found, offset = [], 0
        for word in text.split(" "):
            if word in self._ids:
                found.append((self._ids[word], offset, offset + len(word)))
            offset += len(word) + 1
        return found

    def bytes_of(self, token: int) -> bytes:
        return b"" if token in self.special_ids else b" " + self.tokens[token].encode()

    @property
    def special_ids(self) -> tuple[int, ...]:
        return (len(self) - 2, len(self) - 1)


class ByteTokenizer(Tokenizer):
    """Every token is one byte of the characters."""

    kind = "test-bytes"

    def __init__(self, characters: str) -> None:
        self._bytes = sorted(set(characters.encode()))
        tokens = (*(f"<{byte:02X}>" for byte in self._bytes), "[END]")
        super().__init__(tokens, UnknownPolicy.ERROR, SpecialTokens.by_name(tokens))

    def encode_with_offsets(self, text: str) -> list[TokenOffsets]:
        return [
            (self._bytes.index(byte), i, i + 1)
            for i, character in enumerate(text)
            for byte in character.encode()
        ]

    def bytes_of(self, token: int) -> bytes:
        return b"" if token in self.special_ids else bytes([self._bytes[token]])

    @property
    def special_ids(self) -> tuple[int, ...]:
        return (len(self) - 1,)

    @property
    def has_partial_characters(self) -> bool:
        return True
