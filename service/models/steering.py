"""Steering: cells that a request holds or changes over a span of its text, and what that means.

For one step of an LSTM, in this order: i, f, g; c' = f ⊙ c + i ⊙ g; here c' becomes
s c' + a + k c; o (a peephole reads the new c); h = o ⊙ φ(c'). A cell without c has its h steered.
A gate is steered after its activation, and stays within the activation's range.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from service.errors import Validation
from service.models.cells import CELLS
from service.models.spec import ModelSpec

MAX_STEERED_CELLS = 64  # of a request
MAX_STEERED_VALUE = 1e4
ENDLESS = 2**62  # the `stop` of what has no end


class SteerOp(StrEnum):
    """What is done to a cell."""

    SET = "set"
    ADD = "add"
    SCALE = "scale"
    FREEZE = "freeze"


@dataclass(frozen=True, slots=True)
class SteeredCell:
    """One value of one cell, steered in the steps that read the tokens from `start` up to `stop`.

    Layers are counted among the recurrent ones. `target` is the cell's state or one of its gates.
    """

    layer: int
    cell: int
    target: str
    op: SteerOp
    value: float = 0.0  # that of `freeze` is 0
    start: int = 0
    stop: int = ENDLESS

    @property
    def factors(self) -> tuple[float, float, float]:
        """The s, a and k of the new value s x + a + k x₋₁."""
        match self.op:
            case SteerOp.SET:
                return 0.0, self.value, 0.0
            case SteerOp.ADD:
                return 1.0, self.value, 0.0
            case SteerOp.SCALE:
                return self.value, 0.0, 0.0
        return 0.0, 0.0, 1.0

    @property
    def is_neutral(self) -> bool:
        """Whether it changes nothing: not even the sign of a zero, so its steps are plain ones."""
        return self.factors == (1.0, 0.0, 0.0)


Steering = tuple[SteeredCell, ...]


def is_active(steering: Steering, start: int, stop: int) -> bool:
    """Whether a step that reads a token from `start` up to `stop` may be steered."""
    return any(one.start < stop and start < one.stop for one in steering)


def state_of(spec: ModelSpec, layer: int) -> str:
    """Return the state of a layer that can be steered. Raises Validation for what has none."""
    if spec.window is not None:
        raise Validation(
            f"the model reads a window of {spec.window.length} tokens from a zero state for each "
            "prediction, so that no state is there to be steered; use a model whose state is "
            "carried",
            "steer",
        )
    layers = spec.recurrent_layers
    if not 0 <= layer < len(layers):
        raise Validation(
            f"`steer` names layer {layer}; the model's recurrent layers are 0 to {len(layers) - 1}",
            "steer",
        )
    cell = layers[layer].cell
    state = CELLS[cell].steered_state
    if state is None:
        raise Validation(f"layer {layer} is of the cell {cell}, which has no steering", "steer")
    return state


def check_steering(steering: Steering, spec: ModelSpec) -> None:
    """Check each cell against a model. Raises Validation, which names what is wrong."""
    if len(steering) > MAX_STEERED_CELLS:
        raise Validation(
            f"`steer` has at most {MAX_STEERED_CELLS} entries. Given: {len(steering)}", "steer"
        )
    seen = set[tuple[int, int, str]]()
    for one in steering:
        _check_one(one, spec)
        place = one.layer, one.cell, one.target
        if place in seen:
            raise Validation(
                f"`steer` names {one.target} of cell {one.cell} in layer {one.layer} twice; give "
                "one entry for it",
                "steer",
            )
        seen.add(place)


def _check_one(one: SteeredCell, spec: ModelSpec) -> None:
    state, layer = state_of(spec, one.layer), spec.recurrent_layers[one.layer]
    if not 0 <= one.cell < layer.units:
        raise Validation(
            f"`steer` names cell {one.cell}; those of layer {one.layer} are 0 to {layer.units - 1}",
            "steer",
        )
    gates = CELLS[layer.cell].activated
    if one.target != state and one.target not in gates:
        known = f"has the gates {', '.join(gates)}" if gates else "has no gates"
        raise Validation(
            f"`steer` names the gate {one.target[:20]!r}; layer {one.layer} is of the cell "
            f"{layer.cell}, which {known}",
            "steer",
        )
    if one.op is SteerOp.FREEZE and one.target != state:
        raise Validation(
            f"`freeze` keeps the state {state}; a gate has no value before: use `set`", "steer"
        )
    if not (math.isfinite(one.value) and abs(one.value) <= MAX_STEERED_VALUE):
        raise Validation(
            f"a `value` of `steer` is a finite number from -{MAX_STEERED_VALUE:,.0f} to "
            f"{MAX_STEERED_VALUE:,.0f}. Given: {one.value}",
            "steer",
        )
    if not 0 <= one.start < one.stop:
        raise Validation(
            f"`steer` begins at token {one.start} and ends before token {one.stop}: `until` has to "
            "be greater than `from`",
            "steer",
        )


def packed(steering: Sequence[SteeredCell]) -> tuple[tuple[object, ...], ...]:
    """Return plain tuples, which JSON keeps; `unpacked` reads them."""
    return tuple(
        (one.layer, one.cell, one.target, str(one.op), one.value, one.start, one.stop)
        for one in steering
    )


def unpacked(lists: Any) -> Steering:
    """Rebuild a steering from what JSON has made of `packed`. Raises Validation for any other."""
    try:
        return tuple(_cell_of(*one) for one in lists)
    except (TypeError, ValueError) as error:
        raise Validation("the stored steering is no list of steered cells", "steer") from error


def _cell_of(*given: Any) -> SteeredCell:
    layer, cell, target, op, value, start, stop = given
    whole = (layer, cell, start, stop)
    if not all(type(one) is int for one in whole) or type(target) is not str:
        raise TypeError(given)
    if type(value) not in {int, float}:
        raise TypeError(given)
    return SteeredCell(layer, cell, target, SteerOp(op), float(value), start, stop)
