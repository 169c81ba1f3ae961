import numpy as np
import pytest

from service.errors import BadCheckpoint
from service.models.bundle import Bundle, Parity, Precision, Record, Source, compose
from service.models.compile import compile_program
from service.models.parity import MAX_INT8_COST, check_here, measure
from service.models.spec import Activation, ModelRef, Weights
from service.models.step import Batch
from service.models.store import ModelStore
from service.models.tokenizer import Tokenizer
from tests.fakes.digest_program import DigestProgram
from tests.models.networks import SPECS, VOCABULARY_SIZE, random_weights

LETTERS = "abcdefghijklmnopq"


def bundle_of(tmp_path, spec) -> Bundle:
    record = Record(
        precision=Precision.FLOAT32,
        precision_reason="made by a test",
        source=Source(format="test", files={}),
        parity=Parity(tokens=0, largest_logit_difference={}),
    )
    ref, store = ModelRef("tested", 1), ModelStore(tmp_path)
    store.write(ref, compose(ref, spec, random_weights(spec), Tokenizer(LETTERS), record))
    return store.read(ref)


def test_the_record_has_both_precisions_and_auto_follows_the_cost():
    spec = SPECS["lstm"]
    verdict = measure(spec, random_weights(spec), "auto")
    nats = verdict.parity.nats_per_character
    assert verdict.parity.largest_logit_difference[Precision.FLOAT32] < 1e-5
    is_cheap = nats[Precision.INT8] - nats[Precision.FLOAT32] <= MAX_INT8_COST
    assert verdict.precision is (Precision.INT8 if is_cheap else Precision.FLOAT32)
    assert str(MAX_INT8_COST) in verdict.reason


def test_auto_refuses_an_int8_that_costs_too_much():
    """One outlier in each column leaves int8 no steps for the others, and itself means nothing:
    the output gate of its unit is shut."""
    spec = SPECS["lstm"]
    arrays = {name: weight.copy() for name, weight in random_weights(spec, scale=1.0).items()}
    arrays["layers.0.recurrent_kernel"][3] = 200.0
    arrays["layers.0.bias"][3 * 24 + 3] = -100.0
    verdict = measure(spec, Weights(spec, arrays), "auto")
    assert verdict.precision is Precision.FLOAT32
    assert "more than" in verdict.reason


def test_auto_takes_float32_where_int8_is_impossible():
    spec = SPECS["relu"]
    assert spec.layers[0].activation is Activation.RELU
    verdict = measure(spec, random_weights(spec, scale=0.1), "auto")
    assert verdict.precision is Precision.FLOAT32
    assert Precision.INT8 not in verdict.parity.nats_per_character


@pytest.mark.parametrize("precision", list(Precision))
def test_a_sound_program_passes_the_check_at_load(tmp_path, precision):
    bundle = bundle_of(tmp_path, SPECS["lstm"])
    check_here(compile_program(bundle.spec, bundle.weights, precision), bundle, precision)


class OffByALittle(DigestProgram):
    """A program that computes something else, as a kernel with a fault would."""

    def step(self, batch: Batch, rows: int) -> None:
        super().step(batch, rows)
        batch.logits[:rows] = np.float32(0.5)


@pytest.mark.parametrize("precision", list(Precision))
def test_a_program_that_strays_is_not_served(tmp_path, precision):
    bundle = bundle_of(tmp_path, SPECS["lstm"])
    with pytest.raises(BadCheckpoint, match="strays by"):
        check_here(OffByALittle(VOCABULARY_SIZE), bundle, precision)
