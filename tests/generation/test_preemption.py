"""Rows of a full table give way to what waits, and their generations go on as if they had not."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Overloaded
from service.generation.config import EngineConfig
from service.generation.fair_queue import FairQueue
from service.generation.preemption import rows_to_preempt
from service.generation.request import GenerationRequest, SamplingParams
from service.generation.scheduler import Scheduler
from service.generation.table import SlotTable
from tests.fakes.digest_program import DigestProgram
from tests.generation.invariance import Stage
from tests.generation.strategies import requests
from tests.generation.test_engine import read, request, running, until

TEXTS = "abcdefg"
ROWS, SLICE = 8, 16
CONFIG = EngineConfig(max_rows=ROWS, queue_limit=1_000, slice_steps=SLICE, max_row_steps=4 * ROWS)
ENDLESS = 10**6


def endless(owner: str = "", seed: int = 0) -> GenerationRequest:
    return GenerationRequest((1, 2), ENDLESS, SamplingParams(seed), owner=owner)


def bursts_until_over(stage: Stage, key: int) -> int:
    n = 0
    while stage.seen[key].finish is None:
        assert stage.work()
        n += 1
        assert n < 1_000, "the request starves"
    return n


@pytest.mark.parametrize("owner", ["", "polite"])
@pytest.mark.parametrize("n_greedy", [ROWS, 2 * ROWS, 32 * ROWS])
def test_a_short_request_begins_soon_beside_endless_ones(owner, n_greedy):
    stage = Stage(DigestProgram(), TEXTS, config=CONFIG)
    for i in range(n_greedy):
        stage.submit(endless(seed=i))
    for _ in range(20):
        stage.work()
    key = stage.submit(GenerationRequest((1, 2, 3), 5, SamplingParams(7), owner=owner))
    n = bursts_until_over(stage, key)
    if owner:  # a place of its own in the line: it does not matter how many others wait
        assert n <= 6
    else:  # in its owner's line: each before it gets one slice
        assert n <= (n_greedy / ROWS + 2) * SLICE


def test_owners_share_the_rows_whatever_the_numbers_of_their_requests():
    stage = Stage(DigestProgram(), TEXTS, config=CONFIG)
    greedy = [stage.submit(endless("greedy", i)) for i in range(100)]
    for _ in range(20):
        stage.work()
    polite = [stage.submit(endless("polite", i)) for i in range(ROWS)]
    n_before = sum(len(stage.seen[key].tokens) for key in greedy)
    for _ in range(400):
        stage.work()
    n_greedy = sum(len(stage.seen[key].tokens) for key in greedy) - n_before
    n_polite = sum(len(stage.seen[key].tokens) for key in polite)
    assert 0.8 <= n_greedy / n_polite <= 1.25
    assert min(len(stage.seen[key].tokens) for key in polite) > 0
    assert min(len(stage.seen[key].tokens) for key in greedy) > 0


def test_requests_of_one_owner_get_slices_by_turns():
    stage = Stage(DigestProgram(), TEXTS, config=CONFIG)
    keys = [stage.submit(endless(seed=i)) for i in range(3 * ROWS)]
    for _ in range(600):
        stage.work()
    lengths = [len(stage.seen[key].tokens) for key in keys]
    assert max(lengths) - min(lengths) <= 4 * SLICE


class Counting(SlotTable):
    """Counts the changes of the table."""

    preempted = 0

    def preempt(self, change):
        type(self).preempted += 1
        super().preempt(change)


def test_nothing_is_preempted_while_nobody_waits():
    class Own(Counting):
        preempted = 0

    stage = Stage(DigestProgram(), TEXTS, Own, config=CONFIG)
    for i in range(ROWS):
        stage.submit(replace(endless(seed=i), max_new_tokens=10 * SLICE))
    stage.work_to_the_end()
    assert Own.preempted == 0


@settings(max_examples=100, deadline=None)
@given(
    asked=st.lists(requests(len(TEXTS), TEXTS), min_size=2, max_size=8),
    slice_steps=st.integers(1, 5),
)
def test_a_preempted_generation_equals_the_one_alone(asked, slice_steps):
    class Own(Counting):
        preempted = 0

    config = EngineConfig(max_rows=1, queue_limit=100, slice_steps=slice_steps, max_row_steps=2)
    stage = Stage(DigestProgram(), TEXTS, Own, config=config)
    asked = [replace(one, stop=(), return_state=True) for one in asked]
    for one in asked:
        stage.submit(one)
    stage.work_to_the_end()
    for key, one in enumerate(asked):
        alone = Stage(DigestProgram(), TEXTS)
        alone.submit(one)
        alone.work_to_the_end()
        seen, own = stage.seen[key], alone.seen[0]
        assert seen == own
        assert sum(seen.logprobs) == sum(own.logprobs)
        assert seen.state is not None
        assert own.state is not None
        assert seen.state.position == own.state.position
        for a, b in zip(seen.state.arrays, own.state.arrays, strict=True):
            assert a.tobytes() == b.tobytes()
    if sum(len(one.prompt) + one.max_new_tokens > 30 for one in asked) > 1:
        assert Own.preempted


def test_a_row_whose_reader_is_behind_gives_way_and_waits_for_it():
    stage = Stage(DigestProgram(), TEXTS, config=CONFIG)
    readers = [stage.submit(endless(seed=i)) for i in range(ROWS)]
    stage.work()
    for key in readers:
        stage.scheduler.pause(key)
    late = stage.submit(GenerationRequest((1, 2, 3), 5, SamplingParams(7)))
    assert bursts_until_over(stage, late) <= 8
    n = len(stage.seen[0].tokens)
    stage.work()  # the row is freed
    assert not stage.work()  # nobody reads
    for key in readers:
        stage.scheduler.resume(key)
    for _ in range(4):
        stage.work()
    assert all(len(stage.seen[key].tokens) > n for key in readers)


def preempted_stage() -> tuple[Stage, int, int]:
    """One row and two endless requests, the first of which is preempted."""
    stage = Stage(DigestProgram(), TEXTS, config=replace(CONFIG, max_rows=1))
    first, second = stage.submit(endless(seed=1)), stage.submit(endless(seed=2))
    while not stage.seen[second].tokens:
        stage.work()
    return stage, first, second


def test_a_preempted_generation_can_be_cancelled():
    stage, first, second = preempted_stage()
    n = len(stage.seen[first].tokens)
    stage.scheduler.cancel(first)
    assert stage.scheduler.waiting == 0
    for _ in range(50):
        stage.work()
    assert len(stage.seen[first].tokens) == n
    stage.scheduler.cancel(second)
    stage.work()
    assert (stage.scheduler.rows, stage.scheduler.waiting) == (0, 0)


def test_a_preempted_generation_ends_at_its_deadline_with_what_it_has():
    stage, first, _ = preempted_stage()
    progress = stage.scheduler.finish(first)
    assert progress is not None
    assert progress.chunk.finish is not None
    assert progress.chunk.finish.generated_tokens == len(stage.seen[first].tokens)
    assert stage.scheduler.finish(first) is None
    assert stage.scheduler.waiting == 0


def test_a_preempted_generation_that_is_paused_waits_until_it_is_resumed():
    stage, first, second = preempted_stage()
    n = len(stage.seen[first].tokens)
    stage.scheduler.pause(first)
    for _ in range(50):
        stage.work()
    assert len(stage.seen[first].tokens) == n
    stage.scheduler.resume(first)
    for _ in range(50):
        stage.work()
    assert len(stage.seen[first].tokens) > n
    assert len(stage.seen[second].tokens) > n


def test_readers_that_are_behind_take_no_place_in_the_queue():
    stage = Stage(DigestProgram(), TEXTS, config=replace(CONFIG, max_rows=1, queue_limit=2))
    for seed in range(20):
        stage.scheduler.check_capacity()
        key = stage.submit(endless(seed=seed))
        while not stage.seen[key].tokens:
            stage.work()
        stage.scheduler.pause(key)
    stage.work()
    assert stage.scheduler.waiting == 0
    for key in range(20):
        stage.scheduler.resume(key)
    stage.work()
    assert stage.scheduler.waiting == 19
    with pytest.raises(Overloaded):
        stage.scheduler.check_capacity()


def test_a_full_queue_still_admits_an_owner_with_less_than_its_part():
    scheduler = Scheduler(TEXTS, replace(CONFIG, queue_limit=10))
    for k in range(10):
        scheduler.check_capacity(1, "greedy")
        scheduler.submit(k, endless("greedy"))
    with pytest.raises(Overloaded):
        scheduler.check_capacity(1, "greedy")
    for k in range(5):
        scheduler.check_capacity(1, "polite")
        scheduler.submit(100 + k, endless("polite"))
    with pytest.raises(Overloaded):
        scheduler.check_capacity(1, "polite")
    for k in range(20):
        try:
            scheduler.check_capacity(1, f"crowd {k}")
        except Overloaded:
            break
        scheduler.submit(200 + k, endless(f"crowd {k}"))
    assert scheduler.waiting <= 20


@given(
    owners=st.lists(st.sampled_from("abc"), min_size=1, max_size=12),
    steps=st.lists(st.integers(0, 40), min_size=12, max_size=12),
    line=st.lists(st.sampled_from("abcd"), max_size=20),
    data=st.data(),
)
def test_no_row_gives_way_without_need(owners, steps, line, data):
    class Row:
        def __init__(self, owner: str, slice_steps: int) -> None:
            self.owner, self.slice_steps = owner, slice_steps

    rows = [Row(*one) for one in zip(owners, steps, strict=False)]
    queue = FairQueue()
    for i, owner in enumerate(line):
        queue.push(owner, i)
    n_running, max_rows = (
        data.draw(st.integers(0, len(rows))),
        data.draw(st.integers(len(rows), 14)),
    )
    config = replace(CONFIG, max_rows=max_rows)
    chosen = rows_to_preempt(rows, n_running, queue, config)
    assert chosen == sorted(set(chosen), reverse=True)
    assert len(chosen) <= max(0, len(line) - (max_rows - len(rows)))
    share = max_rows // len({*owners, *line})
    for i in chosen:
        is_spent = rows[i].slice_steps >= SLICE
        assert i >= n_running or is_spent or owners.count(rows[i].owner) > share


async def test_a_request_begins_beside_endless_streams_of_the_same_engine():
    async with running(max_rows=4) as engine:
        greedy = [engine.submit(request(ENDLESS, seed=i)) for i in range(16)]
        await until(lambda: engine.running == 4)
        seen = await asyncio.wait_for(read(engine.submit(request(5))), 60)
        assert len(seen.tokens) == 5
        alone = await asyncio.wait_for(read(engine.submit(request(5))), 60)
        assert alone.tokens == seen.tokens
        for stream in greedy:
            stream.cancel()
