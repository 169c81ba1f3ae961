"""Decoding of a text token by token, where a character may consist of several tokens."""

import codecs

from service.models.tokenizers.tokenizer import Tokenizer


class DecodeStream:
    """Returns the text of each token of one text, in order. Belongs to one thread.

    A token that ends within a character has the text up to it; the token that completes the
    character has the character.
    """

    def __init__(self, tokenizer: Tokenizer, *, is_start: bool = False) -> None:
        """With `is_start` the tokens begin a text."""
        self._tokenizer = tokenizer
        self._joiner = tokenizer.joiner if is_start else ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Return the text that a token adds."""
        text = self._decoder.decode(self._tokenizer.bytes_of(token))
        if self._joiner and text:
            text, self._joiner = text.removeprefix(self._joiner), ""
        return text

    def finish(self) -> str:
        """Return U+FFFD if the text ends within a character, else nothing."""
        return self._decoder.decode(b"", final=True)
