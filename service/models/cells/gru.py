"""The gated recurrent unit, with the reset gate before or after the recurrent product."""

from collections.abc import Sequence

import numpy as np

from service.models.cell import (
    Arrays,
    Cell,
    KerasNames,
    LayerSpec,
    Parts,
    Shape,
    StepGraph,
    Vector,
    Vectors,
)


class GRU(Cell):
    """Gated recurrent unit.

    z = σ(x W_z + h U_z + b_z)    r = σ(x W_r + h U_r + b_r)
    h ← z ⊙ h + (1 - z) ⊙ φ(candidate)
    candidate = x W_h + b_h + (r ⊙ h) U_h              reset_after = False
              = x W_h + b_h + r ⊙ (h U_h + b'_h)       reset_after = True

    With reset_after the bias is (2, 3 * units), and b'_z and b'_r are added in z and r, too.

    Source: Cho et al. 2014; the second form is CuDNN's. Blocks are in Keras's order.
    """

    label = "GRU"
    year = 2014
    gates = ("z", "r", "h")
    activated = ("z", "r", "candidate")
    states = ("h",)
    steered_state = "h"
    is_bounded = True
    has_int8_step = True  # with reset_after
    has_reset_after = True
    keras = KerasNames(layer="GRU", cudnn="CuDNNGRU", cell="GRUCell")

    def weight_shapes(self, layer: LayerSpec, inputs: int) -> dict[str, Shape]:
        """Shapes of the weights; the bias has two rows with reset_after."""
        shapes = super().weight_shapes(layer, inputs)
        if layer.use_bias and layer.reset_after:
            shapes["bias"] = (2, *shapes["bias"])
        return shapes

    def step(self, layer: LayerSpec, weights: Parts, xw: Vector, state: Vectors) -> Vectors:
        """Compute h after one token."""
        (h,) = state
        sigma, phi, columns = layer.recurrent_activation, layer.activation, 3 * layer.units
        bias = np.broadcast_to(weights.get("bias", np.zeros(columns)), (2, columns))
        x_z, x_r, x_h = np.split(xw + bias[0], 3, axis=-1)
        u_z, u_r, u_h = np.split(weights["recurrent_kernel"], 3, axis=1)
        b_z, b_r, b_h = np.split(bias[1] if layer.reset_after else np.zeros(columns), 3)
        z, r = sigma(x_z + h @ u_z + b_z), sigma(x_r + h @ u_r + b_r)
        candidate = x_h + (r * (h @ u_h + b_h) if layer.reset_after else (r * h) @ u_h)
        return (z * h + (1.0 - z) * phi(candidate),)

    def add_step(
        self, graph: StepGraph, layer: LayerSpec, weights: Arrays, x: str, state: Sequence[str]
    ) -> list[str]:
        """Add the nodes of one step."""
        (h,) = state
        sigma, units = layer.recurrent_activation, layer.units
        kernel, name = weights["recurrent_kernel"], "recurrent_kernel"
        x_z, x_r, x_h = graph.split(x, 3, units)
        if layer.reset_after:
            inner = graph.product(h, name, kernel)
            if "bias" in weights:
                bias = graph.constant("recurrent_bias", weights["bias"][1])
                inner = graph.node("Add", inner, bias)
            u_z, u_r, u_h = graph.split(inner, 3, units)
        else:
            gates = graph.product(h, f"{name}.gates", kernel[:, : 2 * units])
            u_z, u_r = graph.split(gates, 2, units)
        z = graph.gate("z", graph.activate(sigma, graph.node("Add", x_z, u_z)))
        r = graph.gate("r", graph.activate(sigma, graph.node("Add", x_r, u_r)))
        if layer.reset_after:
            u_h = graph.node("Mul", r, u_h)
        else:
            reset = graph.node("Mul", r, h)
            u_h = graph.product(reset, f"{name}.candidate", kernel[:, 2 * units :])
        candidate = graph.activate(layer.activation, graph.node("Add", x_h, u_h))
        candidate = graph.gate("candidate", candidate)
        rest = graph.node("Sub", graph.constant("one", np.ones(1)), z)
        new = graph.node("Add", graph.node("Mul", z, h), graph.node("Mul", rest, candidate))
        return [graph.hold(new, "h", h)]

    def has_cudnn_layout(self, layer: LayerSpec) -> bool:
        """Whether CuDNN computes this form: only with reset_after."""
        return layer.reset_after


CELL = GRU()
