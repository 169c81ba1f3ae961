"""Beam search with bad words, minimum lengths, deadlines and cached prompts."""

import itertools
import time

import pytest

from service.constraints.compiler import compile_constraint
from service.constraints.spec import limited, regex
from service.generation.beam_worker import _step
from service.generation.beams import BeamParams, BeamSearchState
from service.generation.completions import start
from service.generation.prefix_cache import PrefixCache, ScopedPrefixCache
from service.generation.request import FinishReason, GenerationRequest, SamplingParams
from tests.fakes.digest_program import DigestProgram
from tests.generation.beam_oracle import logprobs_of, reread
from tests.generation.test_completions import read_all
from tests.generation.test_engine import TOKENIZER, request, running
from tests.generation.test_prefix_cache import LONG

TEXTS, LENGTH, WIDE = "abc", 4, 81  # as wide as there are texts


def found(prompt: tuple[int, ...], steps: int | None = None, **options) -> list[tuple[str, str]]:
    """Completions and their finish reasons, the best first; the deadline is after so many steps."""
    asked = GenerationRequest(prompt, LENGTH, SamplingParams(seed=0), **options)
    program, params = DigestProgram(len(TEXTS)), BeamParams(WIDE, WIDE)
    search, batch = BeamSearchState(asked, params, TEXTS), program.new_batch(WIDE)
    for token in prompt[:-1]:
        batch.tokens[0] = token
        program.step(batch, 1)
    batch.tokens[0] = prompt[-1]
    while not search.is_over:
        if steps == search.length:
            search.end_here()
            break
        _step(program, batch, search)
    assert search.is_over
    return [
        ("".join(TEXTS[i] for i in chunk.tokens), chunk.finish.reason)
        for chunk in search.completions()
    ]


def ranked(prompt: tuple[int, ...], length: int = LENGTH) -> list[str]:
    """Every text of a length, the most likely first."""
    network, scores = reread(DigestProgram(len(TEXTS))), {}
    for tokens in itertools.product(range(len(TEXTS)), repeat=length):
        rows = [logprobs_of(network((*prompt, *tokens[:n]))) for n in range(length)]
        scores["".join(TEXTS[i] for i in tokens)] = sum(
            row[token] for row, token in zip(rows, tokens, strict=True)
        )
    return sorted(scores, key=lambda text: -scores[text])


PROMPTS = [(0,), (1, 2), (2, 2, 0)]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_no_text_has_a_bad_word_and_all_reach_the_limit(prompt):
    source = limited(None, bad_words=["ab", "c"], allowed=())
    constraint = compile_constraint(source, TEXTS)
    seen = found(prompt, constraint=constraint)
    assert [text for text, _ in seen] == [
        text for text in ranked(prompt) if "ab" not in text and "c" not in text
    ]
    assert {reason for _, reason in seen} == {FinishReason.LENGTH}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_only_allowed_tokens_are_found(prompt):
    constraint = compile_constraint(limited(None, allowed=[0, 2]), TEXTS)
    seen = [text for text, _ in found(prompt, constraint=constraint)]
    assert seen == [text for text in ranked(prompt) if "b" not in text]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_stop_string_begins_after_the_least_tokens(prompt):
    seen = found(prompt, stop=("a",), min_new_tokens=2)
    texts = [text for text, reason in seen if reason is FinishReason.STOP_SEQUENCE]
    assert sorted(texts) == sorted(
        "".join(head) + "".join(rest)
        for head in itertools.product("abc", repeat=2)
        for n in (0, 1)
        for rest in itertools.product("bc", repeat=n)
    )
    whole = {text for text, reason in seen if reason is FinishReason.LENGTH}
    assert all("a" not in text[2:] for text in whole)
    assert len(whole) == 9 * 4


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_pattern_is_complete_after_the_least_tokens(prompt):
    constraint = compile_constraint(limited(regex("(ab?)*"), least=3), TEXTS)
    seen = [text for text, _ in found(prompt, constraint=constraint)]
    assert seen
    assert {len(text) for text in seen} == {3, 4}


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_deadline_returns_the_most_likely_hypotheses_so_far(prompt, steps):
    assert [text for text, _ in found(prompt, steps)] == ranked(prompt, steps)
    assert {reason for _, reason in found(prompt, steps)} == {FinishReason.LENGTH}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_deadline_returns_finished_hypotheses_first(prompt):
    constraint = compile_constraint(regex("b|abcb"), TEXTS)
    assert [text for text, _ in found(prompt, 2, constraint=constraint)] == ["b", "ab"]


async def test_a_deadline_ends_a_search():
    async with running() as engine:
        asked = request(10**6, prompt=(1, 2), deadline_s=time.time() + 0.2)
        began = time.monotonic()
        seen = await read_all(start(engine, [asked], beams=BeamParams(4)))
        assert time.monotonic() - began < 10
        assert seen[0].finish.reason is FinishReason.LENGTH
        assert 0 < len(seen[0].tokens) == seen[0].finish.generated_tokens < 10**6
        late = request(9, prompt=LONG * 100, deadline_s=time.time() + 0.02)
        seen = await read_all(start(engine, [late], beams=BeamParams(4)))
        assert (seen[0].tokens, seen[0].finish.reason) == ([], FinishReason.LENGTH)


async def test_a_cached_prompt_is_not_computed_and_gives_the_same_completions():
    prefixes = ScopedPrefixCache(PrefixCache(1 << 26), b"")
    async with running() as engine:
        asked = request(20, prompt=LONG)
        alone = await read_all(start(engine, [asked], beams=BeamParams(3, 3)))
        for cached in (0, len(LONG) - 1):
            known = start(engine, [asked], beams=BeamParams(3, 3), prefix_cache=prefixes)
            assert known.usage.cached_tokens == cached
            assert await read_all(known) == alone
        assert len(TOKENIZER) == 7
