"""The layers that compute each number by itself, with numbers that their author has chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.models.cell import Arrays, Parts
from service.models.layers.layer import Layer, LayerGraph, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class ReLU(Layer):
    """min(x, max_value) for x > threshold, else negative_slope (x - threshold).

    Source: Keras, `layers.ReLU` and `layers.LeakyReLU`. `max_value` None: no limit.
    """

    kind = "relu"
    negative_slope: float = 0.0
    threshold: float = 0.0
    max_value: float | None = None

    @property
    def summary(self) -> str:
        """Its numbers, those at their default left out."""
        named = {"slope": self.negative_slope, "threshold": self.threshold, "max": self.max_value}
        shown = ", ".join(f"{name} {value:g}" for name, value in named.items() if value)
        return f"ReLU({shown})"

    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:  # noqa: ARG002
        """Compute the two parts."""
        (x,) = inputs
        positive = x if self.max_value is None else np.minimum(x, self.max_value)
        negative = self.negative_slope * (x - self.threshold)
        result: Values = np.where(x > self.threshold, positive, negative)
        return result

    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:  # noqa: ARG002
        """Add a choice between the two parts."""
        (x,) = inputs
        threshold = graph.constant("threshold", np.array([self.threshold]))
        slope = graph.constant("slope", np.array([self.negative_slope]))
        positive = x
        if self.max_value is not None:
            positive = graph.node("Min", x, graph.constant("max", np.array([self.max_value])))
        negative = graph.node("Mul", graph.node("Sub", x, threshold), slope)
        return graph.node("Where", graph.node("Greater", x, threshold), positive, negative)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescaling(Layer):
    """x scale + offset. Source: Keras, `layers.Rescaling`."""

    kind = "rescaling"
    scale: float
    offset: float = 0.0

    @property
    def summary(self) -> str:
        """Scale and offset."""
        offset = f", {self.offset:g}" if self.offset else ""
        return f"Rescaling({self.scale:g}{offset})"

    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:  # noqa: ARG002
        """Compute x scale + offset."""
        return inputs[0] * self.scale + self.offset

    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:  # noqa: ARG002
        """Add a product and a sum."""
        scaled = graph.node("Mul", inputs[0], graph.constant("scale", np.array([self.scale])))
        return graph.node("Add", scaled, graph.constant("offset", np.array([self.offset])))
