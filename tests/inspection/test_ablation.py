"""What a held cell costs: a cell that is used is named, with the character that it is used for."""

import asyncio

import numpy as np
import pytest

from service.errors import Validation
from service.generation.softmax import logsumexp
from service.inspection.ablation import PredictedText
from service.inspection.ablator import Ablator
from service.inspection.config import InspectionConfig
from service.inspection.inspection_thread import InspectionThread
from service.inspection.labels import named_label
from service.models.bundle import Precision
from service.models.program import OnnxProgram
from tests.inspection.planted import ALPHABET, CELL, UNITS, planted_weights, random_text, spec_of
from tests.models.networks import SPECS, WINDOWED, random_weights

CLOSING = ALPHABET.index(")")


def text_of(text: str, where: str = "in_parentheses", before: tuple[int, ...] = ()):
    tokens = np.array([ALPHABET.index(one) for one in text], np.int64)
    holds = np.zeros(len(text), np.bool_)
    holds[1:] = named_label(where, text).values[:-1] > 0
    return PredictedText(tokens, before, holds)


def ablated(cell, weights, text, cells="all", hold="mean", layer=0, precision=Precision.FLOAT32):
    async def run():
        thread = InspectionThread(InspectionConfig(piece_tokens=700))
        ablator = Ablator(spec_of(cell), precision, lambda: weights, thread)
        order = ablator.order(layer, cells, hold)
        ablator.check(order, text)
        found = await ablator.ablate(order, text, "a", asyncio.Event())
        thread.close()
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("cell", ["lstm", "peephole_lstm", "gru"])
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
def test_a_planted_use_is_named_with_its_character(cell, precision):
    text = text_of(random_text(1_500))
    found, values = ablated(cell, planted_weights(cell, ")"), text, precision=precision)
    costs = found.more_by_token[:, found.tokens.tolist().index(CLOSING)]
    assert np.argmax(costs) == CELL
    assert costs[CELL] > 0.5
    assert np.sort(costs)[-2] < costs[CELL] / 2
    assert found.more_where[CELL] == pytest.approx(
        (found.more_by_token[CELL] * found.counts).sum() / found.n_where
        - found.more_elsewhere[CELL] * (text.n_predicted - found.n_where) / found.n_where
    )
    assert 0.2 < values[CELL] < 0.8  # its mean: it is 0 or 1

    unused, _ = ablated(cell, planted_weights(cell), text, precision=precision)
    assert np.abs(unused.more_by_token[CELL]).max() == 0.0


def test_costs_are_differences_of_the_text_s_logprobs():
    weights = planted_weights("lstm", ")")
    text = text_of(random_text(400), before=(3,))
    found, values = ablated("lstm", weights, text, [[CELL], [0, 1], [7]], 0.5)
    assert (values == 0.5).all()
    program = OnnxProgram(spec_of("lstm"), weights, Precision.FLOAT32)
    batch, nats = program.new_batch(1), []
    batch.tokens[0] = 3
    for token in text.tokens:
        program.step(batch, 1)
        nats.append(float(logsumexp(batch.logits)[0] - batch.logits[0, token]))
        batch.tokens[0] = token
    bits = np.array(nats) / np.log(2)
    assert found.bits == pytest.approx(bits.mean(), rel=1e-9)
    assert found.bits_where == pytest.approx(bits[text.where].mean(), rel=1e-9)
    assert found.n_where == text.where.sum()
    for column, token in enumerate(found.tokens):
        at = text.tokens == token
        assert found.counts[column] == at.sum()
        assert found.token_bits[column] == pytest.approx(bits[at].mean(), rel=1e-9)
    by_tokens = (found.more_by_token * found.counts).sum(axis=1) / len(bits)
    assert found.more == pytest.approx(by_tokens, rel=1e-9)


def test_more_sets_than_rows_are_the_same_sets():
    weights, text = planted_weights("gru", ")"), text_of(random_text(200))
    many = [[cell] for cell in range(UNITS)] * 6
    found, _ = ablated("gru", weights, text, many)
    for row in range(len(many)):
        assert found.more_by_token[row].tobytes() == found.more_by_token[row % UNITS].tobytes()


@pytest.mark.parametrize(
    ("layer", "cells", "hold", "sentence"),
    [
        (1, "all", "mean", "`layer` is 1; the model's recurrent layers are 0 to 0"),
        (0, [[24]], "mean", "`cells` has 24; those of layer 0 are 0 to 23"),
        (0, [[3, 3]], "mean", r"`cells` has the set \[3, 3\]: a set has cells, each once"),
        (0, [[3]], 1.5, "`hold` is 1.5; the cell has no c, and its h is from -1 to 1"),
    ],
)
def test_what_cannot_be_held_is_refused(layer, cells, hold, sentence):
    thread = InspectionThread(InspectionConfig())
    ablator = Ablator(SPECS["gru"], Precision.FLOAT32, dict, thread)
    with pytest.raises(Validation, match=sentence):
        ablator.order(layer, cells, hold)
    thread.close()


def test_what_would_take_too_long_is_refused_with_the_figures():
    thread = InspectionThread(InspectionConfig(max_ablation_steps=1_000, max_ablation_sums=300))
    weights = random_weights(SPECS["gru"])
    ablator = Ablator(SPECS["gru"], Precision.FLOAT32, lambda: weights, thread)
    order, text = ablator.order(0, "all", "mean"), text_of(random_text(50))
    with pytest.raises(Validation, match=r"24 sets of cells are 1200 steps; .* at most 41"):
        ablator.check(order, text)
    with pytest.raises(Validation, match="the limit is 300: give fewer sets"):
        ablator.check(order, text_of(random_text(40)))
    with pytest.raises(Validation, match="nothing predicts the only token"):
        ablator.check(order, text_of("a"))
    windowed = Ablator(next(iter(WINDOWED.values())), Precision.FLOAT32, dict, thread)
    with pytest.raises(Validation, match="reads a window"):
        windowed.order(0, "all", "mean")
    thread.close()
