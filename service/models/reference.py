"""The reference implementation of a model in NumPy float64, used by tests and parity records."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from service.models.cell import LayerSpec, Vector, Vectors
from service.models.cells import CELLS
from service.models.layers.layer import Values
from service.models.mask import masked_tokens
from service.models.spec import ModelSpec, layer_weights
from service.models.window import read_window

Ids = npt.NDArray[np.int64]


class ReferenceModel:
    """A model that computes one sequence, token by token, by the equations of its layers."""

    def __init__(self, spec: ModelSpec, weights: Mapping[str, npt.NDArray[np.floating]]) -> None:
        self.spec = spec
        self._weights = {name: np.asarray(w, dtype=np.float64) for name, w in weights.items()}
        self._layers = [layer_weights(self._weights, i) for i in range(len(spec.layers))]
        self._masked = masked_tokens(spec, weights)

    def initial_state(self) -> Vectors:
        """Return zeros for every state tensor, in the order of `ModelSpec.state_units`."""
        return tuple(np.zeros(units) for units in self.spec.state_units)

    def step(self, token: int, state: Vectors) -> tuple[Vector, Vectors]:
        """Feed one token; return the logits after it, (vocabulary,), and the new state."""
        window = self.spec.window
        if window is None:
            logits, after = self._compute(np.array([[token]]), [s[None] for s in state])
            return logits[0], tuple(s[0] for s in after)
        held = np.append(state[0][1:-1], token + 1.0)
        limit = int(state[0][-1]) or window.length
        held[: window.length - limit] = 0.0
        return self.read(held[None])[0], (np.append(held, state[0][-1]),)

    def run(self, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
        """Feed tokens from the zero state; return the logits after each, (tokens, vocabulary)."""
        state, rows = self.initial_state(), []
        if self.spec.window is None:
            for token in tokens:
                logits, state = self.step(token, state)
                rows.append(logits)
            return np.stack(rows)
        n = self.spec.window.length
        padded = np.concatenate([np.zeros(n - 1), np.asarray(tokens) + 1.0])
        return self.read(np.lib.stride_tricks.sliding_window_view(padded, n))

    def read(self, windows: Vector) -> npt.NDArray[np.float64]:
        """Return the logits after each window: (windows, length) → (windows, vocabulary).

        A window holds token id + 1, and 0 for none, newest last.
        """
        assert self.spec.window is not None
        tokens = read_window(windows, self.spec.window, self.spec.vocabulary_size)
        zeros = [np.zeros((len(windows), units)) for units in self.spec.layer_state_units]
        return self._compute(tokens.T, zeros)[0]

    def _compute(self, tokens: Ids, state: Sequence[Vector]) -> tuple[Vector, list[Vector]]:
        """Compute steps of rows, (steps, rows): the logits after the last step, and the state."""
        w, spec = self._weights, self.spec
        zero = np.zeros((1, spec.widths[0]))
        inputs = np.eye(spec.vocabulary_size) if spec.embedding_dim is None else w["embedding"]
        is_kept = self._masked[tokens][..., None]  # (steps, rows, 1)
        values: list[Values] = [np.concatenate([inputs, zero])[tokens]]
        remaining, after = list(state), []
        for i, (layer, weights) in enumerate(zip(spec.layers, self._layers, strict=True)):
            read = [values[j] for j in spec.inputs_of(i)]
            if isinstance(layer, LayerSpec):
                before = [remaining.pop(0) for _ in CELLS[layer.cell].states]
                h, states = _recur(layer, weights, read[0], before, is_kept)
                values.append(h)
                after += states
            else:
                values.append(layer.compute(weights, read))
        last = values[-1][-1] if spec.has_steps else values[-1]
        return last @ w["output.kernel"] + w.get("output.bias", 0.0), after


def _recur(
    layer: LayerSpec,
    weights: Mapping[str, Vector],
    x: Values,
    state: Sequence[Vector],
    is_kept: npt.NDArray[np.bool_],
) -> tuple[Values, tuple[Vector, ...]]:
    """Run a recurrent layer over the steps of x; a step that is kept changes nothing."""
    product, before = x @ weights["kernel"], tuple(state)
    h = np.empty((*x.shape[:-1], layer.units))
    steps = range(len(x))
    for t in reversed(steps) if layer.go_backwards else steps:
        after = CELLS[layer.cell].step(layer, weights, product[t], before)
        before = tuple(np.where(is_kept[t], b, a) for b, a in zip(before, after, strict=True))
        h[t] = before[0]
    return h, before
