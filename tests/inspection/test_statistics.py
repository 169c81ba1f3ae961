"""The statistics by sums against two passes over the whole trace."""

from dataclasses import replace

import numpy as np
import pytest

from service.errors import Validation
from service.inspection.selection import Selection, select
from service.inspection.statistics import (
    BINS,
    LAGS,
    TextStatistics,
    half_lives,
    moments,
    needed_for,
)
from service.inspection.tracer import Piece, TextTracer
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.cells import CELLS
from service.models.compile import compile_program
from service.models.spec import ModelSpec, Weights
from tests.models.networks import SPECS, VOCABULARY_SIZE, random_weights


def selected(spec: ModelSpec, cells=None) -> Selection:
    layers = select(spec, cells=cells).layers
    return Selection(tuple(replace(layer, signals=needed_for(layer)) for layer in layers))


def check_shape_and_places(found, state, ids):
    standard = (state - state.mean(axis=0)) / state.std(axis=0)
    np.testing.assert_allclose(found.skewness, (standard**3).mean(axis=0), 1e-6, 1e-9)
    np.testing.assert_allclose(found.kurtosis, (standard**4).mean(axis=0), 1e-6)
    often = [token for token in range(VOCABULARY_SIZE) if (ids == token).sum() >= 5]
    for k in range(state.shape[1]):
        after = {token: state[ids == token, k].mean() for token in often}
        order = sorted(after, key=after.get)
        mean = state[:, k].mean()
        raised = [token for token in order[::-1] if after[token] > mean][:5]
        lowered = [token for token in order if after[token] < mean][:5]
        assert [fact.token for fact in found.raised_by[k]] == raised
        assert [fact.token for fact in found.lowered_by[k]] == lowered
        values = [fact.value for fact in found.raised_by[k]]
        assert values == pytest.approx([after[token] for token in raised], rel=1e-9)


@pytest.mark.parametrize("name", ["lstm", "peephole", "gru", "lstm on gru", "simple rnn"])
def test_sums_of_pieces_are_those_of_the_whole_text(name):
    spec = SPECS[name]
    program = compile_program(spec, random_weights(spec, scale=1.5), Precision.FLOAT32)
    random = np.random.default_rng(3)
    tokens = random.integers(0, VOCABULARY_SIZE, 2_500).tolist()
    tokens[100:] = [token if token != 4 else 5 for token in tokens[100:]]
    selection = selected(spec)
    tracer, sums, pieces = TextTracer(program, selection), TextStatistics(selection, 17), []
    for first, last in [(0, 1), (1, 40), (40, 1_500), (1_500, 1_507), (1_507, 2_500)]:
        pieces.append(tracer.read(tokens[first:last]))
        sums.add(pieces[-1])
    whole, ids = Piece.joined(pieces), np.array(tokens)
    for layer, at, found in zip(selection.layers, whole.layers, sums.statistics(), strict=True):
        cell = CELLS[layer.spec.cell]
        state = at["c" if "c" in cell.states else "h"].astype(np.float64)
        assert found.tokens == len(tokens)
        near = {"rtol": 1e-9, "atol": 1e-12}
        np.testing.assert_allclose(found.mean, state.mean(axis=0), **near)
        np.testing.assert_allclose(found.deviation, state.std(axis=0), **near)
        check_shape_and_places(found, state, ids)
        assert (found.least == state.min(axis=0)).all()
        assert (found.greatest == state.max(axis=0)).all()
        assert [*found.gates] == [*cell.activated]
        for gate, gates in found.gates.items():
            values = at[gate].astype(np.float64)
            np.testing.assert_allclose(gates.mean, values.mean(axis=0), **near)
            np.testing.assert_allclose(gates.below, (at[gate] < 0.1).mean(axis=0), **near)
            np.testing.assert_allclose(gates.above, (at[gate] > 0.9).mean(axis=0), **near)
        shown = np.tanh(state) if "c" in cell.states else state.clip(-1, 1)
        edges = np.linspace(-1, 1, BINS + 1)
        expected = np.stack([np.histogram(column, edges)[0] for column in shown.T])
        assert (found.histogram.sum(axis=1) == len(tokens)).all()
        assert np.abs(found.histogram - expected).sum() <= 4  # at the edge of two bins
        if not cell.activated:
            assert found.retention == {}
            assert np.isinf(found.half_life).all()
            continue
        kept = at["f" if "f" in at else "z"].astype(np.float64)
        for lag in LAGS:
            windows = np.lib.stride_tricks.sliding_window_view(kept, lag, axis=0)
            np.testing.assert_allclose(
                found.retention[lag], windows.prod(axis=2).mean(axis=0), rtol=1e-7, atol=1e-25
            )
        np.testing.assert_allclose(
            found.mean_log, np.log(np.maximum(kept, 1e-30)).mean(axis=0), **near
        )
        for k in range(state.shape[1]):
            for fact in found.cleared_by[k]:
                assert fact.value == pytest.approx(kept[ids == fact.token, k].mean(), rel=1e-9)
                assert fact.value < kept[:, k].mean() / 3
            means = [at["write"][ids == fact.token, k].mean() for fact in found.written_by[k]]
            assert [fact.value for fact in found.written_by[k]] == pytest.approx(means, rel=1e-5)
            assert np.abs(means).tolist() == sorted(np.abs(means), reverse=True)
            counts = {fact.token: fact.count for fact in found.written_by[k]}
            assert counts == {token: (ids == token).sum() for token in counts}


def test_a_cell_that_one_token_clears_and_one_writes_is_told_so():
    """Token 1 closes f of cell 0, token 2 writes to it; else f is near 1 and i near 0."""
    spec = ModelSpec(6, None, (LayerSpec("lstm", 2),))
    arrays = {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes.items()}
    i, f, g = 0, 2, 4
    arrays["layers.0.bias"][[i, f, g]] = -12.0, 4.0, 3.0
    arrays["layers.0.kernel"][1, f] = -30.0
    arrays["layers.0.kernel"][2, [i, f]] = 24.0, 0.0
    program = compile_program(spec, Weights(spec, arrays), Precision.FLOAT32)
    selection = selected(spec, [0])
    sums = TextStatistics(selection, 6)
    text = np.random.default_rng(0).choice([0, 1, 2, 3, 4], 4_000, p=[0.4, 0.02, 0.02, 0.3, 0.26])
    sums.add(TextTracer(program, selection).read(text.tolist()))
    (found,) = sums.statistics()
    assert [fact.token for fact in found.cleared_by[0]] == [1]
    assert found.cleared_by[0][0].value < 1e-6
    assert found.written_by[0][0].token == 2
    assert found.written_by[0][0].value == pytest.approx(1.0, abs=0.01)
    # A value is lost by a share of 0.018 at each token, and all of it at one in 50.
    assert 10 < found.half_life[0] < 30


def test_a_cell_that_never_deviates_has_no_shape():
    mean, deviation, skewness, kurtosis = moments(np.zeros((4, 2)))
    assert not mean.any()
    assert not deviation.any()
    assert np.isnan(skewness).all()
    assert np.isnan(kurtosis).all()


def test_half_lives_are_where_retention_crosses_a_half():
    retention = {1: np.array([0.9, 0.5, 0.2, 1.0]), 3: np.array([0.4, 0.1, 0.0, 0.7])}
    found = half_lives(retention, 4)
    np.testing.assert_allclose(found, [1 + 2 * 0.4 / 0.5, 1.0, 0.5 / 0.8, np.inf])


def test_tables_that_are_too_large_are_refused_with_the_way_out():
    spec = ModelSpec(10_000, 2, (LayerSpec("lstm", 1_000),))
    limit = r"10000 tokens take 240000000 bytes; the limit is 67108864: name at most 279 `cells`"
    with pytest.raises(Validation, match=limit):
        TextStatistics(selected(spec), 10_000)
