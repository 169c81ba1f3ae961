"""Models that read a window for each token, against the author's loop written out."""

import numpy as np
import pytest

from service.models.compile import compile_program
from service.models.reference import ReferenceModel
from service.models.step import WindowedProgram
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
