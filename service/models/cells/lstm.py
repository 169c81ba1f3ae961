"""The LSTM with a forget gate."""

from collections.abc import Sequence

import numpy as np

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


class LSTM(Cell):
    """Long short-term memory.

    z = x W + h U + b = [z_i z_f z_g z_o]
    i = σ(z_i)    f = σ(z_f)    g = φ(z_g)    o = σ(z_o)
    c ← f ⊙ c + i ⊙ g    h ← o ⊙ φ(c)

    Source: Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000 for the forget gate.
    """

    label = "LSTM"
    year = 1997
    gates = ("i", "f", "g", "o")
    activated = ("i", "f", "g", "o")
    states = ("h", "c")
    steered_state = "c"
    is_bounded = True
    has_int8_step = True
    unit_bias_gate = "f"
    keras = KerasNames(layer="LSTM", cudnn="CuDNNLSTM", cell="LSTMCell")

    def step(self, layer: LayerSpec, weights: Parts, xw: Vector, state: Vectors) -> Vectors:
        """Compute h and c after one token, also for PeepholeLSTM; `xw` is x W."""
        h, c = state
        sigma, phi = layer.recurrent_activation, layer.activation
        z = xw + h @ weights["recurrent_kernel"] + weights.get("bias", 0.0)
        z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
        p_i, p_f, p_o = weights.get("peephole", np.zeros((3, 1)))
        i, f = sigma(z_i + p_i * c), sigma(z_f + p_f * c)
        c = f * c + i * phi(z_g)
        return sigma(z_o + p_o * c) * phi(c), c

    def add_step(
        self, graph: StepGraph, layer: LayerSpec, weights: Arrays, x: str, state: Sequence[str]
    ) -> list[str]:
        """Add the nodes of one step, also for PeepholeLSTM; `x` is x W + b."""
        h, c = state
        sigma, phi = layer.recurrent_activation, layer.activation
        recurrent = graph.product(h, "recurrent_kernel", weights["recurrent_kernel"])
        z_i, z_f, z_g, z_o = graph.split(graph.node("Add", x, recurrent), 4, layer.units)
        peepholes = [
            graph.constant(f"peephole.{i}", p) for i, p in enumerate(weights.get("peephole", ()))
        ]
        if peepholes:
            z_i = graph.node("Add", z_i, graph.node("Mul", peepholes[0], c))
            z_f = graph.node("Add", z_f, graph.node("Mul", peepholes[1], c))
        f = graph.gate("f", graph.activate(sigma, z_f))
        kept = graph.node("Mul", f, c)
        i = graph.gate("i", graph.activate(sigma, z_i))
        new = graph.node("Mul", i, graph.gate("g", graph.activate(phi, z_g)))
        c = graph.hold(graph.node("Add", kept, new), "c", c)
        if peepholes:
            z_o = graph.node("Add", z_o, graph.node("Mul", peepholes[2], c))
        o = graph.gate("o", graph.activate(sigma, z_o))
        return [graph.node("Mul", o, graph.activate(phi, c)), c]


CELL = LSTM()
