"""The LSTM whose input gate is one minus the forget gate."""

import numpy as np

from service.models.cell import Cell


class CoupledLSTM(Cell):
    """Long short-term memory with coupled input and forget gates.

    z = x W + h U + b = [z_f z_g z_o]
    f = σ(z_f)    g = φ(z_g)    o = σ(z_o)
    c ← f ⊙ c + (1 - f) ⊙ g    h ← o ⊙ φ(c)

    Source: Greff et al. 2017, "LSTM: A search space odyssey".
    """

    label = "CoupledLSTM"
    year = 2017
    gates = ("f", "g", "o")
    states = ("h", "c")
    is_bounded = True
    unit_bias_gate = "f"

    def step(self, layer, weights, x, state):
        """Compute h and c after one token."""
        h, c = state
        gate, phi = layer.recurrent_activation, layer.activation
        z = x + h @ weights["recurrent_kernel"] + weights.get("bias", 0.0)
        z_f, z_g, z_o = np.split(z, 3, axis=-1)
        f = gate(z_f)
        c = f * c + (1.0 - f) * phi(z_g)
        return gate(z_o) * phi(c), c

    def add_step(self, graph, layer, weights, x, state):
        """Add the nodes of one step."""
        h, c = state
        gate, phi = layer.recurrent_activation, layer.activation
        recurrent = graph.product(h, "recurrent_kernel", weights["recurrent_kernel"])
        z_f, z_g, z_o = graph.split(graph.node("Add", x, recurrent), 3, layer.units)
        f = graph.activate(gate, z_f)
        i = graph.node("Sub", graph.constant("one", np.ones(1)), f)
        kept = graph.node("Mul", f, c)
        c = graph.node("Add", kept, graph.node("Mul", i, graph.activate(phi, z_g)))
        return [graph.node("Mul", graph.activate(gate, z_o), graph.activate(phi, c)), c]


CELL = CoupledLSTM()
