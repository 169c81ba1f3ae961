"""The trace of one text: what a model predicts and what its cells do, token by token."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import GenerationFailed
from service.generation.softmax import logsumexp
from service.inspection.selection import SelectedLayer, Selection
from service.inspection.signals import Signals, derive, needed_signals
from service.models.cells import CELLS
from service.models.spec import FloatArray
from service.models.steered_batch import SteeredBatch
from service.models.steering import Steering
from service.models.step import State, TracedProgram

TopTokens = tuple[tuple[int, float], ...]
"""The most likely tokens at a place, each with its logprob; the most likely first."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a trace. A logprob is NaN where nothing predicts the token."""

    tokens: Sequence[int]
    logprobs: npt.NDArray[np.float64]  # (tokens,)
    top_tokens: Sequence[TopTokens]  # (tokens,), or empty
    layers: tuple[Signals, ...]  # as those of the selection

    @classmethod
    def joined(cls, pieces: "Sequence[Piece]") -> "Piece":
        """Return the pieces as one."""
        layers = zip(*(piece.layers for piece in pieces), strict=True)
        return cls(
            [token for piece in pieces for token in piece.tokens],
            np.concatenate([piece.logprobs for piece in pieces]),
            [top for piece in pieces for top in piece.top_tokens],
            tuple(
                {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                for parts in layers
            ),
        )


class TextTracer:
    """Reads a text from a state on, by steps of its own in a batch of one row.

    Its numbers are those of serving, since a row's do not depend on its batch. One thread at a
    time.
    """

    def __init__(
        self,
        program: TracedProgram,
        selection: Selection,
        initial: State | None = None,
        n_top_tokens: int = 0,
        steer: Steering = (),
    ) -> None:
        """`steer` needs a program of which the rows can be steered."""
        self._batch = program.new_batch(1)
        self._batch.put(0, initial)
        if steer:
            assert isinstance(self._batch, SteeredBatch)
            self._batch.steer(0, steer)
        self._trace = program.trace(self._batch)
        self.selection, self._n_top = selection, n_top_tokens
        self._n_read, self._predicts = 0 if initial is None else initial.position, False

    def feed(self, tokens: Sequence[int]) -> None:
        """Read tokens that are not shown: those before the text."""
        for token in tokens:
            self._step(token)

    def states(self) -> tuple[Mapping[str, FloatArray], ...]:
        """The states of each selected layer's cells now, by name, (cells,)."""
        return tuple(
            {name: array[0, layer.cells] for name, array in self._states_of(layer).items()}
            for layer in self.selection.layers
        )

    def state(self) -> State:
        """The whole state now."""
        return State(self._n_read, tuple(array[0].copy() for array in self._batch.states))

    def read(self, tokens: Sequence[int]) -> Piece:
        """Read the next tokens of the text. Raises GenerationFailed if no logprob is a number."""
        n, logprobs, top_tokens = len(tokens), np.full(len(tokens), math.nan), list[TopTokens]()
        records = [_Record(layer, self._sources(layer), n) for layer in self.selection.layers]
        for t, token in enumerate(tokens):
            if self._predicts:
                total = self._total()
                logprobs[t] = float(self._batch.logits[0, token]) - total
                if self._n_top:
                    top_tokens.append(self._top(total))
            elif self._n_top:
                top_tokens.append(())
            for record in records:
                record.before(t)
            self._step(token)
            for record in records:
                record.after(t)
        return Piece(
            list(tokens), logprobs, top_tokens, tuple(record.signals() for record in records)
        )

    def _step(self, token: int) -> None:
        self._batch.tokens[0] = token
        self._trace.step(1)
        self._n_read, self._predicts = self._n_read + 1, True

    def _total(self) -> float:
        """Log Σ exp of the logits. Raises GenerationFailed."""
        total = float(logsumexp(self._batch.logits)[0])
        if math.isnan(total):
            raise GenerationFailed(
                f"the model computed logits that are not finite numbers, at position {self._n_read}"
            )
        return total

    def _top(self, total: float) -> TopTokens:
        logits = self._batch.logits[0]
        order = np.lexsort((np.arange(len(logits)), -logits))[: self._n_top]
        return tuple((int(token), float(logits[token]) - total) for token in order)

    def _states_of(self, layer: SelectedLayer) -> Mapping[str, FloatArray]:
        names = CELLS[layer.spec.cell].states
        arrays = self._batch.states[layer.first_state : layer.first_state + len(names)]
        return dict(zip(names, arrays, strict=True))

    def _sources(self, layer: SelectedLayer) -> Mapping[str, FloatArray]:
        return {**self._trace.gates[layer.index], **self._states_of(layer)}


class _Record:
    """The values of one layer's cells while a piece is read."""

    def __init__(self, layer: SelectedLayer, sources: Mapping[str, FloatArray], n: int) -> None:
        self._layer = layer
        needed = needed_signals(layer.spec, layer.signals)
        shape = n, len(layer.cells)
        self._at = {name: np.empty(shape, np.float32) for name in needed}
        states = [name for name in CELLS[layer.spec.cell].states if name in needed]
        self._before = {name: np.empty(shape, np.float32) for name in states}
        take = _taking(layer)
        self._copies = [(take(sources[name]), self._at[name]) for name in needed]
        self._copies_before = [(take(sources[name]), self._before[name]) for name in states]

    def before(self, t: int) -> None:
        """Keep the states before token `t`."""
        for take, target in self._copies_before:
            take(target[t])

    def after(self, t: int) -> None:
        """Keep the gates and states of token `t`."""
        for take, target in self._copies:
            take(target[t])

    def signals(self) -> Signals:
        """The selected signals, (tokens, cells)."""
        return derive(self._layer.spec, self._layer.signals, self._at, self._before)


def _taking(layer: SelectedLayer) -> Callable[[FloatArray], Callable[[FloatArray], object]]:
    """Return what makes of a source the function that copies the layer's cells of it."""

    def of(source: FloatArray) -> Callable[[FloatArray], object]:
        row, cells = source[0], layer.cells
        return lambda target: row.take(cells, out=target, mode="clip")

    return of
