"""Turns with limits of words, tokens, length or time; another process can resume each of them."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.constraints.spec import ConstraintSpec, limited, regex
from service.generation.request import FinishReason, GenerationRequest, SamplingParams
from service.sessions.idempotency import idempotency_key
from service.sessions.replay import Replay
from service.sessions.session import OnDisconnect, TurnStatus
from service.sessions.turn_record import TurnRecord
from service.sessions.turns import TurnRequest
from tests.generation.invariance import Stage
from tests.sessions.stories import WHICH, action, play, stories_of
from tests.sessions.world import CONFIG, CONSTRAINTS, IDLE_LIMIT_S, TOKENS, World, make_program

N = 250
LATE_S = time.time() + 3_600  # never reached in a test: `HandEngine.finish` ends a turn


@pytest.fixture
def world(valkey) -> Iterator[World]:
    made = World(valkey, [make_program()])
    made.create((1, 2), seed=3)
    yield made
    assert made.refusals == []
    made.close()


def asks(
    source: ConstraintSpec | None = None, n: int = N, key: str | None = "one", **more
) -> TurnRequest:
    """A turn with limits, and with a key whose fingerprint has all of them."""
    constraint = None if source is None else CONSTRAINTS.compile(source)
    n = max(n, constraint.shortest if constraint else 1)
    request = GenerationRequest((), n, SamplingParams(5), constraint=constraint, **more)
    retry = idempotency_key(key, source, n, sorted(more.items())) if key else None
    return TurnRequest(request, OnDisconnect.CANCEL, {}, retry)


def alone(wanted: TurnRequest, before: tuple[int, ...] = (1, 2)) -> str:
    """The text of a turn without interruption, including its stop string."""
    stage = Stage(make_program(), TOKENS)
    request = wanted.request
    stage.submit(
        GenerationRequest(
            before,
            request.max_new_tokens,
            request.sampling,
            request.stop,
            constraint=request.constraint,
            min_new_tokens=request.min_new_tokens,
        )
    )
    stage.work_to_the_end()
    return "".join(TOKENS[token] for token in stage.seen[0].sampled)


def generated(world: World) -> str:
    turn = world._found(world.keys[0]).session.turn
    return world.tokenizer.decode(
        world._log_now(world.keys[0])[turn.completion_start : turn.completion_end]
    )


def status(world: World) -> TurnStatus:
    return world._found(world.keys[0]).session.turn.status


def work(world: World, p: int = 0, bursts: int = 10**6) -> None:
    for _ in range(bursts):
        if not world.processes[p].engine.work():
            break
        world.flush(p)
    world.flush(p)
    world.check()


def follow(world: World, p: int) -> None:
    """Let the first client follow its turn to the end, however busy the machine is."""
    while not world.clients[0].is_over:
        world.heartbeat(p)  # releases a take-over that a replay did not wait for
        world.follow(p, 0)
        work(world, p)


def again(world: World, p: int) -> tuple[list[int], object]:
    """The response to the same key on another process: its tokens and its end."""

    async def ask() -> tuple[list[int], object]:
        begun = await world.processes[p].begin(*[world.keys[0], world.keyed[0][1]])
        assert isinstance(begun, Replay)
        chunks = []
        task = world.loop.create_task(_read(begun, chunks))
        while not task.done():
            world.processes[p].engine.work()
            await world.processes[p].commits.flush()
            await world.loop.run_in_executor(None, time.sleep, 0.0)
        await task
        return [token for chunk in chunks for token in chunk.tokens], chunks[-1].finish

    return world.do(ask())


async def _read(begun: Replay, chunks: list) -> None:
    chunks += [chunk async for chunk in begun]


PLAIN = alone(asks())
BANS = limited(None, bad_words=[PLAIN[5:7], PLAIN[60:62], PLAIN[100:103]])
MEANT = [
    asks(BANS),
    asks(limited(None, allowed=[0, 1, 3, 5])),
    asks(limited(regex("([ab]|cd[ef])*g"), bad_words=["ab", "fb"], least=80), 120),
    asks(stop=(PLAIN[40:42],), min_new_tokens=41),
    asks(stop=(PLAIN[40:42],), min_new_tokens=40),
    asks(stop=(PLAIN[10:40],), min_new_tokens=7),
    asks(stop=(PLAIN[40], PLAIN[39:41]), min_new_tokens=40),  # the longer one begins too early
]
NAMES = ["bad words", "allowed", "all", "least", "least, at it", "a long stop string", "across it"]


def test_the_turns_differ():
    assert PLAIN[5:7] not in alone(MEANT[0])
    assert set(alone(MEANT[1])) == set("abdf")
    assert re.fullmatch(r"(?:[ab]|cd[ef]){2,}g", text := alone(MEANT[2]))
    assert len(text) >= 80
    assert "ab" not in text
    assert "fb" not in text
    assert alone(asks(stop=(PLAIN[40:42],))) == PLAIN[: PLAIN.index(PLAIN[40:42]) + 2]
    assert alone(MEANT[3]) == PLAIN[: PLAIN.index(PLAIN[40:42], 41) + 2]
    assert alone(MEANT[4]) == PLAIN[:42]
    assert alone(MEANT[5]) == PLAIN[:40]
    assert alone(MEANT[6]) == PLAIN[:41]


@pytest.mark.parametrize("wanted", MEANT, ids=NAMES)
@pytest.mark.parametrize("bursts", [0, 1, 3, 5, 6])
def test_another_process_takes_it_over_and_the_text_is_the_same(world, wanted, bursts):
    undisturbed = alone(wanted)
    world.begin(0, 0, wanted)
    work(world, bursts=bursts)
    world.crash(0)
    follow(world, 1)
    assert generated(world) == undisturbed
    (client,) = world.clients
    shown = undisturbed
    if status(world) is TurnStatus.STOP_SEQUENCE:
        shown = undisturbed[: -len(wanted.request.stop[0])]
    assert [TOKENS[token] for token, _ in client.seen] == list(shown)
    world.retry(0, 0)
    assert world.clients[-1].seen == client.seen


limited_asks = st.builds(
    asks,
    source=st.sampled_from(
        [None, None, BANS, limited(regex("(a|cd|b)*e"), bad_words=["aa"], least=9)]
    ),
    n=st.sampled_from([2, 6, 20, 40]),
    key=st.sampled_from([None, "one", "two"]),
    stop=st.sampled_from([(), ("ab",), ("c",), ("dd", "ef")]),
    min_new_tokens=st.sampled_from([0, 3, 12]),
    deadline_s=st.sampled_from([None, LATE_S]),
)


@pytest.mark.parametrize("n", [30, pytest.param(100, marks=pytest.mark.slow)])
def test_every_promise_holds_in_every_story(valkey, n):
    impatient = replace(CONFIG, call_timeout_s=0.02)

    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(story=stories_of(limited_asks, {action("pass_deadline", WHICH): 2}))
    def tell(story):
        made = World(valkey, [make_program()], config=impatient, replay_limit_s=IDLE_LIMIT_S)
        try:
            play(made, story)
        finally:
            made.close()

    tell()


# -- time


@pytest.mark.parametrize("stop", [(), (PLAIN[3:30] + "?",), (PLAIN[3:30], "zz")])
@pytest.mark.parametrize("bursts", [0, 1, 4, 5])
def test_a_turn_past_its_deadline_ends_at_its_prefix_for_good(world, stop, bursts):
    world.begin(0, 0, asks(stop=stop, deadline_s=LATE_S))
    work(world, bursts=bursts)
    (client,) = world.clients
    world.processes[0].engine.finish(client.turn)
    world.flush(0)
    world.check()
    if status(world) is TurnStatus.STOP_SEQUENCE:
        return  # it had ended before
    assert status(world) is TurnStatus.LENGTH
    n = len(generated(world))
    assert generated(world) == PLAIN[:n]
    assert (n == 0) == (bursts == 0)
    assert [TOKENS[token] for token, _ in client.seen] == list(PLAIN[:n])
    # The same key at any time: the response depends on the log and not on the clock.
    tokens, finish = again(world, 1)
    assert world.tokenizer.decode(tokens) == PLAIN[:n]
    assert (finish.reason, finish.generated_tokens) == (FinishReason.LENGTH, n)
    # The next turn generates what the first one would have.
    world.begin(1, 0, asks(n=N - n, key=None))
    work(world, 1)
    assert PLAIN[:n] + generated(world) == PLAIN


def test_the_last_event_at_a_deadline_has_a_token(world):
    world.begin(0, 0, asks(deadline_s=LATE_S))
    work(world, bursts=4)
    turn = world.clients[0].turn
    ends = []
    deliver = turn.stream.deliver
    turn.stream.deliver = lambda progress: (ends.append(progress.chunk), deliver(progress))
    world.processes[0].engine.finish(turn)
    world.flush(0)
    assert ends[-1].finish.generated_tokens == len(generated(world))
    assert len(ends[-1].tokens) == 1


def test_a_take_over_keeps_the_deadline(world):
    world.begin(0, 0, asks(deadline_s=LATE_S))
    work(world, bursts=3)
    before = generated(world)
    world.crash(0)

    async def resume() -> None:
        await world.processes[1].turns.take_over(world.keys[0], world.processes[1].model)

    world.do(resume())
    (turn,) = world.processes[1].registry._running.values()
    (request,) = world.processes[1].engine._scheduler._waiting.values()
    assert request.deadline_s == LATE_S
    world.processes[1].engine.finish(turn)
    world.flush(1)
    assert status(world) is TurnStatus.LENGTH
    assert generated(world) == before
    follow(world, 1)


@pytest.mark.parametrize("wanted", [*MEANT, asks(deadline_s=LATE_S)])
def test_a_turn_record_has_its_limits(wanted):
    record = TurnRecord.of(wanted.request, OnDisconnect.CANCEL, {})
    assert TurnRecord.from_json(record.to_json()) == record
    source = wanted.request.constraint and wanted.request.constraint.spec
    assert record.constraint == source
