"""A text as numbers: the part to learn, the part to check on, and the lanes both are read in."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import Validation

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text cut once: the model learns `training` and is judged on `validation`."""

    training: Tokens  # (characters,) int32
    validation: Tokens  # (characters,) int32

    @classmethod
    def cut(cls, tokens: Tokens, validation_share: float) -> "Corpus":
        """Cut a text in two where its last `validation_share` begins; nothing is shuffled."""
        edge = round(len(tokens) * (1.0 - validation_share))
        return cls(tokens[:edge], tokens[edge:])


@dataclass(frozen=True, slots=True)
class Window:
    """What one step reads: a piece of every lane, and for each character the one after it."""

    inputs: Tokens  # (lanes, characters) int32
    targets: Tokens  # (lanes, characters) int32


class Lanes:
    """A text read as parallel lanes, window after window.

    Lane k is the k-th equal stretch of the text, and window n + 1 begins where window n ended: a
    state carried from step to step has therefore seen all of its lane before the window. Targets
    come from the text and not from the window, so nothing wraps around at an edge. What does not
    fill the last window is left out; a `start` drawn anew for each epoch moves the edges.
    """

    def __init__(
        self, tokens: Tokens, n_lanes: int, window_characters: int, start: int = 0
    ) -> None:
        """Raises Validation where the text is too short for one window."""
        self.n_windows = (len(tokens) - start - 1) // (n_lanes * window_characters)
        if self.n_windows < 1:
            raise Validation(
                f"the text has {len(tokens)} characters; {n_lanes} lanes of {window_characters} "
                f"from {start} on need {n_lanes * window_characters + start + 1}"
            )
        self._window_characters = window_characters
        stop = start + n_lanes * window_characters * self.n_windows
        self._inputs = tokens[start:stop].reshape(n_lanes, -1)
        self._targets = tokens[start + 1 : stop + 1].reshape(n_lanes, -1)

    def __iter__(self) -> Iterator[Window]:
        width = self._window_characters
        for left in range(0, self._inputs.shape[1], width):
            columns = slice(left, left + width)
            yield Window(self._inputs[:, columns], self._targets[:, columns])
