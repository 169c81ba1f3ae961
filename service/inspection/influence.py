"""How much a prediction owes to each earlier token: the text read again without it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import GenerationFailed
from service.models.step import Batch, State, StepProgram

ROWS = 64
"""Rows of a batch: one reads every token, each of the others leaves one out."""

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Influence:
    """What leaving out a token changes: the divergence in bits, and a logprob in nats."""

    bits: float  # of the prediction with it from the one without it
    logprob_change: float  # of the token that follows, without it less with it


class InfluenceReader:
    """Reads the tokens before one prediction, once in full and once without each of the latest.

    A row that leaves out a token keeps its state there. One thread at a time.
    """

    def __init__(
        self,
        program: StepProgram,
        tokens: Sequence[int],
        back: int,
        initial: State | None = None,
    ) -> None:
        """`tokens` are those before the prediction; the last `back` are left out by turns."""
        self._program, self._tokens = program, tokens
        self._first = len(tokens) - back
        batch = program.new_batch(1)
        batch.put(0, initial)
        for token in tokens[: self._first]:
            batch.tokens[0] = token
            program.step(batch, 1)
        position = self._first if initial is None else initial.position + self._first
        self._start = State(position, tuple(array[0].copy() for array in batch.states))
        self._logits = batch.logits[0].copy() if self._first else None
        self.expected: Sums = np.zeros(program.vocabulary_size)  # logprobs with every token

    def blocks(self) -> Iterator[range]:
        """Yield the places that are left out together."""
        places = range(self._first, len(self._tokens))
        for first in range(0, len(places), ROWS - 1):
            yield places[first : first + ROWS - 1]

    def read(self, left_out: range, target: int | None) -> list[Influence]:
        """Return the influence of the tokens at these places. Raises GenerationFailed."""
        batch = self._program.new_batch(1 + len(left_out))
        for row in range(1 + len(left_out)):
            batch.put(row, self._start)
            if self._logits is not None:
                batch.logits[row] = self._logits
        for place in range(self._first, len(self._tokens)):
            batch.tokens[:] = self._tokens[place]
            if place in left_out:
                self._step_without(batch, 1 + left_out.index(place))
            else:
                self._program.step(batch, len(batch.tokens))
        logprobs = _logprobs(batch.logits)
        self.expected = logprobs[0]
        p = np.exp(logprobs[0])
        found = []
        for row in logprobs[1:]:
            change = 0.0 if target is None else float(row[target] - logprobs[0, target])
            bits = float((p * (logprobs[0] - row)).sum()) / math.log(2.0)
            found.append(Influence(max(0.0, bits), change))
        return found

    def _step_without(self, batch: Batch, row: int) -> None:
        states = [array[row].copy() for array in batch.states]
        logits = batch.logits[row].copy()
        self._program.step(batch, len(batch.tokens))
        for array, kept in zip(batch.states, states, strict=True):
            array[row] = kept
        batch.logits[row] = logits


def _logprobs(logits: npt.NDArray[np.float32]) -> Sums:
    wide = logits.astype(np.float64)
    if not np.isfinite(wide).all():
        raise GenerationFailed("the model computed logits that are not finite numbers")
    wide -= wide.max(axis=1, keepdims=True)
    found: Sums = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return found
