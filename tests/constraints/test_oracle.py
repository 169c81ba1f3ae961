"""Comparison with the masks of llguidance over the same characters."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.constraints.strategies import compiled, regexes

llguidance = pytest.importorskip("llguidance")

CHARACTERS = "ab01 -\néBcß.{]"
# é and ß share their first byte. Where a grammar leaves only these two, llguidance looks for a
# token of that byte alone and fails without one; the tests compare the characters' tokens.
FIRST_BYTES = tuple(sorted({c.encode()[:1] for c in CHARACTERS if not c.isascii()}))
NO_LIMIT = 10_000


class Vocabulary:
    """The tokenizer interface of llguidance."""

    tokens = (*(c.encode() for c in CHARACTERS), *FIRST_BYTES, b"<end>")
    eos_token_id = len(tokens) - 1
    bos_token_id = None
    special_token_ids = (eos_token_id,)

    def __call__(self, text):
        known = text.decode(errors="ignore") if isinstance(text, bytes) else text
        return [CHARACTERS.index(c) for c in known if c in CHARACTERS]


@pytest.fixture(scope="module")
def tokenizer():
    wrapper = llguidance.TokenizerWrapper(Vocabulary())
    return llguidance.LLTokenizer(wrapper, n_vocab=len(Vocabulary.tokens), slices=[])


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(pattern=regexes(), data=st.data())
def test_where_no_limit_is_near_the_same_characters_are_allowed(tokenizer, pattern, data):
    constraint = compiled(pattern, CHARACTERS)
    if constraint is None:
        return
    # Rust's dialect has no (?P<x>…) left over, {,n} or literal braces and brackets.
    theirs = re.sub(r"\{,", "{0,", pattern)
    theirs = theirs.replace("(?:{)", r"(?:\{)").replace("(?:])", r"(?:\])")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_regex(theirs))
    if matcher.is_error():
        return
    state = 0
    for _ in range(8):
        mask = np.frombuffer(matcher.compute_logit_bias(), np.uint8)[: len(CHARACTERS)] > 0
        allowed = constraint.allowed(state, NO_LIMIT)
        assert mask.tolist() == allowed.tolist()
        assert matcher.is_accepting() == (constraint.distance[state] == 0)
        if not allowed.any():
            break
        token = data.draw(st.sampled_from(np.flatnonzero(allowed).tolist()))
        assert matcher.consume_token(token)
        state = constraint.state_after([token], state)
