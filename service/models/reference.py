"""The article's equations in NumPy float64: the oracle of every test and parity record.

Row vectors; x is a layer's input, h and c its state, W and U the kernels, b the bias, p the
peepholes, σ the recurrent activation, φ the activation, ⊙ element-wise.

LSTM      z = x W + h U + b = [z_i z_f z_g z_o]
          i = σ(z_i)   f = σ(z_f)   g = φ(z_g)   o = σ(z_o)
          c ← f ⊙ c + i ⊙ g          h ← o ⊙ φ(c)
Peephole  i = σ(z_i + p_i ⊙ c)   f = σ(z_f + p_f ⊙ c)   o = σ(z_o + p_o ⊙ c_new)
GRU       z = σ(..)   r = σ(..)   h ← z ⊙ h + (1 - z) ⊙ φ(candidate)
          candidate = x W_h + b_h + (r ⊙ h) U_h                  reset_after = False
                    = x W_h + b_h + r ⊙ (h U_h + b'_h)           reset_after = True

Source: Hochreiter & Schmidhuber 1997; the forget gate of Gers, Schmidhuber & Cummins 2000; the
peepholes of Gers & Schmidhuber 2000; Cho et al. 2014; block orders as Keras stores them.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from service.models.spec import Activation, Cell, LayerSpec, ModelSpec

Vector = npt.NDArray[np.float64]
State = tuple[Vector, ...]


def _sigmoid(x: Vector) -> Vector:
    return 0.5 * (np.tanh(0.5 * x) + 1.0)


_FUNCTIONS: dict[Activation, Callable[[Vector], Vector]] = {
    Activation.LINEAR: lambda x: x,
    Activation.TANH: np.tanh,
    Activation.SIGMOID: _sigmoid,
    Activation.HARD_SIGMOID_02: lambda x: np.clip(0.2 * x + 0.5, 0.0, 1.0),
    Activation.HARD_SIGMOID_6: lambda x: np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    Activation.RELU: lambda x: np.maximum(x, 0.0),
}


class ReferenceModel:
    """One row, one token at a time, in float64: slow and right."""

    def __init__(self, spec: ModelSpec, weights: Mapping[str, npt.NDArray[np.floating]]) -> None:
        self.spec = spec
        self._weights = {name: np.asarray(w, dtype=np.float64) for name, w in weights.items()}

    def initial_state(self) -> State:
        """Zeros for every state tensor, in the order of `ModelSpec.state_units`."""
        return tuple(np.zeros(units) for units in self.spec.state_units)

    def step(self, token: int, state: State) -> tuple[Vector, State]:
        """Feed one token; return the logits after it, (vocabulary,), and the new state."""
        w = self._weights
        x = w["embedding"][token] if "embedding" in w else np.zeros(0)
        left: list[Vector] = list(state)
        after: list[Vector] = []
        for i, layer in enumerate(self.spec.layers):
            kernel = w[f"layers.{i}.kernel"]
            product = x @ kernel if x.size else kernel[token]  # one-hot: a row
            mine = tuple(left.pop(0) for _ in layer.states)
            update = _gru if layer.cell is Cell.GRU else _lstm
            mine = update(
                layer, {n: w[k] for n in _PARTS if (k := f"layers.{i}.{n}") in w}, product, mine
            )
            after.extend(mine)
            x = mine[0]
        return x @ w["output.kernel"] + w.get("output.bias", 0.0), tuple(after)

    def run(self, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
        """Feed tokens from the zero state; return the logits after each: (tokens, vocabulary)."""
        state, rows = self.initial_state(), []
        for token in tokens:
            logits, state = self.step(token, state)
            rows.append(logits)
        return np.stack(rows)


_PARTS = ("recurrent_kernel", "bias", "peephole")


def _lstm(layer: LayerSpec, w: Mapping[str, Vector], product: Vector, state: State) -> State:
    h, c = state
    gate, phi = _FUNCTIONS[layer.recurrent_activation], _FUNCTIONS[layer.activation]
    z_i, z_f, z_g, z_o = np.split(product + h @ w["recurrent_kernel"] + w.get("bias", 0.0), 4)
    p_i, p_f, p_o = w.get("peephole", np.zeros((3, 1)))
    i, f = gate(z_i + p_i * c), gate(z_f + p_f * c)
    c = f * c + i * phi(z_g)
    return gate(z_o + p_o * c) * phi(c), c


def _gru(layer: LayerSpec, w: Mapping[str, Vector], product: Vector, state: State) -> State:
    (h,) = state
    gate, phi = _FUNCTIONS[layer.recurrent_activation], _FUNCTIONS[layer.activation]
    bias = np.broadcast_to(w.get("bias", np.zeros(3 * layer.units)), (2, 3 * layer.units))
    x_z, x_r, x_h = np.split(product + bias[0], 3)
    u_z, u_r, u_h = np.split(w["recurrent_kernel"], 3, axis=1)
    b_z, b_r, b_h = np.split(bias[1] if layer.reset_after else np.zeros(3 * layer.units), 3)
    z, r = gate(x_z + h @ u_z + b_z), gate(x_r + h @ u_r + b_r)
    candidate = x_h + (r * (h @ u_h + b_h) if layer.reset_after else (r * h) @ u_h)
    return (z * h + (1.0 - z) * phi(candidate),)
