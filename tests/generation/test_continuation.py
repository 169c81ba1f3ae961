"""A generation in pieces, each from the state after the one before, equals one generation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.generation.request import PENALTY_WINDOW, FinishReason, GenerationRequest
from service.models.compile import compile_program
from service.models.spec import ModelRef
from service.models.step import State
from service.models.store import ModelStore
from tests.fakes.digest_program import DigestProgram
from tests.generation.invariance import Stage, Transcript
from tests.generation.strategies import requests
from tests.process import ROOT

TEXTS = "abcdefg"
requests_ = requests(len(TEXTS), TEXTS).map(lambda one: replace(one, return_state=True))


@pytest.fixture(scope="module", params=["digest", "int8", "float32"])
def program(request):
    if request.param == "digest":
        return DigestProgram(len(TEXTS))
    bundle = ModelStore(ROOT / "model_store").read(ModelRef("demo", 1))
    return compile_program(bundle.spec, bundle.weights, request.param, 1)


def play(program, request: GenerationRequest, company: list[GenerationRequest] = ()) -> Transcript:
    texts = TEXTS * (program.vocabulary_size // len(TEXTS) + 1)
    stage = Stage(program, texts[: program.vocabulary_size])
    for other in company[:1]:
        stage.submit(other)
        stage.work()
    key = stage.submit(request)
    for other in company[1:]:
        stage.submit(other)
    stage.work_to_the_end()
    return stage.seen[key]


def equal_states(a: State | None, b: State | None) -> bool:
    if a is None or b is None:
        return a is b
    pairs = zip(a.arrays, b.arrays, strict=True)
    return a.position == b.position and all(np.array_equal(x, y) for x, y in pairs)


def after(request: GenerationRequest, seen: Transcript) -> GenerationRequest:
    """The request for the next piece, whose prompt is what the state has not consumed."""
    said = [*request.penalty_context, *request.prompt, *seen.sampled]
    consumed = 0 if seen.state is None else seen.state.position
    start = request.initial_state.position if request.initial_state else 0
    known = [*request.prompt, *seen.sampled]
    return replace(
        request,
        initial_state=seen.state,
        prompt=tuple(known[consumed - start :]),
        penalty_context=tuple(
            said[: len(said) - (len(known) - (consumed - start))][-PENALTY_WINDOW:]
        ),
        stop=(),
    )


@given(requests_, st.integers(0, 40), st.lists(requests_, max_size=4))
@settings(max_examples=150, deadline=None)
def test_two_pieces_equal_one(program, whole, cut, company):
    whole = replace(whole, stop=())
    cut = min(cut, whole.max_new_tokens)
    one = play(program, whole)
    first = play(program, replace(whole, max_new_tokens=cut), company)
    second = play(
        program,
        replace(after(whole, first), max_new_tokens=whole.max_new_tokens - cut),
        company[::-1],
    )
    assert first.tokens + second.tokens == one.tokens
    assert first.logprobs + second.logprobs == one.logprobs
    assert equal_states(second.state, one.state)


@given(requests_, st.integers(0, 40), st.lists(requests_, max_size=4))
@settings(max_examples=100, deadline=None)
def test_forced_tokens_are_reported_as_sampled_ones(program, whole, cut, company):
    one = play(program, whole)
    again = play(program, replace(whole, forced_tokens=tuple(one.sampled[:cut])), company)
    assert again == one


@given(requests_, st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_a_state_has_consumed_all_but_the_last_token_or_what_came_just_before(program, whole, cut):
    seen = play(program, replace(whole, max_new_tokens=min(cut, whole.max_new_tokens)))
    known = len(whole.prompt) + len(seen.sampled)
    if seen.state is None:
        assert known == 1 or seen.finish.reason is FinishReason.STOP_SEQUENCE
    elif seen.finish.reason is FinishReason.LENGTH:
        assert seen.state.position == known - 1
    else:
        assert known - 33 <= seen.state.position <= known - 1
    pending = [*whole.prompt, *seen.sampled][seen.state.position if seen.state else 0 :]
    settled = replace(
        whole, max_new_tokens=0, initial_state=seen.state, prompt=tuple(pending), stop=()
    )
    forced_tokens = replace(whole, prompt=(*whole.prompt, *seen.sampled), max_new_tokens=0, stop=())
    assert equal_states(play(program, settled).state, play(program, forced_tokens).state)


@given(requests_, st.integers(1, 39))
@settings(max_examples=100, deadline=None)
def test_a_stop_string_may_begin_in_the_stop_context(program, whole, cut):
    one = play(program, whole)
    cut = min(cut, len(one.sampled) - 1)
    if cut < 1:
        return
    first = play(program, replace(whole, max_new_tokens=cut, stop=()))
    n_context = min(cut, 3)
    rest = replace(
        after(whole, first),
        stop=whole.stop,
        stop_context=first.sampled[-n_context:],
        max_new_tokens=whole.max_new_tokens - cut,
        min_new_tokens=max(0, whole.min_new_tokens - (cut - n_context)),
    )
    again = play(program, rest)
    seen = again.tokens
    assert seen == (one.tokens[-len(seen) :] if seen else [])
    assert first.sampled + again.sampled == one.sampled
    assert again.finish.reason == one.finish.reason
    assert again.finish.stop == one.finish.stop
