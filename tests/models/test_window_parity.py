"""The record of a windowed model: its deviation, and what carried state would change."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from service.errors import BadCheckpoint, Validation
from service.models import parity
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.compile import compile_program
from service.models.layers import SelectStep
from service.models.reference import ReferenceModel
from service.models.spec import ModelSpec, Weights
from service.models.window import Padding, Window
from service.models.window_parity import given
from tests.models.networks import LENGTH, VOCABULARY_SIZE, WINDOWED, random_weights

LEFT = WINDOWED["left, token"]
TEXT = [1 + i * i % 16 for i in range(400)]


def wrong(factor):
    def compiler(spec, weights, precision):
        scaled = Weights(spec, {name: factor * array for name, array in weights.items()})
        return compile_program(spec, scaled, precision)

    return compiler


@pytest.mark.parametrize("spec", WINDOWED.values(), ids=WINDOWED.keys())
def test_a_windowed_model_stays_within_rounding_of_the_reference(spec):
    weights = random_weights(spec)
    result = parity.measure(spec, weights, "auto")
    assert result == parity.measure(spec, weights, "auto")
    assert result.precision is Precision.FLOAT32
    assert "reads a window" in result.reason
    assert 0 < result.parity.largest_logit_difference[Precision.FLOAT32] < 1e-5
    parity.check_here(
        compile_program(spec, weights, "float32"),
        SimpleNamespace(spec=spec, weights=weights),
        Precision.FLOAT32,
    )


def test_a_program_that_computes_something_else_is_seen():
    weights = random_weights(LEFT)
    record = parity.measure(LEFT, weights, "float32", compiler=wrong(1.01)).parity
    assert record.largest_logit_difference[Precision.FLOAT32] > 1e-3
    program = wrong(1.01)(LEFT, weights, Precision.FLOAT32)
    with pytest.raises(BadCheckpoint, match="on this machine"):
        parity.check_here(program, SimpleNamespace(spec=LEFT, weights=weights), Precision.FLOAT32)


def test_int8_is_refused():
    with pytest.raises(Validation, match="served in float32"):
        parity.measure(LEFT, random_weights(LEFT), "int8")


def test_the_window_and_carried_state_are_compared_on_the_same_text():
    weights = random_weights(LEFT, scale=0.8)
    record = parity.measure(LEFT, weights, "float32", text=TEXT).parity.window_of_text
    program = compile_program(LEFT, weights, "float32")
    texts = given(program, LEFT, TEXT, ()).texts
    window, carried = (
        ReferenceModel(LEFT, weights),
        ReferenceModel(replace(LEFT, window=None), weights),
    )
    nats, n_same = np.zeros(2), 0
    for text in texts:
        logits = np.stack([window.run(text)[:-1], carried.run(text)[:-1]])
        logs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
        nats -= logs[:, np.arange(len(text) - 1), text[1:]].sum(axis=1)
        n_same += (logs[0].argmax(axis=1) == logs[1].argmax(axis=1)).sum()
    assert record.tokens == texts[:, 1:].size
    assert [record.nats_window, record.nats_carried] == pytest.approx(nats / record.tokens, 1e-5)
    assert record.same_next_token == pytest.approx(n_same / record.tokens, abs=0.002)
    assert record.same_next_token < 0.99  # these two are different models
    assert f"{record.nats_carried:.3f} nats per token instead of" in record.sentence


def test_a_window_of_all_the_text_is_the_carried_state():
    spec = replace(LEFT, window=Window(200, Padding.LEFT, 0), mask_token=0)
    record = parity.measure(spec, random_weights(spec, scale=0.8), "float32").parity.window
    assert record.same_next_token > 0.99
    assert record.nats_carried == pytest.approx(record.nats_window, rel=1e-4)
    assert spec.window.length > LENGTH


def test_there_is_no_carried_state_of_layers_that_read_a_whole_window():
    spec = WINDOWED["flatten"]
    record = parity.measure(spec, random_weights(spec), "float32", text=TEXT).parity
    assert record.window is record.window_of_text is None


def test_a_text_that_is_too_short_is_not_compared():
    record = parity.measure(LEFT, random_weights(LEFT), "float32", text=TEXT[:1]).parity
    assert record.window is not None
    assert record.window_of_text is None


@pytest.mark.parametrize("special", [(0,), (0, 3)])
def test_special_tokens_are_never_sampled(special):
    arrays = dict(random_weights(LEFT)) | {"output.bias": 100 * np.eye(VOCABULARY_SIZE)[0]}
    record = parity.measure(LEFT, Weights(LEFT, arrays), "float32", special_ids=special).parity
    assert record.nats_per_character[Precision.FLOAT32] > 0.1


@pytest.mark.parametrize("embedding_dim", [16, None])
def test_twenty_thousand_words_are_measured(embedding_dim):
    layers = (LayerSpec("lstm", 16), SelectStep())
    spec = ModelSpec(20_000, embedding_dim, layers, window=Window(12, Padding.LEFT, 0))
    for whole in (spec, replace(spec, window=None)):
        record = parity.measure(whole, random_weights(spec), "float32").parity
        assert record.largest_logit_difference[Precision.FLOAT32] < 1e-5
