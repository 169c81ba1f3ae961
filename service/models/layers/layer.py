"""The interface of a layer that is not recurrent."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from service.models.cell import Activation, AnyArray, Arrays, Parts, Shape

Values = npt.NDArray[np.float64]


class LayerGraph(Protocol):
    """The ONNX graph of a model while a layer's nodes are added.

    Values are (steps, rows, width) in the graph of a window, and (rows, width) after a layer that
    reduces the steps and in the graph of one step.
    """

    has_window: bool

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return its output."""

    def constant(self, name: str, value: AnyArray) -> str:
        """Add a constant, floats as float32. `name` is unique within the layer."""

    def project(self, x: str, name: str, kernel: AnyArray, bias: AnyArray | None) -> str:
        """Add `x @ kernel + bias`. `x` may be the model's input, one-hot or embedded."""

    def activate(self, activation: Activation, x: str) -> str:
        """Apply an activation."""


@dataclass(frozen=True, slots=True)
class Layer(ABC):
    """A layer of a model between its input and its output.

    `inputs` are what it reads: 0 is the embedding (or the one-hot input), i + 1 the output of
    `ModelSpec.layers[i]`. Empty: the output of the layer before. Its values are (steps, width), or
    (width,) after a layer that reduces the steps of a window.
    """

    kind: ClassVar[str]  # its name in manifests
    reduces_steps: ClassVar[bool] = False
    reads_whole_window: ClassVar[bool] = False  # every step of it, pads included
    n_inputs: ClassVar[int] = 1  # at least; more only where it is at least 2
    inputs: tuple[int, ...] = ()

    @property
    @abstractmethod
    def summary(self) -> str:
        """The layer in a model's summary, e.g. `Dense(64, relu)`."""

    def width(self, widths: Sequence[int], steps: int) -> int:  # noqa: ARG002 (for subclasses)
        """The width of its output, from those of its inputs and the length of the window."""
        return widths[0]

    def weight_shapes(self, width: int) -> dict[str, Shape]:  # noqa: ARG002 (for subclasses)
        """Name → shape of each weight, in Keras's order, from the width of the input."""
        return {}

    @abstractmethod
    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:
        """Compute the output in float64: (steps, …, width), or (…, width) without steps."""

    @abstractmethod
    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:
        """Add the layer to an ONNX graph; return its output."""
