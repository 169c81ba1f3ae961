"""What a text costs a model whose cells are held at a value: bits that are lost without them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import GenerationFailed
from service.generation.softmax import logsumexp
from service.models.cells import CELLS
from service.models.held_program import HeldBatch, HeldProgram, held_state
from service.models.spec import FloatArray, ModelSpec

ROWS = 64
"""Rows of a batch: one with nothing held, and a set of cells in each of the others."""

Sums = npt.NDArray[np.float64]
CellSet = tuple[int, ...]
"""Cells of a layer that are held together."""


@dataclass(frozen=True, slots=True)
class PredictedText:
    """The tokens of a text, those before it, and where a property holds before a token."""

    tokens: npt.NDArray[np.int64]
    before: tuple[int, ...]  # read first, and not predicted
    where: npt.NDArray[np.bool_]  # (tokens,)

    @property
    def n_predicted(self) -> int:
        """How many tokens something predicts: all but a first one."""
        return len(self.tokens) - (not self.before)

    @property
    def first_predicted(self) -> int:
        """The first token that something predicts."""
        return 0 if self.before else 1


@dataclass(frozen=True, slots=True)
class Ablation:
    """Bits per token without any cell held, and how many more each set costs."""

    sets: Sequence[CellSet]
    tokens: npt.NDArray[np.int64]  # the different tokens that were predicted
    counts: npt.NDArray[np.int64]  # of each
    n_where: int
    bits: float
    bits_where: float  # NaN where there is no such token
    token_bits: Sums  # (tokens,)
    more: Sums  # (sets,)
    more_where: Sums
    more_elsewhere: Sums
    more_by_token: Sums  # (sets, tokens)


class HeldText:
    """Reads one text with a block of sets held, in the rows after the first. One thread at a time.

    `values` are of all cells of the layer. A cell is held from the first token on.
    """

    def __init__(
        self,
        program: HeldProgram,
        text: PredictedText,
        layer: int,
        sets: Sequence[CellSet],
        values: FloatArray,
    ) -> None:
        self._held: HeldBatch = program.new_batch(1 + len(sets))
        for row, cells in enumerate(sets, 1):
            self._held.masks[layer][row, list(cells)] = True
        self._held.values[layer][:] = values
        self._text = text
        predicted = text.tokens[text.first_predicted :]
        self.tokens, self._index = np.unique(predicted, return_inverse=True)
        self.nats_by_token = np.zeros((1 + len(sets), len(self.tokens)))
        self.nats_where = np.zeros(1 + len(sets))
        for token in text.before:
            self._step(token)

    def read(self, first: int, last: int) -> None:
        """Read the tokens from `first` up to `last`. Raises GenerationFailed."""
        tokens, logits = self._text.tokens, self._held.batch.logits
        skipped, where = self._text.first_predicted, self._text.where
        for t in range(first, last):
            token = tokens[t]
            if t >= skipped:
                nats = logsumexp(logits) - logits[:, token]
                self.nats_by_token[:, self._index[t - skipped]] += nats
                if where[t]:
                    self.nats_where += nats
            self._step(token)
        if not np.isfinite(self.nats_by_token).all():
            raise GenerationFailed("the model computed logits that are not finite numbers")

    def _step(self, token: int) -> None:
        self._held.batch.tokens[:] = token
        self._held.step()


class CellMeans:
    """The means of the states that are held, over a text. One thread at a time."""

    def __init__(
        self, program: HeldProgram, spec: ModelSpec, layer: int, text: PredictedText
    ) -> None:
        self._held, self._tokens = program.new_batch(1), text.tokens
        layers = spec.recurrent_layers
        first = sum(len(CELLS[below.cell].states) for below in layers[:layer])
        state = first + held_state(layers[layer])
        self._state = self._held.batch.states[state][0]
        self._sums = np.zeros(len(self._state))
        for token in text.before:
            self._held.batch.tokens[:] = token
            self._held.step()

    def read(self, first: int, last: int) -> None:
        """Add the states after the tokens from `first` up to `last`."""
        for token in self._tokens[first:last]:
            self._held.batch.tokens[:] = token
            self._held.step()
            self._sums += self._state

    def means(self) -> FloatArray:
        """The means, (units,)."""
        return (self._sums / len(self._tokens)).astype(np.float32)


def joined(text: PredictedText, sets: Sequence[CellSet], blocks: Sequence[HeldText]) -> Ablation:
    """Return what the blocks of all sets, in order, have found."""
    scale = 1.0 / math.log(2.0)
    where = text.where[text.first_predicted :]
    n, n_where = text.n_predicted, int(where.sum())
    tokens = blocks[0].tokens
    found = np.unique(text.tokens[text.first_predicted :], return_counts=True)[1]
    plain, plain_where = blocks[0].nats_by_token[0], float(blocks[0].nats_where[0])
    more = np.concatenate([block.nats_by_token[1:] - block.nats_by_token[0] for block in blocks])
    more_where = np.concatenate([block.nats_where[1:] - block.nats_where[0] for block in blocks])
    all_more = more.sum(axis=1)
    n_elsewhere = n - n_where
    return Ablation(
        sets,
        tokens,
        found,
        n_where,
        scale * float(plain.sum()) / n,
        scale * plain_where / n_where if n_where else math.nan,
        scale * plain / found,
        scale * all_more / n,
        scale * more_where / n_where if n_where else np.full(len(sets), math.nan),
        scale * (all_more - more_where) / n_elsewhere
        if n_elsewhere
        else np.full(len(sets), math.nan),
        scale * more / found,
    )
