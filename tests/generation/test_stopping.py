import doctest

from hypothesis import assume, given
from hypothesis import strategies as st

from service.generation import stopping
from service.generation.request import GenerationRequest, SamplingParams, Token
from service.generation.stopping import HeldTokens, StopMatcher

TEXT = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


def test_the_example_in_the_docstring_is_true():
    assert doctest.testmod(stopping).failed == 0


@given(text=TEXT, stops=STOPS)
def test_what_is_shown_is_the_text_before_the_first_stop_string(text, stops):
    matcher, shown, complete = StopMatcher(stops), 0, None
    for n, character in enumerate(text, 1):
        free, complete = matcher.push(character)
        shown += free
        held = text[shown:n]
        # Nothing that may yet turn out to begin a stop string has been shown, and nothing else
        # is held back.
        is_over = complete is not None
        assert is_over or held == "" or any(stop.startswith(held) for stop in stops)
        if is_over:
            assert held == complete  # of several it is the one that the text is cut before
            assert complete in stops
            assert any(stop in text[:n] for stop in stops)
            assert not any(stop in text[: n - 1] for stop in stops)
            assert not any(stop in text[:shown] for stop in stops)
            break
    assert (complete is not None) == any(stop in text for stop in stops)


@given(text=TEXT, stops=STOPS, least=st.integers(0, 10))
def test_no_stop_string_begins_within_the_least(text, stops, least):
    matcher, later = StopMatcher(stops, least), StopMatcher(stops)
    assert [matcher.push(c) for c in text[:least]] == [(1, None)] * len(text[:least])
    assert [matcher.push(c) for c in text[least:]] == [later.push(c) for c in text[least:]]


@given(text=TEXT, stops=STOPS, least=st.integers(0, 10), cut=st.integers(0, 10))
def test_held_tokens_are_shown_once_in_order_and_a_stop_string_never(text, stops, least, cut):
    context, rest = ("", text) if least else (text[:cut], text[cut:])
    assume(not any(stop in context for stop in stops))  # it would have ended the text
    asked = GenerationRequest((0,), 99, SamplingParams(0), tuple(stops), min_new_tokens=least)
    before = HeldTokens(asked, "ab", context=["ab".index(c) for c in context])
    shown, tokens = [], [Token("ab".index(c), -float(i)) for i, c in enumerate(rest)]
    matcher, is_free = StopMatcher(stops, least), 0
    for character in context:
        is_free += matcher.push(character)[0]
    for character, token in zip(rest, tokens, strict=True):
        shown += before.push(token, (token,))
        free, stop = matcher.push(character)
        is_free += free
        assert before.stop == stop
        if stop is not None:
            assert before.last is token
            break
    assert shown == [(token, (token,)) for token in tokens[: max(0, is_free - len(context))]]
    if before.stop is None:
        assert shown + before.release() == [(token, (token,)) for token in tokens]
        assert before.release() == []
