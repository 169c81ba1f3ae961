"""The tokens of a text that arrives in parts, each with its place in the whole text."""

from collections.abc import Iterator, Sequence

from service.errors import UnknownCharacter, Validation
from service.generation.score import MAX_WORD_CHARACTERS, PIECE_CHARACTERS, last_cut
from service.models.tokenizers.tokenizer import Tokenizer

PlacedToken = tuple[int, int, int]
"""A token, and where its text starts and stops, in characters of the whole text."""


class TextCutter:
    """Cuts one text into pieces of tokens. Its memory does not depend on the text's length."""

    def __init__(self, tokenizer: Tokenizer, piece_characters: int = PIECE_CHARACTERS) -> None:
        self._tokenizer, self._piece_characters = tokenizer, piece_characters
        self._is_plain = not tokenizer.options  # each character is a token, or is skipped
        self._rest, self._n_read = "", 0

    def pieces(self, text: str, *, is_last: bool) -> Iterator[Sequence[PlacedToken]]:
        """Yield the tokens of the next part of the text. Raises UnknownCharacter, Validation.

        Where tokens are longer than a character a text is cut before a blank only, and the end of a
        part waits for the next one unless this one `is_last`.
        """
        self._rest += text
        while self._rest:
            n = self._next_cut(is_last=is_last)
            if not n:
                return
            piece, self._rest = self._rest[:n], self._rest[n:]
            yield self._placed(piece)
            self._n_read += n

    def _next_cut(self, *, is_last: bool) -> int:
        n = len(self._rest)
        if self._is_plain:
            return min(n, self._piece_characters)
        if n <= self._piece_characters and is_last:
            return n
        cut = last_cut(self._rest, self._piece_characters)
        if not cut and n > MAX_WORD_CHARACTERS:
            raise Validation(
                f"the text has {n} characters without a blank after {self._n_read}; at most "
                f"{MAX_WORD_CHARACTERS} are read"
            )
        return cut or (n if is_last else 0)

    def _placed(self, piece: str) -> Sequence[PlacedToken]:
        try:
            found = self._tokenizer.encode_with_offsets(piece)
        except UnknownCharacter as error:
            if not self._n_read:
                raise
            raise UnknownCharacter(f"after {self._n_read} characters: {error}") from error
        n = self._n_read
        return [(token, n + start, n + stop) for token, start, stop in found]
