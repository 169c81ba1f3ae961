"""Beam searches in an engine: their thread, their queue, their ends."""

import asyncio
import dataclasses
import threading

import numpy as np
import pytest

from service.constraints.compiler import compile_constraint
from service.constraints.spec import choice
from service.errors import Draining, GenerationFailed, Overloaded
from service.generation.beams import BeamParams
from service.generation.completions import BeamSearch, start
from service.generation.config import EngineConfig
from service.generation.request import GenerationRequest, SamplingParams
from service.models.step import Batch
from tests.fakes.digest_program import DigestProgram
from tests.generation.beam_oracle import Rules, oracle, reread
from tests.generation.invariance import Transcript
from tests.generation.test_completions import read_all
from tests.generation.test_engine import TOKENIZER, Poisoned, read, request, running, until

PROMPT = (1, 2, 3, 4, 5)
TEXTS = "abcdefg"
ENDLESS = 10**6
MAX_SEARCHES = EngineConfig().max_beam_searches


def beams(engine, n_tokens: int, width: int = 4, n: int = 1, prompt=PROMPT, **more) -> BeamSearch:
    asked = GenerationRequest(prompt, n_tokens, SamplingParams(seed=0, temperature=0.0), **more)
    return start(engine, [asked], beams=BeamParams(width, n))


async def exhaust(reading) -> None:
    async for _ in reading:
        pass


def is_idle(engine) -> bool:
    threads = [engine.beam_worker._queue, engine.beam_worker._admitted]
    return engine.running == engine.waiting == engine.streams == 0 and not any(threads)


@pytest.mark.parametrize("prompt", [PROMPT, (3,)])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_search_equals_its_definition(prompt, n):
    async with running() as engine:
        seen = await read_all(beams(engine, 9, 3, n, prompt=prompt, stop=("ab", "c")))
        found = oracle(reread(DigestProgram()), prompt, Rules(TEXTS, 9, 3, n, 1.0, ("ab", "c")))
        assert [tuple(seen[i].tokens) for i in range(n)] == [one.shown for one in found]
        assert [tuple(seen[i].sampled) for i in range(n)] == [one.sampled for one in found]
        await until(lambda: is_idle(engine))


async def test_a_search_continues_a_state():
    async with running() as engine:
        whole = await read_all(beams(engine, 20))
        fed = dataclasses.replace(request(0, prompt=PROMPT[:4]), return_state=True)
        state = (await read(engine.submit(fed))).state
        seen = await read_all(beams(engine, 20, prompt=PROMPT[3:], initial_state=state))
        assert seen == whole


async def test_a_width_of_one_equals_greedy_decoding_bit_for_bit():
    async with running() as engine:
        sampling = SamplingParams(seed=0, temperature=0.0)
        asked = GenerationRequest(PROMPT, 300, sampling, top_tokens=3)
        greedy = await read(engine.submit(asked))
        assert await read_all(beams(engine, 300, 1, top_tokens=3)) == {0: greedy}


async def test_prompt_logprobs_are_returned_with_beams():
    async with running() as engine:
        asked = request(3, prompt=PROMPT)
        found = start(engine, [asked], prompt_logprobs=2, beams=BeamParams(2))
        await read_all(found)
        scored = found.prompt_logprobs(0)
        assert [len(top) for top in scored.top_tokens] == [0, 2, 2, 2, 2]
        assert scored.logprobs[0] is None
        assert len(scored.logprobs) == 5


async def test_a_single_completion_comes_as_it_becomes_certain():
    async with running() as engine:
        chunks = [chunk async for _, chunk in beams(engine, 500)]
        assert len(chunks) > 10
        assert len(chunks[0].tokens) < 50
        assert all(chunk.tokens for chunk in chunks)


async def test_a_constraint_with_few_texts_gives_fewer_completions():
    constraint = compile_constraint(choice(["ab", "c"]), TEXTS)
    async with running() as engine:
        seen = await read_all(beams(engine, 5, 4, 4, constraint=constraint))
        assert sorted(TOKENIZER.decode(one.tokens) for one in seen.values()) == ["ab", "c"]


async def test_other_streams_do_not_change_beside_a_search():
    async with running() as engine:
        alone = [await read(engine.submit(request(2_000, seed))) for seed in range(3)]
        found = [beams(engine, ENDLESS, 10) for _ in range(3)]
        readers = [asyncio.create_task(read_all(one)) for one in found]
        company = [engine.submit(request(2_000, seed)) for seed in range(3)]
        assert await asyncio.gather(*map(read, company)) == alone
        for one in found:
            one.cancel()
        await asyncio.gather(*readers)
        await until(lambda: is_idle(engine))


@pytest.mark.parametrize("n", [1, 2])
async def test_a_cancelled_search_ends(n):
    async with running() as engine:
        found = beams(engine, ENDLESS, n=n)
        task = asyncio.create_task(read_all(found))
        await until(lambda: engine.streams == engine.running == 1)  # its prompt is processed
        found.cancel()
        await task
        await until(lambda: is_idle(engine))
        assert await read_all(beams(engine, 5)) == await read_all(beams(engine, 5))


async def test_a_search_cancelled_before_it_is_read_leaves_nothing():
    async with running() as engine:
        found = beams(engine, ENDLESS, prompt=PROMPT * 1_000)
        found.cancel()
        assert await read_all(found) == {}
        await until(lambda: is_idle(engine))


async def test_short_searches_pass_long_ones():
    async with running() as engine:
        long = [beams(engine, ENDLESS) for _ in range(MAX_SEARCHES - 1)]
        tasks = [asyncio.create_task(read_all(one)) for one in long]
        for _ in range(3):
            await read_all(beams(engine, 40))
        for one in long:
            one.cancel()
        await asyncio.gather(*tasks)


async def test_only_some_searches_run_at_a_time():
    made = []

    class Counted(DigestProgram):
        def new_batch(self, capacity: int) -> Batch:
            made.append(threading.current_thread().name)
            return super().new_batch(capacity)

    async with running(Counted()) as engine:
        found = [beams(engine, ENDLESS) for _ in range(2 * MAX_SEARCHES)]
        tasks = [asyncio.create_task(read_all(one)) for one in found]
        await until(lambda: made.count("beams-test") == MAX_SEARCHES)
        await asyncio.sleep(0.2)
        assert made.count("beams-test") == MAX_SEARCHES
        assert (engine.running, engine.waiting) == (MAX_SEARCHES, MAX_SEARCHES)
        for one in found:
            one.cancel()
        await asyncio.gather(*tasks)
        await until(lambda: is_idle(engine))


async def test_too_many_searches_are_refused_and_places_become_free():
    async with running(beam_search_limit=3) as engine:
        found = [beams(engine, ENDLESS) for _ in range(3)]
        with pytest.raises(Overloaded, match="3 beam searches run or wait, which is the limit"):
            beams(engine, 1)
        assert engine.streams == 6  # and the prompts that are fed: nothing of the refused one
        found[0].cancel()
        assert len((await read_all(beams(engine, 7)))[0].tokens) == 7
        for one in found:
            one.cancel()
        await until(lambda: is_idle(engine))


async def test_a_drain_waits_for_a_search_until_its_deadline():
    async with running() as engine:
        short = asyncio.create_task(read_all(beams(engine, 300, prompt=PROMPT * 100)))
        endless = asyncio.create_task(read_all(beams(engine, ENDLESS)))
        await asyncio.sleep(0)
        draining = asyncio.create_task(engine.drain(2.0))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            beams(engine, 1)
        assert len((await short)[0].tokens) == 300
        assert not draining.done()
        with pytest.raises(Draining, match="before the generation was complete"):
            await endless
        await draining
        await until(lambda: is_idle(engine))


async def test_a_drain_ends_with_the_last_search():
    async with running() as engine:
        task = asyncio.create_task(read_all(beams(engine, 50)))
        await asyncio.sleep(0)
        await asyncio.wait_for(engine.drain(60.0), 10.0)
        assert len((await task)[0].tokens) == 50


async def test_closing_the_engine_ends_a_search_with_draining():
    async with running() as engine:
        reading = aiter(beams(engine, ENDLESS))
        await anext(reading)
        engine.close()
        with pytest.raises(Draining, match="closed before"):
            await exhaust(reading)
        assert not engine.beam_worker._thread.is_alive()


class PoisonedLater(DigestProgram):
    """A network whose logits become NaN in the fourth step of a batch with several rows."""

    steps = 0

    def step(self, batch: Batch, rows: int) -> None:
        super().step(batch, rows)
        if rows > 1:
            self.steps += 1
            if self.steps == 4:
                batch.logits[rows - 1] = np.nan


async def test_logits_that_are_not_finite_fail_their_own_search_alone():
    async with running(PoisonedLater()) as engine:
        with pytest.raises(GenerationFailed, match="not finite"):
            await read_all(beams(engine, 50))
        assert engine.failure is None
        assert len((await read_all(beams(engine, 50)))[0].tokens) == 50
    async with running(Poisoned()) as engine:
        with pytest.raises(GenerationFailed, match="not finite"):
            await read_all(beams(engine, 50, prompt=(1, 6)))
        await until(lambda: is_idle(engine))


class Broken(DigestProgram):
    """A device that fails in the middle of a search."""

    def step(self, batch: Batch, rows: int) -> None:
        if threading.current_thread().name.startswith("beams"):
            raise RuntimeError("the device is gone")
        super().step(batch, rows)


async def test_a_search_that_fails_raises_in_its_own_stream_alone():
    async with running(Broken()) as engine:
        with pytest.raises(GenerationFailed, match="has failed"):
            await read_all(beams(engine, 50))
        assert isinstance(await read(engine.submit(request(50))), Transcript)
        await until(lambda: is_idle(engine))


async def test_an_engine_that_fails_ends_searches_too():
    class BrokenEngine(DigestProgram):
        is_broken = False

        def step(self, batch: Batch, rows: int) -> None:
            if self.is_broken and not threading.current_thread().name.startswith("beams"):
                raise RuntimeError("the device is gone")
            super().step(batch, rows)

    program = BrokenEngine()
    async with running(program) as engine:
        reading = aiter(beams(engine, ENDLESS))
        await anext(reading)
        program.is_broken = True
        with pytest.raises(GenerationFailed):
            await read(engine.submit(request(50)))
        with pytest.raises(GenerationFailed, match="restarted"):
            await exhaust(reading)
        with pytest.raises(GenerationFailed, match="restarted"):
            beams(engine, 1)
