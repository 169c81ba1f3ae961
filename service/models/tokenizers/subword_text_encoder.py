r"""The tokenizer of TensorFlow Datasets' SubwordTextEncoder (`tfds.deprecated.text`).

Source: its documentation and behaviour, version 4.9. A text is split into runs of word characters
and runs of others; a blank after a run becomes a `_` at its end, a `_` of the text becomes
`\&undsc`. Then the longest subwords are taken from the left, and bytes where there is none.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

from pydantic import JsonValue

from service.errors import BadCheckpoint
from service.models.tokenizers.special_tokens import SpecialTokens, UnknownPolicy
from service.models.tokenizers.tokenizer import Tokenizer, TokenOffsets

HEADER = "### SubwordTextEncoder"
_METADATA = "### Metadata:"
_UNDERSCORE = r"\&undsc"
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_RUNS = re.compile(r"\W+|\w+")
_MAX_SUBWORD = 200  # characters; the time of a text grows with it


class SubwordTextEncoder(Tokenizer):
    """Id 0 is padding, then come the subwords, then 256 bytes; any text has tokens."""

    kind = "subword text encoder"

    def __init__(
        self,
        subwords: Iterable[str],
        unknown: UnknownPolicy = UnknownPolicy.ERROR,
        special: SpecialTokens | None = None,
    ) -> None:
        """`special` None finds special tokens by their names.

        Raises BadCheckpoint if the subwords are not a valid vocabulary.
        """
        tokens = ("", *subwords, *_BYTES)
        self._is_by_name = special is None
        super().__init__(tokens, unknown, special or SpecialTokens.by_marked_name(tokens))
        self._first_byte = len(tokens) - len(_BYTES)
        self._hidden = frozenset({0, *self.special.ids})
        known = {
            token: i for i, token in enumerate(tokens[: self._first_byte]) if i not in self._hidden
        }
        longest = max(map(len, known), default=0)
        if longest > _MAX_SUBWORD:
            raise BadCheckpoint(
                f"a subword of the vocabulary has {longest} characters; at most {_MAX_SUBWORD} "
                "are served"
            )
        # What has word characters and others is taken from a text before it is split into runs.
        mixed = [token for token in known if len(_RUNS.findall(token)) > 1]
        self._mixed = frozenset([*mixed, _UNDERSCORE])
        self._mixed_lengths = _lengths(self._mixed)
        self._ids = known | {_UNDERSCORE: self._first_byte + ord("_")}
        self._lengths = _lengths(self._ids)
        self._bytes = tuple(map(self._bytes_of, range(len(tokens))))

    @classmethod
    def from_file(
        cls,
        content: bytes,
        vocabulary_size: int | None = None,
        unknown: UnknownPolicy = UnknownPolicy.ERROR,
    ) -> Self:
        """Read a file of `SubwordTextEncoder.save_to_file`. Raises BadCheckpoint.

        Where subwords contain line breaks, the library reads others than it has written;
        `vocabulary_size`, the number of tokens of the model, decides which ones are meant.
        """
        return cls(_subwords(content, vocabulary_size), unknown)

    @classmethod
    def read(
        cls,
        tokens: Sequence[str],
        unknown: UnknownPolicy,
        options: Mapping[str, JsonValue],
        files: Mapping[str, bytes],  # noqa: ARG003 (all is in the tokens)
    ) -> Self:
        """Read the tokenizer of a bundle. Raises BadCheckpoint."""
        n = len(tokens) - len(_BYTES)
        if n < 1 or tokens[0] or tuple(tokens[n:]) != _BYTES:
            raise BadCheckpoint(
                "the vocabulary of a subword text encoder is not padding, subwords and 256 bytes"
            )
        try:
            special = SpecialTokens.from_json(options["special"]) if "special" in options else None
        except (KeyError, TypeError) as error:
            raise BadCheckpoint(f"the tokenizer's options cannot be read: {error}") from error
        return cls(tokens[1:n], unknown, special)

    def encode_with_offsets(self, text: str) -> list[TokenOffsets]:
        """Return (id, start, stop) of each token; bytes have the offsets of their character."""
        runs = list(self._runs(text))
        out: list[TokenOffsets] = []
        i = 0
        while i < len(runs):
            start, stop = runs[i]
            i += 1
            blank = None
            if i < len(runs) and text[slice(*runs[i])] == " ":
                blank = runs[i][0]
            if text[start:stop] == _UNDERSCORE:  # as text: its two parts, and the blank twice
                out += self._tokens_of(text, start, start + 2, None)
                out += self._tokens_of(text, start + 2, stop, blank)
                continue
            out += self._tokens_of(text, start, stop, blank)
            if blank is not None:
                i += 1
        return out

    def bytes_of(self, token: int) -> bytes:
        """Return the subword, with a blank for a final `_`, or the byte."""
        return self._bytes[token]

    @property
    def has_partial_characters(self) -> bool:
        """True: a byte may be a part of a character."""
        return True

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of padding and of tokens such as <EOS>."""
        return tuple(sorted(self._hidden))

    @property
    def options(self) -> Mapping[str, JsonValue]:
        """The kind, and the special tokens if they were given."""
        special = {} if self._is_by_name else {"special": self.special.to_json()}
        return {"kind": self.kind, **special}

    def _bytes_of(self, token: int) -> bytes:
        if token in self._hidden:
            return b""
        if token >= self._first_byte:
            return bytes([token - self._first_byte])
        subword = self.tokens[token]
        return (f"{subword[:-1]} " if subword.endswith("_") else subword).encode()

    def _runs(self, text: str) -> Iterator[tuple[int, int]]:
        """Return (start, stop) of each mixed subword and of each run between them."""
        last = position = 0
        while position < len(text):
            lengths = self._mixed_lengths.get(text[position], ())
            found = [n for n in lengths if text[position : position + n] in self._mixed]
            if not found:
                position += 1
                continue
            yield from (match.span() for match in _RUNS.finditer(text, last, position))
            stop = min(position + found[0], len(text))
            yield position, stop
            last = position = stop
        yield from (match.span() for match in _RUNS.finditer(text, last))

    def _tokens_of(
        self, text: str, start: int, stop: int, blank: int | None
    ) -> Iterator[TokenOffsets]:
        """Return the tokens of a run, and of the blank after it at the offset `blank`."""
        run = text[start:stop]
        offsets: Sequence[int] = range(start, stop)
        if "_" in run:
            offsets = [
                start + i
                for i, character in enumerate(run)
                for _ in (_UNDERSCORE if character == "_" else character)
            ]
            run = run.replace("_", _UNDERSCORE)
        if blank is not None:
            run, offsets = f"{run}_", [*offsets, blank]
        i = 0
        while i < len(run):
            subword, token = run[i], None
            for length in self._lengths.get(subword, ()):
                token = self._ids.get(run[i : i + length])
                if token is not None:
                    subword = run[i : i + length]
                    break
            first, last = offsets[i], offsets[i + len(subword) - 1] + 1
            if token is not None:
                yield token, first, last
            else:
                for byte in b" " if subword == "_" else subword.encode():
                    yield self._first_byte + byte, first, last
            i += len(subword)


def _lengths(texts: Iterable[str]) -> Mapping[str, tuple[int, ...]]:
    """Return the lengths of the texts, the longest first, by their first character."""
    found: dict[str, set[int]] = {}
    for text in texts:
        found.setdefault(text[0], set()).add(len(text))
    return {first: tuple(sorted(lengths, reverse=True)) for first, lengths in found.items()}


def _subwords(content: bytes, vocabulary_size: int | None) -> list[str]:
    try:
        header, metadata, *lines = content.decode().split("\n")
    except ValueError as error:
        raise BadCheckpoint(f"the subwords cannot be read: {error}") from error
    if header != HEADER or not metadata.startswith(_METADATA):
        raise BadCheckpoint(
            f"the file of subwords does not begin with the lines {HEADER!r} and {_METADATA!r}; "
            "save it with SubwordTextEncoder.save_to_file, with \\n as line breaks"
        )
    if lines and not lines[-1]:
        lines.pop()
    body = "\n".join(lines)
    if body and not (body[0] == body[-1] == "'" and len(body) > 1):
        raise BadCheckpoint("the subwords of the file are not each between single quotes")
    as_read = [line[1:-1] for line in lines if line[1:-1]]
    as_written = body[1:-1].split("'\n'") if body else []
    if as_read == as_written:
        return as_read
    n = None if vocabulary_size is None else vocabulary_size - len(_BYTES) - 1
    fitting = [subwords for subwords in (as_read, as_written) if len(subwords) == n]
    # A quote beside a line break within a subword looks like the end of one.
    is_certain = not (
        as_written[-1].endswith("'\n")
        or any(not part or part.startswith("\n'") for part in as_written)
    )
    if len(fitting) != 1 or not is_certain:
        raise BadCheckpoint(
            "subwords of the file contain line breaks, which its format cannot hold: as it was "
            f"written it has {len(as_written) + 257} tokens, as the library reads it "
            f"{len(as_read) + 257}, and the model has "
            f"{'an unknown number' if vocabulary_size is None else vocabulary_size}"
        )
    return fitting[0]
