"""Generation with tokens that are words or parts of characters: end tokens and stop strings."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.generation.config import EngineConfig
from service.generation.request import (
    Finish,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    Token,
)
from service.generation.sampling import Sampler
from service.generation.scheduler import Scheduler
from service.generation.stopping import HeldTokens
from service.generation.table import SlotTable
from service.generation.token_texts import TextRules, completion_text, texts_of
from service.models.tokenizers.tokenizer import Tokenizer
from tests.fakes.digest_program import DigestProgram
from tests.generation.words import ByteTokenizer, WordTokenizer

WORDS, BYTES = WordTokenizer(["the", "end", "of", "all"]), ByteTokenizer("a€ä")
END = WORDS.end_ids[0]


def play(
    tokenizer: Tokenizer, *requests: GenerationRequest
) -> list[tuple[list[int], list[int], Finish | None]]:
    """Return the tokens shown, those sampled and the end of each request, run in one batch."""
    texts, rules, n = texts_of(tokenizer), TextRules.of(tokenizer), len(requests)
    program = DigestProgram(len(tokenizer))
    scheduler = Scheduler(texts, EngineConfig(max_rows=n, queue_limit=n), rules=rules)
    sampler = Sampler(len(tokenizer), n, tokenizer.suppressed_ids, tokenizer.end_ids)
    table = SlotTable(program, sampler, n)
    shown: list[list[int]] = [[] for _ in requests]
    sampled: list[list[int]] = [[] for _ in requests]
    ends: list[Finish | None] = [None] * n
    for key, request in enumerate(requests):
        scheduler.submit(key, request)
    while (plan := scheduler.plan()) is not None:
        for progress in scheduler.apply(plan, *table.run(plan)):
            assert progress.failure is None
            shown[progress.key] += progress.chunk.tokens
            sampled[progress.key] += progress.chunk.sampled
            ends[progress.key] = progress.chunk.finish
            state = progress.chunk.state
            if state is not None:
                consumed = len(requests[progress.key].prompt) + len(sampled[progress.key])
                assert state.position < consumed, "the state is after the end"
    table.close()
    return list(zip(shown, sampled, ends, strict=True))


def asks(seed: int, n: int = 40, **options) -> GenerationRequest:
    return GenerationRequest((0, 1), n, SamplingParams(seed), **options)


@pytest.mark.parametrize("tokenizer", [WORDS, BYTES])
def test_an_end_token_ends_the_text_and_is_counted(tokenizer):
    (end,), n_ended = tokenizer.end_ids, 0
    requests = [asks(seed, return_state=True) for seed in range(30)]
    for tokens, sampled, finish in play(tokenizer, *requests):
        assert tokens == sampled
        assert finish.generated_tokens == len(tokens)
        assert end not in tokens[:-1]
        assert (finish.reason is FinishReason.EOS_TOKEN) == (tokens[-1] == end)
        n_ended += tokens[-1] == end
    assert n_ended > 10


@given(seed=st.integers(0, 99), least=st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_no_end_token_is_sampled_before_the_least(seed, least):
    ((tokens, _, finish),) = play(WORDS, asks(seed, min_new_tokens=least))
    assert len(tokens) >= least
    assert END not in tokens[:least]
    assert finish.reason in {FinishReason.EOS_TOKEN, FinishReason.LENGTH}


def test_with_ignore_eos_an_end_token_ends_nothing():
    found = play(WORDS, *(asks(seed, ignore_eos=True) for seed in range(10)))
    assert all(len(tokens) == 40 for tokens, _, _ in found)
    assert any(END in tokens for tokens, _, _ in found)


def test_a_replayed_end_token_ends_the_text_as_the_original_did():
    requests = [asks(seed) for seed in range(20)]
    first = play(WORDS, *requests)
    again = [
        replace(request, forced_tokens=tuple(sampled))
        for request, (_, sampled, _) in zip(requests, first, strict=True)
    ]
    assert play(WORDS, *again) == first


def test_a_batch_changes_nothing_where_rows_end_by_end_tokens():
    requests = [asks(seed, stop=("d o",) if seed % 2 else ()) for seed in range(16)]
    together = play(WORDS, *requests)
    assert together == [play(WORDS, request)[0] for request in requests]


def text_before(text: str, stop: str) -> str:
    return text[: text.index(stop)] if stop in text else text


@pytest.mark.parametrize(
    ("tokenizer", "stops"),
    [(WORDS, ["d o", "he end", " ", "the", "ld", "ll all"]), (BYTES, ["€", "aä", "a", "ä", "aa"])],
)
@pytest.mark.parametrize("is_start", [False, True])
def test_a_text_ends_exactly_before_its_stop_string(tokenizer, stops, is_start):
    n_stopped = 0
    for stop in stops:
        for seed in range(12):
            free = asks(seed, is_start=is_start, ignore_eos=True)
            ((tokens, _, _),) = play(tokenizer, free)
            whole = completion_text(tokenizer, tokens, is_start=is_start)
            ((shown, _, finish),) = play(tokenizer, replace(free, stop=(stop,)))
            text = completion_text(tokenizer, shown, finish.partial, is_start=is_start)
            assert text == text_before(whole, stop)
            assert (finish.stop == stop) == (stop in whole)
            n_stopped += stop in whole
    assert n_stopped > 10


@given(cut=st.integers(1, 30), seed=st.integers(0, 30), least=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_a_context_of_tokens_gives_the_same_end(cut, seed, least):
    one = asks(seed, stop=("d o", "€"), min_new_tokens=least, ignore_eos=True)
    for tokenizer in (WORDS, BYTES):
        ((_, sampled, finish),) = play(tokenizer, one)
        texts, rules = texts_of(tokenizer), TextRules.of(tokenizer)
        context, rest = sampled[:cut], sampled[cut:]
        held = HeldTokens(one, texts, rules, context)
        if not rest:
            assert (held.stop is not None) == (finish.stop is not None)
            return
        for token in rest:
            assert held.stop is None
            held.push(Token(token, 0.0))
        assert held.stop == finish.stop


def test_a_stop_token_id_ends_the_text():
    for seed in range(10):
        ((tokens, sampled, finish),) = play(WORDS, asks(seed, stop_token_ids=(2,)))
        if 2 in sampled:
            assert tokens == sampled[:-1]
            assert sampled.index(2) == len(sampled) - 1
            assert (finish.reason, finish.stop) == (FinishReason.STOP_SEQUENCE, " of")
