"""The prefix cache saves the computation of known prefixes and changes nothing else."""

import asyncio
import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.generation.completions import start
from service.generation.config import EngineConfig
from service.generation.prefix_cache import (
    MAX_STATES,
    MIN_DISTANCE,
    MIN_PROMPT,
    PrefillSnapshots,
    PrefixCache,
    ScopedPrefixCache,
)
from service.models.step import State
from tests.fakes.digest_program import DigestProgram
from tests.generation.strategies import requests
from tests.generation.test_completions import read_all
from tests.generation.test_engine import TOKENIZER, request, running, until

LONG = tuple(np.random.default_rng(5).integers(0, len(TOKENIZER), 3_000).tolist())
ENTRY_BYTES = 8 + 600


class Counting(DigestProgram):
    """Counts the tokens that its rows were fed."""

    fed = 0

    def step(self, batch, rows):
        super().step(batch, rows)
        self.fed += rows


def state(position: int) -> State:
    return State(position, (np.full(2, position, np.float32),))


def asked(prompt: tuple[int, ...], n: int = 5, **options):
    return request(n, prompt=prompt, **options)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    one=requests(len(TOKENIZER), "abcdefg", longest=30),
    cuts=st.lists(st.integers(MIN_PROMPT, 1_200), min_size=1, max_size=5),
    budget=st.sampled_from([0, 3 * ENTRY_BYTES, 1 << 20]),
    n=st.sampled_from([1, 1, 3]),
)
async def test_the_cache_changes_no_completion(one, cuts, budget, n):
    prefixes = ScopedPrefixCache(PrefixCache(budget), b"")
    async with running() as engine:
        for cut in cuts:
            prompt = (*LONG[:cut], *one.prompt)
            whole = dataclasses.replace(one, prompt=prompt)
            alone = await read_all(start(engine, [whole], n=n))
            assert await read_all(start(engine, [whole], n=n, prefix_cache=prefixes)) == alone
            assert prefixes.cache.size_bytes <= budget


async def test_a_cached_prompt_is_not_computed_again():
    program, prefixes = Counting(), ScopedPrefixCache(PrefixCache(1 << 26), b"")
    async with running(program) as engine:

        async def reading(prompt) -> tuple[int, int]:
            before = program.fed
            choices = start(engine, [asked(prompt)], prefix_cache=prefixes)
            await read_all(choices)
            return choices.usage.cached_tokens, program.fed - before

        cached, fed = await reading(LONG)
        assert cached == 0
        assert fed >= len(LONG)
        assert await reading(LONG) == (len(LONG) - 1, 5)
        cached, fed = await reading((*LONG, *LONG[:10]))
        assert cached == len(LONG) - 1
        assert fed < 32 + 10 + 5
        cached, fed = await reading(LONG[:2_000])  # from a state on the way
        assert 2_000 - MIN_DISTANCE - 64 < cached < 2_000
        assert fed < 2 * MIN_DISTANCE


async def test_a_prompt_may_end_at_a_cached_state():
    prefixes = ScopedPrefixCache(PrefixCache(1 << 26), b"")
    async with running() as engine:
        await read_all(start(engine, [asked(LONG)], prefix_cache=prefixes))
        for length in [state.position for _, state in prefixes.cache._states.values()]:
            alone = await read_all(start(engine, [asked(LONG[:length])]))
            known = start(engine, [asked(LONG[:length])], prefix_cache=prefixes)
            assert known.usage.cached_tokens < length
            assert await read_all(known) == alone


async def test_a_cancelled_prefill_stores_its_states():
    program, prefixes = Counting(), ScopedPrefixCache(PrefixCache(1 << 26), b"")
    async with running(program) as engine:
        choices = start(engine, [asked(LONG * 300)], prefix_cache=prefixes)
        task = asyncio.ensure_future(anext(aiter(choices)))
        await until(lambda: program.fed > 2 * EngineConfig().state_copy_every)
        choices.cancel()
        with pytest.raises(StopAsyncIteration):
            await task
        await until(lambda: engine.running == engine.waiting == engine.streams == 0)
        assert len(prefixes.cache) > 0
        again = start(engine, [asked(LONG * 300)], prefix_cache=prefixes)
        assert again.usage.cached_tokens > 0
        again.cancel()


async def test_a_short_prompt_and_a_scored_one_are_computed():
    prefixes = ScopedPrefixCache(PrefixCache(1 << 26), b"")
    async with running() as engine:
        for prompt in (LONG[: MIN_PROMPT - 1], LONG):
            for _ in range(2):
                logprobs = None if len(prompt) < MIN_PROMPT else 1
                choices = start(
                    engine, [asked(prompt)], prompt_logprobs=logprobs, prefix_cache=prefixes
                )
                await read_all(choices)
                assert choices.usage.cached_tokens == 0
        assert len(prefixes.cache) == 0


def test_nothing_is_shared_between_scopes():
    cache = PrefixCache(1 << 26)
    trail = PrefillSnapshots(100)
    trail.add(state(99))
    models = [
        ScopedPrefixCache(cache, b"").scoped("digest", precision) for precision in ("int8", "f32")
    ]
    owners = [model.scoped(owner) for model in models for owner in ("", "a", "b")]
    salted = [owner.scoped("salt") for owner in owners]
    everybody = [*models, *owners, *salted, ScopedPrefixCache(cache, b"")]
    for one in everybody:
        assert one.longest(LONG[:100]) is None
        one.keep(LONG[:100], trail)
        assert one.longest(LONG[:100]) is trail.last
    assert len(cache) == len(everybody)


def test_a_prefix_is_no_other_text_of_the_same_length():
    cache = PrefixCache(1 << 26)
    cache.keep(b"", LONG[:80], [state(79)])
    assert cache.longest(b"", (*LONG[:40], (LONG[40] + 1) % 7, *LONG[41:200])) is None
    assert cache.longest(b"", LONG[:78]) is None
    assert cache.longest(b"", LONG[:79]).position == 79


def test_the_most_recently_used_states_stay():
    cache = PrefixCache(budget_bytes=3 * ENTRY_BYTES)
    texts = [[i] * 9 for i in range(4)]
    for text in texts[:3]:
        cache.keep(b"", text, [state(9)])
    assert cache.longest(b"", texts[0]) is not None
    cache.keep(b"", texts[3], [state(9)])
    assert [cache.longest(b"", text) is not None for text in texts] == [True, False, True, True]
    cache.keep(b"", texts[3], [state(9)])
    assert (len(cache), cache.size_bytes) == (3, 3 * ENTRY_BYTES)


@pytest.mark.parametrize("length", [100, 5_000, 1_000_000])
def test_a_prompt_stores_few_states_evenly_spaced(length):
    trail = PrefillSnapshots(length)
    for position in [*range(250, length, 250), length - 1]:
        trail.add(state(position))
    positions = [one.position for one in trail.states]
    assert positions[-1] == length - 1
    assert len(positions) <= MAX_STATES + 1
    gaps = np.diff([0, *positions[:-1]])
    assert all(gaps >= MIN_DISTANCE)
    assert all(gaps <= max(MIN_DISTANCE, length // 64) + 250)


def test_a_lookup_does_not_depend_on_other_scopes():
    cache = PrefixCache(1 << 26)
    for i in range(200):
        cache.keep(b"other", LONG, [state(100 + i)])
    assert cache._lengths.get(b"mine") is None
    cache.keep(b"mine", LONG, [state(99)])
    assert list(cache._lengths[b"mine"]) == [99]
    small = PrefixCache(budget_bytes=ENTRY_BYTES)
    small.keep(b"other", LONG, [state(100)])
    small.keep(b"mine", LONG, [state(99)])
    assert list(small._lengths) == [b"mine"]  # nothing is left of a scope without states
