"""Bad words, allowed tokens and a least length, with and without a pattern: brute force."""

import re
import time
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.constraints.compiler import ConstraintCompiler, compile_constraint
from service.constraints.constraint import DEAD, NEVER, START, Constraint
from service.constraints.spec import ConstraintKind, ConstraintSpec, json_object, limited, regex
from service.errors import Validation
from service.generation.request import FinishReason
from tests.constraints.strategies import VOCABULARY, regexes
from tests.constraints.test_compiler import PATIENCE_S
from tests.constraints.test_compiler import VOCABULARY as PRINTABLE
from tests.constraints.writing import asks, write

LETTERS = ["a", "[UNK]", "b", "0"]
EVERY_TEXT = ["".join(text) for n in range(7) for text in product("ab0", repeat=n)]
IDS = {text: i for i, text in enumerate(LETTERS)}

quick = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
words = st.lists(st.text("ab0c", min_size=1, max_size=3), max_size=4)
ids = st.lists(st.integers(0, 3), max_size=3)
leasts = st.sampled_from([0, 0, 1, 3, 5])


def compiled(source: ConstraintSpec | None, vocabulary=LETTERS) -> Constraint | None:
    """Compile a spec; return None if no text matches."""
    if source is None:
        return None
    try:
        return compile_constraint(source, vocabulary)
    except Validation as refusal:
        if "limit" in str(refusal):
            raise
        return None


def is_left(source: ConstraintSpec, text: str, vocabulary=LETTERS) -> bool:
    """Whether a text matches a spec, or for ANY is a prefix of a match."""
    matches = source.kind is ConstraintKind.ANY or re.fullmatch(source.text, text)
    allowed = not source.allowed or all(vocabulary.index(c) in source.allowed for c in text)
    is_long = len(text) >= source.least
    return bool(matches and allowed and is_long and not any(w in text for w in source.bad_words))


def tokens_of(text: str) -> list[int]:
    return [IDS[c] for c in text]


@quick
@given(pattern=regexes(), words=words, ids=ids, least=leasts)
def test_the_complete_texts_are_those_that_brute_force_leaves(pattern, words, ids, least):
    source = limited(regex(pattern), bad_words=words, allowed=ids, least=least)
    constraint = compiled(source)
    left = {text for text in EVERY_TEXT if is_left(source, text)}
    if constraint is None:
        assert left == set()
        return
    assert left == {
        text
        for text in EVERY_TEXT
        if (state := constraint.state_after(tokens_of(text))) != DEAD
        and constraint.distance[state] == 0
    }
    for state in range(len(constraint.distance)):  # the distances are right
        for steps in range(constraint.distance[state], 0, -1):
            nearer = np.flatnonzero(constraint.allowed(state, steps))
            assert len(nearer)
            state = constraint.state_after([int(nearer[0])], state)  # noqa: PLW2901
        assert constraint.distance[state] == 0


@quick
@given(words=words, ids=ids)
def test_any_text_is_left_that_can_go_on_for_ever(words, ids):
    source = limited(None, bad_words=words, allowed=ids)
    if source is None:
        assert not words
        assert not ids
        return

    @cache
    def goes_on(end: str, n: int) -> bool:
        """Whether a text that ends so can be `n` characters longer; no word has more than three."""
        longer = [end + c for c in "ab0" if is_left(source, end + c)]
        return n == 0 or any(goes_on(text[-2:], n - 1) for text in longer)

    ever = 20  # more than there are ends of two characters
    constraint = compiled(source)
    if constraint is None:
        assert not goes_on("", ever)
        return
    for text in EVERY_TEXT:
        is_open = constraint.state_after(tokens_of(text)) != DEAD
        assert is_open == (is_left(source, text) and goes_on(text[-2:], ever))
    assert (constraint.distance == 0).all()
    assert (constraint.distance_after_next == 1).all()


# -- sampled texts

limits = st.tuples(
    st.lists(st.text("ab01 -é", min_size=1, max_size=3), max_size=5),
    st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=6),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.7, 3.0]),
)


@quick
@given(limits=limits, most=st.integers(1, 30))
def test_a_text_without_bad_words_reaches_its_limit(limits, most):
    bad_words, allowed, seed, temperature = limits
    source = limited(None, bad_words=bad_words, allowed=allowed)
    constraint = compiled(source, VOCABULARY)
    if constraint is None:
        return
    request = asks(constraint, most, seed, temperature=temperature, top_p=0.9)
    ((text, finish),) = write([request], VOCABULARY)
    assert len(text) == most
    assert finish.reason is FinishReason.LENGTH
    assert is_left(source, text, VOCABULARY)


@quick
@given(pattern=regexes(), limits=limits, least=st.integers(0, 12), spare=st.integers(0, 12))
def test_a_text_under_all_of_them_is_complete_within_its_limit(pattern, limits, least, spare):
    bad_words, allowed, seed, temperature = limits
    source = limited(regex(pattern), bad_words=bad_words, allowed=allowed, least=least)
    constraint = compiled(source, VOCABULARY)
    if constraint is None:
        return
    most = max(1, constraint.shortest + spare)
    tight = max(1, constraint.shortest)
    requests = [asks(constraint, n, seed, temperature=temperature) for n in (most, tight)]
    for request, (text, finish) in zip(requests, write(requests, VOCABULARY), strict=True):
        assert is_left(source, text, VOCABULARY)
        assert least <= len(text) == finish.generated_tokens <= request.max_new_tokens
        if len(text) < request.max_new_tokens:
            assert finish.reason is FinishReason.EOS_TOKEN


# -- refusals and costs


def test_a_word_may_lead_into_a_dead_end_and_is_not_begun():
    constraint = compile_constraint(limited(None, bad_words=["aa", "ab"]), "ab")
    assert constraint.allowed(START, 9).tolist() == [False, True]
    with_an_end = compile_constraint(limited(regex(".*a"), bad_words=["aa", "ab"]), "ab")
    assert with_an_end.allowed(START, 9).tolist() == [True, True]
    assert with_an_end.distance_after_next[with_an_end.state_after([0])] == NEVER


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (limited(None, bad_words=["a", "b", "0"]), "no text can go on without"),
        (limited(None, bad_words=["aa", "ab", "a0", "b", "0"]), "no text can go on without"),
        (limited(None, bad_words=["aaaa", "aaab", "aaa0", "b", "0"]), "no text can go on without"),
        (limited(None, allowed=[1]), "no text can go on without a token that is allowed and"),
        (limited(regex("a+b"), bad_words=["ab"]), "every text that matches the regex has one"),
        (limited(regex("[ab]+"), allowed=[3]), "made of the allowed 1 characters"),
        (limited(regex("[ab]{2,4}"), least=5), "no text that matches the regex has 5 tokens"),
    ],
)
def test_what_leaves_no_text_is_refused(source, sentence):
    with pytest.raises(Validation, match=sentence):
        compile_constraint(source, LETTERS)


@pytest.mark.parametrize(
    "source",
    [
        limited(None, bad_words=[f"{i:03}" + "ab" * 100 for i in range(256)]),
        limited(json_object(), bad_words=[f"{i}" * 40 for i in range(9)], least=100),
        limited(regex("(a|b)*"), least=1_000_000),
        limited(regex("[ab]{20000}|a*"), least=30_000),
    ],
)
def test_what_is_over_the_budget_is_refused_in_bounded_time(source):
    start = time.monotonic()
    with pytest.raises(Validation, match=r"more than 32768 states .* which is the limit"):
        compile_constraint(source, PRINTABLE)
    assert time.monotonic() - start < PATIENCE_S


def test_many_long_words_are_within_it():
    source = limited(None, bad_words=[f"{i:03}" + "ab" * 50 for i in range(256)])
    start = time.monotonic()
    constraint = compile_constraint(source, PRINTABLE)
    assert time.monotonic() - start < PATIENCE_S
    assert len(constraint.distance) > 20_000


def test_a_big_vocabulary_has_a_class_for_each_character_of_a_word_alone():
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 50_000)]
    constraint = compile_constraint(limited(None, bad_words=["一丁", "丁一"]), letters)
    assert constraint.next_state.shape == (3, 4)


def test_what_is_asked_for_in_another_order_is_the_same():
    one = limited(None, bad_words=["a", "b"], allowed=[3, 2, 2])
    assert one == limited(None, bad_words=["b", "a", "a"], allowed=[2, 3], least=7)
    known = ConstraintCompiler(LETTERS)
    assert known.compile(limited(None, allowed=[0, 2])) is known.compile(
        limited(None, allowed=[2, 0])
    )
    assert limited(None, least=3) is None
    assert limited(regex("a")) == regex("a")
