r"""TensorFlow Datasets' SubwordTextEncoder: pieces of words, and single bytes for the rest.

Id 0 pads; then come the subwords of the file; then the 256 bytes. A subword's last `_` is a blank.
Source: tensorflow_datasets.deprecated.text.SubwordTextEncoder (4.9).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from pydantic import JsonValue

from service.errors import BadCheckpoint
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.tokenizer import Tokenizer, TokenOffsets

_UNDERSCORE = "\\&undsc"  # how the encoder writes an underscore of the text
_RUNS = re.compile(r"\w+|\W+")
_HEADER = "### SubwordTextEncoder"
_METADATA = "### Metadata:"
_N_OTHERS = 257  # the padding and the bytes
_MAX_SUBWORD = 1000


class SubwordTextEncoder(Tokenizer):
    """Encodes and decodes as SubwordTextEncoder does with the same vocabulary."""

    kind = "subword_text_encoder"

    def __init__(self, subwords: Sequence[str]) -> None:
        """`subwords` are those of the file, without the padding and the bytes.

        Raises BadCheckpoint if they are not a valid vocabulary.
        """
        self.subwords = tuple(subwords)
        names = ("", *self.subwords, *(f"<0x{byte:02X}>" for byte in range(256)))
        super().__init__(names, UnknownPolicy.ERROR, SpecialTokens(pad=0))
        if any(len(subword) > _MAX_SUBWORD for subword in self.subwords):
            raise BadCheckpoint(f"a subword has more than {_MAX_SUBWORD} characters")
        self._ids = {subword: i for i, subword in enumerate(self.subwords, start=1)}
        self._first_byte = 1 + len(self.subwords)
        self._longest = max([len(_UNDERSCORE), *map(len, self.subwords)])
        mixed = [s for s in self.subwords if len(_RUNS.findall(s)) > 1]
        self._reserved = frozenset({_UNDERSCORE, *mixed})
        self._reserved_re = re.compile("(" + "|".join(map(re.escape, self._reserved_order())) + ")")
        self._bytes = (
            b"",
            *((s[:-1] + " " if s.endswith("_") else s).encode() for s in self.subwords),
            *(bytes([byte]) for byte in range(256)),
        )

    @classmethod
    def from_file(cls, content: bytes, vocabulary_size: int | None = None) -> Self:
        """Read a `.subwords` file, which `save_to_file` has written. Raises BadCheckpoint.

        Where subwords contain line breaks, the library reads others than it has written;
        `vocabulary_size`, the number of tokens of the model, decides which ones are meant.
        """
        return cls(_subwords(content, vocabulary_size))

    @classmethod
    def read(
        cls,
        tokens: Sequence[str],
        _unknown: UnknownPolicy,
        _options: Mapping[str, JsonValue],
        _files: Mapping[str, bytes],
    ) -> Self:
        """Read the tokenizer of a bundle. Raises BadCheckpoint."""
        tokenizer = cls(tokens[1:-256])
        if tokenizer.tokens != tuple(tokens):
            raise BadCheckpoint("the vocabulary is not that of a SubwordTextEncoder")
        return tokenizer

    def encode_with_offsets(self, text: str) -> list[TokenOffsets]:
        """Return (id, start, stop) of each token; the bytes of a character have its offsets."""
        out: list[TokenOffsets] = []
        for word, offsets in self._words(text):
            self._encode_word(word, offsets, out)
        return out

    def bytes_of(self, token: int) -> bytes:
        """Return the subword in UTF-8, or the byte."""
        return self._bytes[token]

    @property
    def has_partial_characters(self) -> bool:
        """True: each byte is a token."""
        return True

    @property
    def has_several_encodings(self) -> bool:
        """True: a subword can be written by shorter ones."""
        return True

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The padding."""
        return (0,)

    def _reserved_order(self) -> list[str]:
        # The first alternative that matches is taken: the longest, so that the order is defined.
        return sorted(self._reserved, key=lambda token: (-len(token), token))

    def _words(self, text: str) -> Iterator[tuple[str, list[int]]]:
        """Return the words and what is between them, escaped, with the offset of each character.

        A single blank after one is written as a `_` at its end.
        """
        pieces: list[tuple[str, int]] = []
        offset = 0
        for part in self._reserved_re.split(text):
            if part in self._reserved:
                pieces.append((part, offset))
            else:
                pieces += [(run[0], offset + run.start()) for run in _RUNS.finditer(part)]
            offset += len(part)
        i = 0
        while i < len(pieces):
            piece, start = pieces[i]
            has_blank = i + 1 < len(pieces) and pieces[i + 1][0] == " "
            is_literal = piece == _UNDERSCORE  # the text itself has what stands for `_`
            if is_literal:
                yield piece[:2], [start, start + 1]
                piece, start = piece[2:], start + 2
            written = [_UNDERSCORE if c == "_" else c for c in piece] + ["_"] * has_blank
            offsets = [start + i for i, c in enumerate(written) for _ in c]
            yield "".join(written), offsets
            i += 2 if has_blank and not is_literal else 1  # the original, too, repeats the blank

    def _encode_word(self, word: str, offsets: list[int], out: list[TokenOffsets]) -> None:
        """Take the longest subword at each place, or the bytes of a character."""
        ids, start = self._ids, 0
        while start < len(word):
            for stop in range(min(len(word), start + self._longest), start, -1):
                piece = word[start:stop]
                if piece in ids or piece == _UNDERSCORE:
                    break
            else:
                stop = start + 1
                piece = word[start]
            where = offsets[start], offsets[stop - 1] + 1
            if piece in ids and piece != _UNDERSCORE:
                out.append((ids[piece], *where))
            else:
                text = {_UNDERSCORE: "_", "_": " "}.get(piece, piece)
                out += [(self._first_byte + byte, *where) for byte in text.encode()]
            start = stop


def _subwords(content: bytes, vocabulary_size: int | None) -> list[str]:
    try:
        header, metadata, *lines = [*content.decode().split("\n"), ""]
    except UnicodeDecodeError as error:
        raise BadCheckpoint(
            f"the .subwords file is not UTF-8 from byte {error.start} on"
        ) from error
    if header != _HEADER or not metadata.startswith(_METADATA):
        raise BadCheckpoint(
            f"the .subwords file does not begin with the lines {_HEADER!r} and {_METADATA!r}; "
            "save it with SubwordTextEncoder.save_to_file, with \\n as line breaks"
        )
    while lines and not lines[-1]:
        lines.pop()
    body = "\n".join(lines)
    if body and not (body[0] == body[-1] == "'" and len(body) > 1):
        raise BadCheckpoint("the subwords of the file are not each between single quotes")
    as_read = [line[1:-1] for line in lines if line[1:-1]]
    as_written = body[1:-1].split("'\n'") if body else []
    if as_read == as_written:
        return as_read
    n = None if vocabulary_size is None else vocabulary_size - _N_OTHERS
    fitting = [subwords for subwords in (as_read, as_written) if len(subwords) == n]
    # A quote beside a line break within a subword looks like the end of one.
    is_certain = not (
        as_written[-1].endswith("'\n")
        or any(not part or part.startswith("\n'") for part in as_written)
    )
    if len(fitting) != 1 or not is_certain:
        raise BadCheckpoint(
            "subwords of the file contain line breaks, which its format cannot hold: as it was "
            f"written it has {len(as_written) + _N_OTHERS} tokens, as the library reads it "
            f"{len(as_read) + _N_OTHERS}, and the model has "
            f"{'an unknown number' if vocabulary_size is None else vocabulary_size}"
        )
    return fitting[0]
