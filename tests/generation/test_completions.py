"""Several completions of one prompt or more."""

import asyncio
import dataclasses
import time

import pytest

from service.errors import Draining, Overloaded
from service.generation.beams import BeamParams
from service.generation.completions import BestOf, mean_logprob, seed_of, start
from service.generation.config import EngineConfig
from service.generation.prefix_cache import PrefixCache, ScopedPrefixCache
from service.generation.request import Chunk, GenerationRequest
from service.generation.scheduler import Scheduler
from service.generation.score import Scorer
from tests.generation.invariance import Transcript
from tests.generation.test_engine import TOKENIZER, read, request, running, until

PROMPT = (1, 2, 3, 4, 5)


async def read_all(choices) -> dict[int, Transcript]:
    seen: dict[int, Transcript] = {}
    async for index, chunk in choices:
        seen.setdefault(index, Transcript()).add(chunk)
    return seen


def with_seed(asked: GenerationRequest, seed: int) -> GenerationRequest:
    return dataclasses.replace(asked, sampling=dataclasses.replace(asked.sampling, seed=seed))


def penalised(asked: GenerationRequest) -> GenerationRequest:
    sampling = dataclasses.replace(asked.sampling, repetition_penalty=1.5, frequency_penalty=0.5)
    return dataclasses.replace(asked, sampling=sampling)


@pytest.mark.parametrize("prompt", [PROMPT, (3,)])
@pytest.mark.parametrize("change", [lambda one: one, penalised], ids=["plain", "penalised"])
@pytest.mark.parametrize("logprobs", [None, 2])
async def test_each_completion_equals_the_generation_with_its_seed(prompt, change, logprobs):
    asked = change(request(300, prompt=prompt, top_tokens=2))
    async with running() as engine:
        alone = [
            await read(engine.submit(with_seed(asked, seed_of(asked.sampling.seed, i))))
            for i in range(3)
        ]
        seen = await read_all(start(engine, [asked], n=3, prompt_logprobs=logprobs))
        assert sorted(seen) == [0, 1, 2]
        assert [seen[i] for i in range(3)] == alone
        assert len({tuple(one.tokens) for one in alone}) == 3


async def test_completions_are_generated_together():
    async with running() as engine:
        indices = [index async for index, _ in start(engine, [request(2_000)], n=4)]
        ends = [len(indices) - 1 - indices[::-1].index(i) for i in range(4)]
        begins = [indices.index(i) for i in range(4)]
        assert max(begins) < min(ends)


async def test_one_completion_is_one_row():
    async with running() as engine:
        choices = start(engine, [request(10**6)])
        assert [index async for index, _ in _first(choices)] == [0]
        assert engine.running + engine.waiting == 1
        choices.cancel()
        await until(lambda: engine.running == 0)


async def _first(choices):
    async for news in choices:
        yield news
        return


async def test_stop_strings_do_not_match_the_prompt():
    stop = TOKENIZER.decode(PROMPT[1:3])
    async with running() as engine:
        asked = request(40, prompt=PROMPT, stop=(stop,))
        alone = await read(engine.submit(asked))
        seen = await read_all(start(engine, [asked], n=2, prompt_logprobs=0))
        assert seen[0] == alone


async def test_a_prompts_tokens_have_the_logprobs_of_generated_ones():
    async with running() as engine:
        said = await read(engine.submit(request(30, prompt=(1,), top_tokens=3)))
        whole = request(3, prompt=(1, *said.tokens))
        choices = start(engine, [whole], prompt_logprobs=3)
        await read_all(choices)
        assert choices.prompt_logprobs(0).logprobs == [None, *said.logprobs]
        assert choices.prompt_logprobs(0).top_tokens == [(), *said.top_tokens]


async def test_the_best_have_the_highest_mean_logprob():
    asked = request(40, prompt=PROMPT)
    async with running() as engine:
        every = await read_all(start(engine, [asked], n=8))
        best = start(engine, [asked], n=2, best_of=8)
        seen = await read_all(best)
        ranked = sorted(every.values(), key=lambda one: sum(one.logprobs) / 40, reverse=True)
        assert [seen[0], seen[1]] == ranked[:2]
        assert best.usage.discarded_tokens == 6 * 40


async def test_of_equal_completions_the_first_is_the_best():
    class Equals:
        async def __aiter__(self):
            for index in (1, 0, 2):
                yield index, Chunk([index], [-1.0])

    tokens = [chunk.tokens async for _, chunk in BestOf(Equals(), 3)]
    assert tokens == [[0], [1], [2]]
    assert mean_logprob([]) == float("-inf")


async def test_cancelling_ends_all_completions():
    async with running() as engine:
        choices = start(engine, [request(10**6, prompt=PROMPT)], n=5)
        async for _ in choices:
            break
        assert engine.running + engine.waiting == 5
        choices.cancel()
        await until(lambda: engine.running == engine.waiting == engine.streams == 0)
        early = start(engine, [request(10**6, prompt=PROMPT * 1_000)], n=5)
        early.cancel()
        assert await read_all(early) == {}
        await until(lambda: engine.running == engine.waiting == engine.streams == 0)


# -- what one request may take


async def test_top_tokens_are_at_most_the_vocabulary():
    async with running() as engine:
        asked = request(3, prompt=PROMPT, top_tokens=20)
        choices = start(engine, [asked], prompt_logprobs=20)
        (seen,) = (await read_all(choices)).values()
        for top in (*seen.top_tokens, *choices.prompt_logprobs(0).top_tokens[1:]):
            assert sorted(token.id for token in top) == list(range(7))
            assert all(token.logprob < 0 for token in top)


async def test_all_completions_of_a_request_are_admitted_or_none():
    async with running(max_rows=1, queue_limit=8) as engine:
        first = start(engine, [request(5, prompt=PROMPT)], n=5)
        with pytest.raises(Overloaded, match="4 more would exceed the limit of 8"):
            start(engine, [request(5, prompt=PROMPT)], n=4)
        assert len(await read_all(first)) == 5
        assert len(await read_all(start(engine, [request(5, prompt=PROMPT)], n=8))) == 8


async def test_a_request_for_one_completion_is_refused_with_its_own_number():
    async with running(max_rows=1, queue_limit=8) as engine:
        first = start(engine, [request(5, prompt=PROMPT)], n=8)
        with pytest.raises(Overloaded, match=r"[^0-9]1 more would exceed the limit of 8"):
            start(engine, [request(5)])
        first.cancel()
        assert len(await read_all(start(engine, [request(5)]))) == 1


async def test_several_prompts_are_started_together_or_not_at_all():
    asked = [request(30, seed, prompt=PROMPT[seed:]) for seed in range(3)]
    async with running(max_rows=1, queue_limit=8) as engine:
        alone = [await read_all(start(engine, [one], n=2)) for one in asked]
        with pytest.raises(Overloaded, match="9 more would exceed the limit of 8"):
            start(engine, asked, n=3)
        assert engine.waiting == engine.streams == 0
        together = start(engine, asked, n=2, prompt_logprobs=0)
        seen = await read_all(together)
        assert seen == {2 * i + k: one[k] for i, one in enumerate(alone) for k in range(2)}
        lengths = [len(together.prompt_logprobs(index).logprobs) for index in sorted(seen)]
        assert lengths == [5, 5, 4, 4, 3, 3]


async def test_several_beam_searches_are_admitted_together_or_not_at_all():
    asked = [request(10, seed, prompt=PROMPT) for seed in range(3)]
    async with running() as engine:
        running_searches = [start(engine, [asked[0]] * 100, beams=BeamParams(2)) for _ in range(2)]
        with pytest.raises(Overloaded, match="beam searches run or wait"):
            start(engine, [asked[0]] * 100, beams=BeamParams(2))
        assert engine.beam_worker.running + engine.beam_worker.waiting == 200
        for one in running_searches:
            one.cancel()
        found = start(engine, asked, beams=BeamParams(3, 2))
        assert sorted(await read_all(found)) == list(range(6))


def test_cancelling_takes_constant_time_in_a_long_queue():
    def seconds_each(n: int) -> float:
        scheduler = Scheduler(list("abcdefg"), EngineConfig(max_rows=1, queue_limit=n))
        for key in range(n):
            scheduler.submit(key, request(5))
        began = time.perf_counter()
        for key in range(0, n, 2):
            scheduler.cancel(key)
            scheduler.finish(key + 1)
        assert scheduler.waiting == 0
        return (time.perf_counter() - began) / n

    assert min(seconds_each(20_000) for _ in range(3)) < 20 * min(
        seconds_each(500) for _ in range(3)
    )


# -- a drain


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"prefix_cache": ScopedPrefixCache(PrefixCache(1 << 26), b"")}, 400),
        ({"n": 2}, 400),
        ({"prompt_logprobs": 1}, 400),
    ],
    ids=["a long prompt", "two choices", "a scored prompt"],
)
async def test_a_drain_waits_for_what_comes_after_the_prompt(options, length):
    async with running() as engine:
        asked = request(50, prompt=PROMPT * (length // len(PROMPT)))
        choices = start(engine, [asked], **options)
        draining = asyncio.create_task(engine.drain(60.0))
        seen = await read_all(choices)
        assert [len(one.tokens) for one in seen.values()] == [50] * options.get("n", 1)
        await asyncio.wait_for(draining, 10)


async def test_a_drain_does_not_wait_for_a_cancelled_stream():
    async with running() as engine:
        choices = start(engine, [request(50, prompt=PROMPT * 100)], n=2)
        choices.cancel()
        await asyncio.wait_for(engine.drain(60.0), 10)


async def test_after_a_drain_no_generation_begins():
    async with running() as engine:
        choices = start(engine, [request(50, prompt=PROMPT * 100_000)], n=2)
        reading = asyncio.create_task(read_all(choices))
        await engine.drain(0.1)
        with pytest.raises(Draining):
            await reading
        stream = engine.open_stream(request(5))
        with pytest.raises(Draining):
            await anext(stream)
        await until(lambda: engine.streams == 0)


async def test_a_drain_waits_for_a_text_that_is_scored_in_pieces():
    async with running() as engine:
        scorer = Scorer(engine, TOKENIZER)
        draining = None
        async for _ in scorer.read("abcdefg" * 1_500):
            draining = draining or asyncio.create_task(engine.drain(60.0))
        assert scorer.score.characters == 7 * 1_500 - 1
        scorer.cancel()
        await asyncio.wait_for(draining, 10)
