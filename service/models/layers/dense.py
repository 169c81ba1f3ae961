"""The layers that compute each step by itself: dense, activation and normalisations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.models.cell import Activation, Arrays, Parts, Shape
from service.models.layers.layer import Layer, LayerGraph, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense(Layer):
    """φ(x W + b). Weights: kernel (width, units), bias (units,)."""

    kind = "dense"
    units: int
    activation: Activation = Activation.LINEAR
    use_bias: bool = True

    @property
    def summary(self) -> str:
        """Units and activation."""
        name = "" if self.activation is Activation.LINEAR else f", {self.activation}"
        return f"Dense({self.units}{name})"

    def width(self, widths: Sequence[int], steps: int) -> int:  # noqa: ARG002
        """The number of units."""
        return self.units

    def weight_shapes(self, width: int) -> dict[str, Shape]:
        """Kernel and bias."""
        shapes: dict[str, Shape] = {"kernel": (width, self.units)}
        return shapes | {"bias": (self.units,)} if self.use_bias else shapes

    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:
        """Compute φ(x W + b)."""
        return self.activation(inputs[0] @ weights["kernel"] + weights.get("bias", 0.0))

    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:
        """Add the product and the activation."""
        product = graph.project(inputs[0], "kernel", weights["kernel"], weights.get("bias"))
        return graph.activate(self.activation, product)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationLayer(Layer):
    """φ(x)."""

    kind = "activation"
    activation: Activation

    @property
    def summary(self) -> str:
        """Its function."""
        return f"Activation({self.activation})"

    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:  # noqa: ARG002
        """Compute φ(x)."""
        return self.activation(inputs[0])

    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:  # noqa: ARG002
        """Add the activation."""
        return graph.activate(self.activation, inputs[0])


@dataclass(frozen=True, slots=True)
class ScaleShift(Layer):
    """x ⊙ scale + shift, as a BatchNormalization in inference. Weights: scale, shift, (width,)."""

    kind = "scale_shift"

    @property
    def summary(self) -> str:
        """Its Keras name."""
        return "BatchNormalization"

    def weight_shapes(self, width: int) -> dict[str, Shape]:
        """Scale and shift."""
        return {"scale": (width,), "shift": (width,)}

    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:
        """Compute x ⊙ scale + shift."""
        return inputs[0] * weights["scale"] + weights["shift"]

    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:
        """Add a product and a sum."""
        scaled = graph.node("Mul", inputs[0], graph.constant("scale", weights["scale"]))
        return graph.node("Add", scaled, graph.constant("shift", weights["shift"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNormalization(Layer):
    """γ (x - mean) / √(variance + ε) + β over the last axis. Weights: gamma, beta, (width,)."""

    kind = "layer_normalization"
    epsilon: float = 0.001

    @property
    def summary(self) -> str:
        """Its Keras name."""
        return "LayerNormalization"

    def weight_shapes(self, width: int) -> dict[str, Shape]:
        """Gamma and beta."""
        return {"gamma": (width,), "beta": (width,)}

    def compute(self, weights: Parts, inputs: Sequence[Values]) -> Values:
        """Normalise the last axis."""
        (x,) = inputs
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.epsilon)
        normalised: Values = centred / deviation * weights["gamma"] + weights["beta"]
        return normalised

    def add_to(self, graph: LayerGraph, weights: Arrays, inputs: Sequence[str]) -> str:
        """Add ONNX's LayerNormalization."""
        gamma, beta = (graph.constant(name, weights[name]) for name in ("gamma", "beta"))
        return graph.node(
            "LayerNormalization", inputs[0], gamma, beta, axis=-1, epsilon=self.epsilon
        )
