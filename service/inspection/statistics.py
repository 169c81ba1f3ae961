"""The statistics of a layer's cells over a text: sums alone, so that its length costs no memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import Validation
from service.inspection.selection import SelectedLayer, Selection
from service.inspection.tracer import Piece
from service.models.cells import CELLS

LAGS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987)
"""Tokens after which retention is measured."""

BINS = 64
MAX_TABLE_BYTES = 64 * 1024 * 1024
LEAST_COUNT = 5
"""A token that the text has fewer times has no fact of its own."""

MAX_FACTS = 5
_LEAST_GATE = 1e-30  # of which the logarithm is taken
_TABLES = 3  # by token: the state, the keeping gate, what is written

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """How open a gate is, by cell."""

    mean: Sums
    below: Sums  # share of tokens
    above: Sums


@dataclass(frozen=True, slots=True)
class TokenFact:
    """What a token does to a cell, in the mean over the times that the text has it."""

    token: int
    value: float
    count: int


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """The statistics of one layer: arrays are (cells,), `histogram` is (cells, BINS)."""

    tokens: int
    mean: Sums  # of c, or of h where there is no c
    deviation: Sums
    skewness: Sums  # NaN of a cell that does not deviate
    kurtosis: Sums
    least: Sums
    greatest: Sums
    histogram: npt.NDArray[np.int64]  # of tanh c, or of h, from -1 to 1
    gates: Mapping[str, GateStatistics]
    mean_log: Sums | None  # of the keeping gate; None for a cell without one
    retention: Mapping[int, Sums]  # by lag
    half_life: Sums  # tokens; infinite if more than half is left at the last lag
    cleared_by: Sequence[Sequence[TokenFact]]  # by cell: mean keeping gate, the least first
    written_by: Sequence[Sequence[TokenFact]]  # by cell: mean of what is written
    raised_by: Sequence[Sequence[TokenFact]]  # by cell: mean state after the token
    lowered_by: Sequence[Sequence[TokenFact]]


def needed_for(layer: SelectedLayer) -> tuple[str, ...]:
    """The signals that the statistics of a layer are made of."""
    cell = CELLS[layer.spec.cell]
    write = ("write",) if keeping_gate(layer) else ()
    return (*cell.activated, *cell.states, *write)


def keeping_gate(layer: SelectedLayer) -> str | None:
    """The gate by which a cell keeps its state: f of an LSTM, z of a GRU."""
    return next((gate for gate in ("f", "z") if gate in CELLS[layer.spec.cell].activated), None)


class LayerSums:
    """Adds up one layer's pieces."""

    def __init__(self, layer: SelectedLayer, vocabulary_size: int, low: float, high: float) -> None:
        n = len(layer.cells)
        self._layer, self._low, self._high = layer, low, high
        self._keeps = keeping_gate(layer)
        self._state = "c" if "c" in CELLS[layer.spec.cell].states else "h"
        self._n = 0
        self._shift = np.zeros(n)  # near the mean, so that the squares do not cancel
        self._powers = np.zeros((4, n))  # sums of the powers 1 to 4 of what differs from that
        self._least, self._greatest = np.full(n, np.inf), np.full(n, -np.inf)
        self._histogram = np.zeros((n, BINS), np.int64)
        self._gates = {name: np.zeros((3, n)) for name in CELLS[layer.spec.cell].activated}
        self._log_sum = np.zeros(n)
        self._ring = np.zeros((1, n))  # the sums of logarithms so far, at the latest places
        self._retained = np.zeros((len(LAGS), n))
        self._n_retained = np.zeros(len(LAGS), np.int64)
        self._tables = np.zeros((_TABLES if self._keeps else 1, vocabulary_size, n))
        self._counts = np.zeros(vocabulary_size, np.int64)

    def add(self, tokens: Sequence[int], signals: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Add the signals of the next tokens, each (tokens, cells)."""
        state = signals[self._state].astype(np.float64)
        if not self._n:
            self._shift = state.mean(axis=0)
        self._n += len(tokens)
        centred = state - self._shift
        self._powers += np.stack([(centred**power).sum(axis=0) for power in range(1, 5)])
        self._least = np.minimum(self._least, state.min(axis=0))
        self._greatest = np.maximum(self._greatest, state.max(axis=0))
        shown = np.tanh(state) if self._state == "c" else np.clip(state, -1.0, 1.0)
        bins = np.minimum(((shown + 1.0) * (BINS / 2)).astype(np.int64), BINS - 1)
        flat = bins + BINS * np.arange(state.shape[1])
        self._histogram += np.bincount(flat.ravel(), minlength=self._histogram.size).reshape(
            self._histogram.shape
        )
        for name, sums in self._gates.items():
            gate = signals[name]
            sums[0] += gate.sum(axis=0, dtype=np.float64)
            sums[1] += (gate < self._low).sum(axis=0)
            sums[2] += (gate > self._high).sum(axis=0)
        by_token = [state]
        if self._keeps:
            kept = signals[self._keeps].astype(np.float64)
            self._retain(kept)
            by_token += [kept, signals["write"].astype(np.float64)]
        self._tabulate(tokens, by_token)

    def _retain(self, kept: Sums) -> None:
        logs = np.log(np.maximum(kept, _LEAST_GATE))
        self._log_sum += logs.sum(axis=0)
        known = len(self._ring)
        sums = np.concatenate([self._ring, self._ring[-1] + np.cumsum(logs, axis=0)])
        for k, lag in enumerate(LAGS):
            first = max(known, lag)  # the places whose product of `lag` gates is complete
            if first < len(sums):
                products = np.exp(sums[first:] - sums[first - lag : len(sums) - lag])
                self._retained[k] += products.sum(axis=0)
                self._n_retained[k] += len(products)
        self._ring = sums[-LAGS[-1] :]

    def _tabulate(self, tokens: Sequence[int], values: Sequence[Sums]) -> None:
        ids = np.asarray(tokens, np.int64)
        order = np.argsort(ids, kind="stable")
        found, firsts, counts = np.unique(ids[order], return_index=True, return_counts=True)
        self._counts[found] += counts
        for table, array in zip(self._tables, values, strict=True):
            table[found] += np.add.reduceat(array[order], firsts, axis=0)

    def statistics(self) -> LayerStatistics:
        """Return the statistics of everything that has been added, at least one token."""
        n = self._n
        mean, deviation, skewness, kurtosis = moments(self._powers / n)
        retention = {
            lag: self._retained[k] / self._n_retained[k]
            for k, lag in enumerate(LAGS)
            if self._n_retained[k]
        }
        return LayerStatistics(
            n,
            self._shift + mean,
            deviation,
            skewness,
            kurtosis,
            self._least,
            self._greatest,
            self._histogram,
            {name: GateStatistics(*(sums / n)) for name, sums in self._gates.items()},
            self._log_sum / n if self._keeps else None,
            retention,
            half_lives(retention, len(mean)),
            *self._facts(self._shift + mean),
        )

    def _facts(self, mean: Sums) -> list[list[list[TokenFact]]]:
        """Return what clears, writes, raises and lowers, each by cell."""
        often = np.flatnonzero(self._counts >= LEAST_COUNT)
        counts = self._counts[often]
        means = self._tables[:, often] / counts[:, None]
        found: list[list[list[TokenFact]]] = [[], [], [], []]
        for cell in range(len(mean)):
            state, chosen = means[0][:, cell], [(means[0][:, cell], list[int]())] * 2
            if self._keeps:
                kept, write = means[1][:, cell], means[2][:, cell]
                overall = self._gates[self._keeps][0][cell] / self._n
                by_gate = [i for i in np.argsort(kept, kind="stable") if kept[i] < overall / 3]
                by_write = np.argsort(-np.abs(write), kind="stable").tolist()
                chosen = [(kept, by_gate), (write, by_write)]
            order = np.argsort(state, kind="stable").tolist()
            chosen.append((state, [i for i in reversed(order) if state[i] > mean[cell]]))
            chosen.append((state, [i for i in order if state[i] < mean[cell]]))
            for facts, (values, places) in zip(found, chosen, strict=True):
                facts.append(_facts(often, values, counts, places[:MAX_FACTS]))
        return found


def _facts(
    tokens: npt.NDArray[np.int64],
    values: Sums,
    counts: npt.NDArray[np.int64],
    places: Sequence[int],
) -> list[TokenFact]:
    return [TokenFact(int(tokens[i]), float(values[i]), int(counts[i])) for i in places]


def moments(powers: Sums) -> tuple[Sums, Sums, Sums, Sums]:
    """Return mean, deviation, skewness and kurtosis from the means of the powers 1 to 4.

    The last two are NaN where nothing deviates.
    """
    m1, m2, m3, m4 = powers
    variance = np.maximum(m2 - m1**2, 0.0)
    deviation = np.sqrt(variance)
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    scale = np.where(variance > 0, deviation, np.nan)
    return m1, deviation, third / scale**3, fourth / scale**4


def half_lives(retention: Mapping[int, Sums], n_cells: int) -> Sums:
    """Return after how many tokens half is left: where the line between two lags crosses it."""
    found = np.full(n_cells, np.inf)
    before_lag, before = 0, np.ones(n_cells)
    for lag, left in retention.items():
        crosses = np.isinf(found) & (left <= 0.5)
        share = (before[crosses] - 0.5) / (before[crosses] - left[crosses])
        found[crosses] = before_lag + share * (lag - before_lag)
        before_lag, before = lag, left
    return found


class TextStatistics:
    """Adds up the pieces of a text, for each selected layer."""

    def __init__(
        self, selection: Selection, vocabulary_size: int, low: float = 0.1, high: float = 0.9
    ) -> None:
        """Raises Validation if the tables by token would be too large."""
        n_cells = sum(len(layer.cells) for layer in selection.layers)
        size = 8 * _TABLES * vocabulary_size * n_cells
        if size > MAX_TABLE_BYTES:
            raise Validation(
                f"the means by token of {n_cells} cells and {vocabulary_size} tokens take {size} "
                f"bytes; the limit is {MAX_TABLE_BYTES}: name at most "
                f"{MAX_TABLE_BYTES // (8 * _TABLES * vocabulary_size)} `cells`",
                "cells",
            )
        self._sums = [LayerSums(layer, vocabulary_size, low, high) for layer in selection.layers]

    def add(self, piece: Piece) -> None:
        """Add the next piece of the text's trace."""
        for sums, signals in zip(self._sums, piece.layers, strict=True):
            sums.add(piece.tokens, signals)

    def statistics(self) -> list[LayerStatistics]:
        """Return the statistics of each layer."""
        return [sums.statistics() for sums in self._sums]
