"""A step program in which cells can be held at a value: what a model says without them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.graph import layer_scope
from service.models.program import (
    bind_array,
    bind_batch,
    check_precision,
    int8_weight_bits,
    open_session,
)
from service.models.spec import FloatArray, ModelSpec, Weights
from service.models.step import Batch, zero_batch
from service.models.step_graph import build_held_graph, hold_names


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A batch, and what is held in each of its rows; its owner writes both between steps."""

    batch: Batch
    masks: tuple[npt.NDArray[np.bool_], ...]  # by recurrent layer, (capacity, units)
    values: tuple[FloatArray, ...]  # the same, of the cells whose mask is true
    step: Callable[[], None]  # all rows


class HeldProgram:
    """The step of a model on ONNX Runtime, with inputs that replace cells' c before h is computed.

    A cell without c has its h replaced. Any thread may use it, each with a batch of its own.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, precision: Precision) -> None:
        """Compile the graph. Raises Validation as `check_precision`."""
        check_precision(spec, weights, precision)
        graph = build_held_graph(spec, weights, precision, int8_weight_bits())
        self._session, self._spec = open_session(graph, 1), spec

    def new_batch(self, rows: int) -> HeldBatch:
        """Allocate a batch of `rows`, all in the zero state, that holds nothing."""
        batch = zero_batch(self._spec, rows)
        binding = bind_batch(self._session, batch, rows)
        masks, values = [], []
        for i, layer in enumerate(self._spec.layers):
            if isinstance(layer, LayerSpec):
                masks.append(np.zeros((rows, layer.units), np.bool_))
                values.append(np.zeros((rows, layer.units), np.float32))
                for name, array in zip(
                    hold_names(layer_scope(i)), (masks[-1], values[-1]), strict=True
                ):
                    bind_array(binding.bind_input, name, array, rows)

        def step() -> None:
            self._session.run_with_iobinding(binding)

        return HeldBatch(batch, tuple(masks), tuple(values), step)


def held_state(layer: LayerSpec) -> int:
    """Return which of a cell's states is held: c where there is one, else h."""
    states = CELLS[layer.cell].states
    return states.index("c") if "c" in states else 0
