"""From the bytes of a file to symbols: tokens of a model, and bytes that no token writes.

Their bytes in a row are the file's, whatever the tokenizer does: a token is taken only where the
file has its very bytes. So a file need not be a text, and a tokenizer may lose what it likes.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from service.errors import UnknownCharacter
from service.models.tokenizers.tokenizer import Tokenizer, TokenOffsets

Symbols = npt.NDArray[np.int32]
"""Token ids, and -1 - byte."""

_PIECE_BYTES = 4_096  # are given to the tokenizer at once, where it knows more than characters


class SymbolTable:
    """The symbols of a tokenizer. Immutable; any thread may use it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        hidden = frozenset(tokenizer.special_ids)
        self._tokenizer = tokenizer
        self._bytes = tuple(
            b"" if i in hidden else tokenizer.bytes_of(i) for i in range(len(tokenizer))
        )
        self._ids: dict[bytes, int] = {}
        for i, piece in enumerate(self._bytes):
            if piece:
                self._ids.setdefault(piece, i)
        self._longest = max(map(len, self._ids), default=1)
        self.has_text = np.array([bool(piece) for piece in self._bytes])
        """Which tokens may be written."""
        self.token_bytes = np.frombuffer(b"".join(self._bytes) or b"\0", np.uint8)
        sizes = [0, *map(len, self._bytes)]
        self.offsets = np.cumsum(sizes, dtype=np.int64)
        """Where in `token_bytes` each token's begin."""
        characters = {piece.decode(): i for piece, i in self._ids.items() if _is_character(piece)}
        self._characters = characters if len(characters) == len(self._ids) else None

    @property
    def first_token(self) -> int:
        """The token before a text: that which begins one, or the end of a line, or a blank."""
        begin = self._tokenizer.special.begin
        if begin is not None:
            return begin
        return next((self._ids[each] for each in (b"\n", b" ") if each in self._ids), 0)

    def symbols_of(self, data: bytes) -> Symbols:
        """Return the symbols whose bytes in a row are `data`."""
        found: list[int] = []
        if self._characters is not None:
            ids = self._characters
            for character in data.decode("utf-8", "surrogateescape"):
                token = ids.get(character)
                if token is None:
                    found += _escaped(character.encode("utf-8", "surrogateescape"))
                else:
                    found.append(token)
        else:
            for piece in _pieces(data):
                found += self._symbols_of_piece(piece)
        return np.array(found, np.int32)

    def _symbols_of_piece(self, piece: bytes) -> list[int]:
        try:
            text = piece.decode()
            tokens = self._tokenizer.encode_with_offsets(text)
        except (UnicodeDecodeError, UnknownCharacter):
            return self._longest_first(piece)
        return self._aligned(text, piece, tokens)

    def _aligned(self, text: str, piece: bytes, tokens: list[TokenOffsets]) -> list[int]:
        """Return the tokens whose bytes are there where they should be, and the rest otherwise."""
        starts = np.cumsum([0, *(len(each.encode()) for each in text)])
        found: list[int] = []
        end = 0
        for token, start, _ in tokens:
            wanted = self._bytes[token]
            at = end if piece.startswith(wanted, end) else int(starts[start])
            if wanted and at >= end and piece.startswith(wanted, at):
                found += self._longest_first(piece[end:at])
                found.append(token)
                end = at + len(wanted)
        return found + self._longest_first(piece[end:])

    def _longest_first(self, piece: bytes) -> list[int]:
        """Return symbols by the longest token at each place."""
        found, at = [], 0
        while at < len(piece):
            sizes = range(min(self._longest, len(piece) - at), 0, -1)
            size = next((n for n in sizes if piece[at : at + n] in self._ids), 0)
            found.append(self._ids[piece[at : at + size]] if size else -1 - piece[at])
            at += size or 1
        return found


def _escaped(data: bytes) -> list[int]:
    return [-1 - byte for byte in data]


def _is_character(piece: bytes) -> bool:
    try:
        return len(piece.decode()) == 1
    except UnicodeDecodeError:
        return False


def _pieces(data: bytes) -> Iterator[bytes]:
    """Cut before blanks, if there are any."""
    at = 0
    while at < len(data):
        end = at + _PIECE_BYTES
        if end < len(data):
            blank = max(data.rfind(b" ", at + 1, end), data.rfind(b"\n", at + 1, end))
            end = blank if blank > at else character_start(data, end)
        yield data[at:end]
        at = end


def character_start(data: bytes, at: int) -> int:
    """Return `at`, or the place before it where the character in UTF-8 around it begins."""
    for place in range(at, max(at - 4, 0), -1):
        if data[place] & 0xC0 != 0x80:
            return place
    return at
