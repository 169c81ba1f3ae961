"""Activations, the specification of a layer, and the interface that `cells` implements.

Names in the equations: x is a layer's input, h the output and first state, W and U the input and
recurrent kernels, b the bias, σ the recurrent activation, φ the activation, ⊙ the element-wise
product. Vectors are rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Vectors = tuple[Vector, ...]
Parts = Mapping[str, Vector]
Array = npt.NDArray[np.float32]
Arrays = Mapping[str, Array]
AnyArray = npt.NDArray[np.generic]
Shape = tuple[int, ...]


class Activation(StrEnum):
    """An element-wise function by name; calling it applies it to a float64 array.

    Keras 1, Keras 2 and tf_keras use the name hard_sigmoid for `clip(0.2 x + 0.5, 0, 1)`, Keras 3
    for `clip(x / 6 + 0.5, 0, 1)`: the slope is part of the name here.
    """

    LINEAR = "linear"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    HARD_SIGMOID_02 = "hard_sigmoid_02"
    HARD_SIGMOID_6 = "hard_sigmoid_6"
    RELU = "relu"
    ELU = "elu"
    SELU = "selu"
    SILU = "silu"
    SOFTPLUS = "softplus"
    SOFTSIGN = "softsign"
    EXPONENTIAL = "exponential"

    def __call__(self, x: Vector) -> Vector:
        """Apply the function."""
        return _FUNCTIONS[self](x)

    @property
    def is_gate(self) -> bool:
        """Whether every value is in [0, 1]."""
        return self in {self.SIGMOID, self.HARD_SIGMOID_02, self.HARD_SIGMOID_6}


# Source: Klambauer et al. 2017, "Self-Normalizing Neural Networks".
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

_FUNCTIONS: dict[Activation, Callable[[Vector], Vector]] = {
    Activation.LINEAR: lambda x: x,
    Activation.TANH: np.tanh,
    Activation.SIGMOID: lambda x: 0.5 * (np.tanh(0.5 * x) + 1.0),
    Activation.HARD_SIGMOID_02: lambda x: np.clip(0.2 * x + 0.5, 0.0, 1.0),
    Activation.HARD_SIGMOID_6: lambda x: np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    Activation.RELU: lambda x: np.maximum(x, 0.0),
    Activation.ELU: lambda x: np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0))),
    Activation.SELU: lambda x: (
        _SELU_SCALE * np.where(x > 0.0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0.0)))
    ),
    Activation.SILU: lambda x: x * 0.5 * (np.tanh(0.5 * x) + 1.0),
    Activation.SOFTPLUS: lambda x: np.logaddexp(x, 0.0),
    Activation.SOFTSIGN: lambda x: x / (1.0 + np.abs(x)),
    Activation.EXPONENTIAL: np.exp,
}


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """The specification of one recurrent layer."""

    cell: str  # a key of `service.models.cells.CELLS`
    units: int
    activation: Activation = Activation.TANH
    recurrent_activation: Activation = Activation.SIGMOID
    use_bias: bool = True
    reset_after: bool = True  # of cells with `has_reset_after`
    go_backwards: bool = False  # reads a window from its end; its outputs keep the window's order
    inputs: tuple[int, ...] = ()  # as those of `layers.Layer`


@dataclass(frozen=True, slots=True)
class KerasNames:
    """The classes under which Keras stores a cell; None where there is no such class."""

    layer: str | None = None  # in keras.layers of Keras 3: can be imported and exported
    cudnn: str | None = None  # of Keras 2: can be imported
    cell: str | None = None  # within an RNN layer: can be imported


class StepGraph(Protocol):
    """The ONNX graph of a step while a layer's nodes are added. Tensors are referred to by name."""

    def node(self, operator: str, *inputs: str) -> str:
        """Add a node; return its output."""

    def constant(self, name: str, value: AnyArray) -> str:
        """Add a constant, floats as float32. `name` is unique within the layer."""

    def product(self, x: str, name: str, kernel: Array) -> str:
        """Add `x @ kernel` in the graph's precision. `x` is within (-1, 1)."""

    def split(self, x: str, parts: int, units: int) -> list[str]:
        """Split the columns of `x` into blocks of `units`."""

    def activate(self, activation: Activation, x: str) -> str:
        """Apply an activation."""

    def gate(self, name: str, x: str) -> str:
        """Name the output of the node that was added last as one of the cell's `activated`."""

    def hold(self, x: str, name: str, before: str) -> str:
        """Return the new c, or the h of a cell without one, as the rest of the step has to read it.

        An ablation or a steered request replaces it there. `name` is the state's, `before` its
        value before the step.
        """


class Cell(ABC):
    """A recurrent cell: everything but its gradient, which is in `service.training.cells`.

    A subclass is stateless; its docstring states the equations and their source, and is exported
    with models that Keras has no layer for.
    """

    label: ClassVar[str]  # in summaries, such as LSTM
    year: ClassVar[int]  # of publication: CELLS, so every list of cells, is in this order
    gates: ClassVar[tuple[str, ...]]  # the blocks of `units` columns in a kernel, in order
    # the gates and the candidate after their activations, which an inspection shows; in the order
    # in which `int8_step` has them
    activated: ClassVar[tuple[str, ...]] = ()
    states: ClassVar[tuple[str, ...]]  # the output h first; all are (units,)
    # the state that `add_step` gives to `StepGraph.hold`: a request may steer it
    steered_state: ClassVar[str | None] = None
    is_bounded: ClassVar[bool]  # whether tanh and sigmoid gates keep h in (-1, 1): int8 needs it
    has_int8_step: ClassVar[bool] = False  # whether `int8_step` implements this cell
    has_reset_after: ClassVar[bool] = False  # whether `LayerSpec.reset_after` applies
    # the gate whose bias is 1 before training, not 0: Keras's `unit_forget_bias`
    unit_bias_gate: ClassVar[str | None] = None
    keras: ClassVar[KerasNames] = KerasNames()
    keras_recurrent_activation: ClassVar[Activation] = Activation.SIGMOID  # Keras's default

    def __init_subclass__(cls) -> None:
        """Raise AttributeError at import if a required attribute is missing."""
        for name in ("label", "year", "gates", "states", "is_bounded"):
            getattr(cls, name)

    def weight_shapes(self, layer: LayerSpec, inputs: int) -> dict[str, Shape]:
        """Name → shape of each weight of a layer, in canonical order.

        A bias of two rows has its first row added to x W and its second to h U.
        """
        columns = len(self.gates) * layer.units
        shapes: dict[str, Shape] = {
            "kernel": (inputs, columns),
            "recurrent_kernel": (layer.units, columns),
        }
        if layer.use_bias:
            shapes["bias"] = (columns,)
        return shapes

    @abstractmethod
    def step(self, layer: LayerSpec, weights: Parts, xw: Vector, state: Vectors) -> Vectors:
        """Compute the state after one token in float64. `xw` is x W, (…, gates * units)."""

    @abstractmethod
    def add_step(
        self, graph: StepGraph, layer: LayerSpec, weights: Arrays, x: str, state: Sequence[str]
    ) -> list[str]:
        """Add one step to an ONNX graph; return the new state. `x` is x W + b."""

    # -- Keras's layout

    def keras_shapes(self, shapes: Mapping[str, Shape]) -> list[Shape]:
        """Shapes of the arrays as Keras stores them, from the canonical shapes."""
        return list(shapes.values())

    def from_keras(self, names: Sequence[str], arrays: Sequence[AnyArray]) -> dict[str, AnyArray]:
        """Canonical weights by name, from the arrays as Keras stores them."""
        return dict(zip(names, arrays, strict=True))

    def has_cudnn_layout(self, layer: LayerSpec) -> bool:  # noqa: ARG002 (for subclasses)
        """Whether Keras 2's CuDNN layer computes the same as this layer."""
        return self.keras.cudnn is not None
