"""The LSTM whose gates read the cell state."""

from collections.abc import Mapping, Sequence

import numpy as np

from service.models.cell import Activation, AnyArray, KerasNames, LayerSpec, Shape
from service.models.cells.lstm import LSTM


class PeepholeLSTM(LSTM):
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
    has_int8_step = False
    keras = KerasNames(cell="PeepholeLSTMCell")
    keras_recurrent_activation = Activation.HARD_SIGMOID_02

    def weight_shapes(self, layer: LayerSpec, inputs: int) -> dict[str, Shape]:
        """Shapes of the weights: those of an LSTM and the peepholes."""
        return super().weight_shapes(layer, inputs) | {"peephole": (3, layer.units)}

    def keras_shapes(self, shapes: Mapping[str, Shape]) -> list[Shape]:
        """Shapes as Keras stores them: three peephole vectors at the end."""
        *others, (rows, units) = shapes.values()
        return [*others, *[(units,)] * rows]

    def from_keras(self, names: Sequence[str], arrays: Sequence[AnyArray]) -> dict[str, AnyArray]:
        """Canonical weights, the peephole vectors stacked."""
        return super().from_keras(names, [*arrays[:-3], np.stack(arrays[-3:])])


CELL = PeepholeLSTM()
