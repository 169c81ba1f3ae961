"""A text as numbers: the part to learn, the part to check on, and the lanes both are read in."""

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
from service.models.tokenizer import Tokenizer
from service.training.recipe import split_index

Tokens = npt.NDArray[np.int32]

MIN_CHARACTERS = 2
"""Below this there is nothing to predict; what a batch needs is checked by `BPTTBatches`."""

MAX_MARKS = 30
"""Combining marks in a row, as in UAX #15's stream-safe text: composing sorts each such run."""


@dataclass(frozen=True)
class Corpus:
    r"""A text to learn from: every line ends in \n and every character is composed (NFC).

    `sha256` is of the normalised text in UTF-8: two files that differ only in what was normalised
    are the same corpus.
    """

    text: str
    sha256: str
    n_bytes: int
    n_newlines_replaced: int = 0
    was_composed: bool = True

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Read a file's bytes.

        Raises:
            Validation: the file is not UTF-8, or as `of`.

        """
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
        """Normalise a text.

        Raises:
            Validation: it has fewer than two different characters, or too many marks in a row.

        """
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
        """Read what was normalised once and for all: nothing is changed, nothing is checked."""
        return cls(content.decode(), hashlib.sha256(content).hexdigest(), len(content))

    @cached_property
    def counts(self) -> dict[str, int]:
        """How often each character is there, in the order of the code points."""
        return dict(sorted(Counter(self.text).items()))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every character of the text, in the order of the code points."""
        return tuple(self.counts)

    def split(self, vocabulary: Sequence[str], validation_fraction: float) -> "Split":
        """Cut the text in two where its last `validation_fraction` begins; nothing is shuffled.

        Raises:
            UnknownCharacter: the vocabulary does not cover the text.

        """
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
    """Every character that composing moves among its neighbours, whole or in parts."""
    characters = (chr(code) for code in range(0x110000))
    return frozenset(
        one for one in characters if unicodedata.combining(unicodedata.normalize("NFD", one)[0])
    )


def encoded(text: str, vocabulary: Sequence[str]) -> Tokens:
    """As `Tokenizer.encode`, for texts of many megabytes. Raises UnknownCharacter."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    ids = np.full(0x110000, -1, np.int32)
    for i, token in enumerate(vocabulary):
        if len(token) == 1:
            ids[ord(token)] = i
    tokens: Tokens = ids[codes]
    if (tokens < 0).any():
        Tokenizer(vocabulary).encode(text)  # knows how to say which character, and where
    return tokens


@dataclass(frozen=True, slots=True)
class Split:
    """A text cut once: the model learns `training` and is judged on `validation`."""

    training: Tokens  # (characters,) int32
    validation: Tokens  # (characters,) int32
    validation_bytes: int


@dataclass(frozen=True, slots=True)
class BPTTChunk:
    """What one step reads: a piece of every lane, and for each character the one after it."""

    inputs: Tokens  # (lanes, characters) int32
    targets: Tokens  # (lanes, characters) int32


class BPTTBatches:
    """A text read as parallel lanes, window after window.

    Lane k is the k-th equal stretch of the text, and window n + 1 begins where window n ended: a
    state carried from step to step has therefore seen all of its lane before the window. Targets
    come from the text and not from the window, so nothing wraps around at an edge. What does not
    fill the last window (`n_spare` characters) is left out; a `start` up to `n_spare`, drawn anew
    for each epoch, moves the edges.
    """

    def __init__(self, tokens: Tokens, n_lanes: int, window_characters: int) -> None:
        """Raises Validation where the text is too short for one window."""
        self.n_windows = (len(tokens) - 1) // (n_lanes * window_characters)
        if self.n_windows < 1:
            raise Validation(
                f"the text to learn has {len(tokens)} characters; {n_lanes} lanes of "
                f"{window_characters} need at least {n_lanes * window_characters + 1}: "
                "lower batch_size or sequence_length"
            )
        self._tokens = tokens
        self._n_lanes = n_lanes
        self._width = window_characters
        self.n_spare = len(tokens) - 1 - n_lanes * window_characters * self.n_windows

    def window(self, index: int, start: int = 0) -> BPTTChunk:
        """Window `index` of the pass that begins at character `start`."""
        return BPTTChunk(self._piece(index, start), self._piece(index, start + 1))

    def windows(self, start: int = 0) -> Iterator[BPTTChunk]:
        """All windows of one pass, in the order of the text."""
        return (self.window(index, start) for index in range(self.n_windows))

    def _piece(self, index: int, start: int) -> Tokens:
        characters = self._n_lanes * self._width * self.n_windows
        lanes = self._tokens[start : start + characters].reshape(self._n_lanes, -1)
        return lanes[:, index * self._width : (index + 1) * self._width]


@dataclass(frozen=True, slots=True)
class EvaluationChunk:
    """A window, and which of its predictions count: a warm-up's and a filling's do not."""

    inputs: Tokens  # (lanes, characters) int32
    targets: Tokens  # (lanes, characters) int32
    counted: npt.NDArray[np.float32]  # (lanes, characters) float32, 0 or 1


class EvaluationBatches:
    """A text read whole, every character but the first predicted once.

    As one lane it would take a step for every character. As several, each begins its stretch
    `warm_up` characters early, and what it pays there is not counted: a state forgets where it
    began long before.
    """

    def __init__(self, tokens: Tokens, window_characters: int = 100, warm_up: int = 100) -> None:
        """Raises Validation where there is no character to predict."""
        n_predictions = len(tokens) - 1
        if n_predictions < 1:
            raise Validation(
                f"the validation text has {len(tokens)} characters; it needs at least 2: "
                "raise validation_fraction"
            )
        self.n_predictions = n_predictions
        self.n_lanes = min(64, max(1, n_predictions // (4 * warm_up)))
        stretch = -(-n_predictions // self.n_lanes)
        width = warm_up * (self.n_lanes > 1) + stretch
        self._width = window_characters
        padded = -(-width // window_characters) * window_characters
        first = stretch * np.arange(self.n_lanes)[:, None]  # the stretch's first prediction
        begin = first - warm_up * (self.n_lanes > 1)
        begin[0] = 0  # nothing comes before the text
        at = begin + np.arange(padded)[None, :]  # (lanes, padded) index of the input
        counted = (at >= first) & (at < np.minimum(first + stretch, n_predictions))
        at = np.minimum(at, n_predictions - 1)
        self._inputs = tokens[at]
        self._targets = tokens[at + 1]
        self._counted = counted.astype(np.float32)

    def __iter__(self) -> Iterator[EvaluationChunk]:
        for left in range(0, self._inputs.shape[1], self._width):
            columns = slice(left, left + self._width)
            yield EvaluationChunk(
                self._inputs[:, columns], self._targets[:, columns], self._counted[:, columns]
            )
