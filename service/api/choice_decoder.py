"""The texts of the tokens of one choice, where they depend on the tokens before them."""

import codecs
from collections.abc import Sequence

from service.generation.request import Finish
from service.models.tokenizers.tokenizer import Tokenizer


class ChoiceDecoder:
    """Returns the text that each token of a choice adds, in order. Belongs to one thread."""

    def __init__(self, tokenizer: Tokenizer, *, is_start: bool) -> None:
        """With `is_start` the tokens begin a text."""
        self._tokenizer = tokenizer
        self._joiner = tokenizer.joiner if is_start else ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def texts(self, tokens: Sequence[int]) -> list[str]:
        """Return the text of each of the next tokens: "" within a character."""
        return [self._push(self._tokenizer.bytes_of(token)) for token in tokens]

    def end(self, finish: Finish | None) -> str:
        """Return the end of the text: the part before a stop string, U+FFFD within a character."""
        return self._push(b"" if finish is None else finish.partial, final=True)

    def _push(self, content: bytes, *, final: bool = False) -> str:
        text = self._decoder.decode(content, final)
        if self._joiner and text:
            text, self._joiner = text.removeprefix(self._joiner), ""
        return text
