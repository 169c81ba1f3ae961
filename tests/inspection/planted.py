"""Networks with a cell made by hand, among random ones, and a text for them."""

import numpy as np

from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.spec import ModelSpec, Weights
from tests.models.networks import random_weights

ALPHABET = "\n ()abcdefghijklmnop"
CELL, UNITS = 5, 24


def spec_of(cell: str) -> ModelSpec:
    return ModelSpec(len(ALPHABET), None, (LayerSpec(cell, UNITS),))


def planted_weights(cell: str, used_for: str = "", seed: int = 1) -> Weights:
    """Weights of which cell 5 is 1 inside of parentheses and 0 outside.

    With `used_for` it raises the logit of this character, and no other.
    """
    spec = spec_of(cell)
    arrays = {name: np.array(array) for name, array in random_weights(spec, seed=seed).items()}
    gates = CELLS[cell].gates
    at = {gate: gates.index(gate) * UNITS + CELL for gate in gates}
    columns = [*at.values()]
    arrays["layers.0.recurrent_kernel"][:, columns] = 0.0
    arrays["layers.0.recurrent_kernel"][CELL] = 0.0  # only the output reads it
    kernel = arrays["layers.0.kernel"]
    kernel[:, columns] = 0.0
    bias = arrays["layers.0.bias"].reshape(-1, len(gates) * UNITS)
    bias[:, columns] = 0.0
    opening, closing = ALPHABET.index("("), ALPHABET.index(")")
    if "z" in gates:
        bias[0, at["z"]], kernel[[opening, closing], at["z"]] = 30.0, -60.0
        kernel[opening, at["h"]] = 30.0
    else:
        bias[0, at["f"]], kernel[[opening, closing], at["f"]] = 30.0, -60.0
        bias[0, at["i"]], kernel[opening, at["i"]] = -30.0, 60.0
        bias[0, at["g"]], bias[0, at["o"]] = 30.0, 30.0
        if "layers.0.peephole" in arrays:
            arrays["layers.0.peephole"][:, CELL] = 0.0
    output = arrays["output.kernel"]
    output[:] *= 0.2
    output[CELL] = 0.0
    if used_for:
        output[CELL, ALPHABET.index(used_for)] = 5.0
    return Weights(spec, arrays)


def random_text(n: int, seed: int = 0) -> str:
    """Letters, and parentheses that are opened and closed at random."""
    random, parts, is_open = np.random.default_rng(seed), [], False
    letters = list(ALPHABET[4:] + "  ")
    while len(parts) < n:
        parts += random.choice(letters, random.integers(3, 30)).tolist()
        parts.append(")" if is_open else "(")
        is_open = not is_open
    return "".join(parts[:n])
