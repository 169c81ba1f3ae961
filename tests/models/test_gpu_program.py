"""The program of a GPU, on the processor: its numbers, its rows, and the memory that it takes."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadRequest, MemoryBudgetExceeded, Validation
from service.models.bundle import Bundle, Precision
from service.models.cell import LayerSpec
from service.models.device import Device, device_of, served_precision
from service.models.gpu import Gpu
from service.models.gpu_memory import GpuMemory, gpu_bytes
from service.models.gpu_program import DeviceBatch, GpuProgram, check_rows_are_independent
from service.models.onnx_device import OnnxDevice
from service.models.program import OnnxProgram
from service.models.reference import ReferenceModel
from service.models.spec import ModelSpec, Weights
from service.models.step import Batch, State
from service.models.window import Padding, Window
from service.settings import Settings
from service.start_checks import check_device
from tests.models.far_device import FarDevice
from tests.models.networks import SPECS, random_weights

ROWS = 8
PRECISIONS = [Precision.FLOAT32, Precision.FLOAT16]
BOUNDED = {name: spec for name, spec in SPECS.items() if spec.is_bounded}
BUNDLE = Bundle.read(Path(__file__).parents[2] / "model_store" / "demo" / "1")


def program_of(spec, precision=Precision.FLOAT32, rows=ROWS, device=None) -> GpuProgram:
    return GpuProgram(spec, random_weights(spec), precision, device or FarDevice(), rows)


# -- numbers


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spec", BOUNDED.values(), ids=BOUNDED.keys())
def test_every_network_has_the_bits_of_the_program_of_the_processor(spec, precision):
    """In every number of rows, those before and after them included."""
    other = OnnxProgram(spec, random_weights(spec), precision)
    program = program_of(spec, precision)
    rng = np.random.default_rng(5)
    wanted, found = other.new_batch(ROWS), program.new_batch(ROWS)
    for _ in range(30):
        first = int(rng.integers(ROWS))
        rows = int(rng.integers(1, ROWS - first + 1))
        wanted.tokens[:] = found.tokens[:] = rng.integers(spec.vocabulary_size, size=ROWS)
        part = Batch(
            wanted.tokens[first:],
            tuple(np.ascontiguousarray(each[first:]) for each in wanted.states),
            np.ascontiguousarray(wanted.logits[first:]),
        )
        other.step(part, rows)
        wanted.logits[first:] = part.logits
        for whole, each in zip(wanted.states, part.states, strict=True):
            whole[first:] = each
        program.step(found.after(first), rows)
        assert (found.logits == wanted.logits).all()
        for each, states in zip(found.read(range(ROWS)), wanted.states, strict=True):
            assert (each == states).all()


@pytest.mark.parametrize("spec", BOUNDED.values(), ids=BOUNDED.keys())
def test_float16_is_near_the_reference_equations(spec):
    weights, tokens = random_weights(spec), np.random.default_rng(3).integers(0, 17, 40)
    wanted = ReferenceModel(spec, weights).run(tokens)
    program = GpuProgram(spec, weights, Precision.FLOAT16, FarDevice(), ROWS)
    batch, found = program.new_batch(1), []
    for token in tokens:
        batch.tokens[0] = token
        program.step(batch, 1)
        found.append(batch.logits[0].copy())
    deviation = np.abs(np.stack(found) - wanted).max()
    assert deviation < 0.005 * max(1.0, np.abs(wanted).max())


def test_float16_rounds_the_factors_and_the_product_and_nothing_else():
    spec = ModelSpec(5, None, (LayerSpec("lstm", 32, use_bias=False),))
    weights = random_weights(spec)
    program = GpuProgram(spec, weights, Precision.FLOAT16, FarDevice(), ROWS)
    rng = np.random.default_rng(2)
    h, c = rng.uniform(-1, 1, (2, 32)).astype(np.float32)
    batch = program.new_batch(1)
    batch.write(0, (h, c))
    batch.tokens[0] = 3
    program.step(batch, 1)
    half = np.float16
    kernel = weights["layers.0.recurrent_kernel"].astype(half).astype(np.float64)
    product = (h.astype(half).astype(np.float64) @ kernel).astype(half).astype(np.float64)
    i, f, g, o = np.split(weights["layers.0.kernel"][3].astype(np.float64) + product, 4)

    def sigma(x):
        return 1 / (1 + np.exp(-x))

    new_c = sigma(f) * c + sigma(i) * np.tanh(g)
    new_h = sigma(o) * np.tanh(new_c)
    found_h, found_c = batch.read([0])
    assert np.abs(found_h[0] - new_h).max() < 1e-6
    assert np.abs(found_c[0] - new_c).max() < 1e-6


@pytest.mark.parametrize(
    ("spec", "precision", "reason"),
    [
        (SPECS["lstm"], Precision.INT8, "int8 is computed on the processor.*float16 or float32"),
        (SPECS["relu"], Precision.FLOAT16, "precision float16 needs h within"),
        (
            replace(SPECS["lstm"], window=Window(2, Padding.LEFT, 0)),
            Precision.FLOAT32,
            "reads a window.*CAROUSEL_DEVICE=auto",
        ),
    ],
)
def test_what_it_does_not_compute_is_refused_by_name(spec, precision, reason):
    with pytest.raises(Validation, match=reason):
        program_of(spec, precision)


def test_a_weight_that_float16_does_not_have_is_refused():
    spec = SPECS["lstm"]
    arrays = dict(random_weights(spec))
    arrays["output.kernel"] = arrays["output.kernel"] * 0 + 70_000
    with pytest.raises(Validation, match="no number above 65,504, and the largest weight is 70,0"):
        GpuProgram(spec, Weights(spec, arrays), Precision.FLOAT16, FarDevice(), ROWS)


# -- rows


class Place:
    """Rows of states as lists, and what is done to them in both kinds of batches."""

    @staticmethod
    def actions():
        row = st.integers(0, ROWS - 1)
        return st.lists(
            st.one_of(
                st.tuples(st.just("put"), row, st.integers(0, 99)),
                st.tuples(st.just("zero"), row),
                st.tuples(st.just("swap"), row, row),
                st.tuples(st.just("take"), st.lists(row, min_size=1, max_size=ROWS)),
                st.tuples(st.just("read"), st.lists(row, min_size=1, max_size=ROWS)),
                st.tuples(st.just("step"), row, st.integers(1, ROWS)),
            ),
            max_size=30,
        )


GRU_ON_LSTM = SPECS["lstm on gru"]


@settings(max_examples=150, deadline=None)
@given(actions=Place.actions())
def test_rows_that_are_moved_are_those_of_a_batch_in_the_hosts_memory(actions):
    program = program_of(GRU_ON_LSTM)
    other = OnnxProgram(GRU_ON_LSTM, random_weights(GRU_ON_LSTM), Precision.FLOAT32)
    here, far = other.new_batch(ROWS), program.new_batch(ROWS)
    for name, *given_ in actions:
        for batch in (here, far):
            if name == "put":
                row, seed = given_
                rng = np.random.default_rng(seed)
                widths = GRU_ON_LSTM.state_units
                states = tuple(rng.uniform(-1, 1, n).astype(np.float32) for n in widths)
                batch.put(row, State(1, states))
                batch.tokens[row] = seed % GRU_ON_LSTM.vocabulary_size
            elif name == "zero":
                batch.put(given_[0], None)
            elif name == "swap":
                batch.swap(*given_)
            elif name == "take":
                batch.take(given_[0])
        if name == "step":
            rows = min(given_[1], ROWS)
            other.step(here, rows)
            program.step(far, rows)
            assert (here.logits == far.logits).all()
        read = given_[0] if name == "read" else range(ROWS)
        for mine, theirs in zip(here.read(read), far.read(read), strict=True):
            assert (mine == theirs).all()
    assert (here.tokens == far.tokens).all()


def test_states_stay_on_the_device_until_a_row_is_changed():
    device = FarDevice()
    program = program_of(SPECS["lstm"], device=device)
    step, reading, arranging = device.sessions
    batch = program.new_batch(ROWS)
    for _ in range(5):
        program.step(batch, ROWS)
    assert (step.runs, reading.runs, arranging.runs) == (5, 0, 1)  # the first zeros
    batch.swap(0, 1)
    batch.put(2, None)
    batch.write(3, batch.states or tuple(np.zeros(24, np.float32) for _ in range(2)))
    program.step(batch, ROWS)
    assert (step.runs, reading.runs, arranging.runs) == (6, 0, 2)
    batch.read([4, 5])
    assert reading.runs == 1


def test_what_comes_in_before_a_step_takes_no_more_than_a_batch():
    program = program_of(SPECS["lstm"])
    batch = program.new_batch(ROWS)
    for i in range(5 * ROWS):
        batch.write(i % ROWS, (np.full(24, i / 99, np.float32), np.full(24, i, np.float32)))
        assert len(batch.device_states._incoming) <= ROWS + 1
    assert batch.read(range(ROWS))[1][:, 0].tolist() == list(range(4 * ROWS, 5 * ROWS))


class LeakyProgram(GpuProgram):
    """One of its rows is computed in another order, as a library may do for a part."""

    def step(self, batch: Batch, rows: int) -> None:
        super().step(batch, rows)
        batch.logits[5:6] = np.nextafter(batch.logits[5:6], np.float32(9))


class MixingProgram(GpuProgram):
    """A row's numbers depend on its neighbour."""

    def step(self, batch: Batch, rows: int) -> None:
        super().step(batch, rows)
        batch.logits[3] += np.float32(0.001) * (batch.tokens[2] != batch.tokens[3])


@pytest.mark.parametrize("faulty", [LeakyProgram, MixingProgram])
def test_a_device_whose_rows_depend_on_their_place_is_refused(faulty):
    spec = SPECS["lstm"]
    parts = spec, random_weights(spec), Precision.FLOAT32, FarDevice(), ROWS
    check_rows_are_independent(GpuProgram(*parts))
    with pytest.raises(Validation, match=r"depend on its place among 8 rows.*CAROUSEL_DEVICE=cpu"):
        check_rows_are_independent(faulty(*parts))


# -- memory, and which device


def test_memory_is_reserved_for_as_long_as_a_program_is_there():
    size_bytes = gpu_bytes(BUNDLE.spec, 64)
    memory = GpuMemory(int(1.5 * size_bytes))
    gpu = Gpu(memory, Device.CPU)
    program = gpu.compile(BUNDLE, Precision.FLOAT16, 64)
    assert memory.used_bytes == size_bytes
    with pytest.raises(MemoryBudgetExceeded, match=r"needs about .* CAROUSEL_GPU_MEMORY are taken"):
        gpu.compile(BUNDLE, Precision.FLOAT16, 64)
    with pytest.raises(Validation, match="int8"):
        gpu.compile(BUNDLE, Precision.INT8, 64)
    assert memory.used_bytes == size_bytes
    program.step(program.new_batch(2), 2)
    del program
    gc.collect()
    assert memory.used_bytes == 0
    assert gpu.compile(BUNDLE, Precision.FLOAT32, 64).rows == 64


def test_the_estimate_bounds_what_the_batches_of_a_model_take():
    spec, rows = BUNDLE.spec, 256
    states = 2 * 4 * rows * sum(spec.state_units)
    assert gpu_bytes(spec, rows) > 4 * spec.parameters + 10 * states
    assert gpu_bytes(spec, 2 * rows) < 2 * gpu_bytes(spec, rows)


@pytest.mark.parametrize(
    ("wanted", "recorded", "asked", "device", "precision"),
    [
        ("auto", "int8", None, "cpu", "int8"),
        ("auto", "float32", None, "cpu", "float32"),
        ("auto", "int8", "float16", "gpu", "float16"),
        ("cpu", "int8", None, "cpu", "int8"),
        ("cpu", "int8", "float16", "cpu", "float16"),
        ("gpu", "int8", None, "gpu", "float16"),
        ("gpu", "float32", None, "gpu", "float32"),
        ("gpu", "int8", "float32", "gpu", "float32"),
    ],
)
def test_a_load_gets_its_device_and_precision(wanted, recorded, asked, device, precision):
    chosen = Precision(asked) if asked else served_precision(wanted, Precision(recorded))
    assert (chosen, device_of(wanted, chosen)) == (precision, device)


def test_a_gpu_that_is_not_there_is_refused():
    check_device(Settings(device="auto"))
    with pytest.raises(Validation, match=r"docs/how-to/gpu.md says, or set CAROUSEL_DEVICE=cpu"):
        OnnxDevice(Device.GPU)
    with pytest.raises(BadRequest, match="CAROUSEL_DEVICE is gpu, but "):
        check_device(Settings(device="gpu"))


def test_a_batch_of_the_device_has_no_states_in_the_hosts_memory():
    batch = program_of(SPECS["lstm"]).new_batch(3)
    assert isinstance(batch, DeviceBatch)
    assert batch.states == ()
    assert (len(batch.tokens), batch.logits.shape) == (3, (3, 17))
