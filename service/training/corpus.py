"""A text as token ids: its training and validation parts, and the batches of both."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from service.errors import Validation
from service.models.tokenizers.characters import CharacterTokenizer
from service.training.recipe import split_index

Tokens = npt.NDArray[np.int32]

MIN_CHARACTERS = 2  # different ones, or there is nothing to predict
MAX_MARKS = 30
"""Combining marks in a row, as in UAX #15's stream-safe text: NFC sorts each such run."""


@dataclass(frozen=True)
class Corpus:
    r"""A normalised text: every line ends in \n and every character is composed (NFC).

    `sha256` is of this text in UTF-8, so that texts that differ before it only are one corpus.
    """

    text: str
    sha256: str
    n_bytes: int
    n_newlines_replaced: int = 0
    was_composed: bool = True

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Read a file's bytes. Raises Validation where it is not UTF-8, and as `of`."""
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Validation(
                f"the text is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}; "
                "save it as UTF-8"
            ) from error
        return cls.of(text.removeprefix("\ufeff"))

    @classmethod
    def of(cls, text: str) -> Self:
        """Normalise a text. Raises Validation by MIN_CHARACTERS and MAX_MARKS."""
        _check_marks(text)
        with_newlines = text.replace("\r\n", "\n").replace("\r", "\n")
        composed = unicodedata.normalize("NFC", with_newlines)
        n_distinct = len(set(composed))
        if n_distinct < MIN_CHARACTERS:
            raise Validation(
                f"the text has {n_distinct} different characters in {len(composed)}; "
                f"it needs at least {MIN_CHARACTERS}"
            )
        encoded = composed.encode()
        return cls(
            composed,
            hashlib.sha256(encoded).hexdigest(),
            len(encoded),
            text.count("\r"),
            composed == with_newlines,
        )

    @classmethod
    def stored(cls, content: bytes) -> Self:
        """Read a text that is normalised already; nothing is changed or checked."""
        return cls(content.decode(), hashlib.sha256(content).hexdigest(), len(content))

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of occurrences of each character, in the order of the code points."""
        return dict(sorted(Counter(self.text).items()))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every character of the text, in the order of the code points."""
        return tuple(self.counts)

    def split(self, vocabulary: Sequence[str], validation_fraction: float) -> "Split":
        """Cut the text where its last `validation_fraction` begins. Raises UnknownCharacter."""
        tokens = encoded(self.text, vocabulary)
        edge = split_index(len(tokens), validation_fraction)
        return Split(tokens[:edge], tokens[edge:], len(self.text[edge:].encode()))


def _check_marks(text: str) -> None:
    """Raises Validation where more than MAX_MARKS combining marks follow each other."""
    if text.isascii():
        return
    marks = _marks()
    for i in range(MAX_MARKS, len(text), MAX_MARKS + 1):  # one of these is in every longer run
        if text[i] not in marks:
            continue
        first = last = i
        while first > 0 and text[first - 1] in marks:
            first -= 1
        while last - first < MAX_MARKS and text[last + 1 : last + 2] in marks:
            last += 1
        if last - first >= MAX_MARKS:
            raise Validation(
                f"the text has more than {MAX_MARKS} combining marks in a row, from character "
                f"{first} (U+{ord(text[first]):04X}) on; {MAX_MARKS} are most: take them out"
            )


@cache
def _marks() -> frozenset[str]:
    """Every character that NFC reorders among its neighbours, whole or in parts."""
    characters = (chr(code) for code in range(0x110000))
    return frozenset(
        one for one in characters if unicodedata.combining(unicodedata.normalize("NFD", one)[0])
    )


def encoded(text: str, vocabulary: Sequence[str]) -> Tokens:
    """Encode as `Tokenizer.encode` does, for texts of many megabytes. Raises UnknownCharacter."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    ids = np.full(0x110000, -1, np.int32)
    for i, token in enumerate(vocabulary):
        if len(token) == 1:
            ids[ord(token)] = i
    tokens: Tokens = ids[codes]
    if (tokens < 0).any():
        CharacterTokenizer(vocabulary).encode(text)  # raises UnknownCharacter with the offset
    return tokens


@dataclass(frozen=True, slots=True)
class Split:
    """A text cut once: the model is trained on `training` and evaluated on `validation`."""

    training: Tokens  # (characters,) int32
    validation: Tokens  # (characters,) int32
    validation_bytes: int


@dataclass(frozen=True, slots=True)
class BPTTChunk:
    """The batch of one step: a piece of every stream, and the character after each of its own."""

    inputs: Tokens  # (streams, characters) int32
    targets: Tokens  # (streams, characters) int32


class BPTTBatches:
    """The batches of truncated backpropagation through time: parallel streams, chunk after chunk.

    Stream k is the k-th equal part of the text, and chunk n + 1 begins where chunk n ended, so that
    the state is carried from step to step. Of the characters that fill no chunk, `n_spare`, a
    `start` of at most so many leaves out the first.
    """

    def __init__(self, tokens: Tokens, n_streams: int, chunk_characters: int) -> None:
        """Raises Validation where the text is too short for one chunk."""
        self.n_chunks = (len(tokens) - 1) // (n_streams * chunk_characters)
        if self.n_chunks < 1:
            raise Validation(
                f"the text to train on has {len(tokens)} characters; {n_streams} streams of "
                f"{chunk_characters} need at least {n_streams * chunk_characters + 1}: "
                "lower batch_size or sequence_length"
            )
        self._tokens, self._n_streams, self._width = tokens, n_streams, chunk_characters
        self.n_spare = len(tokens) - 1 - n_streams * chunk_characters * self.n_chunks

    def chunk(self, index: int, start: int = 0) -> BPTTChunk:
        """Chunk `index` of the epoch that begins at character `start`."""
        characters = self._n_streams * self._width * self.n_chunks
        columns = slice(index * self._width, (index + 1) * self._width)
        inputs, targets = (
            self._tokens[first : first + characters].reshape(self._n_streams, -1)[:, columns]
            for first in (start, start + 1)
        )
        return BPTTChunk(inputs, targets)


@dataclass(frozen=True, slots=True)
class EvaluationChunk(BPTTChunk):
    """A chunk, and which of its predictions count: those of warm-up and padding do not."""

    counted: npt.NDArray[np.float32]  # (streams, characters) float32, 0 or 1


class EvaluationBatches:
    """The batches of an evaluation: every character of a text but the first predicted once.

    Each stream begins `warm_up` characters before its part of the text, where the loss does not
    count: after them the state depends no longer on where it began.
    """

    def __init__(self, tokens: Tokens, chunk_characters: int = 100, warm_up: int = 100) -> None:
        """Raises Validation where there is no character to predict."""
        self.n_predictions = n_predictions = len(tokens) - 1
        if n_predictions < 1:
            raise Validation(
                f"the validation text has {len(tokens)} characters; it needs at least 2: "
                "raise validation_fraction"
            )
        self.n_streams = min(64, max(1, n_predictions // (4 * warm_up)))
        part = -(-n_predictions // self.n_streams)
        warm_up = warm_up if self.n_streams > 1 else 0
        width = warm_up + part
        self._width = chunk_characters
        padded = -(-width // chunk_characters) * chunk_characters
        first = part * np.arange(self.n_streams)[:, None]  # the first prediction of the part
        begin = first - warm_up
        begin[0] = 0  # nothing precedes the text
        at = begin + np.arange(padded)[None, :]  # (streams, padded) index of the input
        counted = (at >= first) & (at < np.minimum(first + part, n_predictions))
        at = np.minimum(at, n_predictions - 1)
        self._inputs, self._targets = tokens[at], tokens[at + 1]
        self._counted = counted.astype(np.float32)

    def __iter__(self) -> Iterator[EvaluationChunk]:
        for left in range(0, self._inputs.shape[1], self._width):
            columns = slice(left, left + self._width)
            yield EvaluationChunk(
                self._inputs[:, columns], self._targets[:, columns], self._counted[:, columns]
            )
