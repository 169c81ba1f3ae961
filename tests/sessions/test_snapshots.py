"""Distances of snapshots: what has to be computed again after a crash, rewind or stop string."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from service.generation.request import GenerationRequest
from tests.generation.invariance import Stage
from tests.sessions.hand_engine import CONFIG as ENGINE_CONFIG
from tests.sessions.world import CONFIG, TOKENS, World, make_program, turn_request

SNAPSHOT_EVERY, RETAIN_EVERY = 40, 100
BURST = 32


@pytest.fixture
def world(valkey) -> Iterator[World]:
    engine_config = replace(ENGINE_CONFIG, state_copy_every=BURST)
    config = replace(CONFIG, snapshot_every=SNAPSHOT_EVERY, retain_every=RETAIN_EVERY)
    made = World(valkey, [make_program()], config=config, engine_config=engine_config)
    made.create((1, 2), seed=3)
    yield made
    assert made.refusals == []
    made.close()


def run(world: World, n: int, flushes: int = 10**6) -> list[int]:
    """A turn of n tokens; the lengths of the prompts that the engine was given for it."""
    given = []
    engine = world.processes[0].engine
    submit = engine.submit_admitted

    def noting(request: GenerationRequest, listener: object) -> None:
        given.append(len(request.prompt))
        submit(request, listener)

    engine.submit_admitted = noting
    world.begin(0, 0, turn_request(n, seed=5))
    while engine.work() and flushes:
        world.flush(0)
        flushes -= 1
    engine.submit_admitted = submit
    world.check()
    return given


def test_a_turn_continues_the_last_one_without_computing_anything_again(world):
    run(world, 300)
    assert run(world, 10) == [1]
    world.crash(0)
    assert run(world, 10) == [1], "nor does another process"


def test_a_crash_costs_the_distance_of_snapshots_at_most(world):
    run(world, 1_000, flushes=12)
    before = len(world._log_now(world.keys[0]))
    assert before > 200
    world.crash(0)
    (again,) = run(world, 10)
    assert again <= SNAPSHOT_EVERY + BURST
    assert world._log_now(world.keys[0])[:before]


@pytest.mark.parametrize("to", [0, 1, 2, 3, 99, 100, 101, 250, 333, 400, 498, 501])
def test_a_rewind_costs_the_distance_of_retained_snapshots_at_most(world, to):
    run(world, 500)
    if to == 0:
        world.append(0, 0, (1, 2))
    world.rewind(0, 0, to)
    if to == 0:
        world.append(0, 0, (1, 2))
    (again,) = run(world, 20)
    assert again <= RETAIN_EVERY + 2 * SNAPSHOT_EVERY + BURST
    assert run(world, 20) == [1]


def test_retained_snapshots_of_a_truncated_log_are_not_used(world):
    """Rewind, generate other tokens, rewind to a retained snapshot of the first ones."""
    run(world, 500)
    for to in (120, 180, 250, 230, 210):
        world.rewind(0, 0, to)
        world.begin(0, 0, turn_request(150, seed=to))
        while world.processes[0].engine.work():
            world.flush(0)
        world.check()
    world.rewind(0, 0, 205)
    run(world, 30)


def test_a_fork_of_an_earlier_position_uses_its_parents_retained_snapshots(world):
    run(world, 500)
    world.fork(0, 0, 320, "same")
    world.keys.reverse()
    (again,) = run(world, 20)
    assert again <= RETAIN_EVERY + 2 * SNAPSHOT_EVERY + BURST


def test_a_damaged_or_missing_snapshot_is_computed_again_from_the_log(world):
    run(world, 250)
    (name,) = world.valkey.client.keys("carousel:state:*")
    whole = world.valkey.client.get(name)
    changes = [whole[:-1], whole[:20], b"", whole[:60] + b"\x00\x01" + whole[62:], b"x" * 9_000]
    for content in [*changes, None]:
        world.crash(0)
        (name,) = world.valkey.client.keys("carousel:state:*")
        if content is None:
            world.valkey.client.delete(name)
        else:
            world.valkey.client.set(name, content)
        world.begin(0, 0, turn_request(10, seed=5))
        while world.processes[0].engine.work():
            world.flush(0)
        world.check()


def test_the_penalty_window_spans_turns_and_processes(world):
    asks = [turn_request(n, seed=5, penalty=1.5) for n in (30, 1, 45)]
    for wanted in asks:
        world.begin(0, 0, wanted)
        while world.processes[0].engine.work():
            world.flush(0)
        world.crash(0)
    alone = Stage(world.programs[0], TOKENS)
    alone.submit(turn_request(76, prompt=(1, 2), seed=5, penalty=1.5).request)
    alone.work_to_the_end()
    assert world._log_now(world.keys[0]) == [1, 2, *alone.seen[0].tokens]


def test_a_retained_snapshot_after_a_rewind_position_is_not_used(world):
    run(world, 500)
    world.rewind(0, 0, 102)  # the first turn's retained snapshot is a little later
    world.begin(0, 0, turn_request(10, prompt=[3] * 60, seed=9))
    world.crash(0)
    run(world, 20)
    run(world, 20)


def test_every_key_in_the_store_expires(world):
    """Also if a process is killed between a fork's first tokens and the end of its turn."""
    run(world, 300)
    world.fork(0, 0, None, "derive")
    world.keys.reverse()
    run(world, 30, flushes=2)
    world.rewind(0, 1, 120)
    world.begin(1, 1, turn_request(5, key="k"))
    world.work(1)
    world.flush(1)
    keys = world.valkey.client.keys("*")
    assert len(keys) > 8
    assert [key for key in keys if world.valkey.client.ttl(key) < 0] == []


def test_a_text_that_is_fed_leaves_snapshots_and_retains_some(world):
    """So a crash while it is fed costs as little, and so does a fork from its middle."""
    text = tuple(i % 7 for i in range(1_000))
    world.begin(0, 0, turn_request(5, prompt=text))
    for _ in range(12):
        world.work(0)
        world.flush(0)
    world.crash(0)
    (again,) = run(world, 10)
    fed = 12 * 32
    assert again <= 1_000 - fed + SNAPSHOT_EVERY + BURST
    world.append(0, 0, text)
    assert len(world.valkey.client.keys("carousel:mark:*")) >= 1_500 // RETAIN_EVERY
    world.fork(0, 0, 1_700, "same")
    world.keys.reverse()
    (again,) = run(world, 20)
    assert again <= RETAIN_EVERY + 2 * SNAPSHOT_EVERY + BURST
