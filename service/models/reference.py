"""The reference implementation of a model in NumPy float64, used by tests and parity records."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from service.models.cell import LayerSpec, Vector, Vectors
from service.models.cells import CELLS
from service.models.layers.layer import Values
from service.models.mask import masked_tokens
from service.models.spec import ModelSpec, layer_weights
from service.models.window import read_window, windows_of

Ids = npt.NDArray[np.int64]

_BATCH_NUMBERS = 8_000_000
"""Numbers of the widest layer that are in memory at once."""


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
        if window.keeps_first and state[0][0]:
            return self.read(state[0][None, :-1])[0], state
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
        window = self.spec.window
        return self.read(windows_of(tokens, window.length, keeps_first=window.keeps_first))

    def read(self, windows: Vector) -> npt.NDArray[np.float64]:
        """Return the logits after each window: (windows, length) → (windows, vocabulary).

        A window holds token id + 1, and 0 for none, newest last.
        """
        assert self.spec.window is not None
        tokens = read_window(windows, self.spec.window, self.spec.vocabulary_size)
        widest = max(4 * max(self.spec.layer_state_units), *self.spec.widths)
        size = max(1, _BATCH_NUMBERS // (tokens.shape[1] * widest))
        logits = []
        for first in range(0, len(tokens), size):
            part = tokens[first : first + size].T
            zeros = [np.zeros((part.shape[1], units)) for units in self.spec.layer_state_units]
            logits.append(self._compute(part, zeros)[0])
        return np.concatenate(logits)

    def _compute(self, tokens: Ids, state: Sequence[Vector]) -> tuple[Vector, list[Vector]]:
        """Compute steps of rows, (steps, rows): the logits after the last step, and the state."""
        spec = self.spec
        is_kept = self._masked[tokens][..., None]  # (steps, rows, 1)
        table = self._weights.get("embedding")
        values: list[Values | None] = [None if table is None else _rows(table, tokens)]
        remaining, after = list(state), list[Vector]()
        for i, (layer, weights) in enumerate(zip(spec.layers, self._layers, strict=True)):
            read = [values[j] for j in spec.inputs_of(i)]
            if isinstance(layer, LayerSpec):
                kernel, x = weights["kernel"], read[0]
                product = _rows(kernel, tokens) if x is None else x @ kernel
                before = [remaining.pop(0) for _ in CELLS[layer.cell].states]
                h, states = _recur(layer, weights, product, before, is_kept)
                values.append(h)
                after += states
            else:
                one_hot = [self._one_hot(tokens) if x is None else x for x in read]
                values.append(layer.compute(weights, one_hot))
        last = values[-1]
        assert last is not None
        last = last[-1] if spec.has_steps else last
        logits = last @ self._weights["output.kernel"] + self._weights.get("output.bias", 0.0)
        return logits, after

    def _one_hot(self, tokens: Ids) -> Values:
        return _rows(np.eye(self.spec.vocabulary_size), tokens)


def _rows(table: Vector, tokens: Ids) -> Values:
    """Return each token's row of a table, and zeros for the input 0, one more than the tokens."""
    rows: Values = table[np.minimum(tokens, len(table) - 1)]
    rows[tokens == len(table)] = 0.0
    return rows


def _recur(
    layer: LayerSpec,
    weights: Mapping[str, Vector],
    product: Values,
    state: Sequence[Vector],
    is_kept: npt.NDArray[np.bool_],
) -> tuple[Values, tuple[Vector, ...]]:
    """Run a recurrent layer over the steps of x W; a step that is kept changes nothing."""
    before = tuple(state)
    h = np.empty((*product.shape[:-1], layer.units))
    steps = range(len(product))
    for t in reversed(steps) if layer.go_backwards else steps:
        after = CELLS[layer.cell].step(layer, weights, product[t], before)
        before = tuple(np.where(is_kept[t], b, a) for b, a in zip(before, after, strict=True))
        h[t] = before[0]
    return h, before
