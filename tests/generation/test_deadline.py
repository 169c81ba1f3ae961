"""A deadline ends a generation with the tokens it has, without an error, within one burst."""

import asyncio
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.generation.completions import start
from service.generation.request import FinishReason
from service.generation.sampling import MAX_STEPS
from service.models.step import Batch
from tests.fakes.digest_program import DigestProgram
from tests.generation.invariance import Stage, Transcript
from tests.generation.strategies import requests
from tests.generation.test_completions import PROMPT, read_all
from tests.generation.test_engine import TOKENIZER, read, request, running, until

TEXTS = "abcdefg"
STEP_S = 0.002
SPAN_S = 0.15
SLACK_S = 10.0  # of a machine that has much else to do


class Slow(DigestProgram):
    """A slow network."""

    def step(self, batch: Batch, rows: int) -> None:
        time.sleep(STEP_S)
        super().step(batch, rows)


def soon(span_s: float = SPAN_S) -> float:
    return time.time() + span_s


# -- without a clock


def finish(stage: Stage, key: int) -> list[int]:
    """End a generation at its deadline; return the tokens of its last chunk."""
    progress = stage.scheduler.finish(key)
    if progress is None:
        return []
    assert progress.is_last
    stage.seen[key].add(progress.chunk)
    return progress.chunk.tokens


@given(
    asked=st.lists(requests(len(TEXTS), TEXTS), min_size=1, max_size=5),
    bursts=st.integers(0, 9),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_a_generation_that_ends_early_is_a_prefix(asked, bursts, data):
    asked = [replace(one, deadline_s=1.0) for one in asked]
    stage = Stage(DigestProgram(), TEXTS)
    keys = [stage.submit(one) for one in asked]
    for _ in range(bursts):
        stage.work()
    late = data.draw(st.sampled_from(keys))
    if data.draw(st.booleans()):
        stage.scheduler.pause(late)
        stage.work()
    was_over = stage.seen[late].finish is not None
    last = finish(stage, late)
    assert stage.scheduler.finish(late) is None
    stage.scheduler.resume(late)
    stage.work_to_the_end()
    assert stage.scheduler.rows == stage.scheduler.waiting == 0
    for key, one in zip(keys, asked, strict=True):
        alone = Stage(DigestProgram(), TEXTS)
        alone.submit(one)
        alone.work_to_the_end()
        seen, whole = stage.seen[key], alone.seen[0]
        if key != late or was_over:
            assert seen == whole
            continue
        # All that was drawn is shown, what a stop string held back too, and its end has a token.
        assert seen.finish.reason is FinishReason.LENGTH
        assert seen.finish.stop_token is None
        assert seen.tokens == seen.sampled == whole.sampled[: seen.finish.generated_tokens]
        assert len(seen.logprobs) == len(seen.tokens)
        assert bool(last) == bool(seen.tokens)


@given(one=requests(len(TEXTS), TEXTS))
@settings(max_examples=100, deadline=None)
def test_a_deadline_that_is_not_reached_changes_nothing(one):
    said = []
    for deadline_s in (None, 1.0):
        stage = Stage(DigestProgram(), TEXTS)
        stage.submit(replace(one, deadline_s=deadline_s))
        stage.work_to_the_end()
        said.append(stage.seen[0])
    assert said[0] == said[1]


# -- with one


async def timed(stream) -> tuple[Transcript, float]:
    started = time.monotonic()
    return await read(stream), time.monotonic() - started


async def test_a_long_text_ends_in_time_with_its_beginning():
    async with running(Slow()) as engine:
        undisturbed = await read(engine.submit(request(400)))
        asked = request(10**6, deadline_s=soon())
        seen, took_s = await timed(engine.submit(asked))
        assert seen.finish.reason is FinishReason.LENGTH
        assert seen.finish.generated_tokens == len(seen.tokens) == len(seen.sampled)
        assert 0 < len(seen.tokens) <= SPAN_S / STEP_S + MAX_STEPS
        assert seen.tokens == undisturbed.tokens[: len(seen.tokens)]
        assert seen.logprobs == undisturbed.logprobs[: len(seen.tokens)]
        assert SPAN_S * 0.9 < took_s < SPAN_S + MAX_STEPS * STEP_S + SLACK_S
        await until(lambda: engine.running == engine.streams == 0)


async def test_a_deadline_in_the_queue_ends_without_tokens():
    async with running(max_rows=1, slice_steps=10**9, backlog_limit=10**9) as engine:
        first = engine.submit(request(10**7))
        reader = asyncio.create_task(read(first))  # else it would give way to the second
        await until(lambda: engine.running == 1)
        seen, took_s = await timed(engine.submit(request(5, deadline_s=soon())))
        assert seen.tokens == []
        assert (seen.finish.reason, seen.finish.generated_tokens) == (FinishReason.LENGTH, 0)
        assert took_s < SPAN_S + SLACK_S
        assert engine.waiting == 0
        first.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def test_a_deadline_that_is_past_ends_it_before_it_begins():
    async with running() as engine:
        seen = await read(engine.submit(request(5, deadline_s=time.time() - 9)))
        assert (seen.tokens, seen.finish.generated_tokens) == ([], 0)


async def test_a_paused_text_ends_too():
    async with running(backlog_limit=100) as engine:
        stream = engine.submit(request(10**7, deadline_s=soon(0.4)))
        await until(lambda: engine.running == 1)
        await until(lambda: stream._is_paused)
        await until(lambda: engine.running == 0)  # though nobody has read any of it
        seen = await read(stream)
        assert 100 < seen.finish.generated_tokens == len(seen.tokens) < 10**7
        assert seen.finish.reason is FinishReason.LENGTH


async def test_no_deadline_remains_of_finished_or_cancelled_generations():
    async with running() as engine:
        await asyncio.gather(
            *(read(engine.submit(request(50, seed, deadline_s=soon(60)))) for seed in range(20))
        )
        stream = engine.submit(request(10**6, deadline_s=soon(60)))
        await anext(stream)
        stream.cancel()
        await until(lambda: engine.running == 0)
        assert len(engine._deadlines) == 0


# -- several texts


@pytest.mark.parametrize("best_of", [3, 5])
async def test_a_deadline_ends_each_of_several_completions(best_of):
    async with running(Slow()) as engine:
        started = time.monotonic()
        asked = request(10**6, prompt=PROMPT, deadline_s=soon())
        seen = await read_all(start(engine, [asked], n=3, best_of=best_of))
        assert time.monotonic() - started < SPAN_S + best_of * MAX_STEPS * STEP_S + SLACK_S
        assert sorted(seen) == [0, 1, 2]
        for one in seen.values():
            assert one.finish.reason is FinishReason.LENGTH
            assert 0 < len(one.tokens) == one.finish.generated_tokens
        assert len({tuple(one.tokens[:20]) for one in seen.values()}) == 3


@pytest.mark.parametrize("logprobs", [None, 2])
async def test_a_deadline_during_prefill_gives_empty_completions(logprobs):
    async with running(Slow()) as engine:
        prompt = PROMPT * 10_000
        asked = request(5, prompt=prompt, deadline_s=soon())
        choices = start(engine, [asked], n=3, prompt_logprobs=logprobs)
        seen = await read_all(choices)
        assert [len(seen[i].tokens) for i in range(3)] == [0, 0, 0]
        assert {one.finish.reason for one in seen.values()} == {FinishReason.LENGTH}
        if logprobs is not None:
            scored = choices.prompt_logprobs(0)
            assert len(scored.logprobs) == len(scored.top_tokens) == len(prompt)
            assert scored.logprobs[1] is not None
            assert scored.logprobs[-1] is None


async def test_no_completion_begins_in_the_middle_of_its_prompt():
    """The deadline of the prefill passes a little before that of the completions."""
    async with running(Slow()) as engine:
        asked = request(30, prompt=PROMPT * 100)
        choices = start(engine, [replace(asked, deadline_s=soon(0.4))], n=2)
        choices._prefill.request = asked
        seen = await read_all(choices)
        assert seen[0] == await read(engine.submit(asked))


async def test_stop_strings_begin_after_min_new_tokens():
    async with running() as engine:
        text = TOKENIZER.decode((await read(engine.submit(request(60)))).tokens)
        stop = text[20]
        for least in (0, 1, 20, 21, 30):
            seen = await read(engine.submit(request(60, stop=(stop,), min_new_tokens=least)))
            assert TOKENIZER.decode(seen.tokens) == text[: text.index(stop, least)]
