"""Steering of cells: exactly what is said, of exactly the cells that are named."""

import numpy as np
import pytest

from service.errors import Validation
from service.models.bundle import Precision
from service.models.cells import CELLS
from service.models.program import OnnxProgram
from service.models.steered_program import SteeredProgram, has_same_bytes
from service.models.steering import (
    MAX_STEERED_CELLS,
    SteeredCell,
    SteerOp,
    check_steering,
    is_active,
)
from tests.models.networks import SPECS, WINDOWED, random_weights

PRECISIONS = [Precision.FLOAT32, Precision.INT8]
ONE_LAYER = ["lstm", "peephole", "gru", "gru, reset before", "hard sigmoid of Keras 2", "relu"]
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def programs(name, precision=Precision.FLOAT32):
    spec = SPECS[name]
    if precision is Precision.INT8 and not spec.is_bounded:
        pytest.skip("int8 needs a bounded h")
    model = spec, random_weights(spec), precision
    return spec, SteeredProgram(*model), OnnxProgram(*model)


def read(program, tokens, *steering):
    """Return the states after each token."""
    batch, states = program.new_batch(1), []
    if steering:
        batch.steer(0, steering)
    for token in tokens:
        batch.tokens[0] = token
        program.step(batch, 1)
        states.append([array[0].copy() for array in batch.states])
    return states


def traced(program, tokens):
    """Return the state before, the gates and the state of the last token."""
    batch = program.new_batch(1)
    trace, before = program.trace(batch), []
    for token in tokens:
        before = [array[0].copy() for array in batch.states]
        batch.tokens[0] = token
        trace.step(1)
    gates = {name: values[0].copy() for name, values in trace.gates[0].items()}
    return before, gates, [array[0].copy() for array in batch.states]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SPECS)
def test_what_is_not_steered_has_the_bytes_of_the_plain_graph(name, precision):
    spec, steered, plain = programs(name, precision)
    assert has_same_bytes(steered, plain)
    batch = steered.new_batch(1)
    neutral = [
        SteeredCell(index, cell, target, op, value)
        for index, layer in enumerate(spec.recurrent_layers)
        for target in (*CELLS[layer.cell].activated, CELLS[layer.cell].steered_state)
        for cell, op, value in ((0, SteerOp.SCALE, 1.0), (2, SteerOp.ADD, 0.0))
    ]
    batch.steer(0, tuple(neutral))
    steered.step(batch, 1)
    assert not any(table.on.any() for table in batch.tables.values()), "1 x + 0 turns -0 into 0"
    for ours, theirs in zip(read(steered, TOKENS, *neutral), read(plain, TOKENS), strict=True):
        assert [one.tobytes() for one in ours] == [one.tobytes() for one in theirs]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ONE_LAYER)
@pytest.mark.parametrize(
    ("op", "value"), [("set", 0.625), ("add", -0.25), ("scale", 0.3), ("freeze", 0.0)]
)
def test_one_step_changes_the_state_of_one_cell_as_the_operation_says(name, precision, op, value):
    spec, steered, plain = programs(name, precision)
    kind, cell = CELLS[spec.recurrent_layers[0].cell], 7
    state = kind.states.index(kind.steered_state)
    n = len(TOKENS) - 1  # the last step alone is steered
    one = SteeredCell(0, cell, kind.steered_state, SteerOp(op), value, start=n)
    before, _, new = traced(plain, TOKENS)
    old, c = before[state][cell], new[state][cell]
    expected = {"set": value, "add": c + value, "scale": c * value, "freeze": old}[op]
    found = read(steered, TOKENS, one)[-1]
    assert found[state][cell] == pytest.approx(expected, rel=1e-6, abs=1e-7)
    if op in {"set", "freeze"}:
        assert found[state][cell] == np.float32(expected)
    others = np.arange(len(new[state])) != cell
    for ours, theirs in zip(found, new, strict=True):
        assert ours[others].tobytes() == theirs[others].tobytes()


@pytest.mark.parametrize("name", ["lstm", "peephole", "hard sigmoid of Keras 2"])
def test_the_output_of_an_lstm_follows_the_steered_c(name):
    """h = o ⊙ tanh(c), and only where peepholes read c is o another one."""
    _, steered, plain = programs(name)
    n, cell = len(TOKENS) - 1, 7
    found = read(steered, TOKENS, SteeredCell(0, cell, "c", SteerOp.SET, 2.5, start=n))[-1]
    _, gates, _ = traced(plain, TOKENS)
    o = found[0][cell] / np.tanh(2.5)
    if name == "peephole":
        assert abs(o - gates["o"][cell]) > 1e-3
    else:
        assert o == pytest.approx(gates["o"][cell], abs=1e-6)


@pytest.mark.parametrize("gate", ["i", "f", "g", "o"])
@pytest.mark.parametrize("op", ["set", "add", "scale"])
@pytest.mark.parametrize("value", [0.25, -7.0])
def test_a_gate_is_steered_after_its_activation_and_stays_in_its_range(gate, op, value):
    _, steered, plain = programs("lstm")
    n, cell = len(TOKENS) - 1, 7
    (_, c), gates, _ = traced(plain, TOKENS)
    a = {name: float(values[cell]) for name, values in gates.items()}
    new = {"set": value, "add": a[gate] + value, "scale": a[gate] * value}[op]
    a[gate] = float(np.clip(new, -1.0 if gate == "g" else 0.0, 1.0))
    expected = a["f"] * c[cell] + a["i"] * a["g"]
    found = read(steered, TOKENS, SteeredCell(0, cell, gate, SteerOp(op), value, start=n))[-1]
    assert found[1][cell] == pytest.approx(expected, abs=1e-6)
    assert found[0][cell] == pytest.approx(a["o"] * np.tanh(expected), abs=1e-6)


@pytest.mark.parametrize("gate", ["z", "r"])
def test_the_gates_of_a_gru(gate):
    _, steered, plain = programs("gru")
    n, cell = len(TOKENS) - 1, 7
    (h,), gates, _ = traced(plain, TOKENS)
    found = read(steered, TOKENS, SteeredCell(0, cell, gate, SteerOp.SET, 1.0, start=n))[-1][0]
    if gate == "z":  # all is kept
        assert found[cell] == h[cell]
    else:
        assert found[cell] != pytest.approx(
            gates["z"][cell] * h[cell] + (1 - gates["z"][cell]) * gates["candidate"][cell], abs=1e-4
        )


def test_a_bounded_h_stays_within_its_range():
    """A product in int8 reads it: beyond 1 it would be read as 1, and shown as something else."""
    for name in ("gru", "simple rnn"):
        _, steered, _ = programs(name)
        found = read(steered, TOKENS, SteeredCell(0, 3, "h", SteerOp.SET, 40.0))
        assert {states[0][3] for states in found} == {1.0}


def test_a_span_begins_and_ends_where_it_says():
    _, steered, plain = programs("lstm")
    one = SteeredCell(0, 3, "c", SteerOp.SET, 9.0, start=2, stop=5)
    found, without = read(steered, TOKENS, one), read(plain, TOKENS)
    assert [states[1][3] == 9.0 for states in found] == [2 <= i < 5 for i in range(len(TOKENS))]
    for i in range(2):
        assert found[i][1].tobytes() == without[i][1].tobytes()
    assert found[5][1].tobytes() != without[5][1].tobytes()
    assert is_active((one,), 0, 3)
    assert not is_active((one,), 0, 2)
    assert not is_active((one,), 5, 9)


def test_a_frozen_cell_keeps_its_value():
    _, steered, plain = programs("two lstms")
    found = read(steered, TOKENS, SteeredCell(1, 3, "c", SteerOp.FREEZE, start=3))
    assert len({states[3][3] for states in found[2:]}) == 1
    assert len({states[3][3] for states in read(plain, TOKENS)}) == len(TOKENS)


def test_rows_carry_their_steering_when_they_move():
    _, steered, _ = programs("lstm")
    batch = steered.new_batch(4)
    one = SteeredCell(0, 3, "c", SteerOp.SET, 9.0, start=1, stop=3)
    batch.steer(2, (one,))
    expected = [states[1][3] for states in read(steered, TOKENS[:4], one)]
    place, found = 2, []
    for token, (a, b) in zip(TOKENS, [(2, 0), (0, 3), (3, 1), (1, 2)], strict=False):
        batch.tokens[:] = token
        steered.step(batch, 4)
        found.append(batch.states[1][place, 3])
        batch.swap(a, b)
        place = b
        if token == TOKENS[1]:
            saved = batch.save(place)
            batch.put(place, None)
            batch.restore(place, saved)
    assert found == expected
    batch.put(place, None)
    batch.tokens[:] = TOKENS[0]
    steered.step(batch, 4)
    assert batch.states[1][place, 3] == expected[0], "a new row has none"


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (SteeredCell(1, 0, "c", SteerOp.SET), "layer 1; the model's recurrent layers are 0 to 0"),
        (SteeredCell(0, 24, "c", SteerOp.SET), "cell 24; those of layer 0 are 0 to 23"),
        (SteeredCell(0, 0, "z", SteerOp.SET), "has the gates i, f, g, o"),
        (SteeredCell(0, 0, "f", SteerOp.FREEZE), "a gate has no value before"),
        (SteeredCell(0, 0, "c", SteerOp.SET, float("nan")), "finite number"),
        (SteeredCell(0, 0, "c", SteerOp.SET, 10_001.0), "finite number"),
        (SteeredCell(0, 0, "c", SteerOp.SET, 0.0, 5, 5), "`until` has to be greater"),
    ],
)
def test_what_the_model_does_not_have_is_refused_by_name(one, said):
    with pytest.raises(Validation, match=said):
        check_steering((one,), SPECS["lstm"])


def test_too_many_and_two_on_one_cell_are_refused():
    one = SteeredCell(0, 3, "c", SteerOp.SET)
    with pytest.raises(Validation, match="names c of cell 3 in layer 0 twice"):
        check_steering((one, SteeredCell(0, 3, "c", SteerOp.ADD, 1.0)), SPECS["lstm"])
    many = tuple(SteeredCell(0, 3, "c", SteerOp.SET) for _ in range(MAX_STEERED_CELLS + 1))
    with pytest.raises(Validation, match="at most 64"):
        check_steering(many, SPECS["lstm"])


@pytest.mark.parametrize("name", WINDOWED)
def test_a_model_that_reads_a_window_is_refused(name):
    spec = WINDOWED[name]
    with pytest.raises(Validation, match="reads a window"):
        check_steering((SteeredCell(0, 0, "c", SteerOp.SET),), spec)
    with pytest.raises(Validation, match="reads a window"):
        SteeredProgram(spec, random_weights(spec), Precision.FLOAT32)
