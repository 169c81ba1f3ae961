"""The range coder without a model: what is read was written, at the price of its entropy."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.compression import range_coder as coder


def written(logits, symbols, has_text) -> bytes:
    """One lane's code; row t of the logits predicts the t-th token."""
    out = np.zeros((1, coder.most_bytes(len(symbols))), np.uint8)
    state, ended = np.zeros((1, 3), np.int64), np.zeros(1, np.int64)
    coder.begin_writing(state)
    counts = coder.new_flag_counts(1), coder.new_byte_counts(1), ended
    tokens, places = np.zeros(1, np.int64), np.array([[0, len(symbols)]])
    given_symbols, step = np.array(symbols, np.int32), 0
    while not ended[0]:
        row = logits[step : step + 1]
        coder.write_tokens(row, has_text, tokens, given_symbols, places, counts, (state, out), 0, 1)
        step += 1
    assert ended[0] == coder.DONE
    coder.end_writing(state, out)
    return out[0, : state[0, 2]].tobytes()


def read(logits, code, size, has_text, pieces) -> bytes:
    given_code = np.frombuffer(code + b"\0", np.uint8)
    starts, ends = np.zeros(1, np.int64), np.array([len(code)])
    state, ended = np.zeros((1, 3), np.int64), np.zeros(1, np.int64)
    coder.begin_reading(state, given_code, starts, ends)
    counts = coder.new_flag_counts(1), coder.new_byte_counts(1), ended
    out, sizes = np.zeros((1, size), np.uint8), np.array([[0, size]])
    offsets = np.cumsum([0, *map(len, pieces)])
    flat = np.frombuffer(b"".join(pieces), np.uint8)
    tokens, step = np.zeros(1, np.int64), 0
    while not ended[0]:
        row = logits[step : step + 1]
        code_arrays = state, given_code, ends
        coder.read_tokens(
            row, has_text, tokens, (flat, offsets), (out, sizes), counts, code_arrays, 0, 1
        )
        step += 1
    assert ended[0] == coder.DONE
    return out[0].tobytes()


@st.composite
def cases(draw):
    size = draw(st.integers(2, 40))
    pieces = [bytes([65 + i]) * draw(st.integers(1, 3)) for i in range(size)]
    hidden = draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    shown = [i for i in range(size) if i not in hidden]
    symbols = draw(
        st.lists(st.one_of(st.sampled_from(shown), st.integers(-256, -1)), min_size=1, max_size=120)
    )
    seed, scale = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.5, 8.0, 1e4]))
    random = np.random.default_rng(seed)
    logits = (random.standard_normal((len(symbols) + 1, size)) * scale).astype(np.float32)
    if draw(st.booleans()):
        logits[:, shown[-1]] = -np.inf
        logits[:, shown[0]] = 0.0
    return pieces, hidden, symbols, logits


@settings(max_examples=300, deadline=None, database=None)
@given(case=cases())
def test_what_is_read_is_what_was_written(case):
    pieces, hidden, symbols, logits = case
    has_text = np.array([i not in hidden for i in range(len(pieces))])
    text = b"".join(pieces[s] if s >= 0 else bytes([-1 - s]) for s in symbols)
    code = written(logits, symbols, has_text)
    assert len(code) <= coder.most_bytes(len(symbols))
    assert read(logits, code, len(text), has_text, pieces) == text


def test_a_carry_goes_through_bytes_of_ones():
    """Long runs of the last symbol keep the range at its top, where carries are likely."""
    random = np.random.default_rng(1)
    n, pieces = 4_000, [b"a", b"b", b"c"]
    logits = np.tile(np.array([[-14.0, -16.0, 0.0]], np.float32), (n + 1, 1))
    has_text = np.ones(3, bool)
    for seed in range(20):
        random = np.random.default_rng(seed)
        symbols = np.where(random.random(n) < 0.002, random.integers(0, 2, n), 2).tolist()
        code = written(logits, symbols, has_text)
        assert read(logits, code, n, has_text, pieces) == b"".join(pieces[s] for s in symbols)


def test_the_code_is_as_long_as_the_surprise():
    random = np.random.default_rng(3)
    n, size = 5_000, 50
    logits = (2.0 * random.standard_normal((n, size))).astype(np.float32)
    exact = logits.astype(np.float64)
    probabilities = np.exp(exact) / np.exp(exact).sum(axis=1, keepdims=True)
    symbols = [int(random.choice(size, p=row)) for row in probabilities]
    bits = -sum(math.log2(probabilities[t, s]) for t, s in enumerate(symbols))
    code = written(logits, symbols, np.ones(size, bool))
    assert bits < 8 * len(code) < bits + 12  # of the flags, and of the end


def frequencies(logits, has_text=None) -> tuple[int, list[int]]:
    out = np.zeros(len(logits), np.int64)
    shown = np.ones(len(logits), bool) if has_text is None else np.array(has_text)
    return int(coder.frequencies(np.array(logits, np.float32), shown, out)), out.tolist()


def expected(drop: float) -> int:
    """2^(24 - i / 1024) by exact arithmetic, where i is what `drop` nats are cut to."""
    place = int(min(drop * (1.4426950408889634 * 1024), float(25 * 1024 - 1)))
    whole, part = divmod(place, 1024)
    power = math.isqrt(1 << 400) * Fraction(1)
    low, high = Fraction(1, 2), Fraction(1)  # bisects x^1024 = 2^-part
    for _ in range(60):
        middle = (low + high) / 2
        middle = Fraction(round(middle * 2**80), 2**80)
        low, high = (middle, high) if middle**1024 <= Fraction(1, 2**part) else (low, middle)
    power = int(low * (1 << 24) + Fraction(1, 2**20))
    return max(power >> whole, 1)


@pytest.mark.parametrize("drop", [0.0, 0.5, 0.693, 0.6932, 3.25, 9.75, 16.5, 17.5, 50.0, 1e30])
def test_a_frequency_follows_from_exact_arithmetic(drop):
    _, (largest, other) = frequencies([0.0, -drop])
    exact = float(np.float32(0.0)) - float(np.float32(-drop))
    assert largest == 1 << 24
    assert other == expected(exact)


def test_the_frequencies_are_the_same_on_every_machine():
    """A changed hash means that files of before cannot be decompressed: a new format."""
    random = np.random.default_rng(5)
    bits = random.integers(0, 2**31, 20_000, dtype=np.int64)
    logits = ((bits % 2_000_003) / 50_000.0 - 20.0).astype(np.float32)
    total, found = frequencies(logits)
    assert total == sum(found)
    content = np.array(found, "<i8").tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "7ca9035830355ac6"


@pytest.mark.parametrize("logits", [[math.nan, 0.0], [0.0, math.inf], [-math.inf, -math.inf]])
def test_logits_that_are_no_numbers_have_no_frequencies(logits):
    assert frequencies(logits)[0] == 0


def test_a_token_without_a_text_has_no_share():
    assert frequencies([99.0, 0.0, 0.0], [False, True, True]) == (2 << 24, [0, 1 << 24, 1 << 24])
    assert frequencies([math.nan, 0.0, 0.0], [False, True, True])[0] == 2 << 24


def test_the_frequencies_of_the_largest_vocabulary_fit():
    total, found = frequencies(np.zeros(131_072))
    assert total == 131_072 << 24
    assert total < 1 << 48
    n = 300
    symbols = np.random.default_rng(1).integers(0, 131_072, n).tolist()
    row = np.zeros((1, 131_072), np.float32)
    logits = np.broadcast_to(row, (n, 131_072))
    code = written(logits, symbols, np.ones(131_072, bool))
    assert 8 * len(code) < 17.1 * n
    assert len(found) == 131_072
