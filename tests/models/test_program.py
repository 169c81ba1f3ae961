import numpy as np
import pytest

from service.errors import Validation
from service.models import int4_gemm, int8_gemm, vnni_gemm
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.compile import has_avx2, has_vnni
from service.models.int8_gemm import DEPTH, padded
from service.models.int8_step import FusedProgram, is_fusible
from service.models.program import OnnxProgram, int8_weight_bits, open_session
from service.models.reference import ReferenceModel
from service.models.spec import FOLD_LIMIT_BYTES, ModelSpec, Weights
from service.models.step import StepProgram
from service.models.step_graph import build_graph
from tests.models.networks import SPECS, random_weights

TOKENS = 60


needs_avx2 = pytest.mark.skipif(not has_avx2(), reason="needs AVX2")
needs_vnni = pytest.mark.skipif(not has_vnni(), reason="needs VNNI")
needs_avx512 = pytest.mark.skipif(vnni_gemm.lanes_here() < 16, reason="needs VNNI in AVX-512")

PACKS = {
    "avx2": (int8_gemm.pack, None),
    "vnni": (vnni_gemm.pack, None),
    "int4": (vnni_gemm.pack, int4_gemm.pack),
}
OWN = [
    pytest.param("avx2", marks=needs_avx2),
    pytest.param("vnni", marks=needs_vnni),
    pytest.param("int4", marks=needs_vnni),
]
LANES = [
    pytest.param(int8_gemm.pack, int8_gemm.multiply, marks=needs_avx2, id="avx2"),
    pytest.param(vnni_gemm.pack, vnni_gemm.multiply_by(8), marks=needs_vnni, id="vnni 256"),
    pytest.param(vnni_gemm.pack, vnni_gemm.multiply_by(16), marks=needs_avx512, id="vnni 512"),
]


def run(program: StepProgram, tokens: np.ndarray, row: int = 0, rows: int = 1) -> np.ndarray:
    batch = program.new_batch(rows)
    out = []
    for token in tokens:
        batch.tokens[row] = token
        program.step(batch, rows)
        out.append(batch.logits[row].copy())
    return np.stack(out)  # (tokens, vocabulary)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_float32_computes_the_reference_equations(spec):
    weights = random_weights(spec)
    tokens = np.random.default_rng(3).integers(0, spec.vocabulary_size, TOKENS)
    wanted = ReferenceModel(spec, weights).run(tokens)
    assert np.abs(run(OnnxProgram(spec, weights, Precision.FLOAT32), tokens) - wanted).max() < 1e-5


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_int8_is_near_or_refused(spec):
    weights = random_weights(spec)
    tokens = np.random.default_rng(3).integers(0, spec.vocabulary_size, TOKENS)
    if not spec.is_bounded:
        with pytest.raises(Validation, match="within \\(-1, 1\\)"):
            OnnxProgram(spec, weights, Precision.INT8)
        return
    wanted = ReferenceModel(spec, weights).run(tokens)
    deviation = np.abs(run(OnnxProgram(spec, weights, Precision.INT8), tokens) - wanted).max()
    assert deviation < 0.1 * np.abs(wanted).max()


def test_int8_sums_do_not_saturate_on_this_machine():
    """The largest weights times an h near its bound: the largest sum of a column."""
    spec = ModelSpec(3, None, (LayerSpec("lstm", 64),))
    arrays = {name: np.ones(shape, np.float32) for name, shape in spec.weight_shapes.items()}
    weights = Weights(spec, arrays)
    tokens = np.zeros(30, np.int64)
    wanted = ReferenceModel(spec, weights).run(tokens)
    got = run(OnnxProgram(spec, weights, Precision.INT8), tokens)
    assert int8_weight_bits() in {7, 8}
    assert np.abs(got - wanted).max() < 0.01 * np.abs(wanted).max()


def test_a_table_too_large_to_fold_gives_the_same_logits():
    spec = SPECS["lstm"]
    weights = random_weights(spec)
    tokens = np.random.default_rng(3).integers(0, spec.vocabulary_size, TOKENS)
    folded = run(OnnxProgram(spec, weights, Precision.FLOAT32), tokens)
    program = OnnxProgram(spec, weights, Precision.FLOAT32, fold_limit_bytes=0)
    product = run(program, tokens)
    assert FOLD_LIMIT_BYTES > 0
    assert np.abs(folded - product).max() < 1e-5


@pytest.mark.parametrize(("pack", "multiply"), LANES)
@pytest.mark.parametrize("shape", [(1024, 64), (100, 37), (24, 96), (1, 1)])
def test_the_tile_is_exact_and_its_weights_cannot_overflow(pack, multiply, shape):
    rng = np.random.default_rng(5)
    kernel = rng.laplace(size=shape).astype(np.float32)
    kernel[:, 0] = 1.0  # all of one sign and size: the largest 16-bit sum
    packed = pack(kernel)
    x = rng.integers(0, 256, (23, padded(shape[0], DEPTH))).astype(np.uint8)
    x[0], x[1] = 255, 0
    columns = np.rint(packed.kernel() / (127.0 * packed.scale)).astype(np.int64)
    wanted = x.astype(np.int64) @ columns
    for first, last in [(0, 23), (0, 1), (3, 5), (4, 7), (2, 15)]:  # each size of a tile
        sums = np.full((23, packed.columns), 7, np.int32)
        multiply(x, packed.bytes, sums, first, last)
        assert (sums[first:last] == wanted[first:last]).all()
        assert (sums[:first] == 7).all()
        assert (sums[last:] == 7).all()
    stored = packed.kernel()[: shape[0], : shape[1]]
    assert np.abs(stored - kernel).max() <= 127.0 * packed.scale.max() * 0.51


@pytest.mark.parametrize(
    "lanes", [pytest.param(8, marks=needs_vnni), pytest.param(16, marks=needs_avx512)]
)
@pytest.mark.parametrize("shape", [(1024, 64), (100, 37), (24, 96), (1, 1)])
def test_weights_of_four_bits_give_the_same_sums_in_both_layouts(lanes, shape):
    rng = np.random.default_rng(5)
    kernel = rng.laplace(size=shape).astype(np.float32)
    kernel[:, 0] = -1.0
    packed = int4_gemm.pack(kernel)
    x = rng.integers(0, 256, (9, padded(shape[0], DEPTH))).astype(np.uint8)
    x[0], x[1] = 255, 0
    wanted = np.zeros((9, packed.columns), np.int32)
    vnni_gemm.multiply(x, packed.bytes, wanted, 0, 9)
    multiply = int4_gemm.multiply_by(lanes)
    for first, last in [(0, 1), (0, 2), (3, 5), (8, 9)]:
        sums = np.full((9, packed.columns), 7, np.int32)
        multiply(x, packed.halves, sums, first, last)
        assert (sums[first:last] == wanted[first:last]).all()
        assert (sums[:first] == 7).all()
        assert (sums[last:] == 7).all()
    stored = packed.kernel()[: shape[0], : shape[1]]
    error = np.sqrt(((stored - kernel) ** 2).mean())
    assert error < 0.15 * np.sqrt((kernel**2).mean())
    assert packed.halves.nbytes < 0.54 * packed.bytes.nbytes


@needs_vnni
def test_with_vnni_a_weight_has_all_of_its_eight_bits():
    kernel = np.linspace(-3.0, 3.0, 255, dtype=np.float32)[:, None] * np.ones(40, np.float32)
    packed = vnni_gemm.pack(kernel)
    stored = packed.kernel()[: len(kernel), :40]
    assert np.abs(stored - kernel).max() < 1e-6
    assert int8_gemm.pack(kernel).scale[0] > packed.scale[0]


def test_lstms_and_grus_that_reset_after_the_product_are_fusible():
    fusible = {name for name, spec in SPECS.items() if is_fusible(spec)}
    assert {"lstm", "gru", "gru, no bias", "lstm on gru", "wide vocabulary"} <= fusible
    assert not {"gru, reset before", "peephole", "hard sigmoid of Keras 3"} & fusible


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS.values() if is_fusible(spec)], ids=lambda spec: spec.summary
)
def test_the_fused_program_computes_the_reference_equations(spec, own):
    weights = random_weights(spec)
    tokens = np.random.default_rng(3).integers(0, spec.vocabulary_size, TOKENS)
    layers = [f"layers.{i}." for i in range(len(spec.recurrent_layers))]
    of_layers = [layer + "recurrent_kernel" for layer in layers]
    of_layers += [layer + "kernel" for layer in layers[1:]]
    rounded = {name: of_four_bits(weights[name]) for name in of_layers if own == "int4"}
    wanted = ReferenceModel(spec, Weights(spec, weights | rounded)).run(tokens)
    deviation = np.abs(run(FusedProgram(spec, weights, *PACKS[own]), tokens, 4, 6) - wanted).max()
    assert deviation < 0.1 * np.abs(wanted).max()


def of_four_bits(kernel: np.ndarray) -> np.ndarray:
    return int4_gemm.pack(kernel).kernel()[: kernel.shape[0], : kernel.shape[1]]


def program_of(kind: str, spec: ModelSpec, weights: Weights, threads: int) -> StepProgram:
    if kind in PACKS:
        return FusedProgram(spec, weights, *PACKS[kind])
    return OnnxProgram(spec, weights, Precision(kind), threads)


@pytest.mark.parametrize("kind", ["float32", "int8", *OWN])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("units", [100, 257, 1024])
def test_a_row_is_the_same_bits_in_any_batch(kind, threads, cell, units):
    spec = ModelSpec(65, 32, (LayerSpec(cell, units),))
    weights = random_weights(spec, scale=0.1)
    rng = np.random.default_rng(units)
    tokens = rng.integers(0, 65, (12, 64))  # (steps, rows)
    alone = program_of(kind, spec, weights, 1)
    wanted = np.stack([run(alone, tokens[:, r]) for r in range(3)], axis=1)  # (steps, 3, 65)
    program = program_of(kind, spec, weights, threads)
    for rows in (2, 3, 5, 8, 13, 16, 33, 64):
        batch = program.new_batch(rows)
        places = rng.permutation(rows)[:3]
        for step in range(len(tokens)):
            batch.tokens[:] = tokens[step, :rows]
            batch.tokens[places[: len(places)]] = tokens[step, : len(places)]
            program.step(batch, rows)
            for r, place in enumerate(places):
                assert (batch.logits[place] == wanted[step, r]).all(), (rows, step, r)


@pytest.mark.parametrize(("spins", "allowed"), [(True, None), (False, "0")])
def test_threads_that_may_not_spin_sleep_between_two_steps(spins, allowed):
    spec = next(iter(SPECS.values()))
    graph = build_graph(spec, random_weights(spec), Precision.FLOAT32, int8_weight_bits())
    options = open_session(graph, 2, spins=spins).get_session_options()
    entry = "session.intra_op.allow_spinning"
    if allowed is None:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(entry)
    else:
        assert options.get_session_config_entry(entry) == allowed
