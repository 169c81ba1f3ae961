"""Constraints over tokens of any length: brute force, and the promise at the limit."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.constraints.compiler import compile_constraint
from service.constraints.constraint import DEAD, NEVER, START, Constraint
from service.constraints.lifting import lift
from service.constraints.spec import ConstraintSpec, choice, json_schema, limited, regex
from service.constraints.token_texts import TokenTexts
from service.errors import Validation
from tests.constraints.strategies import regexes

quick = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

MAX_TOKENS = 4
WORDS = TokenTexts((" a", " b", " ab", " 0", None, "-", " "), " ", (4,))
PIECES = TokenTexts(("a", "ab", "b0", "0", None, "aé", "b-"), "", (4,))
CHARACTERS = TokenTexts(("a", "b", "0", None, " "), "", (3,))
some_texts = st.lists(st.text("ab0 é-", min_size=1, max_size=3), min_size=1, max_size=6)
vocabularies = st.sampled_from([WORDS, PIECES, CHARACTERS]) | st.builds(
    lambda texts, joiner: TokenTexts((*texts, None), joiner, (len(texts),)),
    some_texts,
    st.sampled_from(["", " "]),
)
words = st.lists(st.text("ab0 ", min_size=1, max_size=3), max_size=3)


def sequences(texts: TokenTexts) -> list[tuple[int, ...]]:
    """Return all sequences of at most MAX_TOKENS tokens that have a text."""
    ids = [i for i, text in enumerate(texts.texts) if text is not None]
    return [tokens for n in range(MAX_TOKENS + 1) for tokens in product(ids, repeat=n)]


def text_of(tokens: tuple[int, ...], texts: TokenTexts) -> str:
    return "".join(texts.texts[token] or "" for token in tokens)


def is_match(tokens: tuple[int, ...], texts: TokenTexts, spec: ConstraintSpec) -> bool:
    text = text_of(tokens, texts)
    if any(word in text for word in spec.bad_words) or len(tokens) < spec.least:
        return False
    return re.fullmatch(spec.text, text.removeprefix(texts.joiner)) is not None


def compiled(spec: ConstraintSpec, texts: TokenTexts) -> Constraint | None:
    try:
        return compile_constraint(spec, texts)
    except Validation as refusal:
        if "limit" in str(refusal):
            raise
        return None


@quick
@given(regexes(), vocabularies, words, st.sampled_from([0, 0, 2]))
def test_the_complete_sequences_are_those_that_match(pattern, texts, bad_words, least):
    spec = limited(regex(pattern), bad_words=bad_words, least=least)
    constraint = compiled(spec, texts)
    left = {tokens for tokens in sequences(texts) if is_match(tokens, texts, spec)}
    if constraint is None:
        assert left == set()
        return
    end = texts.end_ids[0]
    complete = set()
    for tokens in sequences(texts):
        state = constraint.state_after(tokens)
        is_complete = state != DEAD and constraint.distance[state] == 0
        after_end = constraint.state_after([end], state)
        assert (after_end != DEAD) == is_complete  # an end token ends complete texts only
        if is_complete:
            complete.add(tokens)
            assert constraint.is_over(after_end, 9)
            assert (constraint.next_state[after_end] == DEAD).all()
    assert complete == left
    if left:
        shortest = min(map(len, left))
        assert constraint.shortest == shortest
    else:
        assert constraint.shortest > MAX_TOKENS


@quick
@given(regexes(), vocabularies, words, st.integers(0, 5), st.data())
def test_a_text_completes_within_every_limit_that_is_long_enough(
    pattern, texts, bad_words, spare, data
):
    spec = limited(regex(pattern), bad_words=bad_words)
    constraint = compiled(spec, texts)
    if constraint is None:
        return
    limit, state, tokens = constraint.shortest + spare, START, ()
    while (remaining := limit - len(tokens)) and not constraint.is_over(state, remaining):
        allowed = np.flatnonzero(constraint.allowed(state, remaining)).tolist()
        token = data.draw(st.sampled_from(allowed))  # fails if none is allowed
        if token in texts.end_ids:
            break
        tokens = (*tokens, token)
        state = constraint.state_after([token], state)
    assert is_match(tokens, texts, spec)


@quick
@given(vocabularies, words)
def test_any_text_has_no_bad_word_and_may_end_everywhere(texts, bad_words):
    spec = limited(None, bad_words=[*bad_words, "a0"])
    constraint = compiled(spec, texts)
    if constraint is None:
        return
    for tokens in sequences(texts):
        state = constraint.state_after(tokens)
        if state == DEAD:
            continue
        assert not any(word in text_of(tokens, texts) for word in spec.bad_words)
        assert constraint.allowed(state, 1)[texts.end_ids[0]]
        assert not constraint.is_over(state, 1)
        is_complete, is_over = constraint.endings(state, 5)
        assert np.flatnonzero(is_complete).tolist() == [texts.end_ids[0]]
        assert (is_over == is_complete).all()
    one_token = [i for i, text in enumerate(texts.texts) if text == "b"]
    for token in one_token:
        if not any(word in "bb" for word in spec.bad_words):
            assert constraint.allowed(START, 1)[token]


@quick
@given(regexes())
def test_lifting_to_single_characters_changes_nothing(pattern):
    characters = ["a", "b", "0", " ", "-", "é"]
    direct = compiled(regex(pattern), TokenTexts(tuple(characters)))
    if direct is None:
        return
    lifted = lift(direct, characters, TokenTexts(tuple(characters)))
    assert lifted is not None
    for tokens in product(range(len(characters)), repeat=3):
        state, other = direct.state_after(tokens), lifted.state_after(tokens)
        assert (state == DEAD) == (other == DEAD)
        if state != DEAD:
            assert direct.distance[state] == lifted.distance[other]
            assert direct.distance_after_next[state] == lifted.distance_after_next[other]


def test_the_first_word_is_read_without_its_blank():
    texts = TokenTexts((" yes", " no", " ye", "s"), " ")
    constraint = compile_constraint(choice(["yes", "no no"]), texts)
    assert constraint.allowed(START, 1).tolist() == [True, False, False, False]
    assert constraint.allowed(START, 2).tolist() == [True, True, True, False]
    assert constraint.distance[constraint.state_after([1, 1])] == 0
    assert constraint.is_over(constraint.state_after([2, 3]), 9)


def test_a_bad_word_is_found_across_tokens_and_with_its_blank():
    texts = TokenTexts((" cat", " ca", "t", " dog"), " ")
    without = compile_constraint(limited(None, bad_words=["cat"]), texts)
    assert without.allowed(START, 9).tolist() == [False, True, True, True]
    assert without.allowed(without.state_after([1]), 9).tolist() == [False, True, False, True]
    with_blank = compile_constraint(limited(choice(["cat", "dog"]), bad_words=[" cat"]), texts)
    assert with_blank.allowed(START, 9).tolist() == [False, False, False, True]


def test_a_rest_of_a_text_follows_a_turn_that_is_taken_over():
    texts = TokenTexts((" a", " b", "c", None), " ", (3,))
    constraint = compile_constraint(regex("a( b)*c"), texts)
    rest = constraint.after([0, 1])
    assert (
        rest.allowed(START, 9).tolist()
        == constraint.allowed(constraint.state_after([0, 1]), 9).tolist()
    )
    assert rest.is_over(rest.state_after([2]), 9)
    assert rest.distance_after_next[rest.state_after([2])] == NEVER


def test_a_token_that_is_not_allowed_does_not_end_a_text():
    texts = TokenTexts(("ab", "b", None), "", (2,))
    assert compile_constraint(regex("(ab)*"), texts).allowed(START, 9)[2]
    only = compile_constraint(limited(regex("(ab)*"), allowed=[0]), texts)
    assert not only.allowed(START, 9)[2]


def test_pieces_of_characters_have_no_text():
    texts = TokenTexts.of_bytes([b"a", "é".encode()[:1], "éa".encode(), b""], "", (3,))
    assert texts.texts == ("a", None, "éa", None)
    assert compile_constraint(regex(".*"), texts).allowed(START, 9).tolist() == [
        True,
        False,
        True,
        True,
    ]


def test_what_the_characters_spell_and_the_tokens_do_not_is_refused():
    with pytest.raises(Validation, match=r"no text matches the regex .* model's 2 tokens with a"):
        compile_constraint(regex("ba?"), TokenTexts(("ab", "aba", None)))


def test_a_table_that_is_too_large_is_refused():
    texts = TokenTexts(tuple(f"{i:04}" for i in range(10_000)))
    pattern = "|".join(f"{i:04}{i:04}" for i in range(0, 10_000, 3))
    with pytest.raises(Validation, match=r"a table of 3336 states .* 16777216 is the limit"):
        compile_constraint(regex(pattern), texts)


def test_a_large_vocabulary_has_few_kinds_of_tokens():
    texts = TokenTexts(tuple(f" {i:x}" for i in range(50_000)), " ")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    constraint = compile_constraint(regex("[0-9a-f ]{1,80}"), texts)
    assert constraint.next_state.shape[1] < 8
    with pytest.raises(Validation, match="no text matches"):
        compile_constraint(json_schema(schema), texts)
