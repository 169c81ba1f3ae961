"""A held cell: the same as a model whose weights keep the cell there, and nothing else."""

import numpy as np
import pytest

from service.models.bundle import Precision
from service.models.cells import CELLS
from service.models.held_program import HeldProgram, held_state
from service.models.program import OnnxProgram
from service.models.spec import Weights
from tests.models.networks import SPECS, VOCABULARY_SIZE, random_weights

TOKENS = np.random.default_rng(4).integers(0, VOCABULARY_SIZE, 40).tolist()


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
@pytest.mark.parametrize("name", SPECS)
def test_rows_that_hold_nothing_are_those_of_the_served_graph(name, precision):
    spec = SPECS[name]
    if precision is Precision.INT8 and not spec.is_bounded:
        pytest.skip("float32 alone")
    weights = random_weights(spec)
    held = HeldProgram(spec, weights, precision).new_batch(3)
    held.masks[0][1, [0, 2]] = True
    held.values[0][1, [0, 2]] = 0.25, -0.5
    program = OnnxProgram(spec, weights, precision)
    batch, is_other = program.new_batch(3), False
    state = held_state(spec.recurrent_layers[0])
    for token in TOKENS:
        held.batch.tokens[:] = batch.tokens[:] = token
        held.step()
        program.step(batch, 3)
        for row in (0, 2):
            assert held.batch.logits[row].tobytes() == batch.logits[row].tobytes()
            for ours, theirs in zip(held.batch.states, batch.states, strict=True):
                assert ours[row].tobytes() == theirs[row].tobytes()
        if token != spec.mask_token:
            assert held.batch.states[state][1, [0, 2]].tolist() == [0.25, -0.5]
        is_other |= bool((held.batch.logits[1] != held.batch.logits[0]).any())
    assert is_other


@pytest.mark.parametrize(
    "name", ["lstm", "two lstms", "peephole", "gru", "gru, reset before", "lstm on gru", "relu"]
)
@pytest.mark.parametrize("layer", [0, -1])
def test_the_rest_of_the_step_reads_what_is_held(name, layer):
    """Weights that keep a cell at a value make the same logits as holding it there."""
    spec, cell, value = SPECS[name], 3, 0.4
    layer %= len(spec.recurrent_layers)
    weights = random_weights(spec)
    held = HeldProgram(spec, weights, Precision.FLOAT32).new_batch(1)
    held.masks[layer][0, cell], held.values[layer][0, cell] = True, value
    program = OnnxProgram(spec, keeping(spec, weights, layer, cell, value), Precision.FLOAT32)
    batch = program.new_batch(1)
    for token in TOKENS:
        held.batch.tokens[:] = batch.tokens[:] = token
        held.step()
        program.step(batch, 1)
        np.testing.assert_allclose(held.batch.logits, batch.logits, rtol=0, atol=2e-5)


def keeping(spec, weights, layer, cell, value) -> Weights:
    """Weights whose gates keep one cell at a value from the first step on."""
    arrays = {name: np.array(array) for name, array in weights.items()}
    shape, prefix = spec.recurrent_layers[layer], f"layers.{layer}."
    gates = CELLS[shape.cell].gates
    columns = {gate: gates.index(gate) * shape.units + cell for gate in gates}
    everywhere = [columns[gate] for gate in ("zh" if "z" in gates else "ifg")]
    for part in ("kernel", "recurrent_kernel", "bias"):
        arrays[prefix + part][..., everywhere] = 0.0
    bias = arrays[prefix + "bias"].reshape(-1, len(gates) * shape.units)[0]
    if "z" in gates:
        bias[columns["z"]], bias[columns["h"]] = -100.0, np.arctanh(value)
    else:
        bias[columns["f"]], bias[columns["i"]] = -100.0, 100.0
        is_relu = shape.activation != "tanh"
        bias[columns["g"]] = value if is_relu else np.arctanh(value)
        if prefix + "peephole" in arrays:
            arrays[prefix + "peephole"][:2, cell] = 0.0
    return Weights(spec, arrays)
