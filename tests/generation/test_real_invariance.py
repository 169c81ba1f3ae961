"""The theorem of `invariance.py` with the bundled model's weights, and with a GRU."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from service.models import int8_gemm, vnni_gemm
from service.models.bundle import Bundle, Precision
from service.models.cell import LayerSpec
from service.models.compile import Int8Kernel, compile_program, has_avx2, has_vnni
from service.models.int8_step import FusedProgram
from service.models.spec import ModelSpec
from tests.generation.invariance import check_invariance
from tests.generation.strategies import histories, requests
from tests.models.networks import SPECS, WINDOWED, random_weights

BUNDLE = Bundle.read(Path(__file__).parents[2] / "model_store" / "demo" / "1")
TEXTS = [BUNDLE.tokenizer.text_of(i) for i in range(len(BUNDLE.tokenizer))]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("precision", "kernel"),
    [(Precision.FLOAT32, Int8Kernel.OWN), *((Precision.INT8, kernel) for kernel in Int8Kernel)],
)
def test_a_generation_in_a_batch_equals_the_generation_alone(precision, kernel, threads):
    alone = compile_program(BUNDLE.spec, BUNDLE.weights, precision, 1, kernel=kernel)
    program = compile_program(BUNDLE.spec, BUNDLE.weights, precision, threads, kernel=kernel)

    @settings(
        max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(history=histories(requests(len(TEXTS), " etaoin")))
    def in_any_company(history):
        check_invariance(program, TEXTS, history, threads=threads, alone_program=alone)

    in_any_company()


@pytest.mark.parametrize(
    "gemm",
    [
        pytest.param(int8_gemm, marks=pytest.mark.skipif(not has_avx2(), reason="needs AVX2")),
        pytest.param(vnni_gemm, marks=pytest.mark.skipif(not has_vnni(), reason="needs VNNI")),
    ],
    ids=["avx2", "vnni"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_generation_by_fused_grus_equals_the_generation_alone(gemm, threads):
    spec = ModelSpec(len(TEXTS), 16, (LayerSpec("gru", 48), LayerSpec("gru", 33)))
    program = FusedProgram(spec, random_weights(spec), gemm.pack)

    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(history=histories(requests(len(TEXTS), " etaoin")))
    def in_any_company(history):
        check_invariance(program, TEXTS, history, threads=threads)

    in_any_company()


GENERAL = {
    name: SPECS[name]
    for name in ("dense head", "norms between", "skip connections", "masked token", "simple rnn")
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [*GENERAL, *WINDOWED])
def test_general_and_windowed_models_in_a_batch(name, threads):
    spec = (GENERAL | WINDOWED)[name]
    weights = random_weights(spec)
    alone = compile_program(spec, weights, Precision.FLOAT32, threads=1)
    program = compile_program(spec, weights, Precision.FLOAT32, threads)
    texts = [chr(97 + i) for i in range(spec.vocabulary_size)]

    @settings(
        max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(history=histories(requests(len(texts), "abc")))
    def in_any_company(history):
        check_invariance(program, texts, history, threads=threads, alone_program=alone)

    in_any_company()
