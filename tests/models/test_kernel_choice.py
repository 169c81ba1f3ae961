import json
import shutil
import threading
from dataclasses import replace

import httpx2
import numpy as np
import pytest

from service.models.bundle import Bundle, Precision
from service.models.cell import LayerSpec
from service.models.compile import Int8Kernel, compile_program, has_avx2, has_vnni
from service.models.int8_step import FusedProgram
from service.models.kernel_choice import (
    FOLDER,
    ROWS,
    KernelChoices,
    measure_gains,
    remembered,
)
from service.models.program import OnnxProgram
from service.models.spec import ModelSpec
from tests.models.networks import SPECS, random_weights
from tests.process import ROOT, ended, serving

DEMO = Bundle.read(ROOT / "model_store" / "demo" / "1")
SPEC = ModelSpec(5, 4, (LayerSpec("lstm", 8),))
WEIGHTS = random_weights(SPEC)
INT8 = Precision.INT8

needs_vnni = pytest.mark.skipif(not has_vnni(), reason="without VNNI nothing is measured")


def gives(*gains: float):
    return lambda *_: dict(zip(ROWS, gains, strict=True))


def never(*_):
    raise AssertionError("measured")


@needs_vnni
@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ((1.1, 1.1), Int8Kernel.OWN),
        ((3.0, 1.09), Int8Kernel.ONNX_RUNTIME),
        ((1.09, 3.0), Int8Kernel.ONNX_RUNTIME),
    ],
)
def test_the_own_kernel_has_to_be_faster_by_a_tenth_at_16_and_at_64_rows(tmp_path, gains, chosen):
    assert KernelChoices(tmp_path).choose(SPEC, WEIGHTS, INT8, 1, gives(*gains)) is chosen


@needs_vnni
def test_the_first_measurement_counts_for_all_later_loads(tmp_path):
    assert KernelChoices(tmp_path).choose(SPEC, WEIGHTS, INT8, 1, gives(1, 1)) == "onnxruntime"
    assert KernelChoices(tmp_path).choose(SPEC, WEIGHTS, INT8, 2, never) == "onnxruntime"
    (line,) = remembered(tmp_path)
    assert line == f"onnxruntime for {SPEC.summary} (1 × at 16, 1 × at 64 rows)"
    other = ModelSpec(5, 4, (LayerSpec("lstm", 9),))
    chosen = KernelChoices(tmp_path).choose(other, random_weights(other), INT8, 1, gives(2, 2))
    assert chosen is Int8Kernel.OWN
    assert len(list((tmp_path / FOLDER).iterdir())) == 2  # and nothing half written


@needs_vnni
def test_of_two_processes_that_measure_at_once_the_first_one_decides(tmp_path):
    def measure(*_):
        assert KernelChoices(tmp_path).choose(SPEC, WEIGHTS, INT8, 1, gives(2, 2)) == "own"
        return gives(1, 1)()

    assert KernelChoices(tmp_path).choose(SPEC, WEIGHTS, INT8, 1, measure) == "own"
    assert KernelChoices(tmp_path).choose(SPEC, WEIGHTS, INT8, 1, never) == "own"


@needs_vnni
def test_threads_that_measure_at_once_agree(tmp_path):
    start, found = threading.Barrier(8), []

    def load(i: int) -> None:
        start.wait()
        gain = 1.0 + i % 2
        found.append(KernelChoices(tmp_path).choose(SPEC, WEIGHTS, INT8, 1, gives(gain, gain)))

    threads = [threading.Thread(target=load, args=(i,)) for i in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@needs_vnni
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"kernel": "cuda"}', b"\xff"])
def test_a_damaged_record_is_measured_again(tmp_path, content):
    KernelChoices(tmp_path).choose(SPEC, WEIGHTS, INT8, 1, gives(1, 1))
    (path,) = (tmp_path / FOLDER).iterdir()
    path.write_bytes(content)
    assert list(remembered(tmp_path)) == []
    assert KernelChoices(tmp_path).choose(SPEC, WEIGHTS, INT8, 1, gives(2, 2)) == "own"
    assert json.loads(path.read_bytes())["kernel"] == "own"


def test_where_nothing_can_be_written_nothing_is_measured(tmp_path):
    (tmp_path / FOLDER).touch()
    assert KernelChoices(tmp_path).choose(SPEC, WEIGHTS, INT8, 1, never) is Int8Kernel.OWN


@pytest.mark.parametrize("wanted", ["own", "onnxruntime"])
def test_the_setting_comes_before_any_measurement(tmp_path, wanted):
    chosen = KernelChoices(tmp_path, wanted).choose(SPEC, WEIGHTS, INT8, 1, never)
    assert chosen == wanted
    program = compile_program(SPEC, WEIGHTS, INT8, kernel=chosen)
    own = wanted == "own" and has_avx2()
    assert isinstance(program, FusedProgram if own else OnnxProgram)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "precision"), [(SPEC, Precision.FLOAT32), (SPECS["gru, reset before"], INT8)]
)
def test_where_there_is_nothing_to_choose_nothing_is_measured(tmp_path, spec, precision):
    KernelChoices(tmp_path).choose(spec, random_weights(spec), precision, 1, never)
    assert list(tmp_path.iterdir()) == []


@needs_vnni
@pytest.mark.parametrize(("cost", "bits"), [(-0.001, 4), (0.005, 4), (0.0051, 8), (np.nan, 8)])
def test_weights_have_four_bits_where_they_cost_little(tmp_path, cost, bits):
    choices = KernelChoices(tmp_path, int4_weights=True)
    model = SPEC, WEIGHTS, INT8, Int8Kernel.OWN
    assert choices.weight_bits(*model, cost=lambda *_: cost) == bits
    assert choices.weight_bits(*model, cost=never) == bits
    others = random_weights(SPEC, scale=0.5)
    assert choices.weight_bits(SPEC, others, INT8, Int8Kernel.OWN, cost=lambda *_: 0.0) == 4
    assert next(iter(remembered(tmp_path))).startswith("4 bits cost ")


@pytest.mark.parametrize(
    ("is_wanted", "precision", "kernel"),
    [
        (False, INT8, Int8Kernel.OWN),
        (True, Precision.FLOAT32, Int8Kernel.OWN),
        (True, INT8, Int8Kernel.ONNX_RUNTIME),
    ],
)
def test_weights_of_four_bits_are_for_the_own_kernel_where_they_are_wanted(
    tmp_path, is_wanted, precision, kernel
):
    choices = KernelChoices(tmp_path, int4_weights=is_wanted)
    assert choices.weight_bits(SPEC, WEIGHTS, precision, kernel, cost=never) == 8
    assert list(tmp_path.iterdir()) == []


@needs_vnni
def test_a_store_that_cannot_be_written_to_may_have_four_bits(tmp_path):
    (tmp_path / FOLDER).touch()
    choices = KernelChoices(tmp_path, int4_weights=True)
    assert choices.weight_bits(SPEC, WEIGHTS, INT8, Int8Kernel.OWN, cost=lambda *_: 0.0) == 4


@needs_vnni
def test_four_bits_cost_little_in_the_bundled_model_and_are_used(tmp_path):
    choices = KernelChoices(tmp_path, "own", int4_weights=True)
    program = choices.compile(DEMO, INT8)
    (record,) = (tmp_path / FOLDER).iterdir()
    assert abs(json.loads(record.read_bytes())["cost_nats"]) < 0.002
    eight = KernelChoices(tmp_path, "own").compile(DEMO, INT8)
    assert not np.array_equal(logits_of(program), logits_of(eight))


def logits_of(program) -> np.ndarray:
    batch = program.new_batch(1)
    for _ in range(3):
        program.step(batch, 1)
    return batch.logits.copy()


@needs_vnni
def test_four_bits_that_deviate_too_far_from_the_reference_are_not_used(tmp_path):
    spec = ModelSpec(17, 8, (LayerSpec("lstm", 8), LayerSpec("lstm", 8)))
    bundle = replace(DEMO, spec=spec, weights=random_weights(spec, scale=1.5))
    choices = KernelChoices(tmp_path, "own", int4_weights=True)
    model = spec, bundle.weights, INT8
    assert choices.weight_bits(*model, Int8Kernel.OWN, cost=lambda *_: 0.0) == 4
    eight, four = (compile_program(*model, weight_bits=bits) for bits in (8, 4))
    assert not np.array_equal(logits_of(eight), logits_of(four))
    assert np.array_equal(logits_of(choices.compile(bundle, INT8)), logits_of(eight))


@needs_vnni
def test_a_server_and_the_command_use_one_choice(tmp_path):
    """The server measures; the command in the same store reads, and writes the same text."""
    home = tmp_path / "home"
    shutil.copytree(ROOT / "model_store" / "demo", home / "model_store" / "demo")
    body = {"inputs": "The ", "parameters": {"max_new_tokens": 60, "seed": 3, "temperature": 0.8}}
    with serving(home, CAROUSEL_INT8_KERNEL="auto") as server:
        reply = httpx2.post(f"{server.url}/generate", json=body, timeout=60)
    (record,) = (home / "model_store" / FOLDER).iterdir()
    before = record.read_bytes()
    arguments = ("generate", "The ", "--max-new-tokens", "60", "--seed", "3", "--model", "demo")
    done = ended(home, *arguments, CAROUSEL_INT8_KERNEL="auto")
    assert done.stdout == f"The {reply.json()['generated_text']}\n"
    assert record.read_bytes() == before


@needs_vnni
@pytest.mark.parametrize("threads", [1, 2])
def test_both_kernels_are_measured_at_16_and_at_64_rows(threads):
    gains = measure_gains(DEMO.spec, DEMO.weights, threads)
    assert tuple(gains) == ROWS == (16, 64)
    assert all(0.05 < gain < 50 for gain in gains.values())
