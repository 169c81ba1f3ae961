"""The reference implementation of a model in NumPy float64, used by tests and parity records."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from service.models.cell import Vector, Vectors
from service.models.cells import CELLS
from service.models.spec import ModelSpec, layer_weights


class ReferenceModel:
    """A model that computes one sequence, token by token, by the equations of its cells."""

    def __init__(self, spec: ModelSpec, weights: Mapping[str, npt.NDArray[np.floating]]) -> None:
        self.spec = spec
        self._weights = {name: np.asarray(w, dtype=np.float64) for name, w in weights.items()}
        self._layers = [layer_weights(self._weights, i) for i in range(len(spec.recurrent_layers))]

    def initial_state(self) -> Vectors:
        """Return zeros for every state tensor, in the order of `ModelSpec.state_units`."""
        return tuple(np.zeros(units) for units in self.spec.state_units)

    def step(self, token: int, state: Vectors) -> tuple[Vector, Vectors]:
        """Feed one token; return the logits after it, (vocabulary,), and the new state."""
        w = self._weights
        x = w["embedding"][token] if "embedding" in w else np.zeros(0)
        remaining: list[Vector] = list(state)
        after: list[Vector] = []
        for layer, weights in zip(self.spec.recurrent_layers, self._layers, strict=True):
            kernel, cell = weights["kernel"], CELLS[layer.cell]
            product = x @ kernel if x.size else kernel[token]  # one-hot: a row
            before = tuple(remaining.pop(0) for _ in cell.states)
            new = cell.step(layer, weights, product, before)
            after.extend(new)
            x = new[0]
        return x @ w["output.kernel"] + w.get("output.bias", 0.0), tuple(after)

    def run(self, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
        """Feed tokens from the zero state; return the logits after each, (tokens, vocabulary)."""
        state, rows = self.initial_state(), []
        for token in tokens:
            logits, state = self.step(token, state)
            rows.append(logits)
        return np.stack(rows)
