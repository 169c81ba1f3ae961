"""The window that a model reads from a zero state for each prediction."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from service.errors import BadCheckpoint

MAX_WINDOW = 1_024

BATCH_NUMBERS = 16 * 1024 * 1024
"""Numbers of the widest layer that a step of windows has in memory at once."""


class Padding(StrEnum):
    """Where a window that is longer than the text is padded."""

    LEFT = "left"
    RIGHT = "right"
    NONE = "none"  # the author's loop always fills the window: a shorter prompt is refused


@dataclass(frozen=True, slots=True)
class Window:
    """The latest `length` tokens are read for each prediction.

    A pad is the token `pad`, or a step with the input 0 where it is None. With `is_sliding` a
    window that the prompt has not filled keeps its number of tokens: the author's loop drops the
    first token for each new one. With `keeps_first` the first `length` tokens of a text are
    read, so that a longer text does not change the prediction. Raises BadCheckpoint outside the
    limits.
    """

    length: int
    padding: Padding
    pad: int | None = None
    is_sliding: bool = False
    keeps_first: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.length <= MAX_WINDOW:
            raise BadCheckpoint(
                f"the model reads a window of {self.length} tokens; 1 to {MAX_WINDOW} are served"
            )

    def to_json(self) -> dict[str, object]:
        """Return the window as plain JSON values; `keeps_first` is left out if it is false."""
        values = asdict(self)
        if not self.keeps_first:
            del values["keeps_first"]
        return values

    @property
    def summary(self) -> str:
        """The window in one line, e.g. `a window of 40 tokens, padded left with token 0`."""
        text = f"a window of {'the first ' if self.keeps_first else ''}{self.length} tokens"
        if self.padding is not Padding.NONE:
            pad = "zeros" if self.pad is None else f"token {self.pad}"
            text += f", padded {self.padding} with {pad}"
        return text


def read_window(
    held: npt.NDArray[np.floating], window: Window, vocabulary_size: int
) -> npt.NDArray[np.int64]:
    """Return the tokens that the network reads, pads included: (rows, steps) → (rows, steps).

    `held` is token id + 1, and 0 for none, newest last. The token `vocabulary_size` is the input 0.
    Fewer steps than `window.length` are the latest ones.
    """
    pad = vocabulary_size if window.pad is None else window.pad
    if window.padding is Padding.NONE:
        pad = vocabulary_size
    ids = held.astype(np.int64) - 1
    if window.padding is Padding.RIGHT:
        steps = ids.shape[1]
        n_held = (ids >= 0).sum(axis=1, keepdims=True)
        source = np.arange(steps) + steps - n_held
        ids = np.take_along_axis(ids, source % steps, axis=1)
    return np.where(ids < 0, pad, ids)


def windows_of(
    tokens: Sequence[int] | npt.NDArray[np.int64], length: int, *, keeps_first: bool = False
) -> npt.NDArray[np.float64]:
    """Return the window after each token, as `read_window` takes it: (tokens, length)."""
    padded = np.concatenate([np.zeros(length - 1), np.asarray(tokens) + 1.0])
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)
    return windows[np.minimum(np.arange(len(windows)), length - 1)] if keeps_first else windows
