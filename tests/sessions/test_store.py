"""What the store has of a session, for how long, and for which incarnation of its id."""

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
from service.sessions.codec import Export
from service.sessions.config import SessionConfig
from service.sessions.redis_client import ScriptClient
from service.sessions.replay import Replay
from service.sessions.running_turn import RunningTurn
from service.sessions.session import EventId, Session, SessionKey, TurnStatus
from service.sessions.signing import Signer
from service.sessions.store import Store
from service.sessions.store_replies import CommitEntry, random_id
from service.sessions.turns import TurnRequest
from tests.sessions.hand_engine import CONFIG as ENGINE_CONFIG
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


def begin(world: World, p: int, wanted: TurnRequest) -> RunningTurn | Replay:
    return world.do(world.processes[p].begin(KEY, wanted))


def flush(world: World, p: int) -> None:
    world.do(world.processes[p].commits.flush())


def drive(world: World, p: int) -> None:
    while world.processes[p].engine.work():
        flush(world, p)


def begun(world: World, n: int = 400) -> RunningTurn:
    """A running turn of process 0, with committed tokens and with uncommitted ones."""
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


# -- incarnations of one id


def test_a_turn_of_a_deleted_session_changes_nothing_in_the_next_incarnation(world):
    make(world, 0)
    begun(world)
    delete(world, 1)
    make(world, 1, seed=2)
    begin(world, 1, turn_request(400, prompt=(3, 4)))
    before = record(world)
    flush(world, 0)
    assert record(world) == before


def seed_of_the_next(world: World, p: int) -> int:
    """The seed of the session in which a turn begins."""
    process = world.processes[p]

    async def begin(session: Session) -> int:
        await process.turns.begin(session, process.model, turn_request(5, prompt=(1, 2)))
        return session.seed

    return world.do(process.records.with_session(KEY, begin))


def test_a_cached_state_of_a_deleted_session_is_not_used(world):
    make(world, 0)
    begin(world, 0, turn_request(5, prompt=(1, 2)))
    drive(world, 0)
    delete(world, 1)
    make(world, 1, seed=2)
    assert seed_of_the_next(world, 0) == 2


def test_a_cached_state_of_an_expired_session_is_not_used(world):
    make(world, 0)
    begin(world, 0, turn_request(5, prompt=(1, 2)))
    drive(world, 0)
    world.valkey.client.delete(f"carousel:session:{KEY}")
    make(world, 0, seed=2)
    assert seed_of_the_next(world, 0) == 2


def test_a_text_is_read_with_the_model_of_its_session(world):
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


def test_an_idempotency_key_of_a_deleted_session_begins_a_new_turn(world):
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


def test_a_waiting_turn_ends_when_its_session_is_deleted(world):
    make(world, 0)
    turn = begin(world, 0, turn_request(5, prompt=(1, 2)))
    delete(world, 0)
    flush(world, 0)
    assert turn.is_over
    with pytest.raises(SessionLost):
        world.do(anext(turn.stream))


def test_a_replay_ends_with_its_incarnation(world):
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


# -- after a power loss


def a_store(valkey: OwnValkey, name: str) -> Store:
    config = SessionConfig()
    clients = ScriptClient(valkey.url, config), ScriptClient(valkey.url, config)
    return Store(*clients, Signer(b"x" * 32), name, config)


async def a_session(on: Store) -> str:
    made = await on.create(KEY, Export("m@1", DIGEST, 1, 1, b"\1\2", b""), 600)
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


async def test_a_turn_whose_begin_was_lost_is_fenced_off(valkey, tmp_path):
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
async def test_a_begin_that_waited_for_a_restart_has_a_new_epoch(
    valkey, tmp_path, is_of_an_earlier_run
):
    """Also if the lost begin had raised the epoch itself."""
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


def test_a_lost_turn_has_no_events(world):
    make(world, 0)
    process = world.processes[0]
    assert world.do(process.turns.follow(KEY, process.model, None)) is None
    with pytest.raises(PositionMismatch):
        world.do(process.turns.follow(KEY, process.model, EventId(0, 1, 500)))


# -- refusals and releases


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


def test_a_begin_that_arrives_after_its_release_is_released_again(world):
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
    with pytest.raises(SessionBusy):  # a turn that runs here is not released
        begin(world, 0, turn_request(4))
    drive(world, 0)
    assert turn._status is TurnStatus.LENGTH


def test_a_take_over_without_a_turn_record_ends_the_turn(world):
    make(world, 0)
    begun(world)
    world.crash(0)
    world.valkey.client.delete(f"carousel:request:{KEY}")
    process = world.processes[1]
    with pytest.raises(SessionLost):
        world.do(process.turns.follow(KEY, process.model, None))
    world.do(process.turns.take_over(KEY, process.model))
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
def test_a_turn_is_cancelled_from_any_process_at_its_committed_tokens(world, p):
    make(world, 0)
    turn = begun(world, 4_000)
    if p == 0:
        flush(world, 0)  # it would be committed before the cancellation
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
    world.do(world.processes[0].store.cancel(KEY, turn.session.turn))  # a late call
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


# -- expiry


def test_a_turn_refreshes_the_expiry_with_and_without_new_tokens(world):
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
            world.do(world.processes[0].sessions.heartbeat.send())
        flush(world, 0)
        assert min(client.ttl(kind) for kind in (name, f"carousel:request:{KEY}", log)) > 1_000


async def test_frequent_reads_write_nothing(valkey):
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
    turn.take_entry(random_id(), 0)
    turn.commit_outcome_unknown(CarouselError("gone"))
    assert not turn.is_over


# -- long chains


@pytest.fixture
def close_snapshots(valkey) -> Iterator[World]:
    """A world whose retained snapshots are so close that a short test has some."""
    engine_config = replace(ENGINE_CONFIG, state_copy_every=32)
    config = replace(CONFIG, snapshot_every=40, retain_every=100)
    made = World(valkey, [make_program()], config=config, engine_config=engine_config)
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
    wanted = turn_request(5, prompt=(1, 2), key="k")
    begin(world, 0, wanted)
    drive(world, 0)
    lengthen(world, 14)
    assert len(record(world)["chain"].split(",")) < 12
    assert isinstance(begin(world, 0, wanted), Replay)


def test_forks_of_a_long_chain_share_one_copy_and_its_retained_snapshots(close_snapshots):
    world = close_snapshots
    make(world, 0)
    begin(world, 0, turn_request(700, prompt=(1, 2)))
    drive(world, 0)
    lengthen(world, 12)
    begin(world, 0, turn_request(3, prompt=(1,)))
    drive(world, 0)
    client = world.valkey.client
    assert record(world)["chain"].count(",") == 11
    generated = world._log_now(KEY)
    client.delete(f"carousel:state:{record(world)['snapshot']}")
    for _ in range(3):
        world.do(world.processes[0].records.fork(KEY, 1, None, "derive"))
    assert sum(client.strlen(log) for log in client.keys("carousel:log:*")) == len(generated)
    assert world._log_now(KEY) == generated
    assert len(client.keys("carousel:mark:*")) == 7
    packed = world.do(world.processes[0].store.state_before(KEY, 500, latest_is_damaged=True))
    assert len(packed) > 0


@pytest.mark.parametrize("to", [0, 150])
def test_retained_snapshots_are_deleted_with_their_part_of_the_log(close_snapshots, to):
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


# -- readers


def test_a_replay_never_shows_the_next_turns_prompt(world):
    """Between two reads of the replay the turn ends and another one begins."""
    make(world, 0)
    begin(world, 0, turn_request(40, prompt=(1, 2)))
    world.work(0)
    flush(world, 0)
    one, other = world.processes
    call, reads, generated = other.store._client.call, [], []

    async def slow(script, *args):
        reads.append(script)
        if reads.count("read") == 2:
            while one.engine.work():
                await one.commits.flush()
            await one.begin(KEY, turn_request(4, prompt=(6,) * 9))
        return await call(script, *args)

    async def read() -> None:
        async for chunk in await other.turns.follow(KEY, other.model, None):
            generated.extend(chunk.tokens)

    other.store._client.call = slow
    with pytest.raises(PositionMismatch):
        world.do(world._driven(other, read(), 0.5))
    assert generated == world._log_now(KEY)[2:42][: len(generated)]


def test_a_turn_continues_while_it_has_a_reader_on_its_process(world):
    make(world, 0)
    wanted = turn_request(4_000, prompt=(1, 2), key="k")
    turn = begin(world, 0, wanted)
    world.work(0)
    flush(world, 0)
    followers = [begin(world, 0, wanted) for _ in range(2)]
    turn.stream.cancel()
    followers[0].cancel()
    followers[0].cancel()
    assert turn._status is None
    followers[1].cancel()
    assert turn._status is TurnStatus.CANCELLED


def test_a_cancelled_replay_stops_computing(world):
    make(world, 0)
    wanted = turn_request(4_000, prompt=(1, 2), key="k")
    begin(world, 0, wanted)
    drive(world, 0)
    followed, seen = begin(world, 0, wanted), []

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
