"""The theorem of `invariance.py` with the bundled model's weights, and with a GRU."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.generation.request import GenerationRequest, SamplingParams
from service.generation.table import SlotTable
from service.models import int8_gemm, vnni_gemm
from service.models.bundle import Bundle, Precision
from service.models.cell import LayerSpec
from service.models.compile import Int8Kernel, compile_program, has_avx2, has_vnni
from service.models.gpu_program import GpuProgram
from service.models.int8_step import FusedProgram
from service.models.program import OnnxProgram
from service.models.spec import ModelSpec
from service.models.steered_program import SteeredProgram
from tests.generation.invariance import CONFIG, SHARED, check_invariance
from tests.generation.strategies import histories, requests, steerings
from tests.models.far_device import FarDevice
from tests.models.networks import SPECS, WINDOWED, random_weights

BUNDLE = Bundle.read(Path(__file__).parents[2] / "model_store" / "demo" / "1")
CONFIGS = st.sampled_from([CONFIG, SHARED])
TEXTS = [BUNDLE.tokenizer.text_of(i) for i in range(len(BUNDLE.tokenizer))]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("precision", "kernel", "bits"),
    [
        (Precision.FLOAT32, Int8Kernel.OWN, 8),
        (Precision.INT8, Int8Kernel.OWN, 8),
        (Precision.INT8, Int8Kernel.OWN, 4),
        (Precision.INT8, Int8Kernel.ONNX_RUNTIME, 8),
    ],
)
def test_a_generation_in_a_batch_equals_the_generation_alone(precision, kernel, bits, threads):
    model, more = (BUNDLE.spec, BUNDLE.weights, precision), {"kernel": kernel, "weight_bits": bits}
    alone = compile_program(*model, 1, **more)
    program = compile_program(*model, threads, **more)

    @settings(
        max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(history=histories(requests(len(TEXTS), " etaoin")), config=CONFIGS)
    def in_any_company(history, config):
        check_invariance(
            program, TEXTS, history, threads=threads, alone_program=alone, config=config
        )

    in_any_company()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
def test_steered_and_unsteered_generations_in_any_company(precision, threads):
    """One that is not steered equals, moreover, the plain graph's."""
    model = BUNDLE.spec, BUNDLE.weights, precision
    program, alone = SteeredProgram(*model, threads), SteeredProgram(*model)
    plain, steer = OnnxProgram(*model), steerings(BUNDLE.spec)

    @settings(
        max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(history=histories(requests(len(TEXTS), " etaoin", steer=steer)), config=CONFIGS)
    def in_any_company(history, config):
        check_invariance(
            program, TEXTS, history, threads=threads, alone_program=alone, config=config
        )
        without = [
            (action, replace(argument, steer=()) if action == "submit" else argument)
            for action, argument in history
        ]
        check_invariance(
            program, TEXTS, without, threads=threads, alone_program=plain, config=config
        )

    in_any_company()


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT16])
def test_the_program_of_a_gpu_in_any_company(precision):
    """With states in a memory apart; one row's numbers come from a program of another shape."""
    model = BUNDLE.spec, BUNDLE.weights, precision
    program = GpuProgram(*model, FarDevice(), SHARED.max_rows)
    alone = OnnxProgram(*model)

    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(history=histories(requests(len(TEXTS), " etaoin")), config=CONFIGS)
    def in_any_company(history, config):
        check_invariance(program, TEXTS, history, alone_program=alone, config=config)

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
    @given(history=histories(requests(len(TEXTS), " etaoin")), config=CONFIGS)
    def in_any_company(history, config):
        check_invariance(program, TEXTS, history, threads=threads, config=config)

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
    @given(history=histories(requests(len(texts), "abc")), config=CONFIGS)
    def in_any_company(history, config):
        check_invariance(
            program, texts, history, threads=threads, alone_program=alone, config=config
        )

    in_any_company()


def history_of_turns() -> list[tuple[str, object]]:
    """One stream and then another beside six of another owner, all longer than some bursts."""

    def asked(owner: str, seed: int) -> tuple[str, object]:
        sampling = SamplingParams(seed, repetition_penalty=1.2 if seed % 2 else 1.0)
        return "submit", GenerationRequest((1, 2, 3, 4), 40 + seed, sampling, owner=owner)

    many = [asked("many", seed) for seed in range(6)]
    work = [("work", None)] * 6
    return [*many, *work, asked("one", 6), *work, ("pause", 2), asked("one", 7), *work, *work]


class Parts(SlotTable):
    """Counts the bursts of rows that are not the first ones."""

    n = 0

    def run(self, plan, **how):
        type(self).n += plan.first > 0
        return super().run(plan, **how)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", [*Precision, "fused", *WINDOWED])
def test_a_burst_of_rows_that_are_not_the_first_ones(kind, threads):
    class Own(Parts):
        n = 0

    if kind in WINDOWED:
        spec = WINDOWED[kind]
        program = compile_program(spec, random_weights(spec), Precision.FLOAT32, threads)
    elif kind == "fused":
        if not has_avx2():
            pytest.skip("the fused program is for AVX2")
        spec = ModelSpec(len(TEXTS), 16, (LayerSpec("gru", 48), LayerSpec("gru", 33)))
        program = FusedProgram(spec, random_weights(spec), int8_gemm.pack)
    else:
        spec = BUNDLE.spec
        program = compile_program(spec, BUNDLE.weights, kind, threads)
    texts = [chr(97 + i) for i in range(spec.vocabulary_size)]
    check_invariance(program, texts, history_of_turns(), Own, threads, config=SHARED)
    assert Own.n > 5
