"""The signals of a cell: its gates, its states, and what follows from them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from service.models.cell import Activation, LayerSpec
from service.models.cells import CELLS
from service.models.spec import FloatArray

Signals = Mapping[str, FloatArray]
"""Signals by name, each (tokens, cells)."""

Derive = Callable[[Signals, Signals], FloatArray]
"""A signal from the gates and states of each token, and the states before each."""

_ONE = np.float32(1.0)


def _derived(layer: LayerSpec) -> Mapping[str, tuple[tuple[str, ...], Derive]]:
    """What follows from other signals: these, and how. In float32, as the program computes."""
    cell, found = CELLS[layer.cell], dict[str, tuple[tuple[str, ...], Derive]]()
    if {"i", "f", "g"} <= {*cell.activated} and "c" in cell.states:
        found["write"] = ("i", "g"), lambda at, _: at["i"] * at["g"]
        found["kept"] = ("f", "c"), lambda at, before: at["f"] * before["c"]
    if {"z", "candidate"} <= {*cell.activated}:
        found["write"] = ("z", "candidate"), lambda at, _: (_ONE - at["z"]) * at["candidate"]
        found["kept"] = ("z", "h"), lambda at, before: at["z"] * before["h"]
    if "c" in cell.states and layer.activation is Activation.TANH:
        found["tanh_c"] = ("c",), lambda at, _: np.tanh(at["c"])
    return MappingProxyType(found)


def usual_signals(layer: LayerSpec) -> tuple[str, ...]:
    """The signals that are shown if none are named: each gate and each state."""
    cell = CELLS[layer.cell]
    return (*cell.activated, *reversed(cell.states))


def all_signals(layer: LayerSpec) -> tuple[str, ...]:
    """The names of all signals of a layer."""
    return (*usual_signals(layer), *_derived(layer))


def needed_signals(layer: LayerSpec, names: tuple[str, ...]) -> tuple[str, ...]:
    """The gates and states that have to be recorded for these signals."""
    derived = _derived(layer)
    needed = [part for name in names for part in (derived[name][0] if name in derived else (name,))]
    return tuple(dict.fromkeys(needed))


def derive(layer: LayerSpec, names: tuple[str, ...], at: Signals, before: Signals) -> Signals:
    """Return the named signals, from the gates and states of each token and those before it."""
    derived = _derived(layer)
    return {name: derived[name][1](at, before) if name in derived else at[name] for name in names}


def bounds(layer: LayerSpec, name: str) -> tuple[float, float] | None:
    """The least and the greatest value that a signal can have; None where it has no such bounds."""
    is_tanh, is_gate = layer.activation is Activation.TANH, layer.recurrent_activation.is_gate
    if name in {"i", "f", "o", "z", "r"}:
        return (0.0, 1.0) if is_gate else None
    if name in {"g", "candidate", "tanh_c"}:
        return (-1.0, 1.0) if is_tanh else None
    has_bounded_h = CELLS[layer.cell].is_bounded and is_tanh
    if name == "h":
        return (
            (-1.0, 1.0) if has_bounded_h and (is_gate or not CELLS[layer.cell].activated) else None
        )
    if name == "write":
        return (-1.0, 1.0) if is_tanh and is_gate else None
    return None
