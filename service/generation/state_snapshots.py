"""Copies of rows' states, each taken after a step of its own within a burst."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.models.step import Batch

NEVER = -1


class StateSnapshots:
    """Where a burst leaves the states that are asked of it. One thread between bursts."""

    def __init__(self, batch: Batch) -> None:
        self._states = batch.states
        self.arrays = tuple(np.zeros_like(state) for state in batch.states)
        self.after = np.full(len(batch.tokens), NEVER, np.int64)  # (capacity,), a step of the burst
        self._rows: list[int] = []

    def ask(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Say of which rows, after which step, the next burst shall keep the state."""
        self._rows = [row for row, _ in wanted]
        for row, step in wanted:
            self.after[row] = step

    def keep(self, rows: int, step: int) -> None:
        """After step number `step`: copy what was asked for."""
        if self._rows:
            chosen = np.flatnonzero(self.after[:rows] == step)
            for array, state in zip(self.arrays, self._states, strict=True):
                array[chosen] = state[chosen]

    def take(self) -> dict[int, tuple[npt.NDArray[Any], ...]]:
        """What was kept, by row; nothing is asked for any more."""
        kept = {row: tuple(array[row].copy() for array in self.arrays) for row in self._rows}
        self.after[self._rows] = NEVER
        self._rows = []
        return kept
