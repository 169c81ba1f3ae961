"""The sampling parameters that both families of routes share."""

from dataclasses import asdict, fields

import pytest

from carousel_client.parameters import GenerateParameters
from service.api.openai.schemas import CompletionBody
from service.api.sampling_fields import RANGE_MESSAGES
from service.api.tgi.schemas import Parameters
from service.generation.request import SamplingParams

GIVEN = {
    "seed": 7,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.8,
    "repetition_penalty": 1.5,
    "frequency_penalty": -0.5,
    "presence_penalty": 0.25,
    "logit_bias": {"2": 1.5, "3": 0},
}
BODIES = [Parameters, CompletionBody]


@pytest.mark.parametrize("body", BODIES)
def test_every_sampling_parameter_is_a_field_and_reaches_the_engine(body):
    assert {one.name for one in fields(SamplingParams)} == GIVEN.keys() <= body.model_fields.keys()
    found = asdict(body.model_validate(GIVEN).sampling_params(10, default_seed=1))
    assert found == GIVEN | {"logit_bias": ((2, 1.5),)}


@pytest.mark.parametrize("body", BODIES)
def test_without_parameters_the_engine_gets_its_defaults(body):
    assert body().sampling_params(10, default_seed=1) == SamplingParams(1)
    assert body().sampling_params(10, 1, is_greedy=True) == SamplingParams(1, temperature=0.0)


def test_vllms_values_for_all_tokens_and_negative_seeds():
    found = CompletionBody(top_k=-1, seed=-1).sampling_params(10, default_seed=1)
    assert (found.top_k, found.seed) == (0, 2**64 - 1)


def test_the_client_has_every_sampling_parameter():
    assert GIVEN.keys() <= GenerateParameters.__annotations__.keys()


def test_a_range_message_is_of_a_known_field():
    assert RANGE_MESSAGES.keys() <= Parameters.model_fields.keys()
