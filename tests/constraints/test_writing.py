"""Any network's text under a constraint matches it and is complete within its limit."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from service.constraints.compiler import compile_constraint
from service.constraints.constraint import Constraint
from service.constraints.dfa import dfa_of
from service.constraints.nfa import nfa_of
from service.constraints.pattern import NOTHING, Alphabet
from service.constraints.regex_parser import read_regex
from service.constraints.spec import choice
from service.generation.request import FinishReason, GenerationRequest, SamplingParams
from service.models.bundle import Bundle, Precision
from service.models.compile import compile_program
from tests.constraints.strategies import VOCABULARY, compiled, regexes
from tests.constraints.writing import asks, write
from tests.fakes.digest_program import DigestProgram
from tests.generation.invariance import check_invariance
from tests.generation.strategies import histories, requests

BUDGET = 300
TEXTS = [token if token is not None and len(token) == 1 else "" for token in VOCABULARY]
CASES = st.tuples(
    regexes(), st.integers(0, 12), st.integers(0, 2**32), st.sampled_from([0.0, 0.7, 1.0, 3.0])
)


def check_written(case, vocabulary=VOCABULARY, program=None, compile_regex=compiled) -> None:
    pattern, spare, seed, temperature = case
    constraint = compile_regex(pattern, vocabulary)
    if constraint is None:
        return
    most = max(1, constraint.shortest + spare)
    constrained = asks(constraint, most, seed, temperature=temperature, top_p=0.9)
    free = asks(None, 20, seed)
    tight = asks(constraint, max(1, constraint.shortest), seed, repetition_penalty=1.3)
    written = write([constrained, free, tight], vocabulary, program)
    for request, (text, finish) in zip([constrained, tight], written[::2], strict=True):
        assert re.fullmatch(pattern, text)
        assert len(text) == finish.generated_tokens <= request.max_new_tokens
        state = constraint.state_after(map(vocabulary.index, text))
        is_over = constraint.is_over(state, request.max_new_tokens - len(text))
        assert finish.reason is (FinishReason.EOS_TOKEN if is_over else FinishReason.LENGTH)
        if not is_over:
            assert len(text) == request.max_new_tokens
    assert written[1] == write([free], vocabulary, program)[0]


@settings(max_examples=BUDGET, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=CASES)
def test_every_text_matches_and_is_complete_within_its_limit(case):
    check_written(case)


@pytest.fixture(scope="module")
def demo():
    return Bundle.read(Path(__file__).parents[2] / "model_store" / "demo" / "1")


@pytest.mark.parametrize("max_examples", [100, pytest.param(10_000, marks=pytest.mark.soak)])
@pytest.mark.timeout(7_200)
def test_so_it_is_with_a_trained_network(demo, max_examples):
    program = compile_program(demo.spec, demo.weights, Precision.INT8, threads=1)
    vocabulary = list(demo.tokenizer.tokens)

    @settings(max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=CASES)
    def written(case):
        check_written(case, vocabulary, program)

    written()


def unpruned(pattern, vocabulary):
    """Compile with the fault that characters the vocabulary lacks stay in the pattern."""
    alphabet = Alphabet({*TEXTS, *"cß.{]"} - {""})
    found = read_regex(pattern, alphabet)
    if found is NOTHING:
        return None
    nfa = nfa_of(found)
    dfa = dfa_of(nfa)
    return Constraint(nfa.token_classes(vocabulary), dfa.next_state, dfa.distance)


def unhurried(pattern, vocabulary):
    """Compile with the fault that every end looks at most one token away."""
    right = compiled(pattern, vocabulary)
    if right is None:
        return None
    return replace(right, distance=np.minimum(right.distance, 1))


@pytest.mark.parametrize("fault", [unpruned, unhurried])
def test_a_planted_fault_is_found(fault):
    def is_red(case):
        try:
            check_written(case, compile_regex=fault)
        except AssertionError:
            return True
        return False

    quick = settings(
        max_examples=BUDGET,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],
    )
    try:
        find(CASES, is_red, settings=quick)
    except NoSuchExample:
        pytest.fail(f"{fault.__name__} stays green")


# -- with everything else that a generation may be

TOKENS = "ab01 -\n"


def constrained_requests():
    free = requests(len(TOKENS), TOKENS)
    patterns = [r"[ab]+-[01]{2,9}", "(a|b|ab)*0", r".{0,30}", "(-?1 ?){1,8}", "0{9}", ""]
    constraints = [compiled(pattern, TOKENS) for pattern in patterns]

    def bound(request: GenerationRequest, constraint: Constraint | None) -> GenerationRequest:
        if constraint is None:
            return request
        most = max(request.max_new_tokens, constraint.shortest)
        return replace(request, constraint=constraint, max_new_tokens=most)

    return st.builds(bound, free, st.sampled_from([None, *constraints]))


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=histories(constrained_requests()))
def test_a_constrained_generation_says_in_any_company_what_it_says_alone(history):
    check_invariance(DigestProgram(len(TOKENS)), TOKENS, history)


@settings(max_examples=200, deadline=None)
@given(request=constrained_requests(), data=st.data())
def test_a_turn_that_is_taken_over_goes_on_under_its_constraint(request, data):
    texts = list(TOKENS)
    request = replace(request, stop=())
    whole, finish = write([request], texts)[0]
    known = data.draw(st.integers(0, len(whole)))
    again = replace(request, forced_tokens=tuple(TOKENS.index(c) for c in whole[:known]))
    assert write([again], texts)[0] == (whole, finish)


def test_an_empty_text_ends_before_its_first_token():
    text, finish = write([asks(compiled("b{0}"), 9)], VOCABULARY)[0]
    assert text == ""
    assert (finish.reason, finish.generated_tokens) == (FinishReason.EOS_TOKEN, 0)


def test_what_may_go_on_goes_on_to_the_limit():
    text, finish = write([asks(compiled("[ab]+"), 50)], VOCABULARY)[0]
    assert len(text) == 50
    assert finish.reason is FinishReason.LENGTH


def test_a_choice_is_made_whole():
    constraint = compile_constraint(choice(["ab", "abba", "0", "1-1", "not spelled"]), VOCABULARY)
    for most in (1, 2, 3, 4, 9):
        written = write([asks(constraint, most, seed) for seed in range(40)], VOCABULARY)
        texts = {text for text, _ in written}
        assert texts == {t for t in ("ab", "abba", "0", "1-1") if len(t) <= most} or most > 2
        assert texts <= {"ab", "abba", "0", "1-1"}


def test_the_least_likely_is_said_where_nothing_else_is_allowed():
    params = {"temperature": 0.0, "logit_bias": ((0, -100.0),)}
    request = GenerationRequest(
        (2,), 5, SamplingParams(seed=1, **params), constraint=compiled("a{5}")
    )
    assert write([request], VOCABULARY)[0][0] == "aaaaa"


def test_the_kernel_allows_what_the_tables_say():
    constraint = compiled("(a|b0){1,4}-?")
    for state in range(len(constraint.distance)):
        for remaining in range(1, 9):
            allowed = constraint.allowed(state, remaining)
            scores = np.zeros(len(VOCABULARY))
            from service.generation.constraint_mask import mask  # noqa: PLC0415

            table = constraint.table
            mask(scores, table.ctypes.data, table.size, state, remaining)
            assert (np.isfinite(scores) == allowed).all()
