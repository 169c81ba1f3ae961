import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.generation.random import uniform
from service.generation.request import (
    LEAST_REPETITION,
    MOST_REPETITION,
    PENALTY_WINDOW,
    GenerationRequest,
    SamplingParams,
)
from service.generation.sampling import FAILED, Sampler
from service.models.step import Batch

LOGITS = np.log(np.array([0.4, 0.3, 0.2, 0.07, 0.03], np.float32))


def batch_of(logits: np.ndarray) -> Batch:
    rows = np.ascontiguousarray(np.atleast_2d(logits), np.float32)
    return Batch(np.zeros(len(rows), np.int64), (), rows)


def drawn(logits=LOGITS, n=4_000, prompt=(0,), suppressed_ids=(), **params) -> np.ndarray:
    """How often each token is sampled at n positions."""
    batch = batch_of(logits)
    sampler = Sampler(len(logits), 1, suppressed_ids)
    params = {"seed": 11} | params
    sampler.start(0, GenerationRequest(prompt, n, SamplingParams(**params)))
    counts = np.zeros(len(logits), int)
    for _ in range(n):
        sampler.advance(batch, 1, 0)
        counts[batch.tokens[0]] += 1
    return counts


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**64 - 1))
def test_the_random_number_is_numpys_philox_at_that_counter(seed, position):
    philox = np.random.Philox(key=seed, counter=(position - 1) % 2**256)
    word = int(philox.random_raw(1)[0])
    assert uniform(np.uint64(seed), np.uint64(position)) == (word >> 11) * 2.0**-53


def test_samples_follow_the_distribution():
    shares = drawn(n=20_000) / 20_000
    assert np.abs(shares - np.exp(LOGITS)).max() < 0.012


def test_a_sample_depends_on_seed_and_position_alone():
    batch = batch_of(np.tile(LOGITS, (3, 1)))
    sampler = Sampler(5, 3)
    for row, prompt in enumerate([(0,), (1, 2), (3,)]):
        sampler.start(row, GenerationRequest(prompt, 9, SamplingParams(seed=5)))
    seen: list[list[int]] = [[], [], []]
    for _ in range(30):
        sampler.advance(batch, 3, 0)
        for row in range(3):
            seen[row].append(int(batch.tokens[row]))
    assert seen[0] == seen[2]
    assert seen[0][1:] == seen[1][:-1]  # the same seed, one position on


@pytest.mark.parametrize(
    ("params", "left"),
    [
        ({"temperature": 0.0}, {0}),
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.69}, {0, 1}),
        ({"top_p": 0.71}, {0, 1, 2}),
        ({"min_p": 0.45}, {0, 1, 2}),
        ({"typical_p": 0.25}, {1}),
        ({"typical_p": 0.4}, {1, 2}),
        ({"top_k": 3, "top_p": 0.75}, {0, 1}),
        ({"logit_bias": ((4, 100.0),)}, {4}),
        ({"logit_bias": ((0, -100.0),)}, {1, 2, 3, 4}),
        ({"suppressed_ids": (0, 2)}, {1, 3, 4}),
    ],
)
def test_each_filter_keeps_the_right_tokens(params, left):
    assert set(np.flatnonzero(drawn(**params))) == left


def test_a_lower_temperature_sharpens():
    cold, warm = drawn(temperature=0.5) / 4_000, drawn(temperature=1.0) / 4_000
    wanted = np.exp(LOGITS / 0.5) / np.exp(LOGITS / 0.5).sum()
    assert cold[0] > warm[0]
    assert np.abs(cold - wanted).max() < 0.025


def test_ties_go_to_the_smaller_id():
    flat = np.zeros(5, np.float32)
    assert set(np.flatnonzero(drawn(flat, temperature=0.0))) == {0}
    assert set(np.flatnonzero(drawn(flat, top_k=2))) == {0, 1}


def test_repetition_penalty_divides_positive_and_multiplies_negative_scores():
    assert drawn(np.array([2.0, 1.1], np.float32), n=1, temperature=0.0, repetition_penalty=2.0)[1]
    assert drawn(np.array([-1.0, -1.5], np.float32), n=1, temperature=0.0, repetition_penalty=2.0)[
        1
    ]


def test_frequency_counts_and_presence_does_not():
    logits = np.array([2.0, 1.0], np.float32)
    one, two = (0,), (0, 0)
    greedy = {"n": 1, "temperature": 0.0}
    assert drawn(logits, prompt=one, frequency_penalty=0.6, **greedy)[0]
    assert drawn(logits, prompt=two, frequency_penalty=0.6, **greedy)[1]
    assert drawn(logits, prompt=two, presence_penalty=0.6, **greedy)[0]
    assert drawn(logits, prompt=one, presence_penalty=1.1, **greedy)[1]


@pytest.mark.parametrize("penalty", [LEAST_REPETITION, MOST_REPETITION])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_strongest_penalties_sample_only_allowed_tokens(penalty, temperature):
    most = np.finfo(np.float32).max
    params = {
        "temperature": temperature,
        "repetition_penalty": penalty,
        "frequency_penalty": 2.0,
        "presence_penalty": 2.0,
        "prompt": (0, 1, 2),
        "n": 10,
    }
    for logits in ([-most, -most, -np.inf], [most, most, -np.inf]):
        counts = drawn(np.array(logits, np.float32), suppressed_ids=(0,), **params)
        assert np.flatnonzero(counts).tolist() == [1]


def test_penalties_forget_what_is_further_back_than_their_window():
    logits = np.array([2.0, 1.0], np.float32)
    greedy = {"n": 1, "temperature": 0.0, "presence_penalty": 1.1}
    assert drawn(logits, prompt=(0,) + (1,) * (PENALTY_WINDOW - 1), **greedy)[0] == 1
    assert drawn(logits, prompt=(0,) + (1,) * PENALTY_WINDOW, **greedy)[0] == 1
    assert drawn(logits, prompt=(0,) * PENALTY_WINDOW, **greedy)[1] == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 60))
def test_the_penalty_window_counts_like_a_list(prompt, n):
    """Compares with the plain definition, at the real window length."""
    logits = np.array([1.0, 0.9, 0.8, 0.7], np.float32)
    batch, sampler = batch_of(logits), Sampler(4, 1)
    params = SamplingParams(seed=0, temperature=0.0, frequency_penalty=0.11)
    sampler.start(0, GenerationRequest(tuple(prompt), n, params))
    log = list(prompt)
    for _ in range(n):
        recent = np.bincount(log[-PENALTY_WINDOW:], minlength=4)
        wanted = int(np.argmax(logits.astype(np.float64) - 0.11 * recent))
        sampler.advance(batch, 1, 0)
        assert batch.tokens[0] == wanted
        log.append(wanted)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_logits_that_are_not_finite_fail_that_row_alone(poison):
    logits = np.tile(LOGITS, (3, 1))
    logits[1, 2] = poison
    batch, sampler = batch_of(logits), Sampler(5, 3)
    for row in range(3):
        sampler.start(row, GenerationRequest((0,), 5, SamplingParams(seed=row)))
    sampler.advance(batch, 3, 0)
    tokens = sampler.take(3, 1).tokens[:, 0]
    assert tokens[1] == FAILED
    assert (tokens[[0, 2]] >= 0).all()


def test_logprobs_and_top_tokens_are_the_models_own():
    batch, sampler = batch_of(LOGITS), Sampler(5, 1)
    params = SamplingParams(seed=1, temperature=0.3, top_k=3, logit_bias=((4, 5.0),))
    sampler.start(0, GenerationRequest((0,), 5, params, top_tokens=3))
    sampler.advance(batch, 1, 0)
    draws = sampler.take(1, 1)
    assert draws.logprobs[0, 0] == pytest.approx(LOGITS[draws.tokens[0, 0]], abs=1e-6)
    assert draws.top_tokens[0, 0, :3].tolist() == [0, 1, 2]
    assert draws.top_logprobs[0, 0, :3] == pytest.approx(LOGITS[:3], abs=1e-6)


@pytest.mark.parametrize("temperature", [1e-300, 1e-5, 1e5, 1e300])
def test_extreme_temperatures_sample_a_token(temperature):
    assert drawn(n=50, temperature=temperature).sum() == 50


WIDE = np.random.default_rng(6).normal(0.0, 4.0, 5_003).astype(np.float32)


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 40},
        {"top_p": 0.6},
        {"min_p": 0.03},
        {"top_k": 100, "top_p": 0.5, "temperature": 1.5},
        {"top_p": 0.8, "typical_p": 0.5},
        {"top_p": 0.7, "suppressed_ids": (int(WIDE.argmax()),)},
        {"temperature": 0.7, "logit_bias": ((9, 12.0),), "presence_penalty": 1.5},
    ],
)
def test_a_wide_vocabulary_has_the_same_filters(params):
    """Compares with the plain definition: the whole vocabulary sorted."""
    drawing = {key: value for key, value in params.items() if key != "suppressed_ids"}
    x = WIDE.astype(np.float64)
    x[list(params.get("suppressed_ids", ()))] = -np.inf
    x[0] -= params.get("presence_penalty", 0.0)  # the prompt
    for token, bias in params.get("logit_bias", ()):
        x[token] += bias
    p = np.exp((x - x.max()) / params.get("temperature", 1.0))
    order = np.argsort(-p, kind="stable")[: drawing.get("top_k") or len(p)]
    cumulative = np.cumsum(p[order])
    order = order[: 1 + np.searchsorted(cumulative, params.get("top_p", 1.0) * cumulative[-1])]
    order = order[p[order] >= params.get("min_p", 0.0) * p.max()]
    if "typical_p" in params:
        q = p[order] / p[order].sum()
        near = np.argsort(np.abs(-np.log(q) + (q * np.log(q)).sum()), kind="stable")
        order = order[near][: 1 + np.searchsorted(np.cumsum(q[near]), params["typical_p"])]
    kept = np.zeros_like(p)
    kept[order] = p[order]
    edges = np.cumsum(kept)
    batch, sampler = batch_of(WIDE), Sampler(len(WIDE), 1, params.get("suppressed_ids", ()))
    for position in range(1, 400):
        asked = GenerationRequest((0,) * position, 1, SamplingParams(seed=3, **drawing))
        sampler.start(0, asked)
        sampler.advance(batch, 1, 0)
        draw = uniform(np.uint64(3), np.uint64(position))
        assert batch.tokens[0] == np.searchsorted(edges, draw * edges[-1], side="right")


def test_a_wide_vocabularys_logprobs_are_exact_and_poison_fails():
    batch, sampler = batch_of(np.stack([WIDE, WIDE])), Sampler(len(WIDE), 2)
    batch.logits[1, 4_000] = np.nan
    for row in range(2):
        sampler.start(row, GenerationRequest((0,), 5, SamplingParams(seed=1, temperature=0.0)))
    sampler.advance(batch, 2, 0)
    samples = sampler.take(2, 1)
    assert samples.tokens[:, 0].tolist() == [WIDE.argmax(), FAILED]
    x = WIDE.astype(np.float64)
    wanted = x.max() - np.log(np.exp(x).sum())
    assert samples.logprobs[0, 0] == pytest.approx(wanted, abs=1e-12)
