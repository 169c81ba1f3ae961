"""The ablations of one loaded model: its text read again with cells held."""

import asyncio
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from service.errors import Validation
from service.inspection.ablation import (
    ROWS,
    Ablation,
    CellMeans,
    CellSet,
    HeldText,
    PredictedText,
    joined,
)
from service.inspection.inspection_thread import InspectionThread
from service.models.bundle import Precision
from service.models.cells import CELLS
from service.models.held_program import HeldProgram
from service.models.spec import FloatArray, ModelSpec, Weights, is_bounded

Hold = Literal["mean", "zero"] | float
"""At which value a cell is held: its mean over the text, zero, or a number."""


@dataclass(frozen=True, slots=True)
class AblationOrder:
    """What is asked for: sets of cells of one layer, and their value."""

    layer: int
    sets: Sequence[CellSet]
    hold: Hold = "mean"


class Ablator:
    """Reads texts with cells held, in the thread that all inspections share.

    Its program is compiled for the first text and dropped after the last one that runs.
    """

    def __init__(
        self,
        spec: ModelSpec,
        precision: Precision,
        read_weights: Callable[[], Weights],
        thread: InspectionThread,
    ) -> None:
        self._spec, self._precision, self._read_weights = spec, precision, read_weights
        self._thread = thread
        self._program: weakref.ref[HeldProgram] | None = None

    def order(
        self, layer: int, cells: Sequence[Sequence[int]] | Literal["all"], hold: Hold
    ) -> AblationOrder:
        """Check what a request names. Raises Validation."""
        if self._spec.window is not None:
            raise Validation("the model reads a window: no state is carried that can be held")
        layers = self._spec.recurrent_layers
        if not 0 <= layer < len(layers):
            raise Validation(
                f"`layer` is {layer}; the model's recurrent layers are 0 to {len(layers) - 1}",
                "layer",
            )
        units = layers[layer].units
        sets = [(cell,) for cell in range(units)] if cells == "all" else [*map(tuple, cells)]
        for each in sets:
            for cell in each:
                if not 0 <= cell < units:
                    raise Validation(
                        f"`cells` has {cell}; those of layer {layer} are 0 to {units - 1}", "cells"
                    )
            if not each or len({*each}) < len(each):
                raise Validation(
                    f"`cells` has the set {[*each][:8]}: a set has cells, each once", "cells"
                )
        has_c = "c" in CELLS[layers[layer].cell].states
        if not isinstance(hold, str) and not has_c and is_bounded(layers[layer]) and abs(hold) > 1:
            raise Validation(
                f"`hold` is {hold}; the cell has no c, and its h is from -1 to 1", "hold"
            )
        return AblationOrder(layer, sets, hold)

    def check(self, order: AblationOrder, text: PredictedText) -> None:
        """Raise Validation if an ablation would take too long, or too much memory."""
        config, n_sets, n = self._thread.config, len(order.sets), len(text.tokens)
        if text.n_predicted < 1:
            raise Validation("nothing predicts the only token of `inputs`: give a longer text")
        if n * n_sets > config.max_ablation_steps:
            raise Validation(
                f"{n} tokens with {n_sets} sets of cells are {n * n_sets} steps; the limit is "
                f"{config.max_ablation_steps}: give at most "
                f"{config.max_ablation_steps // n_sets} tokens, or fewer sets"
            )
        n_sums = len(np.unique(text.tokens)) * n_sets
        if n_sums > config.max_ablation_sums:
            raise Validation(
                f"the sums by token of {n_sets} sets of cells are {n_sums} numbers; the limit is "
                f"{config.max_ablation_sums}: give fewer sets, or a text with fewer different "
                "tokens"
            )

    async def ablate(
        self,
        order: AblationOrder,
        text: PredictedText,
        owner: str,
        cancelled: asyncio.Event,
    ) -> tuple[Ablation, FloatArray] | None:
        """Return what each set costs, and the values of all cells; None if it was `cancelled`.

        Raises GenerationFailed.
        """
        run, layer = partial(self._thread.run, owner), order.layer
        program = await run(self._compiled)
        if order.hold == "mean":
            sums = await run(partial(CellMeans, program, self._spec, layer, text))
            if not await self._read(sums.read, text, 1, owner, cancelled):
                return None
            values = sums.means()
        else:
            value = 0.0 if order.hold == "zero" else float(order.hold)
            values = np.full(self._spec.recurrent_layers[layer].units, value, np.float32)
        blocks = []
        for first in range(0, len(order.sets), ROWS - 1):
            sets = order.sets[first : first + ROWS - 1]
            block = await run(partial(HeldText, program, text, layer, sets, values))
            if not await self._read(block.read, text, 1 + len(sets), owner, cancelled):
                return None
            blocks.append(block)
        return await run(partial(joined, text, order.sets, blocks)), values

    async def _read(
        self,
        read: Callable[[int, int], None],
        text: PredictedText,
        rows: int,
        owner: str,
        cancelled: asyncio.Event,
    ) -> bool:
        """Read the whole text, a turn of the owner's for each part; False once `cancelled`."""
        size = max(16, self._thread.config.piece_tokens // rows)
        for first in range(0, len(text.tokens), size):
            if cancelled.is_set():
                return False
            last = min(first + size, len(text.tokens))
            await self._thread.run(owner, partial(read, first, last))
        return True

    def _compiled(self) -> HeldProgram:
        program = None if self._program is None else self._program()
        if program is None:
            program = HeldProgram(self._spec, self._read_weights(), self._precision)
            self._program = weakref.ref(program)
        return program
