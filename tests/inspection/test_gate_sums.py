"""The sums inside the gates follow from the gates, in every kernel and of each gate function."""

from dataclasses import replace

import numpy as np
import pytest

from service.inspection.selection import select
from service.inspection.tracer import TextTracer
from service.models.bundle import Precision
from service.models.cell import Activation
from service.models.compile import Int8Kernel, compile_program
from tests.models.networks import SPECS, VOCABULARY_SIZE, random_weights

SIGMOIDS = (Activation.SIGMOID, Activation.HARD_SIGMOID_02, Activation.HARD_SIGMOID_6)
KERNELS = [
    (Precision.FLOAT32, Int8Kernel.ONNX_RUNTIME),
    (Precision.INT8, Int8Kernel.ONNX_RUNTIME),
    (Precision.INT8, Int8Kernel.OWN),
]


def sum_of(gate: np.ndarray, activation: Activation) -> tuple[np.ndarray, np.ndarray]:
    """The sum that a gate tells, as docs/how-to/inspect.md has it, and where it does."""
    with np.errstate(divide="ignore"):
        if activation is Activation.SIGMOID:
            return np.log(gate / (1 - gate)), (gate > 0.01) & (gate < 0.99)
        if activation is Activation.TANH:
            return np.arctanh(gate), np.abs(gate) < 0.98
    slope = 0.2 if activation is Activation.HARD_SIGMOID_02 else 1 / 6
    return (gate - 0.5) / slope, (gate > 0) & (gate < 1)


@pytest.mark.parametrize("sigma", SIGMOIDS)
@pytest.mark.parametrize(("precision", "kernel"), KERNELS)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_gate_tells_its_sum(name, precision, kernel, sigma):
    spec = SPECS[name]
    (layer,) = (replace(one, recurrent_activation=sigma) for one in spec.recurrent_layers)
    spec = replace(spec, layers=(layer,))
    random, weights = np.random.default_rng(4), random_weights(spec)
    shape = weights["layers.0.recurrent_kernel"].shape
    # The weights of int8 are these exactly, whatever its bits.
    weights["layers.0.recurrent_kernel"] = random.choice([-0.5, 0.5], shape).astype(np.float32)
    program = compile_program(spec, weights, precision, kernel=kernel)
    tokens = random.integers(0, VOCABULARY_SIZE, 100)
    (at,) = TextTracer(program, select(spec)).read(tokens.tolist()).layers
    at = {key: values.astype(np.float64) for key, values in at.items()}

    h = np.concatenate([np.zeros_like(at["h"][:1]), at["h"][:-1]])
    if precision is Precision.INT8:
        h = np.rint(h * 127) / 127
    x = weights["embedding"].astype(np.float64)[tokens] @ weights["layers.0.kernel"]
    u = h @ weights["layers.0.recurrent_kernel"].astype(np.float64)
    bias = weights["layers.0.bias"].astype(np.float64)
    if name == "lstm":
        sums = dict(zip("ifgo", np.split(x + u + bias, 4, axis=1), strict=True))
    else:
        parts = zip(*(np.split(one, 3, axis=1) for one in (x + bias[0], u + bias[1])), strict=True)
        (x_z, u_z), (x_r, u_r), (x_h, u_h) = parts
        sums = {"z": x_z + u_z, "r": x_r + u_r, "candidate": x_h + at["r"] * u_h}
    for gate, expected in sums.items():
        activation = layer.activation if gate in {"g", "candidate"} else sigma
        found, is_told = sum_of(at[gate], activation)
        assert is_told.mean() > 0.3
        np.testing.assert_allclose(found[is_told], expected[is_told], rtol=0, atol=1e-4)
