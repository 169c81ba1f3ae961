import asyncio
import contextlib
import dataclasses
import random
import threading
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import psutil
import pytest

from service.errors import Draining, GenerationFailed, Overloaded
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.request import FinishReason, GenerationRequest, SamplingParams
from service.generation.sampling import MAX_STEPS
from service.models.step import Batch
from service.models.tokenizers.characters import CharacterTokenizer
from tests.fakes.digest_program import DigestProgram
from tests.generation.invariance import Transcript

TOKENIZER = CharacterTokenizer("abcdefg")


def request(
    n: int, seed: int = 1, prompt: tuple[int, ...] = (1, 2), **options
) -> GenerationRequest:
    return GenerationRequest(prompt, n, SamplingParams(seed=seed), **options)


async def read(stream) -> Transcript:
    transcript = Transcript()
    async for chunk in stream:
        transcript.add(chunk)
    return transcript


@contextlib.asynccontextmanager
async def running(program=None, **limits) -> AsyncIterator[Engine]:
    config = EngineConfig(**limits)
    engine = Engine(program or DigestProgram(), TOKENIZER, config, name="test")
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition, at most until the time limit of the test."""
    while not is_so():  # noqa: ASYNC110 (there is no event for what is waited for)
        await asyncio.sleep(0.001)


async def test_a_stream_ends_with_its_reason_and_its_count():
    async with running() as engine:
        seen = await read(engine.submit(request(50)))
        assert len(seen.tokens) == len(seen.logprobs) == 50
        assert seen.finish.reason is FinishReason.LENGTH
        assert seen.finish.generated_tokens == 50


async def test_a_lone_streams_first_chunk_is_one_token():
    async with running() as engine:
        chunk = await anext(engine.submit(request(500)))
        assert len(chunk.tokens) == 1


async def test_a_short_text_that_is_read_as_a_whole_is_one_burst():
    async with running() as engine:
        whole = await read(engine.submit(request(16, is_whole=True)))
        assert engine.stats.rows.count == 1
        assert whole == await read(engine.submit(request(16)))
        assert engine.stats.rows.count > 2
        stopped = engine.submit(request(MAX_STEPS, is_whole=True, stop=("no such text",)))
        assert len((await read(stopped)).tokens) == MAX_STEPS


class ThreadsProgram(DigestProgram):
    """Notes which threads take its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def step(self, batch: Batch, rows: int) -> None:
        self.threads.append(threading.get_ident())
        super().step(batch, rows)


@pytest.mark.parametrize(("limit_s", "is_here"), [(10.0, True), (0.0, False)])
@pytest.mark.parametrize("n", [1, 3, 20])
async def test_short_bursts_are_computed_by_the_event_loop(limit_s, is_here, n):
    async with running(program := ThreadsProgram(), loop_burst_s=limit_s) as engine:
        await asyncio.sleep(0.05)  # the thread waits
        for is_whole in (True, False):
            program.threads.clear()
            requests = [request(8 + seed, seed, is_whole=is_whole) for seed in range(n)]
            found = await asyncio.gather(*(read(engine.submit(one)) for one in requests))
            assert [len(one.tokens) for one in found] == [8 + seed for seed in range(n)]
            assert (set(program.threads) == {threading.get_ident()}) is is_here
            await until(lambda: engine.running == engine.waiting == 0)


class TimedProgram(ThreadsProgram):
    def step(self, batch: Batch, rows: int) -> None:
        time.sleep(0.001)
        super().step(batch, rows)


async def test_what_takes_long_as_a_whole_is_the_threads_after_its_first_burst():
    async with running(program := TimedProgram(), loop_burst_s=0.5) as engine:
        await asyncio.sleep(0.05)  # the thread waits
        program.threads.clear()
        stream = aiter(engine.submit(request(5000)))
        await anext(stream)
        assert set(program.threads) == {threading.get_ident()}
        before = len(program.threads)
        for _ in range(3):
            await anext(stream)
        assert threading.get_ident() not in program.threads[before:]
        stream.cancel()


async def test_between_two_bursts_the_event_loop_does_what_else_there_is():
    async with running(TimedProgram(), loop_burst_s=10.0) as engine:
        await asyncio.sleep(0.05)  # the thread waits
        stream, passes = engine.submit(request(200)), 0
        reading = asyncio.create_task(read(stream))
        while not reading.done():
            passes += 1
            await asyncio.sleep(0)
        assert passes > 7, "a burst for each of 1, 2, 4 … 32 steps, and more of those"


async def test_a_failure_of_a_burst_in_the_event_loop_ends_the_stream():
    program = ThreadsProgram()
    async with running(program, loop_burst_s=10.0) as engine:
        await read(engine.submit(request(8, is_whole=True)))
        await asyncio.sleep(0.05)
        program.threads = None  # type: ignore[assignment]  # its step raises
        with pytest.raises(GenerationFailed):
            await read(engine.submit(request(8, is_whole=True)))
        with pytest.raises(GenerationFailed):
            engine.submit(request(8))


async def test_requests_that_arrive_together_begin_in_one_burst():
    async with running() as engine:
        streams = []
        for seed in range(5):
            streams.append(engine.submit(request(8, seed)))
            time.sleep(0.01)  # noqa: ASYNC251 (a thread that was woken would begin)
        await asyncio.gather(*map(read, streams))
        assert engine.stats.rows.sum == 5 * engine.stats.rows.count


async def test_a_stop_string_is_never_shown_not_even_half():
    async with running() as engine:
        text = TOKENIZER.decode((await read(engine.submit(request(60)))).tokens)
        stop = text[20:23]
        seen = await read(engine.submit(request(60, stop=(stop,))))
        assert seen.finish.reason is FinishReason.STOP_SEQUENCE
        assert TOKENIZER.decode(seen.tokens) == text[: text.index(stop)]
        assert TOKENIZER.text_of(seen.finish.stop_token.id) == stop[-1]


async def test_a_full_queue_refuses_at_once_and_recovers():
    async with running(max_rows=2, queue_limit=3) as engine:
        streams = [engine.submit(request(10**6, seed)) for seed in range(2)]
        await until(lambda: engine.waiting == 0)
        streams += [engine.submit(request(10**6, seed)) for seed in range(3)]
        with pytest.raises(
            Overloaded, match="3 wait or have reserved capacity; 1 more would exceed the limit of 3"
        ):
            engine.submit(request(1))
        for stream in streams:
            stream.cancel()
        assert len((await read(engine.submit(request(5)))).tokens) == 5


async def test_streams_opened_and_dropped_at_random_leave_nothing_behind():
    dice = random.Random(4)
    async with running(max_rows=16, queue_limit=2_000) as engine:

        async def visit(seed: int) -> None:
            stream = engine.submit(request(10**6, seed, prompt=tuple(range(dice.randint(1, 7)))))
            try:
                for _ in range(dice.randint(0, 3)):
                    await asyncio.wait_for(anext(stream), 0.01)
            except TimeoutError:
                pass
            finally:
                stream.cancel()

        before = len(asyncio.all_tasks())
        for _ in range(10):
            await asyncio.gather(*(visit(seed) for seed in range(100)))
        await until(lambda: engine.running == 0)
        assert engine.waiting == engine.streams == 0
        assert len(asyncio.all_tasks()) == before


async def test_cancelling_a_task_frees_its_row():
    async with running() as engine:
        stream = engine.submit(request(10**6))

        async def reader() -> None:
            try:
                await read(stream)
            finally:
                stream.cancel()

        task = asyncio.create_task(reader())
        await until(lambda: engine.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: engine.running == 0)


async def test_a_stream_pauses_while_its_reader_is_behind():
    async with running(backlog_limit=200) as engine:
        slow, quick = engine.submit(request(8_000, 1)), engine.submit(request(8_000, 2))
        assert len((await read(quick)).tokens) == 8_000
        assert slow._backlog <= 200 + 32 * MAX_STEPS  # the bursts until it was told to pause
        assert len((await read(slow)).tokens) == 8_000


class Poisoned(DigestProgram):
    """A network whose logits are NaN after one token."""

    def step(self, batch: Batch, rows: int) -> None:
        poisoned = batch.tokens[:rows] == 6
        super().step(batch, rows)
        batch.logits[:rows][poisoned] = np.nan


async def test_the_engine_is_few_bursts_ahead_of_an_event_loop_that_is_busy():
    async with running(bursts_ahead=2, max_row_steps=8) as engine:
        stream = engine.submit(request(1_000_000))
        await anext(aiter(stream))
        before = engine.stats.generated_tokens
        time.sleep(0.3)  # noqa: ASYNC251 (the event loop is busy)
        assert engine.stats.generated_tokens - before <= 3 * MAX_STEPS
        await until(lambda: engine.stats.generated_tokens - before > 10 * MAX_STEPS)
        stream.cancel()


async def test_the_engine_is_one_burst_ahead_where_an_owner_with_fewer_rows_may_come():
    limits = {"bursts_ahead": 4, "shared_rows": 2, "shared_row_steps": 8, "max_row_steps": 8}
    async with running(**limits) as engine:
        greedy = [engine.submit(request(1_000_000, owner="greedy")) for _ in range(6)]
        await read(engine.submit(request(50, owner="polite")))
        for stream in greedy:
            await anext(aiter(stream))
        before = engine.stats.generated_tokens
        time.sleep(0.3)  # noqa: ASYNC251 (the event loop is busy)
        # One more runs, and what it has computed was there before it was counted.
        assert engine.stats.generated_tokens - before <= 2 * limits["shared_row_steps"]
        await until(lambda: engine.stats.generated_tokens - before > 100)
        for stream in greedy:
            stream.cancel()


class SlowProgram(DigestProgram):
    def step(self, batch: Batch, rows: int) -> None:
        time.sleep(0.02)
        super().step(batch, rows)


async def test_what_the_thread_has_computed_comes_before_a_burst_of_the_event_loop():
    async with running(loop_burst_s=10.0) as engine:
        expected = await read(engine.submit(request(12, seed=5)))
    async with running(SlowProgram(), loop_burst_s=10.0) as engine:
        await read(engine.submit(request(1)))  # so that a step's time is known
        for _ in range(3):
            first = engine.submit(request(40))
            await anext(aiter(first))
            first.cancel()
            stream = engine.submit(request(12, seed=5))
            time.sleep(1.5)  # noqa: ASYNC251 (the thread goes on meanwhile)
            assert (await read(stream)).tokens == expected.tokens


async def test_logits_that_are_not_finite_fail_their_own_stream_alone():
    async with running(Poisoned()) as engine:
        mask = ((6, -100.0),)
        healthy = GenerationRequest((1,), 300, SamplingParams(seed=1, logit_bias=mask))
        well = asyncio.create_task(read(engine.submit(healthy)))
        with pytest.raises(GenerationFailed, match="not finite"):
            await read(engine.submit(request(300, prompt=(1, 6))))
        assert len((await well).tokens) == 300


@pytest.mark.parametrize("where", ["prompt", "penalty_context", "forced_tokens"])
async def test_a_token_that_the_model_does_not_have_fails_its_own_stream_alone(where):
    async with running() as engine:
        well = asyncio.create_task(read(engine.submit(request(300))))
        foreign = dataclasses.replace(request(9), **{where: (1, DigestProgram().vocabulary_size)})
        with pytest.raises(GenerationFailed, match="does not have"):
            await read(engine.submit(foreign))
        assert len((await well).tokens) == 300
        assert engine.failure is None


async def test_an_empty_prompt_fails_its_own_stream_alone():
    async with running() as engine:
        well = asyncio.create_task(read(engine.submit(request(300))))
        with pytest.raises(GenerationFailed, match="after one token at least"):
            await read(engine.submit(request(9, prompt=())))
        assert len((await well).tokens) == 300
        assert engine.failure is None


class Broken(DigestProgram):
    """A device that fails after some steps."""

    steps = 0

    def step(self, batch: Batch, rows: int) -> None:
        self.steps += 1
        if self.steps > 20:
            raise RuntimeError("the device is gone")
        super().step(batch, rows)


async def test_an_engine_that_fails_ends_every_stream_and_accepts_no_more():
    async with running(Broken()) as engine:
        for error in await asyncio.gather(
            *(read(engine.submit(request(10**6, seed))) for seed in range(3)),
            return_exceptions=True,
        ):
            assert isinstance(error, GenerationFailed)
        with pytest.raises(GenerationFailed, match="restarted"):
            engine.submit(request(1))
        assert engine.failure is not None


async def test_a_draining_engine_lets_streams_end_until_its_deadline():
    async with running() as engine:
        short, endless = engine.submit(request(200)), engine.submit(request(10**9))
        draining = asyncio.create_task(engine.drain(2.0))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            engine.submit(request(1))
        endless_read = asyncio.create_task(read(endless))
        assert len((await read(short)).tokens) == 200
        with pytest.raises(Draining, match="before the generation was complete"):
            await endless_read
        await draining
        assert engine.streams == 0


async def test_a_draining_engine_without_streams_is_done_at_once():
    async with running() as engine:
        await asyncio.wait_for(engine.drain(60.0), 5.0)


@pytest.mark.slow
async def test_a_million_characters_leave_memory_flat():
    async with running() as engine:
        process = psutil.Process()

        async def use(n: int) -> int:
            for _ in range(n):
                await asyncio.gather(*(read(engine.submit(request(1_000, s))) for s in range(25)))
            return process.memory_info().rss

        before = await use(10)  # 250,000 characters to warm up
        after = await use(40)
        assert after - before < 8 * 1024 * 1024
