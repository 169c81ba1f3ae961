"""The record of a bundle's precision, and the choice that `auto` makes by it."""

import numpy as np
import pytest

from service.errors import Validation
from service.models import parity
from service.models.bundle import Precision
from service.models.compile import compile_program
from service.models.spec import Weights
from tests.models.networks import SPECS, random_weights

LSTM = SPECS["lstm"]


@pytest.fixture
def weights():
    return random_weights(LSTM)


def test_the_same_model_gets_the_same_choice(weights):
    assert parity.measure(LSTM, weights, "auto") == parity.measure(LSTM, weights, "auto")


def test_float32_stays_within_rounding_of_the_reference(weights):
    record = parity.measure(LSTM, weights, "auto").parity
    assert record.largest_logit_difference[Precision.FLOAT32] < 1e-4
    assert record.largest_logit_difference[Precision.FLOAT32] > 0


def test_a_program_that_computes_something_else_shows_in_the_record(weights):
    wrong = Weights(LSTM, {name: 1.01 * array for name, array in weights.items()})
    record = parity.measure(
        LSTM,
        weights,
        "float32",
        compiler=lambda spec, _, precision: compile_program(spec, wrong, precision),
    ).parity
    assert record.largest_logit_difference[Precision.FLOAT32] > 1e-3


def test_auto_takes_int8_only_within_its_cost(weights):
    taken = parity.measure(LSTM, weights, "auto")
    nats = taken.parity.nats_per_character
    cost = nats[Precision.INT8] - nats[Precision.FLOAT32]
    assert taken.precision is Precision.INT8
    assert cost <= parity.MAX_INT8_COST
    refused = parity.measure(LSTM, weights, "auto", max_int8_cost=cost - 1e-9)
    assert refused.precision is Precision.FLOAT32
    assert "more than" in refused.reason


def test_auto_takes_float32_and_the_reason_is_recorded_where_int8_cannot_be():
    spec = SPECS["relu"]
    choice = parity.measure(spec, random_weights(spec, scale=0.1), "auto")
    assert choice.precision is Precision.FLOAT32
    assert choice.reason.startswith("int8 needs tanh and sigmoid gates")
    assert choice.parity.nats_per_character.keys() == {Precision.FLOAT32}
    with pytest.raises(Validation, match="precision int8 needs"):
        parity.measure(spec, random_weights(spec, scale=0.1), "int8")


def test_a_certain_model_costs_nothing_and_a_uniform_one_log_v(weights):
    uniform = Weights(LSTM, {name: 0 * array for name, array in weights.items()})
    nats = parity.measure(LSTM, uniform, "float32").parity.nats_per_character
    assert nats[Precision.FLOAT32] == pytest.approx(np.log(LSTM.vocabulary_size))
    certain = dict(uniform) | {"output.bias": 100 * np.eye(LSTM.vocabulary_size)[3]}
    nats = parity.measure(LSTM, Weights(LSTM, certain), "float32").parity.nats_per_character
    assert nats[Precision.FLOAT32] == pytest.approx(0, abs=1e-9)


def test_special_tokens_are_never_sampled(weights):
    only_special = dict(weights) | {"output.bias": 100 * np.eye(LSTM.vocabulary_size)[0]}
    special = parity.measure(LSTM, Weights(LSTM, only_special), "float32", special_ids=(0,))
    assert special.parity.nats_per_character[Precision.FLOAT32] > 0.1
