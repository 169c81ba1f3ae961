"""What is shown of a model: its recurrent layers, their cells, and the signals of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from service.errors import Validation
from service.inspection.signals import all_signals, usual_signals
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.spec import ModelSpec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SelectedLayer:
    """Cells of one recurrent layer. Layers and cells are counted from 0."""

    index: int  # among the recurrent layers
    spec: LayerSpec
    cells: npt.NDArray[np.int64]
    signals: tuple[str, ...]
    first_state: int  # of the layer, among the states of the model


@dataclass(frozen=True, slots=True)
class Selection:
    """The layers that are shown, in order."""

    layers: tuple[SelectedLayer, ...]

    @property
    def values_per_token(self) -> int:
        """How many values a token has."""
        return sum(len(layer.cells) * len(layer.signals) for layer in self.layers)


def select(
    spec: ModelSpec,
    layers: Sequence[int] | None = None,
    cells: Sequence[int] | None = None,
    signals: Sequence[str] | None = None,
) -> Selection:
    """Check what a request names; None is all layers, all cells, each gate and state.

    Raises Validation.
    """
    if spec.window is not None:
        raise Validation(
            f"the model reads a window of {spec.window.length} tokens from a zero state for each "
            "prediction, so that no gate or state belongs to a token of the text; inspect a model "
            "whose state is carried"
        )
    found, n = spec.recurrent_layers, len(spec.recurrent_layers)
    chosen = _distinct("layers", range(n) if layers is None else layers)
    for index in chosen:
        if not 0 <= index < n:
            raise Validation(
                f"`layers` has {index}; the model's recurrent layers are 0 to {n - 1}", "layers"
            )
    return Selection(
        tuple(_selected(spec, index, found[index], cells, signals) for index in chosen)
    )


def _selected(
    spec: ModelSpec,
    index: int,
    layer: LayerSpec,
    cells: Sequence[int] | None,
    signals: Sequence[str] | None,
) -> SelectedLayer:
    chosen = _distinct("cells", range(layer.units) if cells is None else cells)
    for cell in chosen:
        if not 0 <= cell < layer.units:
            raise Validation(
                f"`cells` has {cell}; those of layer {index} are 0 to {layer.units - 1}", "cells"
            )
    names = _distinct("signals", usual_signals(layer) if signals is None else signals)
    known = all_signals(layer)
    for name in names:
        if name not in known:
            raise Validation(
                f"`signals` has {name[:40]!r}; layer {index} is of the cell {layer.cell}, whose "
                f"signals are {', '.join(known)}",
                "signals",
            )
    first = sum(len(CELLS[below.cell].states) for below in spec.recurrent_layers[:index])
    return SelectedLayer(index, layer, np.array(chosen, np.int64), tuple(names), first)


def _distinct(field: str, values: Sequence[T]) -> list[T]:
    """Raise Validation if a value is there twice, or none is."""
    if not values:
        raise Validation(f"`{field}` is empty: leave it out for all of them", field)
    seen = set[T]()
    for value in values:
        if value in seen:
            raise Validation(f"`{field}` has {value} twice", field)
        seen.add(value)
    return [*values]
