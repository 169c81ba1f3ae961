"""What the store keeps of a session, for how long, and of which session that was called so."""

import asyncio
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import (
    CarouselError,
    GenerationFailed,
    PositionMismatch,
    SessionBusy,
    SessionLost,
    StateModelMismatch,
)
from service.generation import scheduler
from service.sessions.config import SessionConfig
from service.sessions.redis_client import ScriptClient
from service.sessions.replay import Replay
from service.sessions.running_turn import RunningTurn
from service.sessions.session import EventId, Session, SessionKey, TurnStatus
from service.sessions.signing import Signer
from service.sessions.store import Store
from service.sessions.store_replies import CommitEntry, random_id
from service.sessions.turns import TurnRequest
from tests.sessions.valkey import OwnValkey
from tests.sessions.world import CONFIG, World, make_program, turn_request

KEY = SessionKey("", "abc")
DIGEST = "ab" * 32


@pytest.fixture
def world(valkey) -> Iterator[World]:
    made = World(valkey, [make_program()])
    yield made
    made.close()


def make(world: World, p: int, seed: int = 1) -> None:
    process = world.processes[p]
    world.do(process.records.create("", process.model, KEY.id, seed=seed))


def begin(world: World, p: int, ask: TurnRequest) -> RunningTurn | Replay:
    return world.do(world.processes[p].begin(KEY, ask))


def flush(world: World, p: int) -> None:
    world.do(world.processes[p].commits.flush())


def drive(world: World, p: int) -> None:
    while world.processes[p].engine.work():
        flush(world, p)


def begun(world: World, n: int = 400) -> RunningTurn:
    """A turn of process 0 that has said something and more in store."""
    turn = begin(world, 0, turn_request(n, prompt=(1, 2)))
    world.work(0)
    flush(world, 0)
    world.work(0)
    return turn


def delete(world: World, p: int) -> None:
    world.do(world.processes[p].records.delete(KEY))


def record(world: World) -> dict[str, str]:
    fields = world.valkey.client.hgetall(f"carousel:session:{KEY}")
    return {name.decode(): value.decode() for name, value in fields.items()}


# -- sessions of one name


def test_a_turn_of_a_deleted_session_has_no_say_in_the_next(world):
    make(world, 0)
    begun(world)
    delete(world, 1)
    make(world, 1, seed=2)
    begin(world, 1, turn_request(400, prompt=(3, 4)))
    before = record(world)
    flush(world, 0)
    assert record(world) == before


def seed_of_the_next(world: World, p: int) -> int:
    """Of the session that a turn is asked of."""
    process = world.processes[p]

    async def begin(session: Session) -> int:
        await process.turns.begin(session, process.model, turn_request(5, prompt=(1, 2)))
        return session.seed

    return world.do(process.records.with_session(KEY, begin))


def test_what_is_hot_of_a_deleted_session_is_not_the_nexts(world):
    make(world, 0)
    begin(world, 0, turn_request(5, prompt=(1, 2)))
    drive(world, 0)
    delete(world, 1)
    make(world, 1, seed=2)
    assert seed_of_the_next(world, 0) == 2


def test_what_is_hot_of_an_expired_session_is_not_the_nexts(world):
    make(world, 0)
    begin(world, 0, turn_request(5, prompt=(1, 2)))
    drive(world, 0)
    world.valkey.client.delete(f"carousel:session:{KEY}")
    make(world, 0, seed=2)
    assert seed_of_the_next(world, 0) == 2


def test_a_text_is_read_by_the_model_that_has_said_it(world):
    make(world, 0)
    begin(world, 0, turn_request(5, prompt=(1, 2)))
    drive(world, 0)
    process = world.processes[0]
    other = replace(process.model, digest="cd" * 32)
    for reading in (
        process.records.text(KEY, other, 0, 9),
        process.turns.follow(KEY, other, None),
    ):
        with pytest.raises(StateModelMismatch):
            world.do(reading)


def test_a_key_of_a_deleted_session_begins_a_turn_of_the_next(world):
    make(world, 0)
    begin(world, 0, turn_request(5, prompt=(1, 2), key="k"))
    delete(world, 0)
    make(world, 0)
    begin(world, 0, turn_request(7, prompt=(3, 4)))
    drive(world, 0)
    for _ in range(2):
        again = begin(world, 0, turn_request(5, prompt=(1, 2), key="k"))
        drive(world, 0)
    assert isinstance(again, Replay)
    assert again.turn.number == 2


def test_a_waiting_turn_hears_that_its_session_is_gone(world):
    make(world, 0)
    turn = begin(world, 0, turn_request(5, prompt=(1, 2)))
    delete(world, 0)
    flush(world, 0)
    assert turn.is_over
    with pytest.raises(SessionLost):
        world.do(anext(turn.stream))


def test_a_replay_does_not_go_on_with_the_next_session(world):
    make(world, 0)
    begun(world)
    followed = world.do(world.processes[1].turns.follow(KEY, world.processes[1].model, None))
    delete(world, 0)
    make(world, 0)
    begun(world)

    async def read() -> None:
        async for _ in followed:
            pass

    with pytest.raises(SessionLost):
        world.do(world._driven(world.processes[1], read(), 0.5))


# -- after a power cut


def a_store(valkey: OwnValkey, name: str) -> Store:
    config = SessionConfig()
    clients = ScriptClient(valkey.url, config), ScriptClient(valkey.url, config)
    return Store(*clients, Signer(b"x" * 32), name, config)


async def a_session(on: Store) -> str:
    made = await on.create(
        KEY, model="m@1", digest=DIGEST, width=1, seed=1, ttl_s=600, tokens=b"\1\2"
    )
    return made.incarnation


def turn_of(incarnation: str, fencing_token: str = "") -> dict[str, object]:
    return {
        "fencing_token": fencing_token or random_id(),
        "kind": "turn",
        "incarnation": incarnation,
        "prompt": b"\3",
        "record": "{}",
    }


async def close(*stores: Store) -> None:
    for one in stores:
        await one._client.close()
        await one._commit_client.close()


def save(valkey: OwnValkey, saved: Path) -> None:
    shutil.copytree(valkey.folder / "appendonlydir", saved)


def lose_writes_since(valkey: OwnValkey, saved: Path) -> None:
    valkey.kill()
    shutil.rmtree(valkey.folder / "appendonlydir")
    shutil.copytree(saved, valkey.folder / "appendonlydir")


async def test_a_turn_whose_beginning_was_lost_has_no_say(valkey, tmp_path):
    one, two = a_store(valkey, "one"), a_store(valkey, "two")
    incarnation = await a_session(one)
    save(valkey, tmp_path / "saved")
    first = (await one.begin(KEY, **turn_of(incarnation, "first"))).session
    lose_writes_since(valkey, tmp_path / "saved")
    valkey.start()
    await two.begin(KEY, **turn_of(incarnation, "second"))
    entry = CommitEntry(KEY, "first", first.position, b"\4\4", TurnStatus.LENGTH)
    assert await one.commit(random_id(), [entry]) == [("FENCED", first.position)]
    await close(one, two)


@pytest.mark.parametrize("is_of_an_earlier_run", [False, True])
async def test_a_beginning_that_waited_for_the_store_is_of_a_new_epoch(
    valkey, tmp_path, is_of_an_earlier_run
):
    """Also where the beginning that was lost had raised the epoch itself."""
    one = a_store(valkey, "one")
    incarnation = await a_session(one)
    if is_of_an_earlier_run:
        valkey.restart()
    save(valkey, tmp_path / "saved")
    first = (await one.begin(KEY, **turn_of(incarnation))).session.turn
    lose_writes_since(valkey, tmp_path / "saved")
    waiting = asyncio.create_task(one.begin(KEY, **turn_of(incarnation)))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(valkey.start)
    second = (await waiting).session.turn
    assert (first.epoch, first.number) != (second.epoch, second.number), "an id means two tokens"
    await close(one)


def test_events_of_a_turn_that_was_lost_are_not_there(world):
    make(world, 0)
    process = world.processes[0]
    assert world.do(process.turns.follow(KEY, process.model, None)) is None
    with pytest.raises(PositionMismatch):
        world.do(process.turns.follow(KEY, process.model, EventId(0, 1, 500)))


# -- what is refused changes nothing


def test_a_refused_turn_leaves_one_that_can_be_resumed(world):
    make(world, 0)
    begun(world)
    world.crash(0)
    with pytest.raises(PositionMismatch):
        begin(world, 1, turn_request(4, expected=999))
    with pytest.raises(PositionMismatch):
        world.do(world.processes[1].records.rewind(KEY, 999))
    assert record(world)["active"] == "turn"
    assert world.processes[1].registry._to_release == set()


def test_a_beginning_that_comes_after_its_release_does_not_stick(world):
    make(world, 0)
    process = world.processes[0]

    async def come_late() -> None:
        incarnation = (await process.records.read(KEY)).incarnation
        await process.store.release(KEY, "late")
        await process.store.begin(KEY, **turn_of(incarnation, "late"))

    world.do(come_late())
    with pytest.raises(SessionBusy):
        begin(world, 0, turn_request(4))
    world.do(process.beat())
    turn = begin(world, 0, turn_request(4))
    with pytest.raises(SessionBusy):
        begin(world, 0, turn_request(4))
    world.do(process.beat())
    with pytest.raises(SessionBusy):  # a turn that does run here is not let go
        begin(world, 0, turn_request(4))
    drive(world, 0)
    assert turn._status is TurnStatus.LENGTH


def test_a_take_over_of_a_turn_that_nobody_can_tell_ends_it(world):
    make(world, 0)
    begun(world)
    world.crash(0)
    world.valkey.client.delete(f"carousel:request:{KEY}")
    process = world.processes[1]
    with pytest.raises(SessionLost):
        world.do(process.turns.follow(KEY, process.model, None))
    world.do(process.turns.resume(KEY, process.model))
    assert record(world)["status"] == "cancelled"
    assert begin(world, 1, turn_request(4)).session.turn.number == 2


async def read_to_the_end(turn: RunningTurn) -> None:
    async for _ in turn.stream:
        pass


def cancel(world: World, p: int, turn: int | None = None) -> None:
    async def cancelled() -> None:
        process = world.processes[p]
        cancelling = asyncio.ensure_future(process.turns.cancel(KEY, turn))
        while not cancelling.done():
            await process.commits.flush()
            await asyncio.sleep(0)
        await cancelling

    world.do(cancelled())


@pytest.mark.parametrize("p", [0, 1])
def test_a_turn_is_cancelled_from_any_process_at_what_it_had_committed(world, p):
    make(world, 0)
    turn = begun(world, 4_000)
    if p == 0:
        flush(world, 0)  # which would come before the cancellation
    position = int(record(world)["position"])
    cancel(world, p)
    flush(world, 0)
    assert record(world)["status"] == "cancelled"
    assert int(record(world)["finish"]) == int(record(world)["position"]) == position
    assert world.processes[0].registry._running == {}
    with pytest.raises(GenerationFailed, match="cancelled"):
        world.do(read_to_the_end(turn))
    later = begin(world, 1, turn_request(4))
    cancel(world, 0, turn=1)
    world.do(world.processes[0].store.cancel(KEY, turn.session.turn))  # a call that comes late
    assert record(world)["active"] == "turn", "only the turn that was meant"
    drive(world, 1)
    assert later._status is TurnStatus.LENGTH
    cancel(world, 0)
    assert record(world)["status"] == "length"


def test_a_turn_that_nobody_runs_is_cancelled(world):
    make(world, 0)
    begun(world)
    world.crash(0)
    cancel(world, 1)
    assert record(world)["status"] == "cancelled"


# -- how long it lives


def test_a_turn_keeps_its_session_whether_it_has_news_or_not(world):
    make(world, 0)
    begin(world, 0, turn_request(4_000, prompt=(1, 2)))
    client, name = world.valkey.client, f"carousel:session:{KEY}"
    (log,) = client.keys("carousel:log:*")
    for has_news in (True, False):
        for kind in (name, f"carousel:request:{KEY}", log):
            client.expire(kind, 100)
        if has_news:
            world.work(0)
        else:
            world.do(world.processes[0].sessions.heartbeat.beat())
        flush(world, 0)
        assert min(client.ttl(kind) for kind in (name, f"carousel:request:{KEY}", log)) > 1_000


async def test_who_looks_often_writes_nothing(valkey):
    one = a_store(valkey, "one")
    await a_session(one)
    before = valkey.client.info("persistence")["aof_current_size"]
    for _ in range(50):
        await one.read(KEY)
    assert valkey.client.info("persistence")["aof_current_size"] == before
    await close(one)


def test_a_heartbeat_without_a_store_ends_no_turn(world):
    make(world, 0)
    turn = begin(world, 0, turn_request(4, prompt=(1, 2)))
    turn._add(turn)
    turn.entry(random_id(), 0)
    turn.commit_unknown(CarouselError("gone"))
    assert not turn.is_over


# -- long chains


@pytest.fixture
def close_snapshots(valkey, monkeypatch) -> Iterator[World]:
    """A world whose retained snapshots are so close that a short test has some."""
    monkeypatch.setattr(scheduler, "KEEP_EVERY", 32)
    config = replace(CONFIG, snapshot_every=40, retain_every=100)
    made = World(valkey, [make_program()], config=config)
    yield made
    made.close()


def lengthen(world: World, times: int) -> None:
    for _ in range(times):
        position = int(record(world)["position"])
        begin(world, 0, turn_request(3, prompt=(1,)))
        drive(world, 0)
        world.do(world.processes[0].records.rewind(KEY, position + 2))


def test_a_retry_survives_the_copying_of_a_long_chain(world):
    make(world, 0)
    ask = turn_request(5, prompt=(1, 2), key="k")
    begin(world, 0, ask)
    drive(world, 0)
    lengthen(world, 14)
    assert len(record(world)["chain"].split(",")) < 12
    assert isinstance(begin(world, 0, ask), Replay)


def test_forks_of_a_long_chain_share_one_copy_and_its_marks(close_snapshots):
    world = close_snapshots
    make(world, 0)
    begin(world, 0, turn_request(700, prompt=(1, 2)))
    drive(world, 0)
    lengthen(world, 12)
    begin(world, 0, turn_request(3, prompt=(1,)))
    drive(world, 0)
    client = world.valkey.client
    assert record(world)["chain"].count(",") == 11
    said = world._log_now(KEY)
    client.delete(f"carousel:state:{record(world)['snapshot']}")
    for _ in range(3):
        world.do(world.processes[0].records.fork(KEY, 1, None, "derive"))
    assert sum(client.strlen(log) for log in client.keys("carousel:log:*")) == len(said)
    assert world._log_now(KEY) == said
    assert len(client.keys("carousel:mark:*")) == 7
    packed = world.do(world.processes[0].store.state_before(KEY, 500, latest_is_damaged=True))
    assert len(packed) > 0


@pytest.mark.parametrize("to", [0, 150])
def test_marks_go_with_what_is_rewound_or_deleted(close_snapshots, to):
    world = close_snapshots
    make(world, 0)
    for _ in range(3):
        begin(world, 0, turn_request(500, prompt=(1, 2)))
        drive(world, 0)
        assert len(world.valkey.client.keys("carousel:mark:*")) >= 4
        world.do(world.processes[0].records.rewind(KEY, to))
        assert len(world.valkey.client.keys("carousel:mark:*")) == to // 100
    delete(world, 0)
    assert world.valkey.client.keys("carousel:mark:*") == []


# -- who follows


def test_a_replay_never_shows_the_next_turns_prompt(world):
    """Between finding a turn and reading it on, it ends and another one begins."""
    make(world, 0)
    begin(world, 0, turn_request(40, prompt=(1, 2)))
    world.work(0)
    flush(world, 0)
    one, other = world.processes
    call, reads, said = other.store._client.call, [], []

    async def slow(script, *args):
        reads.append(script)
        if reads.count("read") == 2:
            while one.engine.work():
                await one.commits.flush()
            await one.begin(KEY, turn_request(4, prompt=(6,) * 9))
        return await call(script, *args)

    async def read() -> None:
        async for chunk in await other.turns.follow(KEY, other.model, None):
            said.extend(chunk.tokens)

    other.store._client.call = slow
    with pytest.raises(PositionMismatch):
        world.do(world._driven(other, read(), 0.5))
    assert said == world._log_now(KEY)[2:42][: len(said)]


def test_a_turn_goes_on_while_anybody_here_reads_it(world):
    make(world, 0)
    ask = turn_request(4_000, prompt=(1, 2), key="k")
    turn = begin(world, 0, ask)
    world.work(0)
    flush(world, 0)
    followers = [begin(world, 0, ask) for _ in range(2)]
    turn.stream.cancel()
    followers[0].cancel()
    followers[0].cancel()
    assert turn._status is None
    followers[1].cancel()
    assert turn._status is TurnStatus.CANCELLED


def test_a_replay_that_nobody_reads_stops_computing(world):
    make(world, 0)
    ask = turn_request(4_000, prompt=(1, 2), key="k")
    begin(world, 0, ask)
    drive(world, 0)
    followed, seen = begin(world, 0, ask), []

    async def read() -> None:
        async for chunk in followed:
            seen.extend(chunk.tokens)
            if len(seen) > 100:
                followed.cancel()

    began = time.monotonic()
    world.do(world._driven(world.processes[0], read(), 5.0))
    assert 100 < len(seen) < 1_000
    assert time.monotonic() - began < 4
    world.work(0)
    assert not world.processes[0].engine.work()
