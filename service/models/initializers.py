"""The initial weights of a training."""

import numpy as np
import numpy.typing as npt

from service.models.cells import CELLS
from service.models.spec import ModelSpec, Weights


def initial_weights(spec: ModelSpec, seed: int) -> Weights:
    """Sample initial weights from `seed`, with the distributions that Keras uses.

    Kernels are uniform by Glorot, recurrent kernels orthogonal, all other weights zero, but for a
    normalisation's gamma and the bias of `Cell.unit_bias_gate`, which are 1.

    Source: Glorot & Bengio 2010; Saxe et al. 2014; Jozefowicz et al. 2015 for the forget gate.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, npt.NDArray[np.float64]] = {}
    for name, shape in spec.weight_shapes.items():
        kind = name.rpartition(".")[2]
        if kind == "embedding":
            arrays[name] = rng.uniform(-0.05, 0.05, shape)
        elif kind == "recurrent_kernel":
            # Orthonormal rows: (units, columns), columns ≥ units.
            q, r = np.linalg.qr(rng.standard_normal(shape[::-1]))
            arrays[name] = (q * np.sign(np.diag(r))).T
        elif kind == "kernel":
            limit = np.sqrt(6.0 / sum(shape))
            arrays[name] = rng.uniform(-limit, limit, shape)
        else:
            arrays[name] = np.full(shape, float(kind == "gamma"))
    for i, layer in enumerate(spec.recurrent_layers):
        cell = CELLS[layer.cell]
        if cell.unit_bias_gate is not None:
            start = cell.gates.index(cell.unit_bias_gate) * layer.units
            arrays[f"layers.{i}.bias"][start : start + layer.units] = 1.0
    return Weights(spec, arrays)
