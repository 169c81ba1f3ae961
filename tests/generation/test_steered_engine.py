"""The steered engine: made once, dropped when it is idle, and counted in the budget."""

import asyncio
import gc
import time
import weakref
from functools import partial

import pytest

from service.errors import BadCheckpoint, Draining, MemoryBudgetExceeded
from service.generation.config import EngineConfig
from service.generation.engine import Engine
from service.generation.prefix_cache import PrefixCache, ScopedPrefixCache
from service.generation.request import GenerationRequest, SamplingParams
from service.generation.steered_engine import SteeredEngine, SteeredModel
from service.models.bundle import Precision
from service.models.memory_budget import MemoryBudget
from service.models.program import OnnxProgram
from service.models.steered_program import SteeredProgram
from service.models.steering import SteeredCell, SteerOp
from service.models.tokenizers.characters import CharacterTokenizer
from tests.models.networks import SPECS, random_weights

SIZE = 1_000
TOKENIZER = CharacterTokenizer("abcdefghijklmnopq")
MODEL = SPECS["lstm"], random_weights(SPECS["lstm"]), Precision.FLOAT32
STEER = (SteeredCell(0, 3, "c", SteerOp.SET, 9.0),)
REQUEST = GenerationRequest((1, 2, 3), 40, SamplingParams(5), steer=STEER)


class Makes:
    """Makes steered models, and counts them."""

    n = 0

    def __call__(self) -> SteeredModel:
        self.n += 1
        time.sleep(0.05)  # so that requests meet it while it is being made
        program = SteeredProgram(*MODEL)
        engine = Engine(program, TOKENIZER, EngineConfig(), name="steered")
        return SteeredModel(
            engine, program, ScopedPrefixCache(PrefixCache(0), b""), has_same_bytes=True
        )


async def read(engine: Engine, request: GenerationRequest = REQUEST) -> list[int]:
    return [token async for chunk in engine.submit(request) for token in chunk.tokens]


async def until(is_so) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 (a number of bytes has no event)
            await asyncio.sleep(0.01)


async def test_it_is_made_once_and_dropped_when_nobody_has_used_it():
    budget, make = MemoryBudget(10 * SIZE), Makes()
    steered = SteeredEngine(make, SIZE, budget, idle_s=0.2)
    assert steered.engine is None
    assert budget.used_bytes == 0
    made = await asyncio.gather(*(steered.acquire() for _ in range(5)))
    assert len({id(one.engine) for one in made}) == make.n == 1
    assert budget.used_bytes == SIZE
    assert len(await read(made[0].engine)) == 40
    await until(lambda: budget.used_bytes == 0)
    assert steered.engine is None
    assert not budget.idle
    again = await steered.acquire()
    assert make.n == 2
    assert await read(again.engine)
    await steered.drain(1.0)
    assert budget.used_bytes == 0


async def test_another_model_gets_the_room_of_one_that_is_idle_and_not_of_one_in_use():
    budget, make = MemoryBudget(SIZE), Makes()
    steered, other = (SteeredEngine(make, SIZE, budget) for _ in range(2))
    made = await steered.acquire()
    with pytest.raises(MemoryBudgetExceeded, match="steering needs a second program"):
        await other.acquire()
    long = GenerationRequest((1,), 200_000, SamplingParams(5), steer=STEER)
    stream = made.engine.submit(long)
    assert not budget.reclaim()
    stream.cancel()
    await until(budget.reclaim)
    await until(lambda: budget.used_bytes == 0)
    await other.acquire()
    await other.drain(1.0)


async def test_after_a_drain_there_is_none_and_a_failure_takes_no_room():
    budget = MemoryBudget(SIZE)

    def fail() -> SteeredModel:
        raise OSError("the disk is gone")

    steered = SteeredEngine(fail, SIZE, budget)
    with pytest.raises(BadCheckpoint, match="cannot be compiled"):
        await steered.acquire()
    assert budget.used_bytes == 0
    await steered.drain(1.0)
    with pytest.raises(Draining):
        await steered.acquire()


async def test_nothing_of_it_is_left_when_its_model_has_been_unloaded():
    """Nobody waits for the collector of cycles, which may come much later."""
    served, budget, programs = OnnxProgram(*MODEL), MemoryBudget(SIZE), []

    def make(_served: OnnxProgram) -> SteeredModel:
        program = SteeredProgram(*MODEL)
        programs.append(weakref.ref(program))
        engine = Engine(program, TOKENIZER, EngineConfig(), name="steered")
        return SteeredModel(
            engine, program, ScopedPrefixCache(PrefixCache(0), b""), has_same_bytes=True
        )

    steered = SteeredEngine(partial(make, served), SIZE, budget)
    programs.append(weakref.ref(served))
    gc.disable()
    try:
        assert len(await read((await steered.acquire()).engine)) == 40
        await steered.drain(20.0)
        del steered, served
        await until(lambda: all(program() is None for program in programs))
    finally:
        gc.enable()
    assert len(programs) == 2
    assert budget.used_bytes == 0


async def test_an_engine_that_cannot_steer_fails_a_steered_request_instead_of_ignoring_it():
    engine = Engine(OnnxProgram(*MODEL), TOKENIZER, EngineConfig(), name="plain")
    engine.start()
    with pytest.raises(Exception, match="no steering"):
        await read(engine)
    engine.close()
