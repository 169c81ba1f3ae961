"""The simple recurrent network."""

from collections.abc import Sequence

from service.models.cell import (
    Arrays,
    Cell,
    KerasNames,
    LayerSpec,
    Parts,
    StepGraph,
    Vector,
    Vectors,
)


class SimpleRNN(Cell):
    """Simple recurrent network.

    h ← φ(x W + h U + b)

    It has no gates: the recurrent activation is not used.

    Source: Elman 1990, "Finding structure in time".
    """

    label = "SimpleRNN"
    year = 1990
    gates = ("h",)
    states = ("h",)
    steered_state = "h"
    is_bounded = True
    keras = KerasNames(layer="SimpleRNN", cell="SimpleRNNCell")

    def step(self, layer: LayerSpec, weights: Parts, xw: Vector, state: Vectors) -> Vectors:
        """Compute h after one token."""
        (h,) = state
        return (layer.activation(xw + h @ weights["recurrent_kernel"] + weights.get("bias", 0.0)),)

    def add_step(
        self, graph: StepGraph, layer: LayerSpec, weights: Arrays, x: str, state: Sequence[str]
    ) -> list[str]:
        """Add the nodes of one step."""
        recurrent = graph.product(state[0], "recurrent_kernel", weights["recurrent_kernel"])
        new = graph.activate(layer.activation, graph.node("Add", x, recurrent))
        return [graph.hold(new, "h", state[0])]


CELL = SimpleRNN()
