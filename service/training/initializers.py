"""The weights that a training begins with."""

import numpy as np
import numpy.typing as npt

from service.models.spec import Cell, ModelSpec, Weights


def initial_weights(spec: ModelSpec, seed: int) -> Weights:
    """What Keras would begin with, drawn from `seed`.

    Kernels are uniform by Glorot, recurrent kernels orthogonal, biases zero but for the LSTMs'
    forget gate, which is 1. Peepholes begin at zero: as an LSTM without them.

    Source: Glorot & Bengio 2010; Saxe et al. 2014; Jozefowicz et al. 2015 for the forget gate.
    """
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in spec.weight_shapes.items():
        kind = name.rpartition(".")[2]
        if kind == "embedding":
            arrays[name] = rng.uniform(-0.05, 0.05, shape)
        elif kind == "recurrent_kernel":
            arrays[name] = _orthogonal(rng, shape)
        elif kind == "kernel":
            limit = np.sqrt(6.0 / sum(shape))
            arrays[name] = rng.uniform(-limit, limit, shape)
        else:
            arrays[name] = np.zeros(shape)
    for i, layer in enumerate(spec.layers):
        if layer.cell is not Cell.GRU:
            arrays[f"layers.{i}.bias"][layer.units : 2 * layer.units] = 1.0
    return Weights(spec, arrays)


def _orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Rows at right angles to each other, each of length 1: (units, columns), columns ≥ units."""
    q, r = np.linalg.qr(rng.standard_normal(shape[::-1]))
    return np.asarray((q * np.sign(np.diag(r))).T)
