"""Turns with a constraint: a process that takes one over generates the same text."""

import re
from collections.abc import Iterator

import pytest

from service.constraints.spec import choice, json_schema, regex
from service.generation.request import FinishReason, GenerationRequest, SamplingParams
from service.sessions.replay import Replay
from service.sessions.session import OnDisconnect, TurnStatus
from service.sessions.turn_record import TurnRecord
from tests.generation.invariance import Stage
from tests.sessions.world import CONSTRAINTS, TOKENS, World, make_program, turn_request

PATTERN = "(ab|cd[ef]){60,90}g"  # of 121 to 271 tokens
N = 250


@pytest.fixture
def world(valkey) -> Iterator[World]:
    made = World(valkey, [make_program()])
    made.create((1, 2), seed=3)
    yield made
    assert made.refusals == []
    made.close()


def finish(world: World, p: int = 0) -> None:
    while world.processes[p].engine.work():
        world.flush(p)
    world.flush(p)
    world.check()


def generated(world: World) -> str:
    turn = world._found(world.keys[0]).session.turn
    return world.tokenizer.decode(
        world._log_now(world.keys[0])[turn.completion_start : turn.completion_end]
    )


@pytest.fixture(scope="module")
def undisturbed() -> str:
    alone = Stage(make_program(), TOKENS)
    constraint = CONSTRAINTS.compile(regex(PATTERN))
    alone.submit(GenerationRequest((1, 2), N, SamplingParams(5), constraint=constraint))
    alone.work_to_the_end()
    text = "".join(TOKENS[token] for token in alone.seen[0].tokens)
    assert re.fullmatch(PATTERN, text)
    return text


@pytest.mark.parametrize("bursts", [0, 1, 3, 6])
def test_another_process_takes_it_over_and_the_text_is_the_same(world, undisturbed, bursts):
    world.begin(0, 0, turn_request(N, seed=5, pattern=PATTERN, key="one"))
    for _ in range(bursts):
        world.work(0)
        world.flush(0)
    before = generated(world)
    assert len(before) < len(undisturbed)
    world.crash(0)
    world.follow(1, 0)
    finish(world, 1)
    assert generated(world) == undisturbed
    (client,) = world.clients
    assert client.is_over
    assert [TOKENS[token] for token, _ in client.seen] == list(undisturbed)
    # The same key on the process that has not run the turn gets the same response.
    world.retry(0, 0)
    assert world.clients[-1].seen == client.seen
    assert world._found(world.keys[0]).session.turn.status is TurnStatus.EOS_TOKEN


def test_a_turn_that_is_taken_over_at_its_end_gets_its_status(world):
    """The process is killed after the last token was committed and before the end was."""
    wanted = turn_request(9, seed=5, pattern="(ab|cd)*g")
    world.begin(0, 0, wanted)
    turn = world.clients[0].turn
    while world.processes[0].engine.work():
        pass
    turn._status, status = None, turn._status  # the end is not committed
    world.flush(0)
    assert status is TurnStatus.EOS_TOKEN
    world.crash(0)
    world.follow(1, 0)
    finish(world, 1)
    assert world._found(world.keys[0]).session.turn.status is TurnStatus.EOS_TOKEN


def test_a_fork_from_the_middle_has_no_constraint(world, undisturbed):
    world.begin(0, 0, turn_request(N, seed=5, pattern=PATTERN))
    for _ in range(3):
        world.work(0)
        world.flush(0)
    world.fork(1, 0, None, "same")
    position = len(world._log_now(world.keys[1]))
    world.begin(1, 1, turn_request(40, seed=5))
    finish(world, 1)
    free = world.tokenizer.decode(world._log_now(world.keys[1])[position:])
    assert len(free) == 40
    assert not undisturbed[position - 2 :].startswith(free)
    finish(world, 0)
    assert generated(world) == undisturbed


def test_an_empty_completion_is_a_turn_and_is_replayed(world):
    world.begin(0, 0, turn_request(5, pattern="(ab){0}", key="one"))
    finish(world)
    key = world.keys[0]
    assert world._found(key).session.turn.status is TurnStatus.EOS_TOKEN
    assert generated(world) == ""

    async def again() -> list:
        begun = await world.processes[1].begin(key, world.keyed[0][1])
        assert isinstance(begun, Replay)
        return [chunk async for chunk in begun]

    (chunk,) = world.do(again())
    assert chunk.tokens == ()
    assert chunk.finish.reason is FinishReason.EOS_TOKEN
    assert chunk.finish.generated_tokens == 0


@pytest.mark.parametrize(
    "source", [regex("[ab]{3}"), json_schema({"type": "object"}), choice(["ab", 'c"\n'])]
)
def test_a_turn_record_has_the_specification_of_its_constraint(source):
    request = turn_request(9, pattern="a").request
    object.__setattr__(request.constraint, "spec", source)
    record = TurnRecord.of(request, OnDisconnect.CANCEL, {})
    assert TurnRecord.from_json(record.to_json()) == record
    assert record.constraint == source
