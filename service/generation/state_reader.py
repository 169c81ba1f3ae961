"""The recurrent state after a text: what the model's last layer holds of it, as a vector."""

import asyncio
import threading
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from service.errors import Overloaded, Validation
from service.generation.fair_lock import FairLock
from service.models.cells import CELLS
from service.models.spec import ModelSpec
from service.models.step import StepProgram

ROWS = 16  # texts that are read together
MAX_WAITING = 16  # reads of an owner that wait for the one that runs

Vector = npt.NDArray[np.float32]  # (width,)


class Pooling(StrEnum):
    """Which states make up the vector of a text."""

    LAST = "last"  # the state after its last token
    MEAN = "mean"  # the mean of the states after each token


class StateReader:
    """Reads texts by steps of their own, beside the engine's batch. Belongs to one event loop."""

    def __init__(self, program: StepProgram, spec: ModelSpec) -> None:
        self._program, self._spec = program, spec
        self._lock = FairLock()

    def width(self, *, has_cell_state: bool) -> int:
        """Return the size of a vector: h of the last layer, and c. Raises Validation."""
        window, layer = self._spec.window, self._spec.recurrent_layers[-1]
        if window is not None:
            raise Validation(
                f"the model reads a window of {window.length} tokens from a zero state for each "
                "prediction and carries no state over a text; use a model whose state is carried"
            )
        states = CELLS[layer.cell].states
        if has_cell_state and len(states) == 1:
            raise Validation(
                f"the cell {layer.cell} has no c; its state is h alone: leave `state` out"
            )
        return layer.units * (len(states) if has_cell_state else 1)

    async def read(
        self,
        texts: Sequence[Sequence[int]],
        pooling: Pooling,
        *,
        has_cell_state: bool,
        cancelled: threading.Event,
        owner: str = "",
    ) -> list[Vector]:
        """Return the vector of each text of token ids; none once `cancelled`.

        One call at a time computes. Raises Overloaded if too many wait, Validation as `width`.
        """
        width = self.width(has_cell_state=has_cell_state)
        if self._lock.waiting_of(owner) >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} requests for embeddings wait already; try again later")
        async with self._lock.held(owner):
            return await asyncio.to_thread(self._read, texts, pooling, width, cancelled)

    def _read(
        self,
        texts: Sequence[Sequence[int]],
        pooling: Pooling,
        width: int,
        cancelled: threading.Event,
    ) -> list[Vector]:
        """Read the longest texts first, so that a step always covers the first rows."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        found: dict[int, Vector] = {}
        for first in range(0, len(order), ROWS):
            group = order[first : first + ROWS]
            vectors = self._read_group([texts[i] for i in group], pooling, width, cancelled)
            if vectors is None:
                return []
            found.update(zip(group, vectors, strict=True))
        return [found[i] for i in range(len(texts))]

    def _read_group(
        self,
        texts: Sequence[Sequence[int]],
        pooling: Pooling,
        width: int,
        cancelled: threading.Event,
    ) -> list[Vector] | None:
        batch = self._program.new_batch(len(texts))
        layer = self._spec.recurrent_layers[-1]
        n_states = len(CELLS[layer.cell].states)
        n_read = width // layer.units  # of the last layer: h, c

        def vectors(rows: int) -> Vector:
            states = batch.read(range(rows))[-n_states:][:n_read]
            return np.concatenate(states, axis=1).astype(np.float32)

        sums = np.zeros((len(texts), width))
        rows = len(texts)
        for step in range(len(texts[0])):
            if cancelled.is_set():
                return None
            while len(texts[rows - 1]) <= step:
                rows -= 1
            batch.tokens[:rows] = [text[step] for text in texts[:rows]]
            self._program.step(batch, rows)
            if pooling is Pooling.MEAN:
                sums[:rows] += vectors(rows)
        if pooling is Pooling.LAST:
            # A row that has ended is in no later step.
            return list(vectors(len(texts)))
        lengths = np.array([[len(text)] for text in texts])
        return list((sums / lengths).astype(np.float32))
