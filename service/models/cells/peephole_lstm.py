"""The LSTM whose gates read the cell state."""

from collections.abc import Mapping, Sequence

import numpy as np

from service.models.activation import Activation, Vector
from service.models.cell import AnyArray, Array, Cell, KerasNames, Shape, StepGraph, Vectors
from service.models.layer import LayerSpec


class PeepholeLSTM(Cell):
    """Long short-term memory with peephole connections. `peephole` is (3, units): p_i, p_f, p_o.

    z = x W + h U + b = [z_i z_f z_g z_o]
    i = σ(z_i + p_i ⊙ c)    f = σ(z_f + p_f ⊙ c)    g = φ(z_g)
    c ← f ⊙ c + i ⊙ g
    o = σ(z_o + p_o ⊙ c)    h ← o ⊙ φ(c)

    i and f read c before the step, o reads c after it.

    Source: Gers & Schmidhuber 2000, "Recurrent nets that time and count".
    """

    label = "PeepholeLSTM"
    year = 2000
    gates = ("i", "f", "g", "o")
    states = ("h", "c")
    is_bounded = True
    unit_bias_gate = "f"
    keras = KerasNames(cell="PeepholeLSTMCell")
    keras_recurrent_activation = Activation.HARD_SIGMOID_02

    def weight_shapes(self, layer: LayerSpec, inputs: int) -> dict[str, Shape]:
        """Shapes of the weights: those of an LSTM and the peepholes."""
        return super().weight_shapes(layer, inputs) | {"peephole": (3, layer.units)}

    def step(
        self, layer: LayerSpec, weights: Mapping[str, Vector], x: Vector, state: Vectors
    ) -> Vectors:
        """Compute h and c after one token."""
        h, c = state
        gate, phi = layer.recurrent_activation, layer.activation
        z = x + h @ weights["recurrent_kernel"] + weights.get("bias", 0.0)
        z_i, z_f, z_g, z_o = np.split(z, 4)
        p_i, p_f, p_o = weights["peephole"]
        c = gate(z_f + p_f * c) * c + gate(z_i + p_i * c) * phi(z_g)
        return gate(z_o + p_o * c) * phi(c), c

    def add_step(
        self,
        graph: StepGraph,
        layer: LayerSpec,
        weights: Mapping[str, Array],
        prefix: str,
        x: str,
        state: Sequence[str],
    ) -> list[str]:
        """Add the nodes of one step."""
        h, c = state
        gate, phi = layer.recurrent_activation, layer.activation
        recurrent = graph.product(h, f"{prefix}.recurrent_kernel", weights["recurrent_kernel"])
        z_i, z_f, z_g, z_o = graph.split(graph.node("Add", x, recurrent), 4, layer.units)
        p_i, p_f, p_o = (
            graph.constant(f"{prefix}.peephole.{i}", row)
            for i, row in enumerate(weights["peephole"])
        )
        z_i = graph.node("Add", z_i, graph.node("Mul", p_i, c))
        z_f = graph.node("Add", z_f, graph.node("Mul", p_f, c))
        kept = graph.node("Mul", graph.activate(gate, z_f), c)
        new = graph.node("Mul", graph.activate(gate, z_i), graph.activate(phi, z_g))
        c = graph.node("Add", kept, new)
        z_o = graph.node("Add", z_o, graph.node("Mul", p_o, c))
        o = graph.activate(gate, z_o)
        return [graph.node("Mul", o, graph.activate(phi, c)), c]

    def keras_shapes(self, shapes: Mapping[str, Shape]) -> list[Shape]:
        """Shapes as Keras stores them: three peephole vectors at the end."""
        *others, (rows, units) = shapes.values()
        return [*others, *[(units,)] * rows]

    def from_keras(self, names: Sequence[str], arrays: Sequence[AnyArray]) -> dict[str, AnyArray]:
        """Canonical weights, the peephole vectors stacked."""
        return super().from_keras(names, [*arrays[:-3], np.stack(arrays[-3:])])


CELL = PeepholeLSTM()
