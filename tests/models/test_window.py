"""Models that read a window for each token, against the author's loop written out."""

from dataclasses import replace

import numpy as np
import pytest

from service.models.compile import compile_program
from service.models.reference import ReferenceModel
from service.models.step import State, WindowedProgram
from service.models.window_program import WindowProgram
from tests.models.networks import LENGTH, VOCABULARY_SIZE, WINDOWED, random_weights

TOKENS = 2 * LENGTH + 3

SPECS = pytest.mark.parametrize("spec", WINDOWED.values(), ids=WINDOWED.keys())


def tokens_of(n: int = TOKENS, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, VOCABULARY_SIZE, n)


def logits_of(program, tokens, rows=1, row=0) -> np.ndarray:
    batch, out = program.new_batch(rows), []
    for token in tokens:
        batch.tokens[row] = token
        program.step(batch, rows)
        out.append(batch.logits[row].copy())
    return np.stack(out)


@SPECS
def test_the_program_computes_the_reference(spec):
    weights, tokens = random_weights(spec), tokens_of()
    reference, program = ReferenceModel(spec, weights), compile_program(spec, weights, "float32")
    assert isinstance(program, WindowedProgram)
    assert np.abs(logits_of(program, tokens) - reference.run(tokens)).max() < 1e-5
    state, stepped = reference.initial_state(), []
    for token in tokens:
        logits, state = reference.step(token, state)
        stepped.append(logits)
    assert np.allclose(np.stack(stepped), reference.run(tokens), atol=1e-12)


@SPECS
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_is_the_same_bits_in_any_batch(spec, threads):
    weights = random_weights(spec)
    alone = logits_of(compile_program(spec, weights, "float32"), tokens_of())
    program = WindowProgram(spec, weights, threads, batch_numbers=3_000)  # several parts
    for rows in (2, 5, 16):
        batch = program.new_batch(rows)
        # The other rows' windows are of every length, from empty ones to full ones.
        for i in range(rows):
            batch.put(i, program.prefill(None, tokens_of(1 + 2 * i, seed=i)))
        batch.put(rows - 1, None)
        for step, token in enumerate(tokens_of()):
            batch.tokens[:] = step % VOCABULARY_SIZE
            batch.tokens[rows - 1] = token
            program.step(batch, rows)
            assert (batch.logits[rows - 1] == alone[step]).all(), (rows, step)


CARRIED = {name: spec for name, spec in WINDOWED.items() if spec.carries_window}
CARRIED_SPECS = pytest.mark.parametrize("spec", CARRIED.values(), ids=CARRIED.keys())


def test_masked_pads_on_the_left_are_carried():
    expected = {"left, masked", "left, zeros, masked", "masked skip connections"}
    assert CARRIED.keys() == expected


@CARRIED_SPECS
def test_a_text_that_fits_reads_its_last_token_from_the_carried_states(spec):
    """With other tokens in place of those that are read, the result is the same bits."""
    weights, tokens = random_weights(spec), tokens_of(LENGTH)
    program = compile_program(spec, weights, "float32")
    whole, batch = logits_of(program, tokens), program.new_batch(1)
    carried = ReferenceModel(replace(spec, window=None), weights)
    state = carried.initial_state()
    for i, token in enumerate(tokens):
        held = batch.states[0][:, :-1]
        held[held > 0] = 5.0
        batch.tokens[0] = token
        program.step(batch, 1)
        assert (batch.logits[0] == whole[i]).all()
        _, state = carried.step(token, state)
        for found, expected in zip(batch.states[1:], state, strict=True):
            assert np.abs(found[0] - expected).max() < 1e-5


@CARRIED_SPECS
def test_a_text_that_is_longer_than_the_window_does_not_read_the_carried_states(spec):
    weights, tokens = random_weights(spec), tokens_of()
    program = compile_program(spec, weights, "float32")
    whole, batch = logits_of(program, tokens), program.new_batch(1)
    for i, token in enumerate(tokens):
        if i >= LENGTH:
            for states in batch.states[1:]:
                states[:] = np.nan
        batch.tokens[0] = token
        program.step(batch, 1)
        assert (batch.logits[0] == whole[i]).all()


@CARRIED_SPECS
@pytest.mark.parametrize("n_stepped", [0, 1, 4, LENGTH - 1, LENGTH, LENGTH + 2])
@pytest.mark.parametrize("n_prompt", [1, 2, LENGTH - 4, LENGTH, LENGTH + 1])
def test_a_prompt_after_any_text_is_read_from_its_states(spec, n_stepped, n_prompt):
    program = compile_program(spec, random_weights(spec), "float32")
    tokens = tokens_of(n_stepped + n_prompt + 3)
    whole, batch, state = logits_of(program, tokens), program.new_batch(1), None
    for token in tokens[:n_stepped]:
        batch.tokens[0] = token
        program.step(batch, 1)
    if n_stepped:
        state = State(n_stepped, tuple(array[0].copy() for array in batch.states))
    batch.put(0, program.prefill(state, tokens[n_stepped : n_stepped + n_prompt].tolist()))
    for i in range(n_stepped + n_prompt - 1, len(tokens)):
        batch.tokens[0] = tokens[i]
        program.step(batch, 1)
        assert (batch.logits[0] == whole[i]).all()
