"""The trace of every kind of network: the equations, and the bytes of serving."""

import math

import numpy as np
import pytest

from service.errors import Validation
from service.generation.softmax import logsumexp
from service.inspection.selection import select
from service.inspection.signals import all_signals, bounds, usual_signals
from service.inspection.tracer import Piece, TextTracer
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.compile import Int8Kernel, compile_program
from service.models.mask import masked_tokens
from service.models.reference import ReferenceModel
from service.models.spec import layer_weights
from service.models.step import State, TracedProgram
from tests.models.networks import SPECS, VOCABULARY_SIZE, WINDOWED, random_weights

STEPS = 60


def programs():
    for name, spec in SPECS.items():
        yield pytest.param(spec, Precision.FLOAT32, Int8Kernel.ONNX_RUNTIME, id=name)
        if spec.is_bounded:
            yield pytest.param(spec, Precision.INT8, Int8Kernel.ONNX_RUNTIME, id=f"{name}, int8")
    for name in ("lstm", "lstm on gru"):
        own = f"{name.replace(' ', '_')}_own_int8"
        yield pytest.param(SPECS[name], Precision.INT8, Int8Kernel.OWN, id=own)


@pytest.mark.parametrize(("spec", "precision", "kernel"), [*programs()])
def test_a_trace_is_what_serving_computes_and_its_equations_hold(spec, precision, kernel):
    weights = random_weights(spec)
    program = compile_program(spec, weights, precision, kernel=kernel)
    assert isinstance(program, TracedProgram)
    random = np.random.default_rng(5)
    tokens = random.integers(0, VOCABULARY_SIZE, STEPS).tolist()
    names = [[*all_signals(layer)] for layer in spec.recurrent_layers]
    tracers = [
        TextTracer(program, select(spec, [index], signals=signals))
        for index, signals in enumerate(names)
    ]
    pieces = [
        Piece.joined([tracer.read(tokens[:7]), tracer.read(tokens[7:])]) for tracer in tracers
    ]

    # The served steps, in a batch with other rows.
    batch, logits, states = program.new_batch(5), [], []
    for token in tokens:
        batch.tokens[:] = random.integers(0, VOCABULARY_SIZE, 5)
        batch.tokens[3] = token
        program.step(batch, 5)
        logits.append(batch.logits[3].copy())
        states.append([array[3].copy() for array in batch.states])
    expected = [
        float(row[token]) - float(logsumexp(row[None])[0])
        for row, token in zip(logits[:-1], tokens[1:], strict=True)
    ]
    is_kept = masked_tokens(spec, weights)[tokens]
    reference = reference_states(spec, weights, tokens)
    first = 0
    for layer, piece in zip(spec.recurrent_layers, pieces, strict=True):
        assert math.isnan(piece.logprobs[0])
        assert piece.logprobs[1:].tolist() == expected
        (signals,) = piece.layers
        at = {name: array.astype(np.float64) for name, array in signals.items()}
        for offset, name in enumerate(CELLS[layer.cell].states):
            served = np.stack([state[first + offset] for state in states])
            assert signals[name].tobytes() == served.tobytes(), name
            if precision is Precision.FLOAT32:
                near = np.abs(at[name] - reference[first + offset]).max()
                assert near <= 1e-5 * max(1.0, np.abs(at[name]).max()), name
        for name, array in at.items():
            limits = bounds(layer, name)
            if limits is not None:
                assert array.min() >= limits[0], name
                assert array.max() <= limits[1], name
        check_equations(layer, signals, ~is_kept)
        first += len(CELLS[layer.cell].states)
    state = tracers[-1].state()
    assert state.position == STEPS
    for array, served in zip(state.arrays, states[-1], strict=True):
        assert array.tobytes() == served.tobytes()


def reference_states(spec, weights, tokens) -> list[np.ndarray]:
    model = ReferenceModel(spec, weights)
    state, rows = model.initial_state(), []
    for token in tokens:
        _, state = model.step(token, state)
        rows.append(state)
    return [np.stack(parts) for parts in zip(*rows, strict=True)]


def before(array: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(array[:1]), array[:-1]])


def check_equations(layer: LayerSpec, at: dict[str, np.ndarray], is_read: np.ndarray) -> None:
    """Check the equations at the tokens that are not masked."""
    if "c" in at:
        c = at["f"] * before(at["c"]) + at["i"] * at["g"]
        two_ulp = 2 * np.spacing(np.abs(at["c"]))
        assert (np.abs(c - at["c"]) <= two_ulp)[is_read].all()
        h = at["o"] * layer.activation(at["c"].astype(np.float64))
        np.testing.assert_allclose(at["h"][is_read], h[is_read], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal((at["kept"] + at["write"])[is_read], c[is_read])
    elif "z" in at:
        h = at["z"] * before(at["h"]) + (1 - at["z"]) * at["candidate"]
        np.testing.assert_allclose(at["h"][is_read], h[is_read], rtol=0, atol=1e-6)
        together = at["kept"] + at["write"]
        np.testing.assert_allclose(at["h"][is_read], together[is_read], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "peephole", "gru", "gru, reset before", "relu"])
def test_each_gate_is_the_one_of_its_name(name):
    spec = SPECS[name]
    (layer,) = spec.recurrent_layers
    weights = random_weights(spec)
    program = compile_program(spec, weights, Precision.FLOAT32)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY_SIZE, STEPS)
    (at,) = TextTracer(program, select(spec)).read(tokens.tolist()).layers
    own = {key: w.astype(np.float64) for key, w in layer_weights(weights, 0).items()}
    sigma, phi = layer.recurrent_activation, layer.activation
    x = weights["embedding"].astype(np.float64)[tokens] @ own["kernel"]
    h, u = before(at["h"]).astype(np.float64), own["recurrent_kernel"]
    if layer.cell == "gru":
        bias = np.broadcast_to(own["bias"], (2, x.shape[1]))
        x_z, x_r, x_h = np.split(x + bias[0], 3, axis=1)
        u_z, u_r, u_h = np.split(u, 3, axis=1)
        b_z, b_r, b_h = np.split(bias[1] if layer.reset_after else 0 * bias[1], 3)
        z, r = sigma(x_z + h @ u_z + b_z), sigma(x_r + h @ u_r + b_r)
        inner = r * (h @ u_h + b_h) if layer.reset_after else (r * h) @ u_h
        expected = {"z": z, "r": r, "candidate": phi(x_h + inner)}
    else:
        z_i, z_f, z_g, z_o = np.split(x + h @ u + own["bias"], 4, axis=1)
        p_i, p_f, p_o = own.get("peephole", np.zeros((3, 1)))
        c_before, c = before(at["c"]), at["c"]
        expected = {
            "i": sigma(z_i + p_i * c_before),
            "f": sigma(z_f + p_f * c_before),
            "g": phi(z_g),
            "o": sigma(z_o + p_o * c),
        }
    assert [*expected, *reversed(CELLS[layer.cell].states)] == [*usual_signals(layer)]
    for gate, values in expected.items():
        np.testing.assert_allclose(at[gate], values, rtol=1e-5, atol=1e-5, err_msg=gate)


def test_a_text_goes_on_from_a_state():
    spec = SPECS["lstm on gru"]
    program = compile_program(spec, random_weights(spec), Precision.FLOAT32)
    tokens = np.random.default_rng(2).integers(0, VOCABULARY_SIZE, 30).tolist()
    selection = select(spec, cells=[3, 1])
    whole = TextTracer(program, selection, n_top_tokens=2).read(tokens)
    first = TextTracer(program, selection)
    first.feed(tokens[:9])
    second = TextTracer(program, selection, first.state(), n_top_tokens=2)
    second.feed(tokens[9:10])
    states, rest = second.states(), second.read(tokens[10:])
    assert rest.logprobs.tolist() == whole.logprobs[10:].tolist()
    assert rest.top_tokens == whole.top_tokens[10:]
    for before_text, of_rest, of_whole in zip(states, rest.layers, whole.layers, strict=True):
        for name, rows in of_whole.items():
            assert of_rest[name].tobytes() == rows[10:].tobytes()
        assert before_text["h"].tobytes() == of_whole["h"][9].tobytes()


def test_a_masked_token_keeps_every_state():
    spec = SPECS["masked token"]
    program = compile_program(spec, random_weights(spec), Precision.FLOAT32)
    for layer in TextTracer(program, select(spec)).read([5, 6, 3, 3, 7]).layers:
        for name in {"h", "c"} & layer.keys():
            assert (layer[name][2:4] == layer[name][1]).all()
            assert (layer[name][4] != layer[name][1]).any()


def test_a_window_has_no_gates_of_a_text():
    for spec in WINDOWED.values():
        with pytest.raises(Validation, match=r"reads a window of .* inspect a model whose state"):
            select(spec)


def test_a_state_of_another_text_makes_another_trace():
    spec = SPECS["gru"]
    program = compile_program(spec, random_weights(spec), Precision.FLOAT32)
    state = State(4, tuple(np.full(units, 0.3, np.float32) for units in spec.state_units))
    tracer = TextTracer(program, select(spec), state)
    assert (tracer.states()[0]["h"] == np.float32(0.3)).all()
    assert (
        tracer.read([1]).layers[0]["h"]
        != TextTracer(program, select(spec)).read([1]).layers[0]["h"]
    ).any()
    assert tracer.state().position == 5
