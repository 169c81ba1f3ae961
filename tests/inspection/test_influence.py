"""What a prediction owes to a token: the text without it, read plainly."""

import numpy as np
import pytest

from service.inspection.influence import InfluenceReader
from service.models.bundle import Precision
from service.models.compile import compile_program
from tests.models.networks import SPECS, VOCABULARY_SIZE, random_weights


def logprobs_after(program, tokens) -> np.ndarray:
    batch = program.new_batch(1)
    for token in tokens:
        batch.tokens[0] = token
        program.step(batch, 1)
    logits = batch.logits[0].astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "simple rnn"])
def test_a_token_is_left_out_as_if_it_were_not_there(name, precision):
    spec = SPECS[name]
    program = compile_program(spec, random_weights(spec), precision)
    tokens = np.random.default_rng(3).integers(0, VOCABULARY_SIZE, 90).tolist()
    reader, found = InfluenceReader(program, tokens, 80), []
    for block in reader.blocks():
        found += reader.read(block, 4)
    whole = logprobs_after(program, tokens)
    assert reader.expected == pytest.approx(whole, abs=1e-12)
    assert len(found) == 80
    for place, one in enumerate(found, 10):
        without = logprobs_after(program, tokens[:place] + tokens[place + 1 :])
        bits = (np.exp(whole) * (whole - without)).sum() / np.log(2)
        assert one.bits == pytest.approx(max(0.0, bits), abs=1e-9)
        assert one.logprob_change == pytest.approx(without[4] - whole[4], abs=1e-9)
    assert found[-1].bits > 10 * found[0].bits


def test_the_last_token_alone_is_left_out():
    """Its prediction is then the one before it, which no step of that row has computed."""
    spec = SPECS["lstm"]
    program = compile_program(spec, random_weights(spec), Precision.FLOAT32)
    tokens = [1, 5, 2, 9]
    reader = InfluenceReader(program, tokens, 1)
    (block,) = reader.blocks()
    (found,) = reader.read(block, 4)
    whole, without = logprobs_after(program, tokens), logprobs_after(program, tokens[:-1])
    bits = (np.exp(whole) * (whole - without)).sum() / np.log(2)
    assert found.bits == pytest.approx(bits, abs=1e-9)
    assert found.logprob_change == pytest.approx(without[4] - whole[4], abs=1e-9)


def test_a_text_is_read_on_from_a_state():
    spec = SPECS["lstm"]
    program = compile_program(spec, random_weights(spec), Precision.FLOAT32)
    tokens = [1, 5, 2, 9, 3, 3, 7]
    whole = InfluenceReader(program, tokens, 2)
    batch = program.new_batch(1)
    for token in tokens[:4]:
        batch.tokens[0] = token
        program.step(batch, 1)
    from service.models.step import State  # noqa: PLC0415

    state = State(4, tuple(array[0].copy() for array in batch.states))
    rest = InfluenceReader(program, tokens[4:], 2, state)
    (block,), (other,) = [*whole.blocks()], [*rest.blocks()]
    assert whole.read(block, 2) == rest.read(other, 2)
